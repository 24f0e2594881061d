//! Connecting to a server.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::stream::RealIncoming;
use super::{address, inherited};
use crate::{Address, Incoming, here};

/// Between attempts when a unix server's queue of connections is full; the kernel has no event for it.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);

/// How long what we send to a server over TCP may stay unacknowledged; the system would try for a quarter of an hour.
const UNANSWERED_MILLIS: u32 = 30_000;

/// Connects, trying each address of a host in turn; the error is that of the last one, with the peer's name.
pub(super) async fn connect(address: &Address) -> io::Result<Box<dyn Incoming>> {
    let socket = match address {
        Address::Tcp { host, port } => connect_tcp(host, *port).await,
        Address::Unix { path } => connect_unix(path).await,
        Address::Inherited(number) => inherited::take(*number),
    };
    match socket {
        Ok(socket) => Ok(Box::new(RealIncoming::new(socket))),
        Err(error) => Err(io::Error::new(error.kind(), format!("{address}: {}", block::system_text(&error)))),
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<OwnedFd> {
    let host = if host.is_empty() { "localhost" } else { host };
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for address in resolve(host, port).await? {
        outcome = TcpStream::connect(address).await;
        if outcome.is_ok() {
            break;
        }
    }
    let socket = outcome?.into_std()?.into();
    // Only of those that we called: a client of ours may well stop reading for longer, as a paused guest does.
    sockopt::set_tcp_user_timeout(&socket, UNANSWERED_MILLIS)?;
    Ok(socket)
}

/// Looks a name up on a thread of its own: it may take half a minute, and no deadline can interrupt it.
async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(number) = host.parse() {
        return Ok(vec![SocketAddr::new(number, port)]);
    }
    let (tell, told) = oneshot::channel();
    let host = host.to_owned();
    std::thread::Builder::new().name("io-resolve".to_owned()).spawn(move || {
        // Nobody waits any more: nothing to tell.
        let _ = tell.send(address::resolve(&host, port));
    })?;
    told.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

async fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    let address = address::unix(path)?;
    let socket = unix_socket()?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => here::sleep(QUEUE_FULL_PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// A unix socket that does not block.
pub(super) fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}
