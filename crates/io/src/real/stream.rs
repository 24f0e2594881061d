//! Connected stream sockets.
//!
//! Invariants:
//! * Nothing here allocates per call (waiting for a full socket to drain is the exception).
//! * Readiness is kept by edges: a receive that comes back short has emptied the socket, so it clears the
//!   readiness without asking once more; whatever arrives afterwards raises a new edge.
//! * Only reading is watched all the time. The kernel would otherwise wake us each time that the peer takes
//!   something, so writing is watched through a second descriptor, and only while somebody waits for it.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, send, sendmsg, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::address;
use super::watch::watch;
use crate::{File, Incoming, LocalFut, Stream, here};

/// Pieces that one sendmsg takes (`IOV_MAX`).
const PARTS_MAX: usize = 1024;
/// A reply of 1 MiB goes out in one piece: sendfile of it costs a third less than with the system's default.
/// Also what a peer that never reads can make the kernel hold (it counts twice that).
const UNIX_SEND_BYTES: usize = 1 << 20;
/// A silent peer is asked after this time, again after the pause, and given up after so many questions: 30 s in all.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PAUSE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_COUNT: u32 = 4;
/// Between looks at a full socket that cannot be watched.
const UNWATCHED_PAUSE: Duration = Duration::from_millis(5);

/// A connected socket that no thread watches yet.
pub(super) struct RealIncoming {
    socket: OwnedFd,
    peer: String,
}

impl RealIncoming {
    /// Takes over a connected socket.
    pub(super) fn new(socket: OwnedFd) -> Self {
        let peer = address::peer(socket.as_fd());
        Self { socket, peer }
    }
}

impl Incoming for RealIncoming {
    fn attach(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        // sendfile has no flag of its own for this, so the socket itself must not block.
        rustix::io::ioctl_fionbio(&self.socket, true)?;
        tune(self.socket.as_fd());
        let socket = watch(self.socket, Interest::READABLE)?;
        Ok(Box::new(RealStream { socket, draining: RefCell::new(None), peer: self.peer }))
    }
}

/// Options that make it faster; it works without them, so failures pass.
fn tune(socket: BorrowedFd<'_>) {
    let _ = match sockopt::socket_domain(socket) {
        Ok(AddressFamily::INET | AddressFamily::INET6) => {
            sockopt::set_tcp_nodelay(socket, true).and_then(|()| keep_alive(socket))
        }
        // Beyond the limit of the system only with privileges, else as far as that goes.
        Ok(AddressFamily::UNIX) => sockopt::set_socket_send_buffer_size_force(socket, UNIX_SEND_BYTES)
            .or_else(|_| sockopt::set_socket_send_buffer_size(socket, UNIX_SEND_BYTES)),
        _ => Ok(()),
    };
}

/// A peer that is gone without a word (its machine lost power, a firewall forgot us) is noticed while nothing is sent.
fn keep_alive(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_COUNT)
}

struct RealStream {
    socket: AsyncFd<OwnedFd>,
    /// Watches for room to write, while somebody waits for that.
    draining: RefCell<Option<Draining>>,
    peer: String,
}

/// How to learn that a full socket has room again.
enum Draining {
    Watched(AsyncFd<OwnedFd>),
    /// There is no descriptor left to watch with: look again after a while.
    Unwatched(LocalFut<'static, ()>),
}

impl Draining {
    fn of(socket: &OwnedFd) -> Self {
        match socket.try_clone().and_then(|socket| watch(socket, Interest::WRITABLE)) {
            Ok(watch) => Self::Watched(watch),
            Err(_) => Self::Unwatched(here::sleep(UNWATCHED_PAUSE)),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Watched(socket) => socket.poll_write_ready(cx).map_ok(drop),
            Self::Unwatched(pause) => pause.as_mut().poll(cx).map(Ok),
        }
    }
}

impl Stream for RealStream {
    fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let mut short = None;
        let outcome = self.socket.try_io(Interest::READABLE, |socket| {
            let n = receive(socket, buf)?;
            if n == 0 || n == buf.len() {
                return Ok(n);
            }
            short = Some(n);
            Err(ErrorKind::WouldBlock.into())
        });
        match outcome {
            Ok(n) => Ok(Some(n)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(short),
            Err(error) => Err(error),
        }
    }

    fn try_recv_unasked(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match receive(self.socket.get_ref(), buf) {
            Ok(n) => Ok(Some(n)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn try_send(&self, parts: &[IoSlice<'_>], more: bool) -> io::Result<Option<usize>> {
        let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        flags.set(SendFlags::MORE, more);
        let socket = self.socket.get_ref();
        unless_full(|| match parts {
            [one] => send(socket, one, flags),
            _ => {
                let parts = &parts[..parts.len().min(PARTS_MAX)];
                sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags)
            }
        })
    }

    fn try_send_file(&self, file: &dyn File, offset: u64, len: usize) -> io::Result<Option<usize>> {
        let file = file.fd().ok_or(ErrorKind::Unsupported)?;
        // Not the file's own position, which every thread shares.
        let mut offset = offset;
        unless_full(|| rustix::fs::sendfile(self.socket.get_ref(), file, Some(&mut offset), len))
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_read_ready(cx).map_ok(drop)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut slot = self.draining.borrow_mut();
        let draining = slot.get_or_insert_with(|| Draining::of(self.socket.get_ref()));
        let outcome = ready!(draining.poll(cx));
        *slot = None;
        Poll::Ready(outcome)
    }

    fn shutdown(&self) {
        // A peer that is gone already needs no goodbye.
        let _ = rustix::net::shutdown(self.socket.get_ref(), Shutdown::Both);
    }

    fn peer(&self) -> String {
        self.peer.clone()
    }
}

fn receive(socket: &OwnedFd, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(socket, &mut *buf, RecvFlags::DONTWAIT) {
            Ok((n, _)) => return Ok(n),
            Err(Errno::INTR) => {}
            // By kind, so that it carries no allocation.
            Err(Errno::AGAIN) => return Err(ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn unless_full(mut send: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match send() {
            Ok(n) => return Ok(Some(n)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_peers_are_asked_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        tune(socket.as_fd());
        assert!(sockopt::socket_keepalive(&socket).unwrap() && sockopt::tcp_nodelay(&socket).unwrap());
        let (idle, pause) =
            (sockopt::tcp_keepidle(&socket).unwrap(), sockopt::tcp_keepintvl(&socket).unwrap());
        assert_eq!(idle + pause * sockopt::tcp_keepcnt(&socket).unwrap(), Duration::from_secs(30));
    }
}
