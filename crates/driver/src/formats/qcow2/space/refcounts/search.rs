//! Which free run is taken: one that is long enough where the file has it, so that what is written together lies
//! together; shorter ones are left to who needs less, and are taken before the file is full.

use block::Result;

use super::super::Run;
use super::{Refcounts, Took};

/// Bytes from which on a run costs next to nothing more than a longer one.
const WORTHWHILE: u64 = 256 << 10;

impl Refcounts {
    /// Takes up to `count` clusters in one run, none at or beyond `end`. Runs that are too short to be worth it are
    /// left to others as long as there is anything else.
    pub(crate) fn take(&mut self, count: u64, end: u64) -> Result<Took> {
        let least = self.worthwhile(count);
        match self.take_at_least(least, count, end)? {
            Took::Full if least > 1 => self.take_at_least(1, count, end),
            took => Ok(took),
        }
    }

    /// The shortest run that is as good as one of `count` clusters, or nearly so.
    fn worthwhile(&self, count: u64) -> u64 {
        // One block must be able to hold it, in whatever state.
        count.div_ceil(2).min(WORTHWHILE >> self.cluster_bits).min(self.per_block() / 4).max(1)
    }

    /// Takes `least` to `count` clusters in one run, none at or beyond `end`. No run is longer than what a refcount
    /// block counts besides itself.
    pub(crate) fn take_at_least(&mut self, least: u64, count: u64, end: u64) -> Result<Took> {
        if self.free.is_empty()
            && let Some(missed) = self.free.take_missed()
        {
            self.frontier = self.frontier.min(missed);
        }
        let Some(found) = self.free.fit(count, least) else { return self.take_fresh(least, count, end) };
        let block = found.first / self.per_block();
        if !self.blocks.contains_key(&block) {
            return Ok(Took::Load(block));
        }
        let run = Run { first: found.first, count: found.count.min(count) };
        self.check_free(run)?;
        self.free.take(run);
        Ok(self.hand_out(run))
    }

    /// The same in clusters that have not been looked at; what is too short is listed.
    fn take_fresh(&mut self, least: u64, count: u64, end: u64) -> Result<Took> {
        loop {
            let block = self.frontier / self.per_block();
            if self.frontier >= end {
                return Ok(Took::Full);
            }
            match self.table.get(block as usize) {
                None => self.grow(end)?,
                Some(0) => self.create_block(block)?,
                Some(_) if !self.blocks.contains_key(&block) => return Ok(Took::Load(block)),
                Some(_) => {
                    let Some(run) = self.next_free(block, count, end) else { continue };
                    self.check_free(run)?;
                    self.frontier = run.first + run.count;
                    match run.count >= least {
                        true => return Ok(self.hand_out(run)),
                        false => self.free.add(run),
                    }
                }
            }
        }
    }

    /// The first free run of a block from the frontier on; if it has none there, the frontier moves on.
    fn next_free(&mut self, block: u64, count: u64, end: u64) -> Option<Run> {
        let start = block * self.per_block();
        let free = self.blocks.get(&block)?.counts.free_run(self.frontier - start, count);
        let found = free.map(|free| Run { first: start + free.start, count: free.end - free.start });
        let Some(Run { first, count }) = found.filter(|run| run.first < end) else {
            self.frontier = (start + self.per_block()).min(end);
            return None;
        };
        let run = self.awake(Run { first, count: count.min(end - first) });
        run.map_err(|after| self.frontier = after).ok()
    }
}
