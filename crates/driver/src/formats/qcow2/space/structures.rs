//! Which clusters of the image file hold its own structures: nothing else is written there.
//!
//! Nobody asks on the path of writes in place. It is asked when room is taken, when an entry is changed, and when a
//! slice of an L2 table is loaded: an entry that calls a structure its own is not believed then, so that whoever writes
//! there comes by here first.
//!
//! Invariants: a structure is added before it is written, and only where none is; it goes when its cluster is free.
//! What the image's tables said otherwise when it was opened is kept as [`Structures::clash`], for the first change.

use std::collections::BTreeMap;

use flow::sabotage::{self, Rule};

use super::Run;

/// What an image consists of besides its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Structure {
    Header,
    ActiveL1,
    ActiveL2,
    RefcountBlock,
    RefcountTable,
    SnapshotTable,
    InactiveL1,
    InactiveL2,
    BitmapDirectory,
}

/// Their names in messages: QEMU's.
const NAMES: [&str; 9] = [
    "qcow2_header",
    "active L1 table",
    "active L2 table",
    "refcount block",
    "refcount table",
    "snapshot table",
    "inactive L1 table",
    "inactive L2 table",
    "bitmap directory",
];

/// What a cluster holds: a bit for each structure, and [`OWN`].
type Kinds = u16;
/// It is an active L2 table that is written in place.
const OWN: Kinds = 1 << 15;

impl Structure {
    const fn bit(self) -> Kinds {
        1 << self as u32
    }

    /// What messages call it.
    pub(crate) fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    fn first_of(kinds: Kinds) -> &'static str {
        NAMES.get(kinds.trailing_zeros() as usize).copied().unwrap_or_default()
    }
}

/// Which structures are looked after.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Watched(Kinds);

impl Watched {
    pub(crate) fn set(&mut self, structure: Structure, on: bool) {
        self.0 = if on { self.0 | structure.bit() } else { self.0 & !structure.bit() };
    }

    pub(crate) fn has(self, structure: Structure) -> bool {
        self.0 & structure.bit() != 0
    }
}

/// Where they are.
pub(crate) struct Structures {
    watched: Watched,
    clusters: BTreeMap<u64, Kinds>,
    clash: Option<Overlap>,
}

/// A cluster that is a structure, and the name of that.
pub(crate) type Overlap = (u64, &'static str);

impl Structures {
    pub(crate) fn new(watched: Watched) -> Self {
        Self { watched, clusters: BTreeMap::new(), clash: None }
    }

    /// Which are looked after.
    pub(crate) fn watched(&self) -> Watched {
        self.watched
    }

    /// These clusters hold that.
    pub(crate) fn add(&mut self, structure: Structure, run: Run) {
        if self.watched.has(structure) {
            self.note(structure.bit(), run);
        }
    }

    /// A table has come to these clusters, in an image in use.
    pub(crate) fn moved_to(&mut self, structure: Structure, run: Run) {
        if !sabotage::broken(Rule::MovedTables) {
            self.add(structure, run);
        }
    }

    /// These hold an active L2 table; `own` says whether it is written in place.
    pub(crate) fn add_l2(&mut self, own: bool, run: Run) {
        if self.watched.has(Structure::ActiveL2) {
            self.note(Structure::ActiveL2.bit() | if own { OWN } else { 0 }, run);
        }
    }

    fn note(&mut self, kinds: Kinds, run: Run) {
        for cluster in run.first..run.first.saturating_add(run.count) {
            let known = self.clusters.entry(cluster).or_default();
            if excludes(*known, kinds) && self.clash.is_none() {
                self.clash = Some((cluster, Structure::first_of(*known)));
            }
            *known |= kinds;
        }
    }

    /// This cluster is free now.
    pub(crate) fn forget(&mut self, cluster: u64) {
        self.clusters.remove(&cluster);
    }

    /// The first structure that lies in a run.
    pub(crate) fn overlap(&self, run: Run) -> Option<Overlap> {
        let end = run.first.saturating_add(run.count);
        let (cluster, kinds) = self.clusters.range(run.first..end).next()?;
        Some((*cluster, Structure::first_of(*kinds)))
    }

    /// A cluster that was two structures when the image was opened.
    pub(crate) fn clash(&self) -> Option<Overlap> {
        self.clash
    }
}

/// Whether a cluster that holds `known` cannot be `new` as well. Tables of snapshots may be shared, with each other and
/// with an active one that is not written; so may active ones that are not.
fn excludes(known: Kinds, new: Kinds) -> bool {
    let (l2, snapshots) =
        (Structure::ActiveL2.bit() | Structure::InactiveL2.bit(), Structure::InactiveL1.bit());
    let both = known | new;
    let is_shared = both & !l2 == 0 || both == snapshots;
    known != 0 && !is_shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> Run {
        Run { first, count }
    }

    fn structures() -> Structures {
        let mut watched = Watched::default();
        for structure in [
            Structure::Header,
            Structure::ActiveL2,
            Structure::RefcountBlock,
            Structure::InactiveL1,
            Structure::InactiveL2,
        ] {
            watched.set(structure, true);
        }
        Structures::new(watched)
    }

    #[test]
    fn what_is_watched_is_found() {
        let mut all = structures();
        all.add(Structure::Header, run(0, 1));
        all.add(Structure::ActiveL1, run(5, 3));
        all.add(Structure::RefcountBlock, run(9, 1));
        assert_eq!(all.overlap(run(1, 8)), None);
        assert_eq!(all.overlap(run(4, 6)), Some((9, "refcount block")));
        assert_eq!(all.overlap(run(0, 1)), Some((0, "qcow2_header")));
        all.forget(9);
        assert_eq!(all.overlap(run(4, 6)), None);
        assert_eq!(all.clash(), None);
    }

    #[test]
    fn what_snapshots_share_is_no_clash_and_all_else_is() {
        let shared: [fn(&mut Structures); 3] = [
            |all| all.add_l2(false, run(7, 1)),
            |all| all.add(Structure::InactiveL2, run(7, 1)),
            |all| all.add(Structure::InactiveL1, run(7, 1)),
        ];
        let clash = |first: fn(&mut Structures), second: fn(&mut Structures)| {
            let mut all = structures();
            first(&mut all);
            second(&mut all);
            all.clash().map(|(cluster, _)| cluster)
        };
        let own: fn(&mut Structures) = |all| all.add_l2(true, run(7, 1));
        for (number, one) in shared.iter().enumerate() {
            assert_eq!(clash(*one, *one), None);
            assert_eq!(clash(own, *one), Some(7));
            assert_eq!(clash(*one, own), Some(7));
            assert_eq!(clash(|all| all.add(Structure::RefcountBlock, run(7, 1)), *one), Some(7));
            let other = shared[(number + 1) % 3];
            assert_eq!(clash(*one, other).is_none(), number == 0);
        }
        assert_eq!(clash(own, own), Some(7), "one table behind two entries, written through both");
    }
}
