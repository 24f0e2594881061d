//! The lifetime of a mapping: readers enter, clusters that were freed wait until all who may still see the old
//! mapping have left.
//!
//! Epoch-based: a reader notes itself under the parity of the epoch it entered in; the epoch moves from `e` to
//! `e + 1` only when nobody is left from `e - 1`. What was freed in epoch `e` may be reused in `e + 2`.
//!
//! Invariants: a guard is entered before the mapping is looked up; a [`Tag`] is taken after the mapping was
//! dropped; a reader that saw the old mapping therefore entered in the tag's epoch or before.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst, fence};

use crate::sabotage::{self, Rule};

/// I/O threads beyond this share counters, which is slower and as correct.
const SLOTS: usize = 16;

#[repr(align(64))]
#[derive(Default)]
struct Slot {
    inside: [AtomicU64; 2],
}

/// Readers of one thing that can be freed.
pub struct Domain {
    epoch: AtomicU64,
    slots: [Slot; SLOTS],
}

impl Default for Domain {
    fn default() -> Self {
        // From 1, so that `epoch - 1` exists.
        Self { epoch: AtomicU64::new(1), slots: Default::default() }
    }
}

impl Domain {
    /// Enters, borrowed: for a turn, or for a future that lives no longer than the node.
    pub fn enter(&self) -> Guard<'_> {
        Guard { counter: self.note(), here: PhantomData }
    }

    /// Enters, owned: for what travels with a buffer.
    pub fn enter_owned(self: &Arc<Self>) -> OwnedGuard {
        let slot = io::thread_index() % SLOTS;
        let parity = self.note_in(slot);
        OwnedGuard { domain: self.clone(), slot, parity }
    }

    fn note(&self) -> &AtomicU64 {
        let slot = io::thread_index() % SLOTS;
        &self.slots[slot].inside[self.note_in(slot)]
    }

    fn note_in(&self, slot: usize) -> usize {
        loop {
            let epoch = self.epoch.load(SeqCst);
            let parity = (epoch & 1) as usize;
            self.slots[slot].inside[parity].fetch_add(1, SeqCst);
            // Noted under an epoch that is still the present one: whoever moves it on will see us.
            if self.epoch.load(SeqCst) == epoch {
                return parity;
            }
            self.slots[slot].inside[parity].fetch_sub(1, SeqCst);
        }
    }

    /// The epoch to tag with what was just dropped from the mapping.
    fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// Moves the epoch on if nobody is left from the one before; answers the epoch.
    fn advance(&self) -> u64 {
        let epoch = self.epoch.load(SeqCst);
        let left = ((epoch + 1) & 1) as usize;
        if self.slots.iter().all(|slot| slot.inside[left].load(SeqCst) == 0) {
            // Losing the race means that somebody else moved it on: as good.
            let _ = self.epoch.compare_exchange(epoch, epoch + 1, SeqCst, SeqCst);
        }
        self.epoch.load(SeqCst)
    }

    fn passed(&self, epoch: u64) -> bool {
        for _ in 0..2 {
            if self.advance() >= epoch + 2 {
                return true;
            }
        }
        false
    }
}

/// A reader inside. Stays on its thread and is never held across an await by the path that does not wait.
#[must_use]
pub struct Guard<'a> {
    counter: &'a AtomicU64,
    here: PhantomData<Cell<()>>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, SeqCst);
    }
}

/// A reader or writer inside whose guard travels with its buffer.
#[must_use]
pub struct OwnedGuard {
    domain: Arc<Domain>,
    slot: usize,
    parity: usize,
}

impl Drop for OwnedGuard {
    fn drop(&mut self) {
        self.domain.slots[self.slot].inside[self.parity].fetch_sub(1, SeqCst);
    }
}

/// When something was dropped from a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    turns: u64,
    waits: u64,
    writes: u64,
}

/// Tells a format when a freed cluster has no readers left: neither a turn of any thread nor a request that
/// waits on this node.
#[derive(Default)]
pub struct Reclaim {
    turns: Arc<Domain>,
    waits: Arc<Domain>,
    writes: Arc<Domain>,
}

impl Reclaim {
    /// For a node whose clients take their turns in `turns`.
    pub fn new(turns: Arc<Domain>) -> Self {
        Self { turns, ..Self::default() }
    }

    /// Tags what has just been dropped from the mapping.
    pub fn tag(&self) -> Tag {
        // Whoever enters after an epoch that is later than the tag must not see the old mapping any more, however
        // weakly it was replaced.
        fence(SeqCst);
        Tag { turns: self.turns.epoch(), waits: self.waits.epoch(), writes: self.writes.epoch() }
    }

    /// Whether everybody who may have seen it mapped has left.
    pub fn passed(&self, tag: Tag) -> bool {
        if sabotage::broken(Rule::Guards) {
            return true;
        }
        self.writers_passed(tag) && self.waits.passed(tag.waits)
    }

    /// Whether everybody has left who may write in place where a mapping said so before. Who only reads may be there
    /// still, and may be waiting for whoever asks this.
    pub fn writers_passed(&self, tag: Tag) -> bool {
        self.turns.passed(tag.turns) && self.writes.passed(tag.writes)
    }

    /// Where the requests that wait enter.
    pub fn waits(&self) -> &Arc<Domain> {
        &self.waits
    }

    /// Where those of them enter that write to clusters which are mapped.
    pub fn writes(&self) -> &Arc<Domain> {
        &self.writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_holds_back_what_it_may_have_seen() {
        let reclaim = Reclaim::default();
        let reader = reclaim.turns.enter();
        let tag = reclaim.tag();
        assert!(!reclaim.passed(tag));
        drop(reader);
        assert!(reclaim.passed(tag));
    }

    #[test]
    fn a_later_reader_does_not_hold_it_back_for_ever() {
        let reclaim = Reclaim::default();
        let tag = reclaim.tag();
        // Overlapping readers, at every moment one inside: the tag passes all the same.
        let mut reader = Some(reclaim.waits.enter_owned());
        let mut passed = false;
        for _ in 0..4 {
            let next = reclaim.waits.enter_owned();
            reader.replace(next);
            passed = reclaim.passed(tag);
        }
        assert!(passed && reader.is_some());
    }

    #[test]
    fn threads_that_hand_a_cell_around_never_see_it_reused() {
        // A cell is "mapped", dropped, reclaimed and overwritten; readers must never see the overwriting.
        use std::sync::atomic::AtomicUsize;
        const CELLS: usize = 4;
        let domain = Arc::new(Domain::default());
        let cells: Arc<[AtomicU64; CELLS]> = Arc::new([const { AtomicU64::new(7) }; CELLS]);
        let mapped = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (domain, cells, mapped, stop) =
                    (domain.clone(), cells.clone(), mapped.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut seen = 0u64;
                    while stop.load(SeqCst) == 0 {
                        let guard = domain.enter();
                        let at = mapped.load(SeqCst);
                        std::hint::spin_loop();
                        assert_eq!(cells[at].load(SeqCst), 7, "a reused cell was seen");
                        drop(guard);
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        let reclaim = Reclaim::new(domain);
        for _ in 0..2000 {
            let old = mapped.load(SeqCst);
            mapped.store((old + 1) % CELLS, SeqCst);
            let tag = reclaim.tag();
            while !reclaim.passed(tag) {
                std::thread::yield_now();
            }
            cells[old].store(0, SeqCst);
            cells[old].store(7, SeqCst);
        }
        stop.store(1, SeqCst);
        assert!(readers.into_iter().all(|r| r.join().is_ok()));
    }
}
