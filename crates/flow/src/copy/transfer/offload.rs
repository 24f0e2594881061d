//! What of a copy is left to the kernel, and what has to be carried after all.
//!
//! Invariants: only whole clusters of the target are taken, so that nothing has to be copied around them; what cannot
//! be taken is carried, in its turn; a file that never lets another take from it is asked once.

use std::cell::RefCell;

use block::{Alignment, ByteRange};
use io::file::Offload;

use super::turns::Place;
use super::{Copy, Failed};
use crate::node::NodeId;
use crate::powers::Taken;
use crate::seam;
use crate::walk::Lies;

/// Storage is shared in blocks of that many bytes, or in larger ones.
const BLOCK: u64 = 4096;

/// Which nodes of the source have files that the target may take from, as far as that is known.
#[derive(Default)]
pub(super) struct Known(RefCell<Vec<(NodeId, bool)>>);

impl Known {
    fn get(&self, node: NodeId) -> Option<bool> {
        self.0.borrow().iter().find(|(known, _)| *known == node).map(|(_, may)| *may)
    }

    fn set(&self, node: NodeId, may: bool) {
        let mut known = self.0.borrow_mut();
        known.retain(|(other, _)| *other != node);
        known.push((node, may));
    }
}

impl Copy<'_> {
    /// Copies data of the source: has the kernel do it where `how` allows it.
    pub(super) async fn carry_data(&self, range: ByteRange, place: &Place<'_>) -> Result<(), Failed> {
        let Some(how) = self.how.offload else { return self.carry_by_hand(range, place).await };
        let (mut by_hand, mut rest) = (range.head(0), range);
        while !rest.is_empty() {
            let source = self.from.run(rest);
            let view = source.root.view();
            // What cannot be looked up cannot be read either, and reading says so.
            let (found, len) = match source.range.is_empty() {
                true => (None, source.len),
                false => seam::lies(&view, source.range).await.unwrap_or((None, source.range.len())),
            };
            let run = self.run(rest, len, how);
            let mut taken = false;
            if let Some(lies) = found.and_then(|lies| shared(lies, run, how))
                && run.len() <= len
                && self.may_take(&lies, how).await
            {
                self.carry_by_hand(by_hand, place).await?;
                by_hand = run.head(0);
                taken = self.take(run, &lies, how, place).await?;
            }
            rest = rest.skip(run.len());
            by_hand = if taken { rest.head(0) } else { ByteRange::between(by_hand.start(), run.end()) };
        }
        self.carry_by_hand(by_hand, place).await
    }

    /// The front of `rest` that is taken or carried as one: of the `len` bytes that lie together what are whole
    /// clusters of the target, else one cluster.
    fn run(&self, rest: ByteRange, len: u64, how: Offload) -> ByteRange {
        if len == rest.len() {
            return rest;
        }
        let block = if how == Offload::Share { BLOCK } else { 1 };
        let unit = Alignment::new(self.granule.max(block)).unwrap_or_default();
        let end = unit.down(rest.start() + len).max(unit.up(rest.start() + 1));
        rest.head(end - rest.start())
    }

    async fn may_take(&self, lies: &Lies<'_>, how: Offload) -> bool {
        if let Some(may) = self.known.get(lies.node) {
            return may;
        }
        let shares = how != Offload::Share || self.granule == 1 || self.granule >= BLOCK;
        let may = shares && seam::may_take(&self.to.view(), &*lies.file, how).await;
        self.known.set(lies.node, may);
        may
    }

    /// Whether the target has taken `run`.
    async fn take(
        &self,
        run: ByteRange,
        lies: &Lies<'_>,
        how: Offload,
        place: &Place<'_>,
    ) -> Result<bool, Failed> {
        self.wait_for(place).await?;
        let taken = seam::take(&self.to.view(), run.start(), lies, how).await;
        let taken = taken.map_err(|error| Failed::Writing(run.start(), error))?;
        if taken == Taken::Never {
            self.known.set(lies.node, false);
        }
        Ok(taken == Taken::All)
    }
}

/// The front of what lies there, as long as `run`, where it begins where storage can be shared.
fn shared<'a>(mut lies: Lies<'a>, run: ByteRange, how: Offload) -> Option<Lies<'a>> {
    lies.range = lies.range.head(run.len());
    (how != Offload::Share || lies.range.start().is_multiple_of(BLOCK)).then_some(lies)
}
