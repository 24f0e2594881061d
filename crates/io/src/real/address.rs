//! From addresses as people write them to those that sockets take, and back.
#![allow(unsafe_code, reason = "rustix cannot express that a peer has no process number")]

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, getpeername};

use crate::Address;

/// Every socket address that `host` and `port` stand for. Blocks while a name is looked up.
pub(super) fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<_> = match host.parse::<IpAddr>() {
        Ok(number) => vec![(number, port).into()],
        Err(_) => (host, port).to_socket_addrs().map_err(|e| unresolved(host, &e))?.collect(),
    };
    // A hosts file may name the same one twice.
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    if addresses.is_empty() {
        return Err(unresolved(host, &io::ErrorKind::NotFound.into()));
    }
    Ok(addresses)
}

fn unresolved(host: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{host}: no address found for this host: {}", block::system_text(error)),
    )
}

/// The socket address of `path`.
pub(super) fn unix(path: &Path) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(|error| match error {
        rustix::io::Errno::NAMETOOLONG => {
            let message =
                format!("{}: too long for a unix socket (107 bytes); use a shorter path", path.display());
            io::Error::new(io::ErrorKind::InvalidFilename, message)
        }
        other => other.into(),
    })
}

/// Where a socket address is, in the words of the configuration.
pub(super) fn describe(address: SocketAddrAny) -> Option<Address> {
    if let Ok(tcp) = SocketAddr::try_from(address.clone()) {
        return Some(Address::Tcp { host: tcp.ip().to_string(), port: tcp.port() });
    }
    let unix = SocketAddrUnix::try_from(address).ok()?;
    let path = std::ffi::OsString::from_vec(unix.path()?.to_bytes().to_vec());
    Some(Address::Unix { path: path.into() })
}

/// Who is at the other end of a connected socket, for people.
pub(super) fn peer(socket: BorrowedFd<'_>) -> String {
    match getpeername(socket) {
        Ok(Some(address)) if address.address_family() == AddressFamily::UNIX => unix_peer(socket),
        Ok(Some(address)) => describe(address).map_or_else(|| "unknown".to_owned(), |a| a.to_string()),
        _ => "unknown".to_owned(),
    }
}

fn unix_peer(socket: BorrowedFd<'_>) -> String {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `who`, which is a plain struct of integers.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut len,
        )
    };
    match (answer, who.pid) {
        // Another container's process has no number here.
        (0, 0) => format!("unix socket, uid {}", who.uid),
        (0, pid) => format!("unix socket, pid {pid}, uid {}", who.uid),
        _ => "unix socket".to_owned(),
    }
}
