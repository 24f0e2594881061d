//! Random operations on real files against a `Vec<u8>`: on disk and in memory, buffered and direct.
#![allow(clippy::unwrap_used, reason = "a test")]

mod peers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use block::{Alignment, ByteRange, ExtentState};
use io::file::{Engine, ZeroMode};
use io::real::RealWorld;
use io::{File, Lease, OpenOptions, World};
use proptest::prelude::*;

/// Files grow to this at most.
const SPACE: u64 = 256 << 10;

#[derive(Clone, Debug)]
enum Op {
    Read(ByteRange),
    TryRead(ByteRange),
    Write(ByteRange, u8),
    TryWrite(ByteRange, u8),
    Zero(ByteRange, ZeroMode),
    Discard(ByteRange),
    Extents(ByteRange),
    SetLen(u64),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let range = (0..SPACE, 0..32u64 << 10)
        .prop_map(|(start, len)| ByteRange::between(start, (start + len).min(SPACE)));
    let zero =
        (any::<bool>(), any::<bool>()).prop_map(|(may_unmap, only_fast)| ZeroMode { may_unmap, only_fast });
    prop_oneof![
        4 => range.clone().prop_map(Op::Read),
        4 => range.clone().prop_map(Op::TryRead),
        6 => (range.clone(), any::<u8>()).prop_map(|(r, seed)| Op::Write(r, seed)),
        2 => (range.clone(), any::<u8>()).prop_map(|(r, seed)| Op::TryWrite(r, seed)),
        2 => (range.clone(), zero).prop_map(|(r, mode)| Op::Zero(r, mode)),
        1 => range.clone().prop_map(Op::Discard),
        2 => range.prop_map(Op::Extents),
        1 => (0..SPACE).prop_map(Op::SetLen),
        1 => Just(Op::Flush),
    ]
}

/// What the file must hold; `None` where any byte will do.
struct Model {
    bytes: Vec<Option<u8>>,
    len: u64,
}

impl Model {
    fn new() -> Self {
        Self { bytes: vec![Some(0); 2 * SPACE as usize], len: 0 }
    }

    fn part(&mut self, range: ByteRange) -> &mut [Option<u8>] {
        &mut self.bytes[range.start() as usize..range.end() as usize]
    }

    fn check(&mut self, offset: u64, read: &[u8]) {
        let range = ByteRange::new(offset, read.len() as u64);
        let wrong = self.part(range).iter().zip(read).position(|(want, got)| want.is_some_and(|w| w != *got));
        assert_eq!(wrong, None, "wrong byte in {range}");
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let range = ByteRange::new(offset, bytes.len() as u64);
        self.part(range).iter_mut().zip(bytes).for_each(|(mine, byte)| *mine = Some(*byte));
        if !range.is_empty() {
            self.len = self.len.max(range.end());
        }
    }

    fn set_len(&mut self, len: u64) {
        let all = self.bytes.len() as u64;
        self.part(ByteRange::between(len, all)).fill(Some(0));
        self.len = len;
    }
}

fn pattern(range: ByteRange, seed: u8) -> Vec<u8> {
    (0..range.len()).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

async fn apply(file: &dyn File, model: &mut Model, op: &Op) {
    let alignment = file.info().alignment;
    let fit = |range: &ByteRange| alignment.around(*range);
    match op {
        Op::Read(range) => {
            let range = fit(range);
            let (outcome, lease) = file.read(range.start(), Lease::copy_of(&pattern(range, 7))).await;
            outcome.unwrap();
            model.check(range.start(), &lease);
        }
        Op::TryRead(range) => {
            let mut buf = pattern(*range, 9);
            match file.try_read(range.start(), &mut buf) {
                Ok(n) => model.check(range.start(), &buf[..n]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        Op::Write(range, seed) => {
            let range = fit(range);
            let bytes = pattern(range, *seed);
            file.write(range.start(), Lease::copy_of(&bytes)).await.0.unwrap();
            model.write(range.start(), &bytes);
        }
        Op::TryWrite(range, seed) => {
            let bytes = pattern(*range, *seed);
            match file.try_write(range.start(), &bytes) {
                Ok(n) => model.write(range.start(), &bytes[..n]),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        Op::Zero(range, mode) => match file.write_zeroes(fit(range), *mode).await {
            Ok(()) => model.write(fit(range).start(), &vec![0; fit(range).len() as usize]),
            Err(error) => {
                assert!(mode.only_fast && error.kind() == std::io::ErrorKind::Unsupported, "{error}");
            }
        },
        Op::Discard(range) => {
            file.discard(fit(range)).await.unwrap();
            let within = fit(range).intersection(ByteRange::new(0, model.len));
            model.part(within).fill(None);
        }
        Op::Extents(range) => check_extents(file, model, *range).await,
        Op::SetLen(len) => {
            file.set_len(*len).await.unwrap();
            model.set_len(*len);
        }
        Op::Flush => file.flush().await.unwrap(),
    }
    assert_eq!(file.size().unwrap(), model.len, "after {op:?}");
}

async fn check_extents(file: &dyn File, model: &mut Model, range: ByteRange) {
    let extents = file.extents(range).await.unwrap();
    let mut at = range.start();
    for extent in &extents {
        assert_eq!(extent.range.start(), at);
        at = extent.range.end();
        if extent.state != ExtentState::Data {
            let len = extent.range.len() as usize;
            model.check(extent.range.start(), &vec![0; len]);
        }
    }
    assert!(at <= range.end() && (at > range.start() || range.is_empty()));
}

fn run(folder: &Path, options: OpenOptions, ops: &[Op]) {
    run_in(&RealWorld::new(), folder, options, ops);
}

fn run_in(world: &RealWorld, folder: &Path, options: OpenOptions, ops: &[Op]) {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let path = folder.path().join("disk");
    world.block_on(async {
        let options = OpenOptions { write: true, create: true, ..options };
        let file: Arc<dyn File> = world.open(&path, options).await.unwrap();
        let mut model = Model::new();
        for op in ops {
            apply(&*file, &mut model, op).await;
        }
        let (len, alignment) = (model.len, file.info().alignment);
        let lease = Lease::new(alignment.up(len) as usize);
        let (outcome, lease) = file.read(0, lease).await;
        outcome.unwrap();
        model.check(0, &lease);
    });
}

fn disk() -> PathBuf {
    env!("CARGO_TARGET_TMPDIR").into()
}

fn memory() -> PathBuf {
    "/dev/shm".into()
}

fn cases() -> ProptestConfig {
    let full = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    ProptestConfig { cases: if full { 1000 } else { 40 }, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn files_agree_with_a_vec(ops in prop::collection::vec(op(), 1..60)) {
        for folder in [disk(), memory()] {
            for direct in [false, true] {
                for engine in [Engine::Pool, Engine::Auto] {
                    run(&folder, OpenOptions { direct, engine, ..Default::default() }, &ops);
                }
            }
            for world in [RealWorld::new(), RealWorld::without_dontcache()] {
                run_in(&world, &folder, OpenOptions { transient: true, ..Default::default() }, &ops);
            }
        }
    }
}

#[test]
fn says_what_a_file_can_do() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in(disk()).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [7; 1000]).unwrap();
    world.block_on(async {
        let file = world.open(&path, OpenOptions::default()).await.unwrap();
        assert!(!file.info().writable && !file.info().direct);
        assert_eq!((file.size().unwrap(), file.info().alignment), (1000, Alignment::BYTE));
        let refused = file.write(0, Lease::zeroed(8)).await.0;
        assert!(refused.is_err());
        let direct = world.open(&path, OpenOptions { direct: true, ..Default::default() }).await.unwrap();
        assert!(direct.info().alignment >= Alignment::SECTOR && !direct.info().inline_reads);
    });
}

#[test]
fn a_short_last_sector_reads_as_whole() {
    let world = RealWorld::new();
    for folder in [disk(), memory()] {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, [7; 1000]).unwrap();
        for direct in [false, true] {
            let options = OpenOptions { direct, ..Default::default() };
            let lease = world.block_on(async {
                let file = world.open(&path, options).await.unwrap();
                let (outcome, lease) = file.read(0, Lease::copy_of(&[9; 8192])).await;
                outcome.unwrap();
                let beyond = file.read(1 << 20, Lease::copy_of(&[9; 4096])).await;
                beyond.0.unwrap();
                assert!(beyond.1.iter().all(|byte| *byte == 0));
                lease
            });
            assert!(
                lease[..1000].iter().all(|byte| *byte == 7) && lease[1000..].iter().all(|byte| *byte == 0)
            );
        }
    }
}

#[test]
fn a_dropped_operation_ends_by_itself_and_keeps_its_buffer() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in(disk()).unwrap();
    let path = folder.path().join("disk");
    world.block_on(async {
        for direct in [false, true] {
            let options = OpenOptions { write: true, create: true, direct, ..Default::default() };
            let file = world.open(&path, options).await.unwrap();
            let carried = Arc::new(());
            for i in 0..64u64 {
                let mut lease = Lease::zeroed(64 << 10);
                lease.fill(i as u8 + 1);
                lease.carry(Box::new(carried.clone()));
                // Polled once, so that it is under way, then dropped.
                let write = file.write(i << 16, lease);
                io::select::race(write, async {}).await;
                let mut lease = Lease::new(64 << 10);
                lease.carry(Box::new(carried.clone()));
                io::select::race(file.read(i << 16, lease), async {}).await;
            }
            drop(file);
            while Arc::strong_count(&carried) > 1 {
                io::sleep(std::time::Duration::from_millis(1)).await;
            }
            let written = std::fs::read(&path).unwrap();
            assert_eq!(written.len(), 64 << 16);
            for (i, part) in written.chunks(64 << 10).enumerate() {
                assert!(part.iter().all(|byte| *byte == i as u8 + 1), "write {i} was torn");
            }
        }
    });
}

#[test]
fn refuses_what_is_no_file() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in(disk()).unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    world.block_on(async {
        for path in [folder.path(), &pipe, Path::new("/dev/zero"), Path::new("/nowhere/at/all")] {
            assert!(world.open(path, OpenOptions::default()).await.is_err(), "{}", path.display());
        }
        assert_eq!(
            world.read_file(Path::new("/dev/zero"), 10).await.unwrap_err().kind(),
            std::io::ErrorKind::FileTooLarge
        );
        assert_eq!(world.read_file(Path::new("/dev/null"), 10).await.unwrap(), []);
    });
}

#[test]
fn knows_what_is_in_memory() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in(disk()).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, vec![7; 1 << 20]).unwrap();
    world.block_on(async {
        let file = world.open(&path, OpenOptions { write: true, ..Default::default() }).await.unwrap();
        if !file.resident(ByteRange::new(0, 1 << 20)) {
            peers::skip("knows_what_is_in_memory", "cachestat");
            return;
        }
        assert!(file.resident(ByteRange::new(5000, 1)) && file.resident(ByteRange::new(0, 0)));
        file.flush().await.unwrap();
        let fd = file.fd().unwrap();
        rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(!file.resident(ByteRange::new(0, 1 << 20)));
        assert_eq!(file.try_read(0, &mut [0; 512]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    });
}
