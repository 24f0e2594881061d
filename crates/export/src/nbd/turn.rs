//! One turn: every complete request that was received is answered at once or begun.
//!
//! The graph is entered once per turn. Nothing here waits; on the path that answers at once nothing allocates.

use block::{BlockError, ByteRange};
use flow::account::Tally;
use flow::{Flags, Now, Op, Pieces, Request, Turn, Window, seam};
use io::Lease;
use nbd::codec::{Command, CommandFlags, PAYLOAD_MAX, REQUEST_LEN, RequestHeader};
use nbd::transmission::server::{Limits, Refusal, validate};

use super::answer::{is_trouble, shown};
use super::budget;
use super::export::Export;
use super::inbox::{Arriving, Inbox};
use super::outbox::Outbox;
use super::reply::{HEADS_MAX, ReadReply, put_failure, put_success};
use super::waiting::Waiting;

/// Reads of at least this many bytes are sent from where they lie, if they may be.
const LEND_MIN: usize = 32 << 10;
/// Longest read that is copied in place; longer ones wait for a buffer of their own.
const IN_PLACE_MAX: usize = 1 << 20;
/// Room for a reply without data.
const SMALL: usize = 1024;

/// Why a turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// Every complete request was taken.
    Starved,
    /// There may be more, but the turn was long enough or its buffers are full.
    Spent,
    /// The client said goodbye.
    Goodbye,
    /// What the client sends cannot be followed.
    Garbage(&'static str),
}

/// What a turn works on.
pub(super) struct Desk<'c> {
    pub(super) export: &'c Export,
    pub(super) limits: &'c Limits,
    pub(super) structured: bool,
    pub(super) inbox: &'c mut Inbox,
    pub(super) outbox: &'c mut Outbox,
    pub(super) waiting: &'c mut Waiting,
    /// A long write whose payload is still coming.
    pub(super) arriving: &'c mut Option<(RequestHeader, Arriving)>,
    pub(super) pieces: &'c mut Pieces,
    /// The last failure that was not the client's own doing.
    pub(super) trouble: &'c mut Option<BlockError>,
}

/// What became of one request.
enum Taken {
    Yes,
    Starved,
    Full,
    End(Ended),
}

impl Desk<'_> {
    /// Takes requests until there is none, or the turn's budget is spent.
    pub(super) fn turn(&mut self) -> Ended {
        let begun = io::now();
        let turn = self.export.root().turn();
        let mut tally = Tally::default();
        let mut ended = Ended::Spent;
        for taken in 0..budget::REQUESTS_MAX {
            if taken % 16 == 15 && budget::is_spent(begun) {
                break;
            }
            match self.take(&turn, &mut tally) {
                Taken::Yes => continue,
                Taken::Starved => ended = Ended::Starved,
                Taken::Full => ended = Ended::Spent,
                Taken::End(end) => ended = end,
            }
            break;
        }
        drop(turn);
        self.export.counters().add(&tally);
        ended
    }

    fn take(&mut self, turn: &Turn<'_>, tally: &mut Tally) -> Taken {
        let Some(bytes) = self.inbox.bytes().first_chunk::<REQUEST_LEN>() else { return Taken::Starved };
        let header = match RequestHeader::parse(bytes) {
            Ok(header) => header,
            Err(_) => return Taken::End(Ended::Garbage("a request does not begin with its magic")),
        };
        if !self.waiting.has_room() || !self.outbox.has_room(SMALL) {
            return Taken::Full;
        }
        match validate(&header, self.limits) {
            Err(refusal) => self.refuse(&header, &refusal, tally),
            Ok(Command::Read) => {
                self.inbox.came(0);
                self.read(turn, &header, tally)
            }
            Ok(Command::Write) => self.write(turn, &header, tally),
            Ok(Command::Disconnect) => Taken::End(Ended::Goodbye),
            Ok(command) => {
                self.inbox.came(0);
                self.inbox.consume(REQUEST_LEN);
                self.other(turn, &header, command, tally);
                Taken::Yes
            }
        }
    }

    fn refuse(&mut self, header: &RequestHeader, refusal: &Refusal, tally: &mut Tally) -> Taken {
        self.inbox.consume(REQUEST_LEN);
        let payload = header.payload_len() as usize;
        if payload > self.inbox.bytes().len() && payload <= PAYLOAD_MAX as usize {
            // Clients that are still sending it do not expect an answer yet: libnbd takes it for one to nothing.
            *self.arriving = Some((*header, self.inbox.begin_payload(payload)));
            return Taken::Starved;
        }
        tally.failed += 1;
        put_failure(self.outbox, header.cookie, self.structured, refusal.errno, refusal.message);
        if payload > PAYLOAD_MAX as usize {
            return Taken::End(Ended::Garbage("a write is longer than any may be"));
        }
        self.inbox.consume(payload);
        Taken::Yes
    }

    fn read(&mut self, turn: &Turn<'_>, header: &RequestHeader, tally: &mut Tally) -> Taken {
        let reply = self.read_reply(header);
        let mut rq = Request::new(Op::Read, range(header));
        if reply.len == 0 {
            reply.finish_empty(self.outbox);
            return self.taken(Op::Read, header, tally);
        }
        if reply.len >= LEND_MIN && self.outbox.has_room(HEADS_MAX) {
            // A read that failed half-way may have left some.
            self.pieces.truncate(0);
            match seam::try_now(turn, &mut rq, Window::Lend(self.pieces)) {
                Ok(Now::Lent) => {
                    reply.send_pieces(self.outbox, self.pieces);
                    return self.taken(Op::Read, header, tally);
                }
                Ok(_) => {}
                Err(error) => return self.failed(header, error, tally),
            }
        }
        if reply.len > IN_PLACE_MAX {
            self.wait(turn, header, rq, Lease::new(reply.len));
            return self.taken(Op::Read, header, tally);
        }
        if !self.outbox.has_room(reply.room()) {
            return Taken::Full;
        }
        let room = &mut self.outbox.reserve(reply.room())[reply.head_len()..];
        match seam::try_now(turn, &mut rq, Window::In(room)) {
            Ok(Now::Wait) => {
                let mut lease = Lease::new(reply.len);
                let done = rq.done as usize;
                lease[..done].copy_from_slice(&room[..done]);
                self.wait(turn, header, rq, lease);
            }
            Ok(_) => reply.finish(self.outbox),
            Err(error) => return self.failed(header, error, tally),
        }
        self.taken(Op::Read, header, tally)
    }

    fn read_reply(&self, header: &RequestHeader) -> ReadReply {
        ReadReply {
            cookie: header.cookie,
            offset: header.offset,
            len: header.len as usize,
            structured: self.structured,
            holes: self.structured && !header.flags.contains(CommandFlags::DF),
        }
    }

    fn write(&mut self, turn: &Turn<'_>, header: &RequestHeader, tally: &mut Tally) -> Taken {
        let len = header.len as usize;
        let Some(payload) = self.inbox.bytes().get(REQUEST_LEN..REQUEST_LEN + len) else {
            if self.inbox.is_apart(len) {
                self.inbox.came(len);
                self.inbox.consume(REQUEST_LEN);
                *self.arriving = Some((*header, self.inbox.begin_payload(len)));
            }
            return Taken::Starved;
        };
        let mut rq = self.changing(header, Op::Write);
        match seam::try_now(turn, &mut rq, Window::Out(payload)) {
            Ok(Now::Wait) => {
                let lease = Lease::copy_of(payload);
                self.wait(turn, header, rq, lease);
                self.inbox.came(len);
            }
            Ok(_) => {
                put_success(self.outbox, header.cookie);
                self.inbox.came(0);
            }
            Err(error) => {
                self.inbox.consume(len);
                return self.failed(header, error, tally);
            }
        }
        self.inbox.consume(len);
        self.taken(Op::Write, header, tally)
    }

    /// Begins the write whose payload has arrived, or refuses it now.
    pub(super) fn arrived(&mut self, header: &RequestHeader, lease: Lease) {
        let mut tally = Tally::default();
        match validate(header, self.limits) {
            Ok(_) => {
                let rq = self.changing(header, Op::Write);
                tally.add(Op::Write, u64::from(header.len));
                self.waiting.begin(self.export.root().view(), header.cookie, rq, lease, false);
            }
            Err(Refusal { errno, message }) => {
                tally.failed += 1;
                put_failure(self.outbox, header.cookie, self.structured, errno, message);
            }
        }
        self.export.counters().add(&tally);
    }

    fn other(&mut self, turn: &Turn<'_>, header: &RequestHeader, command: Command, tally: &mut Tally) {
        let mut rq = match command {
            Command::Trim => self.changing(header, Op::Discard),
            Command::WriteZeroes => self.changing(header, Op::WriteZeroes),
            Command::Cache => Request::new(Op::Cache, range(header)),
            Command::BlockStatus => {
                let one = header.flags.contains(CommandFlags::REQ_ONE);
                let view = turn.view().clone();
                return self.waiting.begin_extents(view, header.cookie, range(header), one);
            }
            _ => Request::flush(),
        };
        tally.add(rq.op, rq.range.len());
        match seam::try_now(turn, &mut rq, Window::None) {
            Ok(Now::Wait) => self.wait(turn, header, rq, Lease::empty()),
            Ok(_) => put_success(self.outbox, header.cookie),
            Err(error) => self.put_failed(header, error, tally),
        }
    }

    fn changing(&self, header: &RequestHeader, op: Op) -> Request {
        let mut flags = Flags::NONE;
        if header.flags.contains(CommandFlags::FUA) || self.export.options().writethrough {
            flags = flags | Flags::FUA;
        }
        if op == Op::WriteZeroes && !header.flags.contains(CommandFlags::NO_HOLE) {
            flags = flags | Flags::MAY_UNMAP;
        }
        if header.flags.contains(CommandFlags::FAST_ZERO) {
            flags = flags | Flags::FAST_ZERO;
        }
        Request::new(op, range(header)).with_flags(flags)
    }

    fn wait(&mut self, turn: &Turn<'_>, header: &RequestHeader, rq: Request, lease: Lease) {
        let fragment = header.flags.contains(CommandFlags::DF);
        self.waiting.begin(turn.view().clone(), header.cookie, rq, lease, fragment);
    }

    fn taken(&mut self, op: Op, header: &RequestHeader, tally: &mut Tally) -> Taken {
        self.inbox.consume(REQUEST_LEN);
        tally.add(op, u64::from(header.len));
        Taken::Yes
    }

    #[cold]
    fn failed(&mut self, header: &RequestHeader, error: BlockError, tally: &mut Tally) -> Taken {
        self.inbox.consume(REQUEST_LEN);
        self.put_failed(header, error, tally);
        Taken::Yes
    }

    fn put_failed(&mut self, header: &RequestHeader, error: BlockError, tally: &mut Tally) {
        tally.failed += 1;
        put_failure(self.outbox, header.cookie, self.structured, error.errno(), shown(&error));
        if is_trouble(&error) {
            *self.trouble = Some(error);
        }
    }
}

/// The range of a request that was granted, so it does not overflow.
fn range(header: &RequestHeader) -> ByteRange {
    ByteRange::new(header.offset, u64::from(header.len))
}
