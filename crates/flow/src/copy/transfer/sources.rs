//! Several nodes, one behind the other, as the one that is copied.
//!
//! Invariants: each counts as many whole sectors, filled up with zeros; a question or request for bytes of several is
//! answered for those of the first, so that whoever asks goes on behind them.

use block::{ByteRange, Extent, ExtentState, Result};

use super::SECTOR;
use crate::root::Root;
use crate::seam;
use crate::walk::{Holds, Layer, Layers};

/// What is copied.
pub(super) struct Sources<'a> {
    parts: Vec<Part<'a>>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Part<'a> {
    root: &'a Root,
    /// Where its first byte comes in the whole.
    start: u64,
    /// Its own size.
    size: u64,
}

/// The front of a range, as far as it lies in one source.
pub(super) struct Run<'a> {
    pub(super) root: &'a Root,
    /// Where its first byte comes in the whole.
    pub(super) start: u64,
    /// Its bytes, as that source counts them. None in what fills the last sector.
    pub(super) range: ByteRange,
    /// How long it is in the whole, with what fills the last sector.
    pub(super) len: u64,
}

impl Part<'_> {
    /// Where the next one begins.
    fn end(&self) -> u64 {
        self.start + self.size.next_multiple_of(SECTOR)
    }
}

impl<'a> Sources<'a> {
    pub(super) fn new(roots: &[&'a Root]) -> Self {
        let mut start = 0;
        let parts = roots.iter().map(|root| {
            let part = Part { root, start, size: root.view().size() };
            start = part.end();
            part
        });
        Self { parts: parts.collect() }
    }

    /// Size of the whole.
    pub(super) fn size(&self) -> u64 {
        self.parts.last().map_or(0, Part::end)
    }

    /// How long a target has to be: what fills up the last sector need not go there.
    pub(super) fn needed(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.start + part.size)
    }

    /// How much of the whole goes to `to`.
    pub(super) fn end_in(&self, to: &Root) -> u64 {
        self.size().min(to.view().size().max(self.needed()))
    }

    /// What one source has of the front of `range`, which is not empty and in the whole.
    pub(super) fn run(&self, range: ByteRange) -> Run<'a> {
        let behind = self.parts.partition_point(|part| part.end() <= range.start());
        let Part { root, start, size } = self.parts[behind];
        let len = range.len().min(self.parts[behind].end() - range.start());
        let inside = ByteRange::new(range.start() - start, len).intersection(ByteRange::between(0, size));
        Run { root, start: range.start(), range: inside, len }
    }

    /// Which parts of the front of `range` are data, zeros or holes.
    pub(super) async fn extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        let run = self.run(range);
        if run.range.is_empty() {
            return Ok(vec![Extent { range: range.head(run.len), state: ExtentState::Hole }]);
        }
        let mut extents = seam::extents(&run.root.view(), run.range).await?;
        for extent in &mut extents {
            extent.range = run.in_whole(extent.range);
        }
        Ok(extents)
    }

    /// Which layer of its source answers for the front of `range`.
    pub(super) async fn layer(&self, layers: &mut Layers, range: ByteRange) -> Result<Layer> {
        let run = self.run(range);
        if run.range.is_empty() {
            return Ok(Layer { depth: 0, holds: Holds::Zeroes, len: run.len, is_last: false, at: None });
        }
        seam::layer(&run.root.view(), layers, run.range).await
    }
}

impl Run<'_> {
    /// Where bytes of its source come in the whole.
    pub(super) fn in_whole(&self, range: ByteRange) -> ByteRange {
        ByteRange::new(self.start + (range.start() - self.range.start()), range.len())
    }
}
