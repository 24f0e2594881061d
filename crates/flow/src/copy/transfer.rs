//! Copying one node into another: data is read, looked through for zeros, and written; holes are passed over.
//!
//! Invariants: memory is bounded by what is in flight; where the target reads as zeros already nothing is written to it
//! for zeros; requests are whole clusters of the target wherever the source has data around them, so that nothing is
//! copied twice; a copy that ends early has none of its requests under way.

use std::collections::VecDeque;
use std::time::Duration;

use block::{BlockError, ByteRange, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use io::{Lease, Moment};

use crate::request::{Flags, Op, Request};
use crate::root::Root;
use crate::seam;
use crate::walk::Holds;

/// How one node is copied into another.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Offset in the target of the source's first byte, a multiple of its cluster size unless the target is raw.
    pub at: u64,
    /// Most bytes per request.
    pub chunk: u64,
    /// Requests in flight.
    pub parallel: usize,
    /// Shortest run of zeros in data (bytes, a multiple of 512) that is not written as data; 0: all is written.
    pub sparse: u64,
    /// What becomes of zeros.
    pub zeroes: Zeroes,
    /// The target has, or lies above, a backing image of this size which has what lies below the source's first layers: only
    /// what those hold is copied.
    pub over: Option<u64>,
    /// How many layers those are.
    pub layers: u32,
    /// Data is stored compressed.
    pub compress: bool,
    /// Bytes that cannot be read become zeros.
    pub salvage: bool,
    /// Most bytes per second.
    pub rate: Option<u64>,
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
    /// So many bytes more are dealt with.
    fn moved(&self, bytes: u64);
    /// Whether the copy is to end.
    fn is_over(&self) -> bool;
    /// Bytes from here on could not be read and become zeros.
    fn lost(&self, at: u64, error: &BlockError);
}

/// Where a copy failed.
#[derive(Debug)]
pub enum Failed {
    /// Reading the source at this offset.
    Reading(u64, BlockError),
    /// Writing the target at this offset.
    Writing(u64, BlockError),
    /// It was ended by who follows it.
    Ended,
}

/// How much is asked about in one question.
const QUESTION: u64 = 1 << 30;
/// Longest run of zeros that is written at once.
const ZEROES_MAX: u64 = 256 << 20;
/// What is read at a time where reading more has failed.
const SECTOR: u64 = 512;

/// How long a copy that waits for its rate may not notice that it is over.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Copies all of `from` into `to`.
pub async fn transfer(
    from: &Root,
    to: &Root,
    how: &Transfer,
    follow: &dyn Follow,
) -> std::result::Result<(), Failed> {
    let copy = Copy { from, to, how, follow, granule: granule(to) };
    let mut pieces = Pieces::new(&copy);
    let mut flying = FuturesUnordered::new();
    let (begun, mut sent) = (io::now(), 0);
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok() && flying.len() < how.parallel {
            if follow.is_over() {
                outcome = Err(Failed::Ended);
                break;
            }
            match pieces.next().await {
                Ok(Some(piece)) => {
                    flying.push(copy.carry_at(piece, how.due(begun, sent)));
                    sent += piece.range.len();
                }
                Ok(None) => break,
                Err(error) => outcome = Err(Failed::Reading(pieces.rest.start(), error)),
            }
        }
        match flying.next().await {
            // What is under way ends before we do.
            Some(landed) => outcome = outcome.and(landed),
            None => return outcome,
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

/// What is to be done with a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Copy,
    Zero,
    Pass,
}

/// A run of the source.
#[derive(Clone, Copy, Debug)]
struct Piece {
    range: ByteRange,
    what: What,
}

struct Copy<'a> {
    from: &'a Root,
    to: &'a Root,
    how: &'a Transfer,
    follow: &'a dyn Follow,
    /// Cluster size of the target.
    granule: u64,
}

impl Copy<'_> {
    /// Carries a piece once it is due.
    async fn carry_at(&self, piece: Piece, due: Option<Moment>) -> std::result::Result<(), Failed> {
        while let Some(due) = due.filter(|due| *due > io::now()) {
            if self.follow.is_over() {
                return Err(Failed::Ended);
            }
            io::sleep_until(due.min(io::now().after(LOOK_AGAIN))).await;
        }
        self.carry(piece).await
    }

    async fn carry(&self, piece: Piece) -> std::result::Result<(), Failed> {
        match piece.what {
            What::Pass => {}
            What::Zero => self.zero(piece.range).await?,
            What::Copy => {
                let bytes = self.read(piece.range).await?;
                self.write(piece.range, bytes).await?;
            }
        }
        self.follow.moved(piece.range.len());
        Ok(())
    }

    async fn read(&self, range: ByteRange) -> std::result::Result<Lease, Failed> {
        let read = seam::read(&self.from.view(), range).await;
        match read {
            Ok(bytes) => Ok(bytes),
            Err(_) if self.how.salvage => self.salvage(range).await,
            Err(error) => Err(Failed::Reading(range.start(), error)),
        }
    }

    /// Reads sector by sector what can be read.
    async fn salvage(&self, range: ByteRange) -> std::result::Result<Lease, Failed> {
        let mut whole = Lease::zeroed(range.len() as usize);
        let mut rest = range;
        while !rest.is_empty() {
            let sector = rest.head(SECTOR - rest.start() % SECTOR);
            let from = (sector.start() - range.start()) as usize;
            match seam::read(&self.from.view(), sector).await {
                Ok(bytes) => whole[from..from + bytes.len()].copy_from_slice(&bytes),
                Err(error) => self.follow.lost(sector.start(), &error),
            }
            rest = rest.skip(sector.len());
        }
        Ok(whole)
    }

    /// Writes the data among the bytes of `range`.
    async fn write(&self, range: ByteRange, mut bytes: Lease) -> std::result::Result<(), Failed> {
        let mut rest = range;
        // Joined again behind what came before it, so that the buffer serves the next piece.
        let mut done = bytes.split_to(0);
        while !rest.is_empty() {
            let (is_data, len) = self.front(rest.start(), &bytes);
            let part = rest.head(len);
            let mut lease = bytes.split_to(len as usize);
            if is_data {
                let (stored, back) = self.store(self.target(part), lease).await;
                stored.map_err(|error| Failed::Writing(part.start(), error))?;
                match back {
                    Some(back) => lease = back,
                    None => (done, lease) = (Lease::empty(), Lease::empty()),
                }
            } else if self.how.zeroes == Zeroes::Write {
                self.zero(part).await?;
            }
            done.join(lease);
            rest = rest.skip(len);
        }
        Ok(())
    }

    /// Stores data in the target; compressed are whole clusters only, and their buffer does not come back.
    async fn store(&self, range: ByteRange, bytes: Lease) -> (Result<()>, Option<Lease>) {
        let (view, granule) = (self.to.view(), self.granule);
        let ends = range.end().is_multiple_of(granule) || range.end() == view.size();
        match self.how.compress && range.start().is_multiple_of(granule) && ends {
            true => (seam::write_compressed(&view, range.start(), bytes).await, None),
            false => {
                let (result, bytes) = seam::execute(&view, Request::new(Op::Write, range), bytes).await;
                (result, Some(bytes))
            }
        }
    }

    /// Whether the front of `bytes`, which lie at `at`, is data, and how long it stays what it is.
    fn front(&self, at: u64, bytes: &[u8]) -> (bool, u64) {
        if self.how.sparse == 0 {
            return (true, bytes.len() as u64);
        }
        // A cluster is written whole or not at all.
        let unit = self.how.sparse.next_multiple_of(self.granule);
        let first = (unit - (self.how.at + at) % unit).min(bytes.len() as u64) as usize;
        let (head, tail) = bytes.split_at(first);
        let is_data = !seam::is_zero(head);
        let same = tail.chunks(unit as usize).take_while(|block| seam::is_zero(block) != is_data);
        (is_data, (first + same.map(<[u8]>::len).sum::<usize>()) as u64)
    }

    async fn zero(&self, range: ByteRange) -> std::result::Result<(), Failed> {
        let rq = Request::new(Op::WriteZeroes, self.target(range)).with_flags(Flags::MAY_UNMAP);
        let (result, _) = seam::execute(&self.to.view(), rq, Lease::empty()).await;
        result.map_err(|error| Failed::Writing(range.start(), error))
    }

    fn target(&self, range: ByteRange) -> ByteRange {
        ByteRange::new(self.how.at + range.start(), range.len())
    }
}

/// What there is to do, in order.
struct Pieces<'a> {
    copy: &'a Copy<'a>,
    /// Not asked about yet.
    rest: ByteRange,
    ready: VecDeque<Piece>,
    /// Up to here pieces were made.
    ready_to: u64,
}

impl<'a> Pieces<'a> {
    fn new(copy: &'a Copy<'a>) -> Self {
        let rest = ByteRange::between(0, copy.from.view().size());
        Self { copy, rest, ready: VecDeque::new(), ready_to: 0 }
    }

    async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            match self.copy.how.over {
                None => self.ask().await?,
                Some(backing) => self.ask_layer(backing).await?,
            }
        }
    }

    /// What all layers of the source have together.
    async fn ask(&mut self) -> Result<()> {
        for extent in seam::extents(&self.copy.from.view(), self.rest.head(QUESTION)).await? {
            let range = extent.range.intersection(self.rest);
            let what = match (extent.state.reads_zero(), self.copy.how.zeroes) {
                // All of it shall have storage.
                _ if self.copy.how.sparse == 0 => What::Copy,
                (false, _) => What::Copy,
                (true, Zeroes::Skip) => What::Pass,
                (true, Zeroes::Write) => What::Zero,
            };
            self.take(range, what);
        }
        Ok(())
    }

    /// What the first layers of the source have.
    async fn ask_layer(&mut self, backing: u64) -> Result<()> {
        let layer = seam::layer(&self.copy.from.view(), self.rest).await?;
        let mut range = self.rest.head(layer.len);
        let below = range.start() < backing;
        if below {
            range = range.head(backing - range.start());
        }
        let what = match layer.holds {
            _ if layer.depth >= self.copy.how.layers => What::Pass,
            Holds::Data | Holds::Special => What::Copy,
            // One between ends before, and hides what the target has there.
            Holds::Nothing if layer.depth + 1 < self.copy.how.layers => What::Zero,
            Holds::Nothing => What::Pass,
            // What lies behind the backing image reads as zeros by itself.
            Holds::Hole | Holds::Zeroes if below => What::Zero,
            Holds::Hole | Holds::Zeroes => What::Pass,
        };
        self.take(range, what);
        Ok(())
    }

    /// Makes pieces of a run, the next one. Data is rounded to whole clusters of the target.
    fn take(&mut self, run: ByteRange, what: What) {
        let (size, end) = (self.rest.end(), run.end());
        self.rest = ByteRange::between(end.max(self.rest.start()), size);
        let Copy { how, granule, .. } = self.copy;
        let mut run = match how.over {
            // What lies between is not ours to write.
            Some(_) => ByteRange::between(run.start().max(self.ready_to).min(end), end),
            None => self.whole_clusters(end, what, size),
        };
        self.ready_to = self.ready_to.max(run.end());
        let most = if what == What::Copy { how.chunk.max(*granule) } else { ZEROES_MAX };
        while !run.is_empty() {
            // Chunks and clusters share their boundaries.
            let piece = run.head(most - (how.at + run.start()) % most);
            self.ready.push_back(Piece { range: piece, what });
            run = run.skip(piece.len());
        }
    }

    /// All up to `end` that is left, with data in whole clusters: those that it shares with zeros are data.
    fn whole_clusters(&self, end: u64, what: What, size: u64) -> ByteRange {
        let granule = self.copy.granule;
        let end = match what {
            What::Copy => end.next_multiple_of(granule).min(size),
            _ if end == size => size,
            // The rest belongs to what comes next.
            What::Zero | What::Pass => end / granule * granule,
        };
        ByteRange::between(self.ready_to, end.max(self.ready_to))
    }
}
