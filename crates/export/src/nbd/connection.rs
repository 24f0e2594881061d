//! The transmission phase of one connection: receive, take a turn, send, wait for whatever comes next.
//!
//! One poll of its task is a pass, or a few: what was left over is sent, then new requests are taken, then those that
//! wait go on, then the answers of all of them are sent. A pass is bounded in requests, bytes and time; a connection
//! that has more to do afterwards lets the others of its thread have their turn first.
//!
//! | stage | receives | takes requests | ends when |
//! |---|---|---|---|
//! | Open | while nothing is left to send and there is room to wait | the same | |
//! | Leaving: the client said goodbye, or its stream has ended | no | what was received before the end | all is answered and sent |
//! | Closing: the export closes | no | no | what has begun is carried out |
//!
//! Invariants: replies are sent whole and in the order they were queued; no request is begun while replies are
//! left to send, so that a client that does not read holds nothing but what it had asked for before; waiting
//! requests go on in every stage, whatever the socket does, since they may hold ranges that others wait for.

use std::future::poll_fn;
use std::task::{Context, Poll};

use block::{BlockError, ErrorKind, Result};
use flow::Pieces;
use io::Stream;
use nbd::codec::{REQUEST_LEN, RequestHeader};
use nbd::handshake::server::Negotiated;
use nbd::transmission::server::Limits;

use super::answer::{ANSWER_MAX, Answers, is_trouble};
use super::export::Client;
use super::inbox::{Arriving, Inbox, Received};
use super::outbox::{Outbox, Sent};
use super::turn::{Desk, Ended};
use super::waiting::Waiting;

/// Passes of one poll at most. With many requests under way the next one is there in most cases: asking the socket
/// costs less than waiting for its readiness.
const PASSES_MAX: usize = 8;

/// One client in the transmission phase.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    client: Client,
    limits: Limits,
    answers: Answers,
    stage: Stage,
    inbox: Inbox,
    outbox: Outbox,
    waiting: Waiting,
    /// A write whose payload is on its way.
    arriving: Option<(RequestHeader, Arriving)>,
    pieces: Pieces,
    /// The last failure that was not the client's own doing, until it is told.
    trouble: Option<BlockError>,
    /// Told the first of them: one per connection says what is wrong, and a client cannot make it thousands.
    tell: Option<Box<dyn FnOnce(BlockError)>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Open,
    Leaving { said_goodbye: bool },
    Closing,
}

/// What a pass leaves to do.
enum After {
    /// More, as soon as the others had their turn.
    More,
    /// What the socket is waited for; finished requests and the end of the export are waited for anyway.
    Wait(Option<Readiness>),
    /// Nothing.
    Over,
}

#[derive(Clone, Copy)]
enum Readiness {
    Readable,
    Writable,
}

impl Connection {
    /// A connection that has shaken hands; `early` is what was received behind the handshake. `tell` is told of
    /// the first request that fails through no fault of the client.
    pub(super) fn new(
        stream: Box<dyn Stream>,
        client: Client,
        agreed: &Negotiated,
        early: &[u8],
        tell: impl FnOnce(BlockError) + 'static,
    ) -> Self {
        let context = agreed.contexts.first().map_or(0, |context| context.id);
        Self {
            stream,
            client,
            limits: agreed.limits(),
            answers: Answers { structured: agreed.structured, context },
            stage: Stage::Open,
            inbox: Inbox::with(early),
            outbox: Outbox::new(),
            waiting: Waiting::default(),
            arriving: None,
            pieces: Pieces::new(),
            trouble: None,
            tell: Some(Box::new(tell)),
        }
    }

    /// Serves the client until either side ends. What has begun is carried out to its end.
    pub(super) async fn serve(mut self) -> Result<()> {
        let served = poll_fn(|cx| self.poll(cx)).await;
        self.waiting.settle().await;
        served
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.client.poll_closing(cx).is_ready() {
            self.stage = Stage::Closing;
        }
        let ready = match self.passes(cx) {
            Ok(After::Over) => return Poll::Ready(self.verdict()),
            Ok(After::More) => Poll::Ready(Ok(())),
            Ok(After::Wait(readiness)) => self.poll_socket(readiness, cx),
            // Whoever says goodbye need not wait for the answers.
            Err(_) if self.stage == (Stage::Leaving { said_goodbye: true }) => return Poll::Ready(Ok(())),
            Err(error) => return Poll::Ready(Err(error)),
        };
        match ready {
            Poll::Ready(Ok(())) => io::defer(cx),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(self.lost(error))),
            Poll::Pending => {}
        }
        Poll::Pending
    }

    fn poll_socket(&self, readiness: Option<Readiness>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match readiness {
            Some(Readiness::Readable) => self.stream.poll_readable(cx),
            Some(Readiness::Writable) => self.stream.poll_writable(cx),
            None => Poll::Pending,
        }
    }

    /// A pass, and more of them while the client has sent more by the time that it was answered.
    fn passes(&mut self, cx: &mut Context<'_>) -> Result<After> {
        for _ in 1..PASSES_MAX {
            let after = self.pass(cx)?;
            let takes = matches!(after, After::Wait(Some(Readiness::Readable)));
            if !takes || self.receive(true)? == Received::Nothing {
                return Ok(after);
            }
        }
        self.pass(cx)
    }

    fn pass(&mut self, cx: &mut Context<'_>) -> Result<After> {
        let mut more = false;
        if self.send()? == Sent::All {
            self.receive(false)?;
            more = self.take_requests()?;
        }
        let go_on_again = self.waiting.go_on(cx);
        self.client.set_waiting(self.waiting.under_way());
        self.answer_finished();
        if self.trouble.is_some() {
            self.tell_trouble();
        }
        let sent = self.send()?;
        Ok(if go_on_again { After::More } else { self.after(more, sent) })
    }

    /// `more`: there may be more requests in the inbox.
    fn after(&self, more: bool, sent: Sent) -> After {
        let all_sent = sent == Sent::All;
        let over = match self.stage {
            Stage::Open => false,
            Stage::Leaving { .. } => {
                all_sent && !more && !self.waiting.is_busy() && !self.waiting.has_finished()
            }
            Stage::Closing => !self.waiting.is_busy(),
        };
        if over {
            return After::Over;
        }
        let can_take = all_sent && self.waiting.has_room();
        // Finished requests are left only when their answers had no room, and all of that was sent by now.
        if sent == Sent::Enough || (more && can_take) || (all_sent && self.waiting.has_finished()) {
            return After::More;
        }
        After::Wait(match sent {
            Sent::Full => Some(Readiness::Writable),
            _ if can_take && self.stage == Stage::Open => Some(Readiness::Readable),
            _ => None,
        })
    }

    fn send(&mut self) -> Result<Sent> {
        if self.outbox.is_empty() {
            return Ok(Sent::All);
        }
        self.outbox.send(&*self.stream).map_err(|e| self.lost(e))
    }

    /// Receives once; `unasked`: whether or not the system has told that something came.
    fn receive(&mut self, unasked: bool) -> Result<Received> {
        if self.stage != Stage::Open || !self.waiting.has_room() {
            return Ok(Received::Nothing);
        }
        let stream = &*self.stream;
        let recv = |buf: &mut [u8]| if unasked { stream.try_recv_unasked(buf) } else { stream.try_recv(buf) };
        let received = match &mut self.arriving {
            Some((_, arriving)) => arriving.receive(recv),
            None => self.inbox.receive(recv),
        };
        let received = received.map_err(|e| self.lost(e))?;
        if received == Received::End {
            self.stage = Stage::Leaving { said_goodbye: false };
        }
        Ok(received)
    }

    /// Takes requests that were received; answers whether there may be more of them.
    fn take_requests(&mut self) -> Result<bool> {
        if self.stage == Stage::Closing {
            return Ok(false);
        }
        let arrived = self.arriving.take_if(|(_, arriving)| arriving.is_complete());
        if arrived.is_none() && self.inbox.bytes().len() < REQUEST_LEN {
            return Ok(false);
        }
        let mut desk = Desk {
            export: self.client.export(),
            limits: &self.limits,
            structured: self.answers.structured,
            inbox: &mut self.inbox,
            outbox: &mut self.outbox,
            waiting: &mut self.waiting,
            arriving: &mut self.arriving,
            pieces: &mut self.pieces,
            trouble: &mut self.trouble,
        };
        if let Some((header, arriving)) = arrived {
            desk.arrived(&header, arriving.lease);
        }
        match desk.turn() {
            Ended::Starved => Ok(false),
            Ended::Spent => Ok(true),
            Ended::Goodbye => {
                self.inbox.clear();
                self.stage = Stage::Leaving { said_goodbye: true };
                Ok(false)
            }
            Ended::Garbage(what) => {
                // It hears of it if it listens; the connection ends anyway.
                self.send()?;
                Err(self.garbage(what))
            }
        }
    }

    /// Queues the answers to requests that have been carried out, as far as there is room.
    fn answer_finished(&mut self) {
        while self.waiting.has_finished() && self.outbox.has_room(ANSWER_MAX) {
            let Some(finished) = self.waiting.next_finished() else { return };
            let failure = self.answers.put(finished, self.client.export(), &mut self.outbox);
            self.trouble = failure.filter(is_trouble).or(self.trouble.take());
        }
    }

    #[cold]
    fn tell_trouble(&mut self) {
        if let (Some(error), Some(tell)) = (self.trouble.take(), self.tell.take()) {
            let name = &self.client.export().options().name;
            tell(error.within(format_args!("export '{name}': client {}", self.stream.peer())));
        }
    }

    /// How it ended, when all is done.
    fn verdict(&self) -> Result<()> {
        let cut_short = self.arriving.is_some() || !self.inbox.bytes().is_empty();
        match self.stage {
            Stage::Leaving { said_goodbye: false } if cut_short => {
                Err(self.garbage("its stream ends in the middle of a request"))
            }
            _ => Ok(()),
        }
    }

    #[cold]
    fn lost(&self, error: std::io::Error) -> BlockError {
        let name = &self.client.export().options().name;
        BlockError::system(format!("export '{name}': client {} is lost", self.stream.peer()), error)
    }

    #[cold]
    fn garbage(&self, what: &str) -> BlockError {
        let name = &self.client.export().options().name;
        let context = format!("export '{name}': client {}: {what}", self.stream.peer());
        BlockError::new(ErrorKind::Protocol, context)
    }
}
