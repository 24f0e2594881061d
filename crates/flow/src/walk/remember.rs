//! Remembered mappings: where a long chain's bytes were found last time, per thread, within a byte budget.
//!
//! An entry answers for a whole 2 MiB region, for one 64 KiB granule of it, or for a 4 KiB page, whichever was one
//! extent; of the larger ones that were not it is noted that there is no use in asking again. An entry is used only while the view is the same and the generation of every layer on its path that can change is what
//! it was before that layer was asked. Layers that cannot change cost nothing.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::{ByteRange, Result};

use super::resolve::{self, Step, Target};
use crate::contract::Format;
use crate::node::Body;
use crate::sabotage::{self, Rule};
use crate::view::{View, ViewIndex};

/// Chains of fewer formats are walked each time: that is as fast.
pub(crate) const WORTH_FORMATS: usize = 8;

/// Regions share a generation, and are the longest extent that is remembered.
const REGION: u64 = 2 << 20;
const GRANULE: u64 = 64 << 10;
/// For short requests to regions that are all in pieces; longer ones are walked, an extent at a time.
const PAGE: u64 = 4 << 10;
const WAYS: usize = 4;
/// Layers on the path that can change: usually the top one. Paths with more are walked.
const CHANGING_MAX: usize = 2;

static BUDGET: AtomicUsize = AtomicUsize::new(8 << 20);

/// Sets the memory that each thread may use for remembered mappings, in bytes; for threads that have not used
/// theirs yet. An entry takes less than 128 bytes and covers 4 KiB to 2 MiB.
pub fn set_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// Bytes that this thread has set aside, and the budget.
pub fn usage() -> (usize, usize) {
    let used = TABLE.with_borrow(|table| table.entries.len() * size_of::<Entry>());
    (used, BUDGET.load(Ordering::Relaxed))
}

thread_local! {
    static TABLE: RefCell<Table> = const { RefCell::new(Table { entries: Vec::new(), turn: 0 }) };
}

struct Table {
    entries: Vec<Entry>,
    turn: usize,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// 0: empty.
    version: u64,
    index: u32,
    /// Start of the region, granule or page; its length says which.
    start: u64,
    len: u64,
    found: Found,
    noted: [Note; CHANGING_MAX],
}

#[derive(Clone, Copy, Default)]
enum Found {
    #[default]
    Zero,
    /// It is not one extent.
    Mixed,
    Execute {
        index: u32,
        offset: u64,
    },
}

/// A layer that can change, where it was asked, and its generation then.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Note {
    /// Position of the layer plus one; 0: none.
    layer: u32,
    generation: u32,
    offset: u64,
}

/// The layers that can change on one path.
pub(crate) struct Trail {
    notes: [Note; CHANGING_MAX],
    len: usize,
    mode: Mode,
}

#[derive(PartialEq, Eq)]
enum Mode {
    Ignoring,
    Noting,
    /// More layers, or other regions, than an entry has room for.
    Lost,
}

impl Trail {
    /// For walks that nobody remembers.
    pub(crate) fn ignoring() -> Self {
        Self { notes: Default::default(), len: 0, mode: Mode::Ignoring }
    }

    fn noting() -> Self {
        Self { mode: Mode::Noting, ..Self::ignoring() }
    }

    /// The walk depends on something that has no generation (the size of a child, which writes in place may
    /// change): it is not remembered.
    pub(crate) fn lose(&mut self) {
        if self.mode == Mode::Noting {
            self.mode = Mode::Lost;
        }
    }

    /// Notes a layer before it is asked for the first bytes of `range`.
    #[inline]
    pub(crate) fn note(&mut self, index: ViewIndex, format: &dyn Format, range: ByteRange) {
        if self.mode != Mode::Noting {
            return;
        }
        let Some(generation) = format.changes().and_then(|c| c.generation(range.start())) else { return };
        let one_region = range.start() / REGION == (range.end() - 1) / REGION;
        if self.len == CHANGING_MAX || !one_region {
            self.mode = Mode::Lost;
            return;
        }
        let generation = generation.load(Ordering::Acquire);
        self.notes[self.len] = Note { layer: index.0 + 1, generation, offset: range.start() };
        self.len += 1;
    }
}

/// As [`resolve::resolve`], from memory where it can.
pub(crate) fn resolve(view: &View, index: ViewIndex, range: ByteRange) -> Result<Step> {
    TABLE.with_borrow_mut(|table| {
        for span in spans(range) {
            let known = table.recall(view, index, span);
            if let Some(step) = known.or_else(|| table.learn(view, index, span)).and_then(|e| e.step(range)) {
                return Ok(step);
            }
        }
        resolve::resolve(view, index, range)
    })
}

/// What may be remembered of the first byte of `range`, the longest first.
fn spans(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let around = move |len| ByteRange::new(range.start() - range.start() % len, len);
    let page = Some(around(PAGE)).filter(|page| range.end() <= page.end());
    [around(REGION), around(GRANULE)].into_iter().chain(page)
}

impl Table {
    fn recall(&self, view: &View, index: ViewIndex, span: ByteRange) -> Option<Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let set = self.set(view, index, span);
        let entry = self.entries[set..set + WAYS].iter().find(|e| e.is_for(view, index, span))?;
        entry.is_current(view).then_some(*entry)
    }

    /// Walks the whole span and remembers where it is, or that it is not one extent.
    fn learn(&mut self, view: &View, index: ViewIndex, span: ByteRange) -> Option<Entry> {
        // A span that is cut off by the end would grow with it.
        if span.end() > view.size_of(index) {
            return None;
        }
        let mut trail = Trail::noting();
        // What is wrong with the first bytes of the span concerns those who ask for them.
        let step = resolve::resolve_noting(view, index, span, &mut trail).ok()?;
        let Step::Found(target, len) = step else { return None };
        if trail.mode == Mode::Lost {
            return None;
        }
        let found = match target {
            _ if len < span.len() => Found::Mixed,
            Target::Special { .. } => Found::Mixed,
            Target::Zero => Found::Zero,
            Target::Execute { index, offset } => Found::Execute { index: index.0, offset },
        };
        let entry = Entry {
            version: view.version(),
            index: index.0,
            start: span.start(),
            len: span.len(),
            found,
            noted: trail.notes,
        };
        self.keep(view, index, span, entry);
        Some(entry)
    }

    fn keep(&mut self, view: &View, index: ViewIndex, span: ByteRange, entry: Entry) {
        if self.entries.is_empty() {
            let sets = BUDGET.load(Ordering::Relaxed) / (size_of::<Entry>() * WAYS);
            self.entries = vec![Entry::default(); sets * WAYS];
        }
        if self.entries.is_empty() {
            return;
        }
        let set = self.set(view, index, span);
        let ways = &self.entries[set..set + WAYS];
        let same = ways.iter().position(|e| e.is_for(view, index, span));
        let stale = ways.iter().position(|e| e.version != view.version());
        self.turn = (self.turn + 1) % WAYS;
        self.entries[set + same.or(stale).unwrap_or(self.turn)] = entry;
    }

    fn set(&self, view: &View, index: ViewIndex, span: ByteRange) -> usize {
        let key = (span.start() | (span.len() >> 12)) ^ (view.version() << 40) ^ (u64::from(index.0) << 56);
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        (hash as usize % (self.entries.len() / WAYS)) * WAYS
    }
}

impl Entry {
    fn is_for(&self, view: &View, index: ViewIndex, span: ByteRange) -> bool {
        self.version == view.version()
            && self.index == index.0
            && self.start == span.start()
            && self.len == span.len()
    }

    fn is_current(&self, view: &View) -> bool {
        sabotage::broken(Rule::Generations) || self.noted.iter().all(|note| note.is_current(view))
    }

    /// The answer for `range`, which begins inside, if there is one.
    fn step(&self, range: ByteRange) -> Option<Step> {
        let skip = range.start() - self.start;
        let len = range.len().min(self.len - skip);
        let target = match self.found {
            Found::Mixed => return None,
            Found::Zero => Target::Zero,
            Found::Execute { index, offset } => {
                Target::Execute { index: ViewIndex(index), offset: offset + skip }
            }
        };
        Some(Step::Found(target, len))
    }
}

impl Note {
    fn is_current(&self, view: &View) -> bool {
        if self.layer == 0 {
            return true;
        }
        let Body::Maps(format) = view.node(ViewIndex(self.layer - 1)).body() else { return false };
        let generation = format.changes().and_then(|c| c.generation(self.offset));
        generation.is_some_and(|g| g.load(Ordering::Acquire) == self.generation)
    }
}
