//! One client: greeting, negotiation, then commands one after the other, and events in between.

use std::io::Result;
use std::time::{SystemTime, UNIX_EPOCH};

use engine::{Event, Subscription};
use io::Stream;
use io::select::{Either, race};
use json::Limits;
use qmp::schema::Form;
use qmp::{Error, ErrorClass, Refused, Request, wire};
use serde_json::Value;

use crate::commands::monitor::{CAPABILITIES, Capabilities, Capability, QUIT};
use crate::control::Shared;
use crate::failure::Failure;
use crate::outbox::Outbox;
use crate::table::unknown;

/// Bytes that are received at once.
const PIECE: usize = 16 << 10;

/// Serves a client until it leaves, or until `quit`.
pub(crate) async fn serve(shared: &Shared, stream: &dyn Stream) {
    let events = shared.engine.events().subscribe();
    let mut session = Session {
        shared,
        stream,
        out: Outbox::default(),
        input: json::Stream::new(Limits::QEMU),
        events,
        mode: Mode::Negotiating,
        quits: false,
    };
    // A client that is gone cannot be told why.
    let _ = session.run().await;
    if session.quits {
        shared.ending.tell();
    }
    stream.shutdown();
}

/// What a client may send.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Only `qmp_capabilities`; events are not told.
    Negotiating,
    /// Commands; `oob`: `exec-oob` too.
    Commanding { oob: bool },
}

struct Session<'s> {
    shared: &'s Shared,
    stream: &'s dyn Stream,
    out: Outbox,
    input: json::Stream,
    events: Subscription,
    mode: Mode,
    /// It has sent `quit`.
    quits: bool,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<()> {
        self.out.push(&wire::greeting(&self.shared.version));
        let mut piece = vec![0; PIECE];
        loop {
            self.out.flush(self.stream).await?;
            match race(self.stream.recv(&mut piece), self.events.next()).await {
                Either::First(received) => match received? {
                    0 => return Ok(()),
                    len => self.take(&piece[..len]).await?,
                },
                Either::Second(event) => self.tell(&event),
            }
            if self.quits {
                return self.out.flush(self.stream).await;
            }
        }
    }

    /// Answers everything that `bytes` complete.
    async fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() && !self.quits {
            let (taken, outcome) = self.input.feed(bytes);
            bytes = &bytes[taken..];
            match outcome {
                None => {}
                Some(Ok(value)) => self.answer(value).await,
                Some(Err(error)) => self.reply(None, Err(error.into())),
            }
            self.out.flush(self.stream).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, value: Value) {
        let request = match Request::read(value, self.mode == Mode::Commanding { oob: true }) {
            Ok(request) => request,
            Err(Refused { id, error }) => return self.reply(id, Err(error)),
        };
        let (id, quits) = (request.id.clone(), request.command == QUIT);
        let outcome = match self.mode {
            Mode::Negotiating => self.negotiate(request),
            Mode::Commanding { .. } => self.command(request).await,
        };
        // What the command caused is told first.
        while let Some(event) = self.events.try_next() {
            self.tell(&event);
        }
        self.reply(id, outcome);
        self.quits = quits && self.shared.ending.is_asked();
    }

    fn negotiate(&mut self, request: Request) -> std::result::Result<Value, Error> {
        if request.command != CAPABILITIES {
            let desc = format!("Expecting capabilities negotiation with '{CAPABILITIES}'");
            return Err(Error::new(ErrorClass::CommandNotFound, desc));
        }
        let wanted: Capabilities = qmp::schema::parse(request.arguments, Form::Json)?;
        let oob = wanted.enable.is_some_and(|list| list.contains(&Capability::Oob));
        // Events from before are nobody's.
        while self.events.try_next().is_some() {}
        self.mode = Mode::Commanding { oob };
        Ok(Value::Object(serde_json::Map::new()))
    }

    async fn command(&mut self, request: Request) -> std::result::Result<Value, Error> {
        let Request { command, arguments, out_of_band, .. } = request;
        if out_of_band {
            let known = self.shared.table.knows(&command);
            let refused = || Error::generic(format!("The command {command} does not support OOB"));
            return Err(if known { refused() } else { unknown(&command) });
        }
        let mut running = self.shared.table.run(&command, arguments, Form::Json)?;
        loop {
            match race(&mut running, self.events.next()).await {
                Either::First(outcome) => return outcome.map_err(|Failure(error)| error),
                Either::Second(event) => {
                    self.tell(&event);
                    // A client that is gone is noticed when its reply is sent.
                    let _ = self.out.send(self.stream);
                }
            }
        }
    }

    fn tell(&mut self, event: &Event) {
        if self.mode == Mode::Negotiating || self.out.is_full() {
            return;
        }
        for (name, data) in self.shared.table.tell(event) {
            self.out.push(&wire::event(name, Some(data), microseconds()));
        }
    }

    fn reply(&mut self, id: Option<Value>, outcome: std::result::Result<Value, Error>) {
        self.out.push(&wire::reply(id, outcome));
    }
}

/// Since 1970.
fn microseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
