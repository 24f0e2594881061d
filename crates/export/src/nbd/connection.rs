//! The transmission phase of one connection: receive, take a turn, send, wait for whatever comes next.
//!
//! Invariants: replies are sent whole and in the order they were queued; a request that has begun ends, also when
//! its client is gone; nothing more is received while the client's buffers are full.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use block::{BlockError, ErrorKind, Result};
use flow::Pieces;
use io::Stream;
use nbd::codec::RequestHeader;
use nbd::handshake::server::Negotiated;
use nbd::transmission::server::{Limits, block_status_len, put_block_status};

use super::export::Export;
use super::inbox::{Arriving, Inbox, Received};
use super::outbox::Outbox;
use super::reply::{HEADS_MAX, ReadReply, put_failure};
use super::turn::{Desk, Ended};
use super::waiting::{Done, Finished, Waiting};

/// Descriptors of one answer to BLOCK_STATUS.
const DESCRIPTORS_MAX: usize = 4096;

/// One client in the transmission phase.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    export: Arc<Export>,
    limits: Limits,
    structured: bool,
    context: u32,
    inbox: Inbox,
    outbox: Outbox,
    waiting: Waiting,
    arriving: Option<(RequestHeader, Arriving)>,
    pieces: Pieces,
}

/// What the connection waits for when it has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wants {
    receive: bool,
    send: bool,
}

/// What woke it.
enum Event {
    Socket,
    Finished(Box<Finished>),
    Closing,
}

impl Connection {
    /// A connection that has shaken hands; `early` is what was received behind the handshake.
    pub(super) fn new(
        stream: Box<dyn Stream>,
        export: Arc<Export>,
        agreed: &Negotiated,
        early: &[u8],
    ) -> Self {
        let mut inbox = Inbox::new();
        inbox.preload(early);
        Self {
            stream,
            export,
            limits: agreed.limits(),
            structured: agreed.structured,
            context: agreed.contexts.first().map_or(0, |context| context.id),
            inbox,
            outbox: Outbox::new(),
            waiting: Waiting::default(),
            arriving: None,
            pieces: Pieces::new(),
        }
    }

    /// Serves the client until either side ends. What has begun is carried out to its end.
    pub(super) async fn serve(mut self) -> Result<()> {
        let served = self.serve_requests().await;
        self.waiting.settle().await;
        served
    }

    async fn serve_requests(&mut self) -> Result<()> {
        let export = self.export.clone();
        let mut closing = pin!(export.closing());
        loop {
            let received = self.receive()?;
            let ended = self.take_turn();
            let sent = self.outbox.send(&*self.stream).map_err(|e| self.lost(e))?;
            match ended {
                Ended::Garbage(what) => return Err(self.garbage(what)),
                Ended::Goodbye => return self.say_goodbye().await,
                Ended::Spent if sent && self.waiting.has_room() => {
                    // More is there: let the others of this thread have their turn first.
                    self.answer_ended().await?;
                    io::yield_now().await;
                    continue;
                }
                Ended::Spent | Ended::Starved => {}
            }
            if received == Received::End {
                return self.say_goodbye().await;
            }
            if self.arriving.as_ref().is_some_and(|(_, a)| a.is_complete() || received == Received::Some) {
                continue;
            }
            let wants = Wants { receive: ended == Ended::Starved && sent, send: !sent };
            match self.event(wants, closing.as_mut()).await? {
                Event::Socket => {}
                Event::Finished(first) => self.answer_finished(*first).await?,
                Event::Closing => return Ok(()),
            }
        }
    }

    fn receive(&mut self) -> Result<Received> {
        if !self.outbox.is_empty() || !self.waiting.has_room() {
            return Ok(Received::Nothing);
        }
        let received = match &mut self.arriving {
            Some((_, arriving)) => arriving.receive(&*self.stream),
            None => self.inbox.receive(&*self.stream),
        };
        received.map_err(|e| self.lost(e))
    }

    fn take_turn(&mut self) -> Ended {
        let begun = io::now();
        let arrived = self.arriving.take_if(|(_, arriving)| arriving.is_complete());
        let still_arriving = self.arriving.is_some();
        let mut desk = Desk {
            export: &self.export,
            limits: &self.limits,
            structured: self.structured,
            inbox: &mut self.inbox,
            outbox: &mut self.outbox,
            waiting: &mut self.waiting,
            arriving: &mut self.arriving,
            pieces: &mut self.pieces,
        };
        if let Some((header, arriving)) = arrived {
            desk.arrived(&header, arriving.lease);
        }
        if still_arriving { Ended::Starved } else { desk.turn(begun) }
    }

    /// Waits for the socket, a finished request, or the end of the export.
    async fn event(
        &mut self,
        wants: Wants,
        mut closing: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Event> {
        let event = poll_fn(|cx| {
            if let Poll::Ready(finished) = self.waiting.poll_next(cx) {
                return Poll::Ready(Ok(Event::Finished(Box::new(finished))));
            }
            if let Poll::Ready(socket) = self.poll_socket(wants, cx) {
                return Poll::Ready(socket.map(|()| Event::Socket));
            }
            closing.as_mut().poll(cx).map(|()| Ok(Event::Closing))
        })
        .await;
        event.map_err(|e| self.lost(e))
    }

    fn poll_socket(&self, wants: Wants, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if wants.send {
            return self.stream.poll_writable(cx);
        }
        if wants.receive { self.stream.poll_readable(cx) } else { Poll::Pending }
    }

    /// Answers `first` and whatever else has ended meanwhile.
    async fn answer_finished(&mut self, first: Finished) -> Result<()> {
        self.make_room().await?;
        self.answer(first);
        self.answer_ended().await
    }

    /// Lets the waiting requests go on and answers those that have ended.
    async fn answer_ended(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            let ended = poll_fn(|cx| match self.waiting.poll_next(cx) {
                Poll::Ready(finished) => Poll::Ready(Some(finished)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
            let Some(finished) = ended else { break };
            self.make_room().await?;
            self.answer(finished);
        }
        Ok(())
    }

    /// Waits until one more reply fits.
    async fn make_room(&mut self) -> Result<()> {
        while !self.outbox.has_room(HEADS_MAX + block_status_len(DESCRIPTORS_MAX)) {
            if !self.outbox.send(&*self.stream).map_err(|e| self.lost(e))? {
                self.stream.writable().await.map_err(|e| self.lost(e))?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, finished: Finished) {
        let cookie = finished.cookie;
        match finished.done {
            Done::Nothing => super::reply::put_success(&mut self.outbox, cookie),
            Done::Failed(error) => {
                put_failure(&mut self.outbox, cookie, self.structured, error.errno(), &error.to_string());
            }
            Done::Read { range, data_fragment, lease } => {
                let (structured, holes) = (self.structured, self.structured && !data_fragment);
                let reply = ReadReply { cookie, offset: range.start(), len: lease.len(), structured, holes };
                reply.send_lease(&mut self.outbox, lease);
            }
            Done::Extents { extents, one } => {
                let shown = &extents[..extents.len().min(if one { 1 } else { DESCRIPTORS_MAX })];
                let room = self.outbox.reserve(block_status_len(shown.len()));
                match put_block_status(room, cookie, true, self.context, shown) {
                    Some(len) => {
                        self.outbox.queue(0, len);
                        self.outbox.settle(len);
                    }
                    None => put_failure(
                        &mut self.outbox,
                        cookie,
                        true,
                        block::Errno::INVAL,
                        "nothing is known there",
                    ),
                }
            }
        }
    }

    /// The client sends no more: answers what has begun, as far as it takes the answers.
    async fn say_goodbye(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            let finished = poll_fn(|cx| self.waiting.poll_next(cx)).await;
            self.answer_finished(finished).await?;
        }
        while !self.outbox.send(&*self.stream).map_err(|e| self.lost(e))? {
            self.stream.writable().await.map_err(|e| self.lost(e))?;
        }
        Ok(())
    }

    fn lost(&self, error: std::io::Error) -> BlockError {
        BlockError::system(
            format!("export '{}': client {} is lost", self.export.options().name, self.stream.peer()),
            error,
        )
    }

    fn garbage(&self, what: &str) -> BlockError {
        let name = &self.export.options().name;
        BlockError::new(
            ErrorKind::Protocol,
            format!("export '{name}': client {}: {what}", self.stream.peer()),
        )
    }
}
