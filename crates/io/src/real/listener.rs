//! Listening sockets.
//!
//! Invariants: a unix socket of a live server is never taken from it; the file that is removed at the end is
//! the one that was made at the start.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, getsockname, socket_with, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::connect::unix_socket;
use super::folders::file_id;
use super::stream::RealIncoming;
use super::watch::watch;
use super::{address, inherited};
use crate::folders::FileId;
use crate::{Address, Incoming, Listener, LocalFut, here};

/// Connections that the kernel keeps waiting for us at most (it may allow fewer).
const BACKLOG: i32 = 1024;
/// After the system ran out of descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Errors of one connection that died in the queue, or of the network: the next one may be fine.
const PASSING: &[Errno] = &[
    Errno::INTR,
    Errno::CONNABORTED,
    Errno::PROTO,
    Errno::PERM,
    Errno::NETDOWN,
    Errno::NETUNREACH,
    Errno::NOPROTOOPT,
    Errno::HOSTDOWN,
    Errno::HOSTUNREACH,
    Errno::NONET,
];
const EXHAUSTED: &[Errno] = &[Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];

/// Listens at `address`; the calling I/O thread owns the listener.
pub(super) fn listen(address: &Address) -> io::Result<Box<dyn Listener>> {
    let (sockets, file) = match address {
        Address::Tcp { host, port } => (tcp_sockets(host, *port)?, None),
        Address::Unix { path } => {
            let (socket, file) = unix_server(path)?;
            (vec![socket], Some(file))
        }
        Address::Inherited(number) => (vec![inherited_server(*number)?], None),
    };
    let watched = sockets.into_iter().map(|socket| watch(socket, Interest::READABLE));
    let sockets: Vec<_> = watched.collect::<io::Result<_>>()?;
    let bound = sockets.first().and_then(|s| getsockname(s.get_ref()).ok()).and_then(address::describe);
    let address = match (address, bound) {
        // The host as it was asked for, since a name can stand for several sockets; the port as it came out.
        (Address::Tcp { host, .. }, Some(Address::Tcp { port, .. })) if !host.is_empty() => {
            Address::Tcp { host: host.clone(), port }
        }
        (Address::Unix { .. }, _) | (_, None) => address.clone(),
        (_, Some(bound)) => bound,
    };
    Ok(Box::new(RealListener { sockets, file, address, next: Cell::new(0) }))
}

struct RealListener {
    sockets: Vec<AsyncFd<OwnedFd>>,
    file: Option<SocketFile>,
    address: Address,
    /// Which socket is asked first, so that none starves another.
    next: Cell<usize>,
}

impl Listener for RealListener {
    fn accept(&self) -> LocalFut<'_, io::Result<Box<dyn Incoming>>> {
        Box::pin(async {
            loop {
                match poll_fn(|cx| self.poll_accept(cx)).await {
                    Ok(socket) => return Ok(Box::new(RealIncoming::new(socket)) as Box<dyn Incoming>),
                    Err(error) if PASSING.contains(&error) => {}
                    Err(error) if EXHAUSTED.contains(&error) => here::sleep(EXHAUSTED_PAUSE).await,
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    fn address(&self) -> Address {
        self.address.clone()
    }
}

impl RealListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<OwnedFd, Errno>> {
        let first = self.next.replace(self.next.get().wrapping_add(1));
        for i in 0..self.sockets.len() {
            let socket = &self.sockets[first.wrapping_add(i) % self.sockets.len()];
            while let Poll::Ready(guard) = socket.poll_read_ready(cx) {
                // Only a runtime that is being dropped refuses this.
                let Ok(mut guard) = guard else { return Poll::Ready(Err(Errno::CANCELED)) };
                match accept_with(socket.get_ref(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                    Err(Errno::AGAIN) => guard.clear_ready(),
                    outcome => return Poll::Ready(outcome),
                }
            }
        }
        Poll::Pending
    }
}

/// The file of a unix socket that we made; removed when dropped, unless somebody else's is there by then.
struct SocketFile {
    path: PathBuf,
    identity: FileId,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Gone already: fine.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for RealListener {
    fn drop(&mut self) {
        // Before the socket closes: whoever finds the file finds a server behind it.
        self.file = None;
    }
}

fn identity(path: &Path) -> io::Result<FileId> {
    Ok(file_id(&path.symlink_metadata()?))
}

fn unix_server(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let name = |error: io::Error| {
        io::Error::new(error.kind(), format!("{}: {}", path.display(), block::system_text(&error)))
    };
    let address = address::unix(path)?;
    let socket = unix_socket()?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path)?;
            bind(&socket, &address)
        }
        outcome => outcome,
    }
    .map_err(|error| name(error.into()))?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path).map_err(name)? };
    rustix::net::listen(&socket, BACKLOG).map_err(|error| name(error.into()))?;
    Ok((socket, file))
}

/// Removes the socket that a dead server left behind; refuses whatever else is there.
fn remove_stale(path: &Path) -> io::Result<()> {
    let refuse = |why: &str| {
        io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {why} or use another path", path.display()))
    };
    let before = path.symlink_metadata()?;
    if !before.file_type().is_socket() {
        return Err(refuse("this file is in the way and is no socket: remove it"));
    }
    match rustix::net::connect(unix_socket()?, &address::unix(path)?) {
        // Refused: nobody listens. Not there: its owner has just removed it.
        Err(Errno::CONNREFUSED | Errno::NOENT) => {}
        _ => return Err(refuse("another server is listening on this socket: stop it")),
    }
    match identity(path) {
        Ok(now) if now == file_id(&before) => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// One socket for each address of the host; all interfaces when it is empty.
fn tcp_sockets(host: &str, port: u16) -> io::Result<Vec<OwnedFd>> {
    if host.is_empty() {
        let both = tcp_server(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port), false);
        let v4 = || tcp_server(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), port), false);
        // Without IPv6 in the kernel, the older half will do.
        return Ok(vec![both.or_else(|error| v4().map_err(|_| error))?]);
    }
    let mut sockets = Vec::new();
    let (mut free_port, mut failure) = (port, None);
    for mut address in address::resolve(host, port)? {
        address.set_port(free_port);
        match tcp_server(address, true) {
            Ok(socket) => {
                free_port = SocketAddr::try_from(getsockname(&socket)?).map_or(port, |bound| bound.port());
                sockets.push(socket);
            }
            Err(error) => failure = Some(error),
        }
    }
    // A name may have addresses of families that this machine lacks; one that works is enough.
    match (failure, sockets.is_empty()) {
        (Some(error), true) => Err(error),
        (Some(error), false) if port != 0 && error.kind() == io::ErrorKind::AddrInUse => Err(error),
        _ => Ok(sockets),
    }
}

fn tcp_server(address: SocketAddr, only_v6: bool) -> io::Result<OwnedFd> {
    let open = || -> rustix::io::Result<OwnedFd> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        // The connections of a server that has just ended must not keep its successor out.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, only_v6)?;
        }
        bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    open().map_err(|error| {
        let remedy = if error == Errno::ADDRINUSE { ": stop that server or use another port" } else { "" };
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{address}: {}{remedy}", block::system_text(&error)))
    })
}

fn inherited_server(number: i32) -> io::Result<OwnedFd> {
    let socket = inherited::take(number)?;
    let listens = sockopt::socket_acceptconn(socket.as_fd()).unwrap_or(false);
    if !listens || sockopt::socket_type(&socket) != Ok(SocketType::STREAM) {
        let message = format!("descriptor {number}: is no listening stream socket; pass another one");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}
