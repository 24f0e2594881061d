//! One connection in the transmission phase: requests out, replies in, all of it without waiting.
//!
//! Invariants: a reply is matched by its cookie and held against what was asked, so nothing that a server sends
//! can put a byte where it does not belong; whoever breaks the protocol loses the connection. What is in flight
//! is bounded by [`COUNT_MAX`] and [`BYTES_MAX`].

mod flights;
mod inbox;
mod loss;
mod outbox;
mod reply;

use std::ops::Range;
use std::task::{Context, Poll};
use std::time::Duration;

use block::{BlockError, ErrorKind, Extent, ExtentState, Priority};
use io::{Lease, Moment, Stream};
use nbd::codec::{Command, CommandFlags, Cookie, REQUEST_LEN, RequestHeader};
use nbd::handshake::client::RemoteExport;
use nbd::transmission::Limits;
use nbd::transmission::client::encode_request;

use super::counters::Counters;
use super::job::{Ask, Job};
use super::options::Config;
use flights::{Flight, Flights};
use inbox::{Inbox, Received};
use outbox::Outbox;

pub(super) use loss::Loss;

/// Requests in flight at most.
const COUNT_MAX: usize = 256;
/// Bytes in flight at most, unless it is one request alone.
const BYTES_MAX: u64 = 64 << 20;
/// Of these, for the lowest priority where it shares the connection with higher ones.
const FILL_MAX: u64 = 8 << 20;
/// Bytes received in one turn before others of the thread have theirs.
const TURN_MAX: usize = 4 << 20;
/// Reads that are longer than this on average are received without reading ahead.
const LONG: u64 = 32 << 10;
/// A connection that has lived this long counts as a good one, though it was not asked anything.
const PROVEN: Duration = Duration::from_secs(5);

/// How much of a connection the fill may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// All of it.
    All,
    /// [`FILL_MAX`].
    Part,
    /// One request at a time.
    One,
}

/// A connection.
pub(super) struct Link {
    stream: Box<dyn Stream>,
    limits: Limits,
    structured: bool,
    allocation: Option<u32>,
    inbox: Inbox,
    outbox: Outbox,
    flights: Flights,
    filling: Option<Filling>,
    begun: Moment,
    answered: bool,
}

/// The bytes of a read are coming.
struct Filling {
    cookie: u64,
    /// Where in its lease the next ones go.
    span: Range<usize>,
    /// How many there are altogether.
    len: usize,
    /// Whether the reply ends with them.
    last: bool,
}

impl Link {
    pub(super) fn new(stream: Box<dyn Stream>, export: &RemoteExport) -> Self {
        Self {
            stream,
            limits: export.limits(),
            structured: export.structured,
            allocation: export.allocation,
            inbox: Inbox::new(export.structured),
            outbox: Outbox::default(),
            flights: Flights::default(),
            filling: None,
            begun: io::now(),
            answered: false,
        }
    }

    /// Whether there is room for a job; `fill` is what the lowest priority may have of it.
    pub(super) fn has_room(&self, job: &Job, fill: Share) -> bool {
        let fits = |held: u64, most: u64| held == 0 || held + job.bytes() <= most;
        let most = match fill {
            _ if job.priority != Priority::Fill => BYTES_MAX,
            Share::All => BYTES_MAX,
            Share::Part => FILL_MAX,
            Share::One => 0,
        };
        self.flights.len() < COUNT_MAX
            && fits(self.flights.bytes(), BYTES_MAX)
            && fits(self.flights.bytes_of(job.priority), most)
    }

    /// Whether a change of the same bytes is in flight: of two the later one has to win.
    pub(super) fn conflicts(&self, ask: &Ask) -> bool {
        self.flights.conflicts(ask)
    }

    /// Puts a job on the wire with the next turn.
    pub(super) fn begin(&mut self, job: Job, counters: &Counters, config: &Config) {
        let ask = job.ask;
        if ask.command == Command::BlockStatus && self.allocation.is_none() {
            return job.answer(Ok(vec![Extent { range: ask.range, state: ExtentState::Data }]));
        }
        let mut head = [0; REQUEST_LEN];
        let payload = if ask.command == Command::Write { job.lease.len() } else { 0 };
        let cookie = self.flights.begin(job);
        let encoded =
            encode_request(&mut head, &self.limits, ask.command, ask.flags, Cookie(cookie), ask.range);
        match encoded {
            Ok(()) => {
                counters.add_request(payload);
                self.outbox.push(head, cookie, payload);
            }
            Err(refusal) => {
                let context = format!("{config}: {:?} of {}: {}", ask.command, ask.range, refusal.message);
                if let Some(flight) = self.flights.end(cookie) {
                    flight.job.answer(Err(BlockError::new(ErrorKind::Invalid, context)));
                }
            }
        }
    }

    /// Sends and receives what can be without waiting; answers whether more is there than one turn may take.
    pub(super) fn turn(&mut self, counters: &Counters, config: &Config) -> Result<bool, Loss> {
        self.outbox.send(&*self.stream, &self.flights)?;
        let mut received = 0;
        while received < TURN_MAX {
            self.digest(counters, config)?;
            match self.receive()? {
                Received::Nothing => return Ok(false),
                Received::Bytes(len) => received += len,
                Received::End if self.flights.len() == 0 && self.inbox.is_idle() => {
                    return Err(Loss::gone("the server closed it"));
                }
                Received::End => return Err(Loss::gone("the server closed it with requests unanswered")),
            }
        }
        self.digest(counters, config)?;
        Ok(true)
    }

    /// Receives into the lease whose bytes are coming, else ahead.
    fn receive(&mut self) -> Result<Received, Loss> {
        let Some(filling) = &mut self.filling else {
            let long = self.flights.bytes() > LONG * self.flights.len() as u64;
            return Ok(self.inbox.receive(&*self.stream, long)?);
        };
        let Some(flight) = self.flights.get_mut(filling.cookie) else {
            return Err(Loss::broken("bytes of a read that has ended"));
        };
        let received = Received::of(self.stream.try_recv(&mut flight.job.lease[filling.span.clone()])?);
        if let Received::Bytes(len) = received {
            filling.span.start += len;
        }
        Ok(received)
    }

    /// Waits for the socket: to receive, and to send if there is something.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error shows itself with the next send or receive.
        let sendable = !self.outbox.is_empty() && self.stream.poll_writable(cx).is_ready();
        if self.stream.poll_readable(cx).is_ready() || sendable { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The first deadline of what is in flight.
    pub(super) fn expiry(&self) -> Option<Moment> {
        self.flights.iter().filter_map(|(_, flight)| flight.job.deadline).min()
    }

    /// Answers those whose deadline has passed. What is on the wire stays in flight, without them.
    pub(super) fn expire(&mut self, now: Moment, late: impl Fn(&Job) -> BlockError) {
        let passed = |flight: &Flight| flight.job.deadline.is_some_and(|deadline| deadline <= now);
        let cookies: Vec<u64> =
            self.flights.iter().filter(|(_, flight)| passed(flight)).map(|(cookie, _)| cookie).collect();
        for cookie in cookies {
            if self.outbox.withdraw(cookie) {
                if let Some(flight) = self.flights.end(cookie) {
                    let error = late(&flight.job);
                    flight.job.answer(Err(error));
                }
                continue;
            }
            let Some(flight) = self.flights.get_mut(cookie) else { continue };
            self.outbox.keep(cookie, &flight.job.lease);
            let error = late(&flight.job);
            // What comes of a read needs a place; a write has what is still to be sent kept already.
            let read = flight.job.ask.command == Command::Read;
            let scratch = if read { Lease::new(flight.job.lease.len()) } else { Lease::empty() };
            flight.job.answer_early(Err(error), scratch);
        }
    }

    /// Whether it has shown that the server is well.
    pub(super) fn is_proven(&self) -> bool {
        self.answered || io::now().since(self.begun) >= PROVEN
    }

    /// Lets go of the connection; answers what was in flight and is still wanted, oldest first.
    pub(super) fn into_jobs(self) -> Vec<Job> {
        self.flights.into_jobs().filter(Job::is_wanted).collect()
    }

    /// Ends the connection as the protocol asks for, behind all that is to be sent.
    pub(super) async fn say_goodbye(mut self) {
        let goodbye = RequestHeader {
            flags: CommandFlags::NONE,
            code: Command::Disconnect.code(),
            cookie: Cookie(0),
            offset: 0,
            len: 0,
        };
        let mut head = [0; REQUEST_LEN];
        goodbye.encode(&mut head);
        self.outbox.push(head, 0, 0);
        while self.outbox.send(&*self.stream, &self.flights).is_ok() && !self.outbox.is_empty() {
            if self.stream.writable().await.is_err() {
                break;
            }
        }
        self.stream.shutdown();
    }
}
