//! Files that take bytes from other files without our carrying them.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use block::ByteRange;
use io::file::Offload;
use io::real::RealWorld;
use io::{File, Lease, OpenOptions, World};

const LEN: u64 = 300_000;

async fn open(world: &RealWorld, path: &Path, transient: bool) -> Arc<dyn File> {
    world.open(path, OpenOptions { transient, ..OpenOptions::CREATE }).await.unwrap()
}

/// Takes `range` to `offset`; answers whether that was possible.
async fn take(
    target: &dyn File,
    offset: u64,
    source: &dyn File,
    range: ByteRange,
    how: Offload,
) -> Option<()> {
    let thing = Arc::new(());
    let mut lease = Lease::empty();
    lease.carry(thing.clone());
    let (taken, lease) = target.take(offset, source, range, how, lease).await;
    assert_eq!(Arc::strong_count(&thing), 2, "what is carried stays as long as the lease");
    drop(lease);
    match taken {
        Ok(()) => Some(()),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::InvalidInput), "{error}");
            None
        }
    }
}

#[test]
fn what_is_taken_is_what_was_there() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let bytes: Vec<u8> = (0..LEN).map(|at| (at % 251) as u8).collect();
    std::fs::write(folder.path().join("source"), &bytes).unwrap();
    let world = RealWorld::new();
    world.block_on(async {
        for (number, (how, transient)) in
            [(Offload::Copy, false), (Offload::Copy, true), (Offload::Share, false)].into_iter().enumerate()
        {
            let source = open(&world, &folder.path().join("source"), transient).await;
            let path = folder.path().join(number.to_string());
            let target = open(&world, &path, transient).await;
            for (offset, range) in [(8192, ByteRange::new(4096, 65536)), (100_001, ByteRange::new(7, 5000))] {
                if !target.may_take(&*source, how).await {
                    assert_eq!(how, Offload::Share, "every kernel copies within a file system");
                    assert_eq!(take(&*target, offset, &*source, range, how).await, None);
                    continue;
                }
                if take(&*target, offset, &*source, range, how).await.is_some() {
                    let found = std::fs::read(&path).unwrap();
                    assert_eq!(found.len() as u64, offset + range.len());
                    let (from, at) = (range.start() as usize, offset as usize);
                    assert!(found[at..] == bytes[from..from + range.len() as usize]);
                }
            }
        }
    });
}

#[test]
fn what_is_not_there_is_not_taken() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::write(folder.path().join("source"), vec![7; 4096]).unwrap();
    let world = RealWorld::new();
    world.block_on(async {
        let source = open(&world, &folder.path().join("source"), false).await;
        let target = open(&world, &folder.path().join("target"), false).await;
        let beyond = ByteRange::new(0, 8192);
        assert_eq!(take(&*target, 0, &*source, beyond, Offload::Copy).await, None);
    });
}

#[test]
fn storage_is_not_shared_with_another_file_system() {
    let folders = ["/var/tmp", "/dev/shm"].map(|parent| tempfile::tempdir_in(parent).unwrap());
    let world = RealWorld::new();
    world.block_on(async {
        let source = open(&world, &folders[0].path().join("source"), false).await;
        let target = open(&world, &folders[1].path().join("target"), false).await;
        assert!(!target.may_take(&*source, Offload::Share).await);
        let taken = target.take(0, &*source, ByteRange::new(0, 4096), Offload::Share, Lease::empty()).await.0;
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::Unsupported);
    });
}
