//! One attempt to connect: the socket and the handshake, each within a limit of time.

use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use io::{Stream, World};
use nbd::handshake::client::{ClientHandshake, HandshakeError, Outcome, RemoteExport, Wish};

use super::options::Config;

/// How long a server may take from the first byte to the last of a handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Bytes received at once during the handshake.
const RECEIVE: usize = 4 << 10;

/// A connection in the transmission phase. The server has said nothing of that phase yet: it was asked nothing.
pub(super) struct Connected {
    pub(super) stream: Box<dyn Stream>,
    pub(super) export: RemoteExport,
}

/// Connects within `limit` and shakes hands.
pub(super) async fn connect(config: &Config, world: &dyn World, limit: Duration) -> Result<Connected> {
    let slow = |what: &str, limit: Duration| {
        let context = format!("{config}: {what} took longer than {} s", limit.as_secs_f32());
        BlockError::new(ErrorKind::TimedOut, context)
    };
    let incoming = io::timeout_at(io::now().after(limit), world.connect(&config.address)).await;
    let incoming = incoming.ok_or_else(|| slow("connecting", limit))?;
    let stream = incoming.and_then(io::Incoming::attach).map_err(|e| {
        BlockError::system(format!("{config}: cannot connect; does the server run there?"), e)
    })?;
    let deadline = io::now().after(HANDSHAKE_LIMIT);
    let agreed = io::timeout_at(deadline, shake_hands(config, &*stream)).await;
    let export = agreed.ok_or_else(|| slow("the handshake", HANDSHAKE_LIMIT))??;
    Ok(Connected { stream, export })
}

async fn shake_hands(config: &Config, stream: &dyn Stream) -> Result<RemoteExport> {
    let lost = |e| BlockError::system(format!("{config}: connection lost in the handshake"), e);
    let wrong = |e: HandshakeError| BlockError::from(e).within(config);
    let wish = Wish { export: config.export.clone(), structured: true, allocation: true };
    let mut machine = ClientHandshake::new(wish);
    let (mut received, mut said) = (Vec::new(), Vec::new());
    loop {
        let progress = machine.feed(&received, &mut said);
        received.drain(..progress.consumed);
        stream.send_all(&said).await.map_err(lost)?;
        said.clear();
        match progress.outcome {
            Some(Ok(Outcome::Ready(export))) if received.is_empty() => return Ok(*export),
            Some(Ok(_)) => return Err(wrong(HandshakeError::BadReply("more follows than was asked for"))),
            Some(Err(error)) => return Err(wrong(error)),
            None if progress.consumed > 0 => {}
            None => {
                let mut room = [0; RECEIVE];
                match stream.recv(&mut room).await.map_err(lost)? {
                    0 => return Err(wrong(machine.closed())),
                    len => received.extend_from_slice(&room[..len]),
                }
            }
        }
    }
}
