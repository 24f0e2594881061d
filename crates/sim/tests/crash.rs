//! Power losses and kills: what is left of a disk.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::path::Path;

use io::{Lease, OpenOptions, World};
use sim::{CrashPoint, Options, Rng, SimDisk, SimWorld};

const SECTOR: usize = 512;
const SECTORS: usize = 24;

/// For each sector the versions that it may hold after a crash: what was flushed, then what was written since.
struct Model {
    versions: Vec<Vec<u8>>,
    /// First sector, number of sectors and version of each write.
    writes: Vec<(usize, usize, u8)>,
}

impl Model {
    fn new() -> Self {
        Self { versions: vec![vec![0]; SECTORS], writes: Vec::new() }
    }

    fn write(&mut self, first: usize, count: usize, version: u8) {
        self.versions[first..first + count].iter_mut().for_each(|all| all.push(version));
        self.writes.push((first, count, version));
    }

    fn flushed(&mut self) {
        self.versions.iter_mut().for_each(|all| drop(all.drain(..all.len() - 1)));
    }
}

/// Writes whole sectors here and there, each write with a version of its own, and flushes now and then.
async fn scribble(world: &SimWorld, model: &RefCell<Model>) {
    let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
    for version in 1..60u8 {
        let first = io::random() as usize % SECTORS;
        let count = 1 + io::random() as usize % (SECTORS - first);
        model.borrow_mut().write(first, count, version);
        let lease = Lease::copy_of(&vec![version; count * SECTOR]);
        file.write((first * SECTOR) as u64, lease).await.0.unwrap();
        if io::random().is_multiple_of(6) {
            file.flush().await.unwrap();
            model.borrow_mut().flushed();
        }
    }
}

/// What each sector of a crashed disk holds; panics when one holds a mixture.
fn sectors(disk: &SimDisk) -> Vec<u8> {
    let mut bytes = disk.bytes("disk").unwrap_or_default();
    bytes.resize(SECTORS * SECTOR, 0);
    let whole = |sector: &[u8]| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector was torn");
        sector[0]
    };
    bytes.chunks(SECTOR).map(whole).collect()
}

#[test]
fn flushed_sectors_survive_and_others_hold_some_version() {
    let (mut torn, mut reordered, mut all_lost, mut all_kept) = (0, 0, 0, 0);
    for seed in 0..400 {
        let (world, model) = (SimWorld::new(seed, Options::default()), RefCell::new(Model::new()));
        let point = CrashPoint::Write(1 + seed % 50);
        assert_eq!(world.run_until_crash(point, scribble(&world, &model)), None);
        let found = sectors(&world.disk().crash(&mut Rng::new(seed)));
        let model = model.into_inner();
        for (at, allowed) in model.versions.iter().enumerate() {
            assert!(allowed.contains(&found[at]), "seed {seed}: sector {at} is {}: {allowed:?}", found[at]);
        }
        let newest = |at: usize| model.versions[at].last() == Some(&found[at]);
        all_kept += i32::from((0..SECTORS).all(newest));
        all_lost += i32::from((0..SECTORS).all(|at| model.versions[at][0] == found[at]));
        // Seen where nothing later covered it: part of a write, and a write without an earlier one.
        let visible = |first: usize, count: usize, version: u8| {
            (first..first + count)
                .filter(|at| model.versions[*at].last() == Some(&version))
                .collect::<Vec<_>>()
        };
        let kept: Vec<_> = (model.writes.iter())
            .map(|(first, count, version)| visible(*first, *count, *version))
            .filter(|seen| !seen.is_empty() && model.versions[seen[0]].len() > 1)
            .map(|seen| (seen.iter().filter(|at| newest(**at)).count(), seen.len()))
            .collect();
        torn += i32::from(kept.iter().any(|(kept, of)| 0 < *kept && kept < of));
        reordered += i32::from(kept.windows(2).any(|pair| pair[0].0 == 0 && pair[1].0 == pair[1].1));
    }
    let counts = [torn, reordered, all_lost, all_kept];
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

#[test]
fn a_sector_is_never_a_mixture() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let world = SimWorld::new(seed, Options::default());
        world.disk().put("disk", &[0; 1024]);
        world.run_until_crash(CrashPoint::Write(2), async {
            let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
            file.write(10, Lease::copy_of(&[1])).await.0.unwrap();
            file.write(20, Lease::copy_of(&[1])).await.0.unwrap();
        });
        let bytes = world.disk().crash(&mut Rng::new(seed)).bytes("disk").unwrap();
        seen.insert((bytes[10], bytes[20]));
    }
    // The second write went into the sector that the first one had changed.
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(0, 0), (1, 0), (1, 1)]);
}

#[test]
fn lengths_survive_or_not() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let world = SimWorld::new(seed, Options::default());
        world.disk().put("disk", &[1; 1000]);
        world.run_until_crash(CrashPoint::Write(2), async {
            let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
            file.set_len(100).await.unwrap();
            file.set_len(5000).await.unwrap();
        });
        let bytes = world.disk().crash(&mut Rng::new(seed)).bytes("disk").unwrap();
        let ones = bytes.iter().filter(|byte| **byte == 1).count();
        seen.insert((bytes.len(), ones));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(100, 100), (1000, 1000), (5000, 100), (5000, 1000)]);
}

#[test]
fn one_write_is_kept_lost_or_torn() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..3000 {
        let world = SimWorld::new(seed, Options::calm());
        world.disk().put("disk", &[0; 4 * SECTOR]);
        world.run(async {
            let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
            file.write(0, Lease::copy_of(&[1; 4 * SECTOR])).await.0.unwrap();
        });
        let bytes = world.disk().crash(&mut Rng::new(seed)).bytes("disk").unwrap();
        seen.insert(bytes.chunks(SECTOR).map(|sector| sector[0]).collect::<Vec<_>>());
    }
    // Any sectors of it, and nothing besides whole ones.
    assert_eq!(seen.len(), 16, "{seen:?}");
}

#[test]
fn a_flush_covers_only_what_had_ended() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..100 {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
            let both = futures_util::future::join(file.write(0, Lease::copy_of(&[1; 512])), file.flush());
            let ((written, _), flushed) = both.await;
            written.and(flushed).unwrap();
        });
        let left = world.disk().crash(&mut Rng::new(seed)).bytes("disk").unwrap();
        (lost, kept) = (lost + i32::from(left != [1; 512]), kept + i32::from(left == [1; 512]));
    }
    // Both were acknowledged, and yet the flush promised nothing.
    assert!(lost > 20 && kept > 20, "{lost} {kept}");
}

#[test]
fn a_disk_writes_back_what_it_cannot_hold() {
    let world = SimWorld::new(1, Options::calm());
    world.disk().adjust(|options| options.unflushed_max = 2 * 4096);
    world.run(async {
        let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
        for at in 0..5 {
            file.write(at * 4096, Lease::copy_of(&[1; 4096])).await.0.unwrap();
        }
    });
    assert_eq!(world.disk().durable_bytes("disk").unwrap(), [1; 3 * 4096]);
    assert_eq!(world.disk().unflushed("disk"), Some(2));
}

/// Writes data, then what points to it; the barrier between them is what the test is about.
async fn publish(world: &SimWorld, barrier: bool) {
    let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
    file.write(4096, Lease::copy_of(&[7; 2048])).await.0.unwrap();
    if barrier {
        file.flush().await.unwrap();
    }
    file.write(0, Lease::copy_of(&[1; 8])).await.0.unwrap();
    file.flush().await.unwrap();
}

/// Crashes that leave a pointer to missing data, over all points and some seeds.
fn dangling(barrier: bool) -> usize {
    let crash = |seed, point: Option<CrashPoint>| {
        let disk = SimDisk::new();
        disk.put("disk", &[0; 8192]);
        let world = SimWorld::with_disk(seed, Options::default(), disk);
        let point = point.unwrap_or(CrashPoint::Write(u64::MAX));
        world.run_until_crash(point, publish(&world, barrier));
        world.disk()
    };
    let mut dangling = 0;
    for seed in 0..50 {
        for point in crash(seed, None).counts().crash_points() {
            let bytes = crash(seed, Some(point)).crash(&mut Rng::new(seed)).bytes("disk").unwrap();
            dangling += usize::from(bytes[0] == 1 && bytes[4096..6144] != [7; 2048]);
        }
    }
    dangling
}

#[test]
fn removing_a_barrier_shows() {
    assert_eq!(dangling(true), 0);
    assert!(dangling(false) > 10);
}

#[test]
fn nothing_happens_after_the_cut() {
    let world = SimWorld::new(3, Options::default());
    let file = world.run(async { world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap() });
    let ended = world.run_until_crash(CrashPoint::Flush(1), async {
        file.write(0, Lease::copy_of(&[1; 100])).await.0.unwrap();
        file.flush().await.unwrap();
        unreachable!();
    });
    assert_eq!((ended, world.disk().unflushed("disk")), (None, Some(1)));
    assert!(file.try_write(0, &[2]).is_err());
    assert_eq!(world.disk().durable_bytes("disk").unwrap(), []);
    assert_eq!(world.disk().bytes("disk").unwrap(), [1; 100]);
}

#[test]
fn a_killed_process_leaves_what_it_wrote() {
    let mut kept = [0; 2];
    for seed in 0..40 {
        let world = SimWorld::new(seed, Options::calm());
        world.disk().set_policy(|op| match op.range.start() {
            4096 => sim::Verdict::Hold,
            _ => sim::Verdict::Go,
        });
        world.run(async {
            let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
            file.write(0, Lease::copy_of(&[1; 100])).await.0.unwrap();
            io::spawn(async move { drop(file.write(4096, Lease::copy_of(&[2; 100])).await) });
            io::yield_now().await;
        });
        let left = world.disk().kill(&mut Rng::new(seed));
        let bytes = left.bytes("disk").unwrap();
        assert_eq!(bytes[..100], [1; 100]);
        kept[usize::from(bytes.len() == 4196 && bytes[4096..] == [2; 100])] += 1;
        // Still not flushed: a power loss may take it.
        assert_eq!(left.durable_bytes("disk").unwrap(), []);
    }
    assert!(kept[0] > 5 && kept[1] > 5, "{kept:?}");
}

#[test]
fn a_failed_flush_loses_for_good() {
    let mut lost = 0;
    for seed in 0..50 {
        let world = SimWorld::new(seed, Options::calm());
        world.run(async {
            let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
            file.write(0, Lease::copy_of(&[1; 512])).await.0.unwrap();
            world.disk().adjust(|options| options.flush_errors = 1.0);
            assert_eq!(file.flush().await.unwrap_err().raw_os_error(), Some(5));
            world.disk().adjust(|options| options.flush_errors = 0.0);
            file.flush().await.unwrap();
        });
        assert_eq!(world.disk().bytes("disk").unwrap(), [1; 512]);
        lost += usize::from(world.disk().durable_bytes("disk").unwrap() != [1; 512]);
    }
    assert!(lost > 10 && lost < 40, "{lost}");
}
