//! What there is to copy of a source, run by run.
//!
//! Invariants: runs come in order, without gaps where all layers are copied, and never overlap; they are cut at
//! multiples of what one request takes; data is rounded to whole clusters of the target wherever the source has data
//! around it.

use std::collections::VecDeque;

use block::{ByteRange, Result};

use super::sources::Sources;
use super::{Over, Transfer, Zeroes};
use crate::walk::{Holds, Layers};

/// How much is asked about in one question.
const QUESTION: u64 = 1 << 30;
/// Longest run of zeros that is written at once.
const ZEROES_MAX: u64 = 256 << 20;

/// What is to be done with a run of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    /// It is data.
    Copy,
    /// It is made zero.
    Zero,
    /// Nothing.
    Pass,
}

/// A run of the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) range: ByteRange,
    pub(super) what: What,
}

/// What there is to do, in order.
pub(super) struct Pieces<'a> {
    from: &'a Sources<'a>,
    how: &'a Transfer,
    /// Cluster size of the target.
    granule: u64,
    /// Not asked about yet.
    rest: ByteRange,
    ready: VecDeque<Piece>,
    /// Up to here pieces were made.
    ready_to: u64,
    /// What is known of the layers of the source from there on.
    layers: Layers,
}

impl<'a> Pieces<'a> {
    /// All of `from` up to `end`, for a target of that cluster size.
    pub(super) fn new(from: &'a Sources<'a>, end: u64, how: &'a Transfer, granule: u64) -> Self {
        let rest = ByteRange::between(0, end);
        Self { from, how, granule, rest, ready: VecDeque::new(), ready_to: 0, layers: Layers::default() }
    }

    /// The first byte that was not asked about yet: where asking has failed, if it has.
    pub(super) fn asked_to(&self) -> u64 {
        self.rest.start()
    }

    /// The next run; `None` behind the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            match self.ask_about(self.rest.head(QUESTION)).await {
                Err(_) if self.how.salvage => self.ask_about_less().await,
                asked => asked?,
            }
        }
    }

    async fn ask_about(&mut self, range: ByteRange) -> Result<()> {
        match self.how.over {
            None => self.ask(range).await,
            Some(over) => self.ask_layer(range, over).await,
        }
    }

    /// The same about what one request takes; if nobody knows what that is, reading tells which sectors of it are lost.
    async fn ask_about_less(&mut self) {
        let range = self.rest.head(self.how.chunk);
        if self.ask_about(range).await.is_err() {
            self.take(range, What::Copy);
        }
    }

    /// What all layers of the source have together.
    async fn ask(&mut self, range: ByteRange) -> Result<()> {
        for extent in self.from.extents(range).await? {
            let range = extent.range.intersection(self.rest);
            let what = match (extent.state.reads_zero(), self.how.zeroes) {
                // All of it shall have storage.
                _ if self.how.sparse == 0 => What::Copy,
                (false, _) => What::Copy,
                (true, Zeroes::Skip) => What::Pass,
                (true, Zeroes::Write) => What::Zero,
            };
            self.take(range, what);
        }
        Ok(())
    }

    /// What the first layers of the source have.
    async fn ask_layer(&mut self, range: ByteRange, over: Over) -> Result<()> {
        let (run, what) = match self.how.compress {
            true => self.layered_clusters(range, over).await?,
            false => self.layered(range, over).await?,
        };
        self.take(run, what);
        Ok(())
    }

    /// The front of `range` that is one thing in the first layers.
    async fn layered(&mut self, range: ByteRange, over: Over) -> Result<(ByteRange, What)> {
        let layer = self.from.layer(&mut self.layers, range).await?;
        let mut range = range.head(layer.len);
        let zeros_from = if let Over::Backing(size) = over { size } else { u64::MAX };
        let below = range.start() < zeros_from;
        if below {
            range = range.head(zeros_from - range.start());
        }
        // What lies behind the backing image reads as zeros by itself.
        let zeros = if below { What::Zero } else { What::Pass };
        let what = match layer.holds {
            _ if layer.depth >= self.how.layers => What::Pass,
            Holds::Data | Holds::Special => What::Copy,
            // One between ends before, and hides what the target has there.
            Holds::Behind if layer.depth + 1 < self.how.layers => What::Zero,
            Holds::Behind if over == Over::Next => What::Pass,
            Holds::Behind | Holds::Nothing | Holds::Hole | Holds::Room | Holds::Zeroes => zeros,
        };
        Ok((range, what))
    }

    /// The same in whole clusters, which are what can be packed. Those that are not one thing are copied.
    async fn layered_clusters(&mut self, range: ByteRange, over: Over) -> Result<(ByteRange, What)> {
        let granule = self.granule;
        let (mut run, what) = self.layered(range, over).await?;
        while run.end() < range.end() && !run.end().is_multiple_of(granule) {
            let (next, other) = self.layered(ByteRange::between(run.end(), range.end()), over).await?;
            if other != what {
                let whole = ByteRange::between(run.start(), run.end() / granule * granule);
                return Ok(match whole.is_empty() {
                    true => (range.head(granule - range.start() % granule), What::Copy),
                    false => (whole, what),
                });
            }
            run = ByteRange::between(run.start(), next.end());
        }
        Ok((run, what))
    }

    /// Makes pieces of a run, the next one. Data is rounded to whole clusters of the target.
    fn take(&mut self, run: ByteRange, what: What) {
        let (size, end) = (self.rest.end(), run.end());
        self.rest = ByteRange::between(end.max(self.rest.start()), size);
        let (how, granule) = (self.how, self.granule);
        let mut run = match how.over {
            // What lies between is not ours to write.
            Some(_) => ByteRange::between(run.start().max(self.ready_to).min(end), end),
            None => self.whole_clusters(end, what, size),
        };
        self.ready_to = self.ready_to.max(run.end());
        let most = if what == What::Copy { how.chunk.max(granule) } else { ZEROES_MAX };
        while !run.is_empty() {
            // Chunks and clusters share their boundaries.
            let piece = run.head(most - run.start() % most);
            self.ready.push_back(Piece { range: piece, what });
            run = run.skip(piece.len());
        }
    }

    /// All up to `end` that is left, with data in whole clusters: those that it shares with zeros are data.
    fn whole_clusters(&self, end: u64, what: What, size: u64) -> ByteRange {
        let granule = self.granule;
        let end = match what {
            What::Copy => end.next_multiple_of(granule).min(size),
            _ if end == size => size,
            // The rest belongs to what comes next.
            What::Zero | What::Pass => end / granule * granule,
        };
        ByteRange::between(self.ready_to, end.max(self.ready_to))
    }
}
