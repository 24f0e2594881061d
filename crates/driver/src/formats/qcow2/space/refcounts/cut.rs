//! What lies at the end of the file: the last cluster in use, and blocks that count nothing but themselves.

use super::Refcounts;

/// What is known of the end of what is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// No cluster from here on is in use.
    At(u64),
    /// This refcount block has to be loaded first.
    Load(u64),
}

impl Refcounts {
    /// Where what is in use ends, if blocks behind `last` count nothing. Blocks that count only themselves are dropped
    /// on the way: the table has to be written before anything is cut off.
    pub(crate) fn end_of_use(&mut self, last: u64) -> End {
        let blocks = self.table.len().min(usize::try_from(last).unwrap_or(usize::MAX).saturating_add(1));
        for block in (0..blocks as u64).rev() {
            if self.table[block as usize] == 0 {
                continue;
            }
            let Some(found) = self.blocks.get(&block) else { return End::Load(block) };
            let first = block * self.per_block();
            let used = |index: &u64| found.counts.get(*index) > 0;
            let mut in_use = (0..found.counts.len()).rev().filter(used);
            let Some(last) = in_use.next() else { continue };
            let counts_itself = self.table[block as usize] == (first + last) << self.cluster_bits;
            if !counts_itself || in_use.next().is_some() || !self.drop_block(block) {
                return End::At(first + last + 1);
            }
        }
        End::At(1)
    }

    /// Nothing that this block counts is in use but itself; answers whether it could be dropped.
    fn drop_block(&mut self, block: u64) -> bool {
        let is_clean = self.blocks.get(&block).is_some_and(|found| found.dirty.is_empty() && !found.writing);
        // Clusters that are left alone are found by their counters later, and those that rest are not to become a
        // block.
        if !is_clean || self.aside.is_some() || self.resting.is_some() {
            return false;
        }
        let own = self.table[block as usize] >> self.cluster_bits;
        let start = block * self.per_block();
        self.set_entry(block, 0);
        self.blocks.remove(&block);
        self.structures.forget(own);
        self.claims.remove(own);
        // What is free there is not counted any more: whoever needs it makes the block anew.
        self.free.cut(start);
        self.frontier = self.frontier.min(start);
        true
    }
}
