//! Files of the simulated disk: contents, faults, held operations, locks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, Errno, Extent, Permissions};
use io::file::{LockConflict, ZeroMode};
use io::{File, Lease, OpenOptions, World, timeout_at};
use sim::{OpKind, Options, SimWorld, Verdict};

async fn open(world: &SimWorld, options: OpenOptions) -> Arc<dyn File> {
    world.open(Path::new("disk"), options).await.unwrap()
}

/// Carries out a random operation on both; answers whether an inline one was answered in full.
async fn step(file: &dyn File, model: &mut Vec<u8>, version: u8) -> Option<bool> {
    let (offset, len) = (io::random() as usize % 20_000, 1 + io::random() as usize % 6_000);
    let range = ByteRange::new(offset as u64, len as u64);
    match io::random() % 8 {
        0..=1 => {
            let done = file.try_write(range.start(), &vec![version; len]).unwrap_or(0);
            store(model, offset, done, version);
            return Some(done == len);
        }
        2 => {
            file.write(range.start(), Lease::copy_of(&vec![version; len])).await.0.unwrap();
            store(model, offset, len, version);
        }
        3 => {
            file.write_zeroes(range, ZeroMode::default()).await.unwrap();
            store(model, offset, len, 0);
        }
        4 => {
            file.set_len(range.start()).await.unwrap();
            model.resize(offset, 0);
        }
        5 => {
            let (result, lease) = file.read(range.start(), Lease::new(len)).await;
            result.unwrap();
            check(&lease, model, offset);
        }
        6 => {
            let mut buf = vec![1; len];
            let done = file.try_read(range.start(), &mut buf).unwrap_or(0);
            check(&buf[..done], model, offset);
            return Some(done == len);
        }
        _ => check_extents(&file.extents(range).await.unwrap(), model, range),
    }
    None
}

fn store(model: &mut Vec<u8>, offset: usize, len: usize, version: u8) {
    if len > 0 {
        model.resize(model.len().max(offset + len), 0);
        model[offset..offset + len].fill(version);
    }
}

fn check_extents(extents: &[Extent], model: &[u8], range: ByteRange) {
    assert!(extents[0].range.start() == range.start() && range.contains(extents[0].range));
    for pair in extents.windows(2) {
        assert_eq!(pair[0].range.end(), pair[1].range.start());
    }
    for extent in extents.iter().filter(|extent| extent.state.reads_zero()) {
        let seen = model.iter().skip(extent.range.start() as usize).take(extent.range.len() as usize);
        assert!(seen.into_iter().all(|byte| *byte == 0));
    }
}

fn check(seen: &[u8], model: &[u8], offset: usize) {
    let expected = model.iter().skip(offset).copied().chain(std::iter::repeat(0));
    assert!(expected.zip(seen).all(|(expected, seen)| expected == *seen));
}

#[test]
fn files_agree_with_a_plain_vector() {
    for seed in 0..40 {
        let world = SimWorld::new(seed, Options::default());
        let model = world.run(async {
            let (file, mut model, mut inline) = (open(&world, OpenOptions::CREATE).await, Vec::new(), [0; 2]);
            for version in 1..=200 {
                if let Some(whole) = step(&*file, &mut model, version).await {
                    inline[usize::from(whole)] += 1;
                }
                assert_eq!(file.size().unwrap(), model.len() as u64);
            }
            // Both paths were taken.
            assert!(inline[0] > 5 && inline[1] > 5, "{inline:?}");
            model
        });
        assert!(world.disk().bytes("disk").unwrap() == model, "seed {seed}");
    }
}

#[test]
fn a_test_holds_releases_and_fails_single_writes() {
    let world = SimWorld::new(1, Options::calm());
    let disk = world.disk();
    disk.set_policy(|op| if op.is(OpKind::Write, "disk") { Verdict::Hold } else { Verdict::Go });
    world.run(async {
        let file = open(&world, OpenOptions::CREATE).await;
        assert_eq!(file.try_write(0, &[1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        for at in 0..3u8 {
            let file = file.clone();
            io::spawn(async move {
                let result = file.write(u64::from(at) * 10, Lease::copy_of(&[at + 1; 10])).await.0;
                assert_eq!(result.is_err(), at == 2);
            });
        }
        io::sleep(Duration::from_secs(100)).await;
        assert_eq!((disk.held().len(), file.size().unwrap()), (3, 0));
        let [(_, first), (second, _), (third, _)] = &disk.held()[..] else { panic!() };
        assert_eq!(first.range, ByteRange::new(0, 10));
        assert!(disk.release(*second) && !disk.release(*second));
        assert!(disk.fail(*third, Errno::IO));
        io::sleep(Duration::from_secs(1)).await;
        assert_eq!(disk.bytes("disk").unwrap()[..20], [[0; 10], [2; 10]].concat());
        disk.release_all();
        io::sleep(Duration::from_secs(1)).await;
        assert_eq!((disk.in_flight(), disk.bytes("disk").unwrap()[0]), (0, 1));
    });
}

#[test]
#[should_panic(expected = "held operations: [Op { path: \"disk\", kind: Flush")]
fn a_deadlock_names_what_is_held() {
    let world = SimWorld::new(1, Options::calm());
    world.disk().set_policy(|op| if op.kind == OpKind::Flush { Verdict::Hold } else { Verdict::Go });
    world.run(async { open(&world, OpenOptions::CREATE).await.flush().await.unwrap() });
}

#[test]
#[should_panic(expected = "a policy called its disk")]
fn a_policy_that_calls_its_disk_is_told_so() {
    let world = SimWorld::new(1, Options::calm());
    let disk = world.disk();
    world.disk().set_policy(move |_| if disk.held().is_empty() { Verdict::Go } else { Verdict::Hold });
    world.run(open(&world, OpenOptions::CREATE));
}

#[test]
fn errors_come_as_ordered_and_by_chance() {
    let world = SimWorld::new(1, Options::calm());
    let disk = world.disk();
    world.run(async {
        let file = open(&world, OpenOptions::CREATE).await;
        disk.set_policy(|op| match op.kind {
            OpKind::Open => Verdict::Fail(Errno(13)),
            OpKind::Read => Verdict::Fail(Errno::IO),
            OpKind::Flush => Verdict::Delay(Duration::from_secs(7)),
            _ => Verdict::Go,
        });
        let refused = world.open(Path::new("disk"), OpenOptions::CREATE).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        assert_eq!(file.try_read(0, &mut [0]).unwrap_err().raw_os_error(), Some(5));
        assert_eq!(file.read(0, Lease::new(1)).await.0.unwrap_err().raw_os_error(), Some(5));
        let begin = io::now();
        file.flush().await.unwrap();
        assert_eq!(io::now().since(begin), Duration::from_secs(7));
        disk.clear_policy();
        disk.adjust(|options| options.write_errors = 0.5);
        let mut failed = 0;
        for _ in 0..100 {
            failed += i32::from(file.write(0, Lease::new(1)).await.0.is_err());
        }
        assert!((20..80).contains(&failed));
    });
}

#[test]
fn a_full_disk_says_so() {
    let world = SimWorld::new(1, Options::calm());
    world.disk().adjust(|options| options.quota = 8192);
    world.run(async {
        let file = open(&world, OpenOptions::CREATE).await;
        file.write(0, Lease::new(4096)).await.0.unwrap();
        file.write(1 << 30, Lease::new(4096)).await.0.unwrap();
        let full = file.write(8192, Lease::new(1)).await.0.unwrap_err();
        assert_eq!((full.kind(), full.raw_os_error()), (ErrorKind::StorageFull, Some(28)));
        assert_eq!(file.try_write(8192, &[1]).unwrap_err().kind(), ErrorKind::StorageFull);
        // What has storage can be rewritten; what is given back can be used.
        file.write(100, Lease::new(100)).await.0.unwrap();
        file.write_zeroes(ByteRange::new(1 << 30, 4096), ZeroMode::default()).await.unwrap();
        file.write(8192, Lease::new(1)).await.0.unwrap();
        assert_eq!(world.disk().allocated("disk"), Some(8192));
    });
}

#[test]
fn direct_files_ask_for_alignment() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let file = open(&world, OpenOptions { direct: true, ..OpenOptions::CREATE }).await;
        assert!(!file.info().inline_reads && file.info().direct);
        assert_eq!(file.try_read(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::WouldBlock);
        file.write(512, Lease::new(1024)).await.0.unwrap();
        let invalid = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(22));
        invalid(file.write(100, Lease::new(512)).await.0);
        invalid(file.read(0, Lease::new(100)).await.0);
        let mut crooked = Lease::new(1024);
        drop(crooked.split_to(12));
        drop(crooked.split_to(500));
        file.read(0, crooked).await.0.unwrap();
        let mut crooked = Lease::new(524);
        drop(crooked.split_to(12));
        invalid(file.read(0, crooked).await.0);
    });
}

#[test]
fn files_that_are_missing_or_read_only() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let missing = world.open(Path::new("disk"), OpenOptions::default()).await.err().unwrap();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        world.disk().put("disk", b"content");
        let file = open(&world, OpenOptions::default()).await;
        assert_eq!(file.write(0, Lease::new(1)).await.0.unwrap_err().raw_os_error(), Some(9));
        assert_eq!(file.try_write(0, &[1]).unwrap_err().raw_os_error(), Some(9));
        assert_eq!(world.read_file(Path::new("disk"), 7).await.unwrap(), b"content");
        assert!(world.read_file(Path::new("disk"), 6).await.is_err());
        assert!(world.disk().remove("disk"));
        assert_eq!(file.try_read(0, &mut [0; 9]).unwrap(), 9);
    });
}

#[test]
fn open_files_exclude_one_another() {
    let world = SimWorld::new(1, Options::calm());
    let (read, write) = (Permissions::CONSISTENT_READ, Permissions::WRITE);
    world.run(async {
        let (writer, reader) =
            (open(&world, OpenOptions::CREATE).await, open(&world, OpenOptions::CREATE).await);
        writer.lock(read | write, read).unwrap();
        let refused = reader.lock(read, Permissions::ALL - write).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
        let conflict = refused.get_ref().unwrap().downcast_ref::<LockConflict>().unwrap();
        assert_eq!(*conflict, LockConflict { permission: write, in_use: true });
        // The locks go when the file is closed and its last operation has ended.
        world.disk().set_policy(|op| if op.kind == OpKind::Write { Verdict::Hold } else { Verdict::Go });
        assert_eq!(
            timeout_at(io::now(), writer.write(0, Lease::new(1))).await.map(|done| done.1.len()),
            None
        );
        drop(writer);
        assert!(reader.lock(read, Permissions::ALL - write).is_err());
        world.disk().release_all();
        io::sleep(Duration::from_secs(1)).await;
        reader.lock(read, Permissions::ALL - write).unwrap();
    });
}

#[test]
fn a_discard_leaves_anything_and_only_there() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let world = SimWorld::new(seed, Options::default());
        world.disk().put("disk", &[1; 20_000]);
        world.run(async {
            open(&world, OpenOptions::CREATE).await.discard(ByteRange::new(1000, 15_000)).await.unwrap();
        });
        let bytes = world.disk().bytes("disk").unwrap();
        assert!(bytes[..1000] == [1; 1000] && bytes[16_000..] == [1; 4000]);
        let inside = &bytes[1000..16_000];
        seen.insert(match inside[0] {
            first if inside.iter().all(|byte| *byte == first) => i32::from(first),
            _ => -1,
        });
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [-1, 0, 1]);
}

#[test]
fn names_change_whole_and_stay() {
    use io::folders::NewFile;
    for point in 1..=3 {
        let world = SimWorld::new(point, Options::default());
        let cut = world.run_until_crash(sim::CrashPoint::Write(point), async {
            let path = Path::new("/pond/state");
            for byte in 1..=2 {
                world.folders().put(path, NewFile::of(vec![byte; 5])).await.unwrap();
            }
            let refused = world.folders().put(path, NewFile { replace: false, ..NewFile::of(vec![9]) }).await;
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
            assert_eq!(world.folders().list(Path::new("/pond")).await.unwrap(), [path]);
            world.folders().remove(path).await.unwrap();
        });
        // Nothing is left to be cut off behind the last one.
        assert!(cut.is_none() || point == 3, "{point}");
        let left = world.disk().crash(&mut sim::Rng::new(point)).bytes("/pond/state");
        assert_eq!(left, [Some(vec![1; 5]), Some(vec![2; 5]), None][point as usize - 1]);
    }
}
