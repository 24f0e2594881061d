//! Copying nodes into another: data is read, looked through for zeros, and written; holes are passed over.
//!
//! Invariants: memory is bounded by what is in flight; where the target reads as zeros already nothing is written to it
//! for zeros; requests are whole clusters of the target wherever the source has data around them, so that nothing is
//! copied twice; where writes are to come in order, one begins when the one before it has nothing left to begin and all
//! others have ended ([`turns`]); a copy that ends early has none of its requests under way.

mod offload;
mod pieces;
mod sources;
mod turns;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use block::{BlockError, ByteRange, Result};
use futures_util::future::try_join_all;
use io::file::Offload;
use io::{Lease, Moment};

use super::flying::Flying;
use crate::powers::Packed;
use crate::request::{Flags, Now, Op, Request, Window};
use crate::root::Root;
use crate::seam;
use offload::Known;
use pieces::{Piece, Pieces, What};
use sources::{Run, Sources};
use turns::{Place, Turns};

/// How nodes are copied into another.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Most bytes per request.
    pub chunk: u64,
    /// Requests in flight.
    pub parallel: usize,
    /// Writes begin in the order of their offsets, and two of them are under way at most. What comes before (reading,
    /// packing) is done side by side all the same.
    pub ordered: bool,
    /// Shortest run of zeros in data (bytes, a multiple of 512) that is not written as data; 0: all is written.
    pub sparse: u64,
    /// What becomes of zeros.
    pub zeroes: Zeroes,
    /// The target has already, or shows, what lies below the source's first layers: only what those hold is copied.
    pub over: Option<Over>,
    /// How many layers those are.
    pub layers: u32,
    /// Data is stored compressed.
    pub compress: bool,
    /// Data is not carried, but brought by the kernel where it can: then nobody looks for zeros in it. Not together
    /// with `compress` or `salvage`.
    pub offload: Option<Offload>,
    /// Bytes that cannot be read become zeros.
    pub salvage: bool,
    /// Most bytes per second.
    pub rate: Option<u64>,
}

/// How a target comes to have what lies below the source's first layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// It is what lies below them, made as long as they are with zeros.
    Next,
    /// It holds nothing itself, and shows a backing image of so many bytes, behind which it reads as zeros.
    Backing(u64),
    /// It may hold anything.
    Used,
}

/// What becomes of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zeroes {
    /// Nothing: the target reads as zeros.
    Skip,
    /// They are written; the target may give storage back.
    Write,
}

/// Who follows a copy.
pub trait Follow {
    /// So many bytes more are copied.
    fn moved(&self, bytes: u64);
    /// So many bytes more needed no copy: they are zeros, or nothing is to be done with them.
    fn spared(&self, bytes: u64);
    /// Whether the copy is to end.
    fn is_over(&self) -> bool;
    /// Bytes from here on could not be read and become zeros.
    fn lost(&self, at: u64, error: &BlockError);
}

/// Where a copy failed.
#[derive(Debug)]
pub enum Failed {
    /// Reading at this offset of all that is copied.
    Reading(u64, BlockError),
    /// Writing the target at this offset.
    Writing(u64, BlockError),
    /// It was ended by who follows it.
    Ended,
}

/// What is read at a time where reading more has failed, and what each source counts as many whole ones of.
const SECTOR: u64 = 512;

/// Pieces under way where two are being written (one waits for the file) while the next is read from memory.
const AHEAD_AT_HAND: usize = 3;

/// How long a copy that waits for its rate may not notice that it is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Copies all of `from`, one behind the other, into `to`, which has room for them. Each counts as many whole sectors of
/// 512 bytes, filled up with zeros as far as the target goes; only of a single one may not all layers be copied.
pub async fn transfer(
    from: &[&Root],
    to: &Root,
    how: &Transfer,
    follow: &dyn Follow,
) -> std::result::Result<(), Failed> {
    let (from, granule, turns) = (Sources::new(from), granule(to), Turns::new(how.ordered));
    let copy =
        Copy { from, to, how, follow, granule, turns, known: Known::default(), at_hand: Cell::new(true) };
    let mut pieces = Pieces::new(&copy.from, copy.from.end_in(to), how, granule);
    let mut flying = Flying::new();
    let (begun, mut sent) = (io::now(), 0);
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok() && flying.len() < copy.most_under_way() {
            if follow.is_over() {
                outcome = Err(Failed::Ended);
                break;
            }
            match flying.beside(pieces.next()).await {
                Ok(Some(piece)) => {
                    flying.push(copy.carry_at(piece, how.due(begun, sent)));
                    sent += piece.range.len();
                }
                Ok(None) => break,
                Err(error) => outcome = Err(Failed::Reading(pieces.asked_to(), error)),
            }
            while let Some(landed) = flying.landed() {
                outcome = outcome.and(landed);
            }
        }
        if outcome.is_err() {
            copy.turns.end();
        }
        match flying.next().await {
            // What is under way ends before we do.
            Some(landed) => outcome = outcome.and(landed),
            None => return outcome,
        }
    }
}

/// How many bytes of `from` such a copy is going to move, as far as can be said before it is made.
pub async fn to_move(
    from: &[&Root],
    to: &Root,
    how: &Transfer,
    follow: &dyn Follow,
) -> std::result::Result<u64, Failed> {
    let (from, mut bytes) = (Sources::new(from), 0);
    let mut pieces = Pieces::new(&from, from.end_in(to), how, granule(to));
    loop {
        if follow.is_over() {
            return Err(Failed::Ended);
        }
        match pieces.next().await {
            Ok(Some(piece)) if piece.what == What::Copy => bytes += piece.range.len(),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(Failed::Reading(pieces.asked_to(), error)),
        }
    }
}

fn granule(to: &Root) -> u64 {
    seam::granule(&to.view()).max(1)
}

impl Transfer {
    /// When `sent` bytes may have been sent; `None`: at once.
    fn due(&self, begun: Moment, sent: u64) -> Option<Moment> {
        let rate = self.rate.filter(|rate| *rate > 0)?;
        let seconds = (sent as f64 / rate as f64).min(u32::MAX as f64);
        Some(begun.after(Duration::from_secs_f64(seconds)))
    }
}

struct Copy<'a> {
    from: Sources<'a>,
    to: &'a Root,
    how: &'a Transfer,
    follow: &'a dyn Follow,
    /// Cluster size of the target.
    granule: u64,
    turns: Turns,
    known: Known,
    /// What was read last was in memory already, as far as that is known.
    at_hand: Cell<bool>,
}

/// A run of the source that is data throughout, or zeros.
struct Part {
    range: ByteRange,
    is_data: bool,
    bytes: Lease,
    packed: Option<Packed>,
}

impl Copy<'_> {
    /// How many pieces may be under way. Who writes one after the other, of what is at hand, wants the next one ready
    /// and no more: with each that is read further ahead less is still in the processor's caches when its turn comes.
    fn most_under_way(&self) -> usize {
        match self.at_hand.get() && self.how.ordered && !self.how.compress {
            true => self.how.parallel.min(AHEAD_AT_HAND),
            false => self.how.parallel,
        }
    }

    /// Carries a piece once it is due. It has its place among those who write from now on.
    fn carry_at(
        &self,
        piece: Piece,
        due: Option<Moment>,
    ) -> impl Future<Output = std::result::Result<(), Failed>> {
        let place = (piece.what != What::Pass).then(|| self.turns.place(piece.range.end()));
        async move {
            while let Some(due) = due.filter(|due| *due > io::now()) {
                if self.follow.is_over() {
                    return Err(Failed::Ended);
                }
                io::sleep_until(due.min(io::now().after(LOOK_AGAIN))).await;
            }
            let carried = match &place {
                Some(place) => self.carry(piece, place).await,
                None => Ok(()),
            };
            match carried {
                Ok(()) if piece.what == What::Copy => self.follow.moved(piece.range.len()),
                Ok(()) => self.follow.spared(piece.range.len()),
                Err(_) => self.turns.end(),
            }
            carried
        }
    }

    async fn carry(&self, piece: Piece, place: &Place<'_>) -> std::result::Result<(), Failed> {
        if piece.what == What::Zero {
            self.wait_for(place).await?;
            return self.zero(piece.range).await;
        }
        self.carry_data(piece.range, place).await
    }

    async fn carry_by_hand(&self, range: ByteRange, place: &Place<'_>) -> std::result::Result<(), Failed> {
        if range.is_empty() {
            return Ok(());
        }
        let bytes = self.read(range).await?;
        let mut parts = self.parts(range, bytes);
        if self.how.compress {
            parts = self.pack(parts).await?;
        }
        self.wait_for(place).await?;
        self.store(parts, place).await
    }

    async fn wait_for(&self, place: &Place<'_>) -> std::result::Result<(), Failed> {
        if place.turn().await { Ok(()) } else { Err(Failed::Ended) }
    }

    /// Reads `range`; what fills up the last sectors of sources are zeros.
    async fn read(&self, range: ByteRange) -> std::result::Result<Lease, Failed> {
        let run = self.from.run(range);
        if run.range.len() == range.len() {
            return self.read_run(run).await;
        }
        let (mut filled, mut rest) = (Lease::zeroed(range.len() as usize), range);
        while !rest.is_empty() {
            let run = self.from.run(rest);
            let (from, len) = ((rest.start() - range.start()) as usize, run.len);
            let bytes = self.read_run(run).await?;
            filled[from..from + bytes.len()].copy_from_slice(&bytes);
            rest = rest.skip(len);
        }
        Ok(filled)
    }

    async fn read_run(&self, run: Run<'_>) -> std::result::Result<Lease, Failed> {
        match self.fetch(&run).await {
            Ok(bytes) => Ok(bytes),
            Err(_) if self.how.salvage => Ok(self.salvage(run).await),
            Err(error) => Err(Failed::Reading(run.start, error)),
        }
    }

    /// Reads at once what is in memory, and waits for the rest.
    async fn fetch(&self, run: &Run<'_>) -> Result<Lease> {
        let (mut rq, mut bytes) = (Request::new(Op::Read, run.range), Lease::new(run.range.len() as usize));
        let now = seam::try_now(&run.root.turn(), &mut rq, Window::In(&mut bytes))?;
        self.at_hand.set(now == Now::Done);
        if now == Now::Done {
            return Ok(bytes);
        }
        let (result, bytes) = seam::execute(&run.root.view(), rq, bytes).await;
        result.map(|()| bytes)
    }

    /// Reads sector by sector what can be read.
    async fn salvage(&self, run: Run<'_>) -> Lease {
        let mut whole = Lease::zeroed(run.range.len() as usize);
        let mut rest = run.range;
        while !rest.is_empty() {
            let sector = rest.head(SECTOR - rest.start() % SECTOR);
            let from = (sector.start() - run.range.start()) as usize;
            match seam::read(&run.root.view(), sector).await {
                Ok(bytes) => whole[from..from + bytes.len()].copy_from_slice(&bytes),
                Err(error) => self.follow.lost(run.in_whole(sector).start(), &error),
            }
            rest = rest.skip(sector.len());
        }
        whole
    }

    /// Data and zeros among the bytes of `range`; clusters that are to be packed one by one.
    fn parts(&self, range: ByteRange, mut bytes: Lease) -> Vec<Part> {
        let (mut parts, mut rest) = (Vec::new(), range);
        while !rest.is_empty() {
            let (is_data, mut len) = self.front(rest.start(), &bytes);
            if is_data && self.how.compress {
                len = len.min(self.granule - rest.start() % self.granule);
            }
            let (range, bytes) = (rest.head(len), bytes.split_to(len as usize));
            parts.push(Part { range, is_data, bytes, packed: None });
            rest = rest.skip(len);
        }
        parts
    }

    /// Packs what are whole clusters of data, side by side.
    async fn pack(&self, parts: Vec<Part>) -> std::result::Result<Vec<Part>, Failed> {
        let view = self.to.view();
        let size = view.size();
        let pack = async |mut part: Part| {
            let range = part.range;
            let ends = range.end().is_multiple_of(self.granule) || range.end() == size;
            if part.is_data && range.start().is_multiple_of(self.granule) && ends {
                let packed = seam::pack(&view, part.bytes).await;
                part.packed = Some(packed.map_err(|error| Failed::Writing(part.range.start(), error))?);
                part.bytes = Lease::empty();
            }
            Ok(part)
        };
        try_join_all(parts.into_iter().map(pack)).await
    }

    /// Writes what is data, and zeros where the target has to be told of them.
    async fn store(&self, parts: Vec<Part>, place: &Place<'_>) -> std::result::Result<(), Failed> {
        // Joined again behind what came before it, so that the buffer serves the next piece.
        let mut done = Lease::empty();
        for Part { range, is_data, mut bytes, packed } in parts {
            let stored = match packed {
                Some(packed) => seam::store_packed(&self.to.view(), range.start(), packed).await,
                None if is_data => {
                    let (result, back) = self.write(range, bytes, place).await;
                    bytes = back;
                    result
                }
                None if self.how.zeroes == Zeroes::Write => {
                    self.zero(range).await?;
                    Ok(())
                }
                None => Ok(()),
            };
            stored.map_err(|error| Failed::Writing(range.start(), error))?;
            done.join(bytes);
        }
        Ok(())
    }

    /// Writes `range`; with the last byte of its piece under way `place` lets the next one begin.
    async fn write(&self, range: ByteRange, bytes: Lease, place: &Place<'_>) -> (Result<()>, Lease) {
        let view = self.to.view();
        let mut write = pin!(seam::execute(&view, Request::new(Op::Write, range), bytes));
        poll_fn(|cx| {
            let polled = write.as_mut().poll(cx);
            place.begun_to(range.end());
            polled
        })
        .await
    }

    /// Whether the front of `bytes`, which lie at `at`, is data, and how long it stays what it is.
    fn front(&self, at: u64, bytes: &[u8]) -> (bool, u64) {
        if self.how.sparse == 0 {
            return (true, bytes.len() as u64);
        }
        // A cluster is written whole or not at all; each that is packed is one by itself.
        let least = if self.how.compress { 1 } else { self.how.sparse };
        let unit = least.next_multiple_of(self.granule);
        let first = (unit - at % unit).min(bytes.len() as u64) as usize;
        let (head, tail) = bytes.split_at(first);
        let is_data = !seam::is_zero(head);
        let same = tail.chunks(unit as usize).take_while(|block| seam::is_zero(block) != is_data);
        (is_data, (first + same.map(<[u8]>::len).sum::<usize>()) as u64)
    }

    async fn zero(&self, range: ByteRange) -> std::result::Result<(), Failed> {
        let rq = Request::new(Op::WriteZeroes, range).with_flags(Flags::MAY_UNMAP);
        let (result, _) = seam::execute(&self.to.view(), rq, Lease::empty()).await;
        result.map_err(|error| Failed::Writing(range.start(), error))
    }
}
