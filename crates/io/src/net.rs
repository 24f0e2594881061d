//! Stream sockets: TCP, unix, and descriptors that were handed to us.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::task::{Context, Poll};

use crate::{File, LocalFut};

/// Where to listen or to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP host (name or number; empty to listen on all interfaces) and port (0 to listen: any free one).
    Tcp {
        /// Host.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
    },
    /// A descriptor that was handed to this process (socket activation).
    Inherited(RawFd),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "{}", path.display()),
            Self::Inherited(fd) => write!(f, "inherited descriptor {fd}"),
        }
    }
}

/// A listening socket, owned by one I/O thread.
pub trait Listener {
    /// The next connection. Out of descriptors and the like pass by with a short pause, not as an error.
    fn accept(&self) -> LocalFut<'_, io::Result<Box<dyn Incoming>>>;
    /// Where it listens, with the real port. A unix socket's file is removed when the listener is dropped.
    fn address(&self) -> Address;
}

/// A connection that no I/O thread owns yet.
pub trait Incoming: Send {
    /// Hands it to the calling I/O thread.
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Stream>>;
}

/// A connected stream, owned by one I/O thread.
pub trait Stream {
    /// Receives what is there. `Some(0)` is the end of the stream, `None` that nothing is there now.
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>>;

    /// The same, asking the system even where it has told of nothing: worth a call when an answer was just sent to a
    /// client that may have more to ask. [`Stream::poll_readable`] waits for what [`Stream::try_recv`] lacked, not
    /// for what this did.
    fn try_recv_unasked(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.try_recv(buf)
    }

    /// Sends as much as the socket takes now; `None` when it takes nothing. `more` says that more
    /// follows at once.
    fn try_send(&self, parts: &[IoSlice<'_>], more: bool) -> io::Result<Option<usize>>;

    /// Sends up to `len` bytes of `file` from `offset` without copying them through user space: what is
    /// under that range must not change until the peer has taken it. `Some(0)` when the file ends there.
    fn try_send_file(&self, file: &dyn File, offset: u64, len: usize) -> io::Result<Option<usize>>;

    /// Ready when [`Stream::try_recv`] may have something. One task at a time.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when [`Stream::try_send`] may take something. One task at a time.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends both directions; a peer that waits sees the end.
    fn shutdown(&self);

    /// Who is at the other end, for people.
    fn peer(&self) -> String;
}

impl dyn Stream + '_ {
    /// Waits until [`Stream::try_recv`] may have something.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Waits until [`Stream::try_send`] may take something.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx)).await
    }

    /// Receives at least one byte; 0 is the end of the stream.
    pub async fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(n) = self.try_recv(buf)? {
                return Ok(n);
            }
            self.readable().await?;
        }
    }

    /// Fills `buf`; `UnexpectedEof` when the stream ends first.
    pub async fn recv_exact(&self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            match self.recv(buf).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => buf = &mut buf[n..],
            }
        }
        Ok(())
    }

    /// Sends all of `bytes`.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_send(&[IoSlice::new(bytes)], false)? {
                Some(n) => bytes = &bytes[n..],
                None => self.writable().await?,
            }
        }
        Ok(())
    }
}
