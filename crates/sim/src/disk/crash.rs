//! What is left of a file when the power goes.
//!
//! Invariants: what a flush covered is there; each sector holds its durable contents or those that some
//! un-flushed change gave it, never a mixture. Disks tear between sectors of 512 bytes or of 4 KiB.

use block::{Alignment, ByteRange};

use super::inode::{Change, Image, Inode, SECTOR};
use crate::rng::Rng;

/// Probability that a change that is not whole is torn rather than lost.
const TEAR: f64 = 0.3;
/// Probability that the length survives of a write that does not.
const LENGTH_ALONE: f64 = 0.25;

/// What newer disks, and the pages of a kernel, write whole.
const LONG_SECTOR: Alignment = Alignment::PAGE;

/// How one power loss treats what was not flushed.
pub(crate) struct Loss {
    /// Probability that a change is kept whole.
    keep: f64,
    /// Whether changes reach the disk in any order.
    reorder: bool,
}

impl Loss {
    /// Everything, nothing and all between are about equally likely.
    pub(crate) fn roll(rng: &mut Rng) -> Self {
        let keep = [0.0, 0.1, 0.5, 0.9, 1.0][rng.index(5)];
        Self { keep, reorder: rng.chance(0.5) }
    }

    /// The file after the power loss. `started` are changes that were on their way.
    pub(crate) fn strike(&self, inode: &Inode, started: Vec<Change>, rng: &mut Rng) -> Image {
        let mut changes: Vec<&Change> = inode.pending().chain(&started).collect();
        if self.reorder {
            rng.shuffle(&mut changes);
        }
        let mut image = inode.durable.clone();
        for change in changes {
            if rng.chance(self.keep) {
                image.apply(change);
            } else if rng.chance(TEAR) {
                tear(&mut image, change, rng);
            } else if let (Change::Write { end, .. }, true) = (change, rng.chance(LENGTH_ALONE)) {
                image.len = image.len.max(*end);
            }
        }
        let len = image.len;
        image.bytes.truncate(len);
        image
    }
}

/// Applies some of the sectors of `change`; they may be long ones.
fn tear(image: &mut Image, change: &Change, rng: &mut Rng) {
    let Some(range) = change.range() else { return };
    let unit = if rng.chance(0.5) { SECTOR } else { LONG_SECTOR };
    let around = unit.around(range);
    let units = around.len() / unit.bytes();
    let run = around.skip(rng.below(units) * unit.bytes()).head(rng.below(units + 1) * unit.bytes());
    match change {
        Change::Write { offset, bytes, end } => {
            let scattered = rng.chance(0.5);
            for start in (around.start()..around.end()).step_by(unit.bytes() as usize) {
                let sector = ByteRange::new(start, unit.bytes()).intersection(range);
                if if scattered { rng.chance(0.5) } else { run.contains(sector) } {
                    let at = (sector.start() - offset) as usize;
                    image.bytes.write(sector.start(), &bytes[at..at + sector.len() as usize]);
                    image.len = image.len.max(sector.end().min(*end));
                }
            }
        }
        Change::Punch { .. } => image.bytes.punch(run.intersection(range)),
        Change::Len { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_reach_the_disk_in_any_order() {
        let mut inode = Inode::default();
        inode.write(0, &[1; 1024]);
        inode.write(512, &[2; 1024]);
        let orders = |reorder| {
            let strike = |seed| {
                let image = Loss { keep: 1.0, reorder }.strike(&inode, Vec::new(), &mut Rng::new(seed));
                let mut byte = [0];
                image.bytes.read(512, &mut byte);
                byte[0]
            };
            (0..50).map(strike).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(orders(false).into_iter().collect::<Vec<_>>(), [2]);
        assert_eq!(orders(true).into_iter().collect::<Vec<_>>(), [1, 2]);
    }
}
