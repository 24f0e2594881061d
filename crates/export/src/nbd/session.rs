//! One session: handshake, then transmission.

use std::cell::RefCell;
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use flow::events::Event;
use io::{Incoming, Moment, Stream};
use nbd::handshake::server::{ExportInfo, Exports, Negotiated, Outcome, Policy, ServerHandshake};

use super::connection::Connection;
use super::export::Export;
use super::server::Shared;

/// Bytes received at once during the handshake.
const RECEIVE: usize = 16 << 10;

/// How a session went.
pub(super) struct Session {
    /// Whether it came to the transmission phase.
    pub(super) negotiated: bool,
    /// What ended it, if an error did.
    pub(super) ended: Result<()>,
}

/// Serves one client from its first byte to its last.
pub(super) async fn serve(shared: Arc<Shared>, incoming: Box<dyn Incoming>) -> Session {
    match agree(&shared, incoming).await {
        Ok(Some((stream, agreed))) => {
            let Agreed { export, negotiated, early } = agreed;
            let tell = move |error: BlockError| {
                shared.events.tell(Event::RequestFailed { error: error.to_string() })
            };
            let connection = Connection::new(stream, export.enter(), &negotiated, &early, tell);
            Session { negotiated: true, ended: connection.serve().await }
        }
        Ok(None) => Session { negotiated: false, ended: Ok(()) },
        Err(error) => Session { negotiated: false, ended: Err(error) },
    }
}

/// Shakes hands in time; `None` when the client left in good order.
async fn agree(shared: &Shared, incoming: Box<dyn Incoming>) -> Result<Option<(Box<dyn Stream>, Agreed)>> {
    let stream = incoming.attach().map_err(|e| BlockError::system("cannot attach a new client", e))?;
    let agreed = shake_hands(shared, &*stream);
    let outcome = match shared.handshake_deadline() {
        Some(deadline) => {
            let in_time = io::timeout_at(deadline, agreed).await;
            in_time.unwrap_or_else(|| Err(too_slow(&stream.peer())))
        }
        None => agreed.await,
    }?;
    Ok(outcome.map(|agreed| (stream, agreed)))
}

/// A handshake that led to the transmission phase.
struct Agreed {
    export: Arc<Export>,
    negotiated: Box<Negotiated>,
    early: Vec<u8>,
}

/// Answers options until one of them ends the handshake; `None` when the client left in good order.
async fn shake_hands(shared: &Shared, stream: &dyn Stream) -> Result<Option<Agreed>> {
    let lost = |e| BlockError::system(format!("client {} is lost in the handshake", stream.peer()), e);
    let mut machine = ServerHandshake::new(Policy::default());
    stream.send_all(&machine.greeting()).await.map_err(lost)?;
    let offered = Offered::new(shared);
    let (mut received, mut reply) = (Vec::new(), Vec::new());
    loop {
        let progress = machine.feed(&received, &offered, &mut reply);
        received.drain(..progress.consumed);
        stream.send_all(&reply).await.map_err(lost)?;
        reply.clear();
        if offered.look().await {
            continue;
        }
        match progress.outcome {
            Some(Outcome::Transmission(negotiated)) => {
                let export = offered.found.take();
                return Ok(export.map(|export| Agreed { export, negotiated, early: received }));
            }
            Some(Outcome::Abort) => return Ok(None),
            Some(Outcome::Close(why)) => {
                let context = format!("client {}: {why}", stream.peer());
                return Err(BlockError::new(ErrorKind::Protocol, context));
            }
            None if progress.consumed == 0 && receive(stream, &mut received).await.map_err(lost)? == 0 => {
                return Ok(None);
            }
            // However much it asks, the others of this thread and the limit of time have their turn.
            None => io::yield_now().await,
        }
    }
}

/// Receives behind what is there; answers how much, 0 at the end of the stream.
async fn receive(stream: &dyn Stream, received: &mut Vec<u8>) -> std::io::Result<usize> {
    let start = received.len();
    received.resize(start + RECEIVE, 0);
    let outcome = stream.recv(&mut received[start..]).await;
    received.truncate(start + outcome.as_ref().map_or(0, |len| *len));
    outcome
}

#[cold]
fn too_slow(peer: &str) -> BlockError {
    BlockError::new(ErrorKind::TimedOut, format!("client {peer} did not finish its handshake in time"))
}

/// The exports as the handshake sees them.
struct Offered<'s> {
    shared: &'s Shared,
    /// What was found last: the one that was agreed on, even if another has its name by the end.
    found: RefCell<Option<Arc<Export>>>,
    /// What the client asked for, and what the catalogue said of it, once it was asked. Kept until another name is
    /// asked for: an export that nobody holds may be closed at any time.
    looked: RefCell<Option<(String, Answer<Maybe>)>>,
    /// The list of the catalogue, once the client has asked for it.
    listed: RefCell<Option<Answer<Listing>>>,
}

type Maybe = Option<Arc<Export>>;
/// Names and descriptions.
type Listing = Vec<(String, String)>;

/// What the catalogue says.
enum Answer<T> {
    /// It was not asked yet.
    Pending,
    There(T),
}

impl<'s> Offered<'s> {
    fn new(shared: &'s Shared) -> Self {
        Self { shared, found: RefCell::default(), looked: RefCell::default(), listed: RefCell::default() }
    }

    /// Looks for what the client has asked for, if it is not known yet whether that is there; answers whether it was.
    async fn look(&self) -> bool {
        let Some(catalogue) = &self.shared.catalogue else { return false };
        if matches!(&*self.listed.borrow(), Some(Answer::Pending)) {
            let list = catalogue.list().await;
            self.listed.replace(Some(Answer::There(list)));
            return true;
        }
        let name = match &*self.looked.borrow() {
            Some((name, Answer::Pending)) => name.clone(),
            _ => return false,
        };
        let export = catalogue.open(&name).await.unwrap_or_else(|error| {
            self.shared.events.tell(Event::RequestFailed { error: error.to_string() });
            None
        });
        self.looked.replace(Some((name, Answer::There(export))));
        true
    }
}

impl Exports for Offered<'_> {
    fn is_pending(&self, name: &str) -> bool {
        if self.shared.catalogue.is_none() || self.shared.export(name).is_some() {
            return false;
        }
        let mut looked = self.looked.borrow_mut();
        match &*looked {
            Some((last, Answer::There(_))) if last == name => false,
            _ => {
                *looked = Some((name.to_owned(), Answer::Pending));
                true
            }
        }
    }

    fn find(&self, name: &str) -> Option<ExportInfo> {
        let looked = self.looked.borrow();
        let export = self.shared.export(name).or_else(|| match &*looked {
            Some((last, Answer::There(export))) if last == name => export.clone(),
            _ => None,
        });
        let info = export.as_ref().map(|export| export.info());
        self.found.replace(export);
        info
    }

    fn is_list_pending(&self) -> bool {
        let mut listed = self.listed.borrow_mut();
        if self.shared.catalogue.is_none() || matches!(*listed, Some(Answer::There(_))) {
            return false;
        }
        *listed = Some(Answer::Pending);
        true
    }

    fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool) {
        let own = self.shared.exports();
        let own =
            own.iter().map(|export| (export.options().name.clone(), export.options().description.clone()));
        // Who asks again gets a fresh one.
        let listed = match self.listed.take() {
            Some(Answer::There(list)) => list,
            _ => Vec::new(),
        };
        for (name, description) in own.chain(listed) {
            if !visit(&name, &description) {
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
