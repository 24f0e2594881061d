//! Runs that no free run of one block can be: behind all that the table accounts for, with blocks, and a longer table
//! if need be, of their own.
//!
//! Layout: the new blocks, the new table, the run; so no block lies in the middle of it.

use block::{BlockError, ErrorKind, Result};
use qcow2::{RefcountBlock, RefcountTable};

use super::super::Run;
use super::super::structures::Structure;
use super::{Refcounts, Took};

/// What is taken behind the end: so many clusters for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Plan {
    /// The first block that is new.
    first_block: u64,
    blocks: u64,
    /// 0: the table stays where it is.
    table: u64,
    run: u64,
}

impl Refcounts {
    /// Takes `count` clusters in one run, none at or beyond `end`.
    pub(crate) fn take_behind(&mut self, count: u64, end: u64) -> Result<Took> {
        match self.extend(count, end)? {
            Some(run) => Ok(self.hand_out(run)),
            None => Ok(Took::Full),
        }
    }

    /// Makes the table longer, in new clusters behind all that it accounts for.
    pub(crate) fn grow(&mut self, end: u64) -> Result<()> {
        match self.extend(0, end)? {
            Some(_) => Ok(()),
            None => Err(table_full()),
        }
    }

    /// Accounts for `count` more clusters, which are answered and not counted yet; without any for one block more.
    /// `None` where the file cannot hold them.
    fn extend(&mut self, count: u64, end: u64) -> Result<Option<Run>> {
        let plan = self.plan(count)?;
        let start = plan.first_block * self.per_block();
        let all = Run { first: start, count: plan.blocks + plan.table + plan.run };
        if all.first.checked_add(all.count).is_none_or(|after| after > end) {
            return Ok(None);
        }
        self.check_free(all)?;
        if plan.table > 0 {
            let entries = (plan.table << self.cluster_bits) / 8;
            self.table.resize(entries as usize, 0);
        }
        for number in 0..plan.blocks {
            let counts = RefcountBlock::parse(&vec![0; 1 << self.cluster_bits], self.bits)?;
            self.place_block(plan.first_block + number, start + number, counts);
        }
        let blocks = Run { first: start, count: plan.blocks };
        self.count_up(blocks);
        self.structures.add(Structure::RefcountBlock, blocks);
        if plan.table > 0 {
            let before =
                std::mem::replace(&mut self.place, Run { first: start + plan.blocks, count: plan.table });
            if before != self.durable_place {
                self.overtaken.push(before);
            }
            self.count_up(self.place);
            self.structures.add(Structure::RefcountTable, self.place);
        }
        Ok(Some(Run { first: start + plan.blocks + plan.table, count }))
    }

    fn plan(&self, run: u64) -> Result<Plan> {
        let cluster = 1u64 << self.cluster_bits;
        let used = self.table.iter().rposition(|entry| *entry != 0).map_or(0, |last| last as u64 + 1);
        let first_block = used.max(self.frontier / self.per_block());
        let mut plan = Plan { first_block, blocks: 1, table: 0, run };
        loop {
            let entries = (first_block + plan.blocks).max(self.table.len() as u64);
            if entries > self.table.len() as u64 && plan.table * cluster / 8 < entries {
                let bytes = (entries.max(self.table.len() as u64 * 2) * 8).min(RefcountTable::BYTES_MAX);
                plan.table = bytes.div_ceil(cluster);
                if plan.table * cluster / 8 < entries {
                    return Err(table_full());
                }
            }
            if plan.blocks + plan.table + plan.run <= plan.blocks * self.per_block() {
                return Ok(plan);
            }
            plan.blocks += 1;
        }
    }

    /// That block counts from now on; all of it has to be written.
    pub(crate) fn place_block(&mut self, block: u64, cluster: u64, counts: RefcountBlock) {
        self.set_entry(block, cluster << self.cluster_bits);
        self.insert(block, counts);
        // Nobody knows what is there.
        self.touch(block, 0..1 << self.cluster_bits);
    }
}

/// Its table can have no more entries.
#[cold]
pub(crate) fn table_full() -> BlockError {
    BlockError::new(
        ErrorKind::NoSpace,
        "its refcount table is full and cannot grow: convert the image to one with larger clusters",
    )
}
