//! One session: handshake, then transmission.

use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use io::{Incoming, Moment, Stream};
use nbd::handshake::server::{ExportInfo, Exports, Negotiated, Outcome, Policy, ServerHandshake};

use super::connection::Connection;
use super::export::Export;
use super::server::Shared;

/// Bytes received at once during the handshake.
const RECEIVE: usize = 16 << 10;

/// Serves one client from its first byte to its last.
pub(super) async fn serve(shared: Arc<Shared>, incoming: Box<dyn Incoming>) -> Result<()> {
    let stream = incoming.attach().map_err(|e| BlockError::system("cannot attach a new client", e))?;
    let peer = stream.peer();
    let deadline = shared.handshake_deadline();
    let agreed = shake_hands(&shared, &*stream);
    let outcome = match deadline {
        Some(deadline) => io::timeout_at(deadline, agreed).await.unwrap_or_else(|| Err(too_slow(&peer))),
        None => agreed.await,
    }?;
    let Some(Agreed { export, negotiated, early }) = outcome else { return Ok(()) };
    let _client = export.enter();
    if export.is_closing() {
        return Ok(());
    }
    Connection::new(stream, export, &negotiated, &early).serve().await
}

/// A handshake that led to the transmission phase.
struct Agreed {
    export: Arc<Export>,
    negotiated: Box<Negotiated>,
    early: Vec<u8>,
}

async fn shake_hands(shared: &Shared, stream: &dyn Stream) -> Result<Option<Agreed>> {
    let lost = |e| BlockError::system(format!("client {} is lost in the handshake", stream.peer()), e);
    let mut machine = ServerHandshake::new(Policy::default());
    stream.send_all(&machine.greeting()).await.map_err(lost)?;
    let offered = Offered(shared);
    let (mut received, mut reply) = (Vec::new(), Vec::new());
    loop {
        let progress = machine.feed(&received, &offered, &mut reply);
        received.drain(..progress.consumed);
        stream.send_all(&reply).await.map_err(lost)?;
        reply.clear();
        match progress.outcome {
            Some(Outcome::Transmission(negotiated)) => {
                // It was there a moment ago; if it was deleted since, the client finds the connection closed.
                let export = shared.export(&negotiated.export.name);
                return Ok(export.map(|export| Agreed { export, negotiated, early: received }));
            }
            Some(Outcome::Abort) => return Ok(None),
            Some(Outcome::Close(why)) => {
                let context = format!("client {}: {why}", stream.peer());
                return Err(BlockError::new(ErrorKind::Protocol, context));
            }
            None if progress.consumed > 0 => {}
            None => {
                let mut room = [0; RECEIVE];
                match stream.recv(&mut room).await.map_err(lost)? {
                    0 => return Ok(None),
                    len => received.extend_from_slice(&room[..len]),
                }
            }
        }
    }
}

#[cold]
fn too_slow(peer: &str) -> BlockError {
    BlockError::new(ErrorKind::TimedOut, format!("client {peer} did not finish its handshake in time"))
}

/// The exports as the handshake sees them.
struct Offered<'s>(&'s Shared);

impl Exports for Offered<'_> {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.0.export(name).map(|export| export.info())
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool) {
        for export in self.0.exports() {
            let options = export.options();
            if !visit(&options.name, &options.description) {
                return;
            }
        }
    }
}

impl Shared {
    fn handshake_deadline(&self) -> Option<Moment> {
        let limit = self.options.handshake_limit?;
        Some(io::now().after(limit))
    }
}
