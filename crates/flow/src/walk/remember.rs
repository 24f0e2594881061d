//! Remembered mappings: where a long chain's bytes were found last time, per thread, within a byte budget.
//!
//! An entry answers for a whole 2 MiB region, for one 64 KiB granule of it, or for a 4 KiB page, whichever was one
//! extent; of the larger ones that were not it is noted that there is no use in asking again. An entry is used only
//! while the view is the same and what its path noted ([`Trail`]) is current.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use block::{ByteRange, Result};

use super::resolve::{self, Step, Target};
use super::trail::{Notes, REGION, Trail};
use crate::sabotage::{self, Rule};
use crate::view::{View, ViewIndex};

/// Chains of fewer formats are walked each time: that is as fast.
pub(crate) const WORTH_FORMATS: usize = 8;

const GRANULE: u64 = 64 << 10;
/// For short requests to regions that are all in pieces; longer ones are walked, an extent at a time.
const PAGE: u64 = 4 << 10;
const WAYS: usize = 4;

/// For each thread, in bytes.
pub const DEFAULT_BUDGET: usize = 8 << 20;

static BUDGET: AtomicUsize = AtomicUsize::new(DEFAULT_BUDGET);
static TOTAL: AtomicUsize = AtomicUsize::new(0);

/// Sets the memory that each thread may use for remembered mappings, in bytes; for threads that have not used
/// theirs yet. An entry takes less than 128 bytes and covers 4 KiB to 2 MiB.
pub fn set_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::Relaxed);
}

/// Bytes that all threads together have set aside.
pub fn total() -> usize {
    TOTAL.load(Ordering::Relaxed)
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

impl Drop for Table {
    fn drop(&mut self) {
        TOTAL.fetch_sub(self.entries.len() * size_of::<Entry>(), Ordering::Relaxed);
    }
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
    noted: Notes,
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
        let noted = trail.notes()?;
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
            noted,
        };
        self.keep(view, index, span, entry);
        Some(entry)
    }

    fn keep(&mut self, view: &View, index: ViewIndex, span: ByteRange, entry: Entry) {
        if self.entries.is_empty() {
            let sets = BUDGET.load(Ordering::Relaxed) / (size_of::<Entry>() * WAYS);
            self.entries = vec![Entry::default(); sets * WAYS];
            TOTAL.fetch_add(self.entries.len() * size_of::<Entry>(), Ordering::Relaxed);
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
        sabotage::broken(Rule::Generations) || self.noted.are_current(view)
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
