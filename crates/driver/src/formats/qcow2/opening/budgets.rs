//! How much memory the tables of an image may take.
//!
//! Invariant: with `cache-size` both together take no more than that.

use block::{BlockError, ErrorKind, Result};

/// Memory for L2 tables unless the options say otherwise, in bytes (QEMU's default).
const L2: u64 = 32 << 20;
/// Memory for refcount blocks unless the options say otherwise, in bytes.
/// 64 GiB of clusters of 64 KiB.
const REFCOUNTS: u64 = 2 << 20;
/// Refcount blocks that are always in memory.
const BLOCKS_MIN: u64 = 4;
/// Most refcount blocks that are asked for: QEMU counts them as a C `int`.
const BLOCKS_MAX: u64 = i32::MAX as u64;

/// What options say of it: for L2 tables, for refcount blocks, for all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) l2: Option<u64>,
    pub(super) refcounts: Option<u64>,
    pub(super) all: Option<u64>,
}

/// Most bytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budgets {
    pub(super) l2: u64,
    pub(super) refcounts: u64,
}

impl Wanted {
    /// Fails where they exclude one another, whatever the image is.
    pub(super) fn check(self) -> Result<()> {
        let more = |part: Option<u64>| part.zip(self.all).is_some_and(|(part, all)| part > all);
        if self.l2.is_some() && self.refcounts.is_some() && self.all.is_some() {
            return Err(invalid(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
            ));
        }
        if more(self.l2) {
            return Err(invalid("l2-cache-size may not exceed cache-size"));
        }
        if more(self.refcounts) {
            return Err(invalid("refcount-cache-size may not exceed cache-size"));
        }
        Ok(())
    }

    /// What it comes to for an image of clusters of so many bytes, the L2 tables of which take `tables` bytes: those
    /// come first.
    pub(super) fn budgets(self, cluster: u64, tables: u64) -> Result<Budgets> {
        self.check()?;
        let budgets = match (self.all, self.l2, self.refcounts) {
            (None, l2, refcounts) => {
                Budgets { l2: l2.unwrap_or(L2), refcounts: refcounts.unwrap_or(REFCOUNTS) }
            }
            (Some(all), Some(l2), _) => Budgets { l2, refcounts: all - l2 },
            (Some(all), None, Some(refcounts)) => Budgets { l2: all - refcounts, refcounts },
            (Some(all), None, None) => {
                let refcounts = all.saturating_sub(tables).max(all.min(BLOCKS_MIN * cluster));
                Budgets { l2: all - refcounts, refcounts }
            }
        };
        match budgets.refcounts / cluster > BLOCKS_MAX {
            true => Err(invalid("Refcount cache size too big")),
            false => Ok(budgets),
        }
    }
}

fn invalid(context: &'static str) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: u64 = 64 << 10;

    /// Of an image with two L2 tables.
    fn budgets(l2: Option<u64>, refcounts: Option<u64>, all: Option<u64>) -> Option<(u64, u64)> {
        let wanted = Wanted { l2, refcounts, all };
        wanted.budgets(CLUSTER, 2 * CLUSTER).ok().map(|budgets| (budgets.l2, budgets.refcounts))
    }

    #[test]
    fn with_a_size_for_all_both_take_no_more() {
        const MIB: u64 = 1 << 20;
        assert_eq!(budgets(None, None, None), Some((L2, REFCOUNTS)));
        assert_eq!(budgets(Some(MIB), None, None), Some((MIB, REFCOUNTS)));
        assert_eq!(budgets(None, Some(MIB), None), Some((L2, MIB)));
        assert_eq!(budgets(Some(MIB), None, Some(3 * MIB)), Some((MIB, 2 * MIB)));
        assert_eq!(budgets(None, Some(MIB), Some(3 * MIB)), Some((2 * MIB, MIB)));
        assert_eq!(budgets(None, None, Some(MIB)), Some((2 * CLUSTER, MIB - 2 * CLUSTER)));
        assert_eq!(budgets(None, None, Some(5 * CLUSTER)), Some((CLUSTER, 4 * CLUSTER)));
        assert_eq!(budgets(None, None, Some(CLUSTER)), Some((0, CLUSTER)));
    }

    #[test]
    fn what_excludes_one_another_or_is_no_number_of_blocks_is_refused() {
        assert_eq!(budgets(Some(2), None, Some(1)), None);
        assert_eq!(budgets(None, Some(2), Some(1)), None);
        assert_eq!(budgets(Some(1), Some(1), Some(2)), None);
        assert_eq!(budgets(None, Some(BLOCKS_MAX * CLUSTER), None), Some((L2, BLOCKS_MAX * CLUSTER)));
        assert_eq!(budgets(None, Some((BLOCKS_MAX + 1) * CLUSTER), None), None);
        assert_eq!(budgets(None, None, Some(u64::MAX)), None);
    }
}
