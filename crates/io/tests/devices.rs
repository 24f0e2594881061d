//! Block devices: a loop device over a file, where the system lets us make one.
#![allow(clippy::unwrap_used, reason = "a test")]

mod peers;

use std::path::{Path, PathBuf};
use std::process::Command;

use block::{Alignment, ByteRange, ExtentState};
use io::file::ZeroMode;
use io::real::RealWorld;
use io::{Lease, OpenOptions, World};

const SIZE: u64 = 4 << 20;

/// A loop device, given back when dropped.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
        let path = String::from_utf8(made.stdout).ok()?;
        made.status.success().then(|| Self(path.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_block_device_is_a_file_of_fixed_size() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = folder.path().join("image");
    std::fs::write(&image, vec![9; SIZE as usize]).unwrap();
    let Some(device) = Loop::over(&image) else {
        peers::skip("a_block_device_is_a_file_of_fixed_size", "loop device");
        return;
    };
    let world = RealWorld::new();
    for direct in [false, true] {
        world.block_on(works(&world, &device.0, direct));
    }
    drop(device);
    let tail = std::fs::read(&image).unwrap()[SIZE as usize - 512..].to_vec();
    assert!(tail.iter().all(|byte| *byte == 9));
}

async fn works(world: &RealWorld, device: &Path, direct: bool) {
    let file = world.open(device, OpenOptions { write: true, direct, ..Default::default() }).await.unwrap();
    assert_eq!(file.size().unwrap(), SIZE);
    assert!(!direct || file.info().alignment >= Alignment::SECTOR);
    let is = async |range: ByteRange, byte: u8| {
        let (outcome, lease) = file.read(range.start(), Lease::new(range.len() as usize)).await;
        outcome.unwrap();
        lease.iter().all(|b| *b == byte)
    };
    for (i, (may_unmap, only_fast)) in [(false, false), (true, false), (true, true)].into_iter().enumerate() {
        let part = ByteRange::new(i as u64 * (256 << 10), 64 << 10);
        let mut lease = Lease::zeroed(part.len() as usize);
        lease.fill(i as u8 + 1);
        file.write(part.start(), lease).await.0.unwrap();
        assert!(is(part, i as u8 + 1).await);
        let middle = ByteRange::new(part.start() + 4096, 8192);
        match file.write_zeroes(middle, ZeroMode { may_unmap, only_fast }).await {
            Ok(()) => assert!(is(middle, 0).await && is(middle.at(middle.end()), i as u8 + 1).await),
            Err(error) => assert!(only_fast && error.kind() == std::io::ErrorKind::Unsupported, "{error}"),
        }
        file.discard(middle).await.unwrap();
        assert!(is(middle.at(middle.end()), i as u8 + 1).await);
    }
    let extents = file.extents(ByteRange::new(0, SIZE)).await.unwrap();
    assert!(extents.len() == 1 && extents[0].state == ExtentState::Data);
    file.flush().await.unwrap();
    assert!(file.set_len(SIZE / 2).await.is_err());
    let (outcome, lease) = file.read(SIZE - 4096, Lease::copy_of(&[7; 8192])).await;
    outcome.unwrap();
    assert!(lease[..4096].iter().all(|b| *b == 9) && lease[4096..].iter().all(|b| *b == 0));
}

/// A mounted file system, gone when dropped.
struct Mount(PathBuf);

impl Mount {
    /// At `folder`, which is made.
    fn at(folder: PathBuf, options: &[&str], device: &str) -> Option<Self> {
        std::fs::create_dir(&folder).ok()?;
        let mounted = Command::new("mount").args(options).arg(device).arg(&folder).output().ok()?;
        mounted.status.success().then(|| Self(folder))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A device that takes a quarter of what it says, and what it lies on; `test` is skipped where there is none.
fn lossy(folder: &Path, test: &str) -> Option<(Loop, Mount)> {
    let small = Mount::at(folder.join("small"), &["-t", "tmpfs", "-o", "size=1m"], "tmpfs");
    let made = small.and_then(|small| {
        let image = small.0.join("image");
        std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
        Some((Loop::over(&image)?, small))
    });
    if made.is_none() {
        peers::skip(test, "loop device on a full file system");
    }
    made
}

#[test]
fn of_bytes_that_are_lost_every_flush_tells() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let Some((device, small)) = lossy(folder.path(), "of_bytes_that_are_lost_every_flush_tells") else {
        return;
    };
    let world = RealWorld::new();
    world.block_on(async {
        let how = OpenOptions { write: true, ..OpenOptions::default() };
        let file = world.open(&device.0, how).await.unwrap();
        let mut lease = Lease::zeroed(SIZE as usize);
        lease.fill(7);
        // The page cache has room for all of it, the disk has not.
        file.write(0, lease).await.0.unwrap();
        let flushed = futures_util::future::join_all((0..3).map(|_| file.flush())).await;
        assert!(flushed.iter().all(Result::is_err), "{flushed:?}");
        file.flush().await.unwrap_err();
    });
    drop(device);
    drop(small);
}

#[test]
fn of_bytes_that_are_lost_behind_a_close_the_next_flush_tells() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let test = "of_bytes_that_are_lost_behind_a_close_the_next_flush_tells";
    let Some((device, small)) = lossy(folder.path(), test) else { return };
    let name = device.0.to_str().unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-O", "^has_journal", "-m", "0", name]).status();
    let mounted = made.is_ok_and(|made| made.success());
    let Some(disk) = mounted.then(|| Mount::at(folder.path().join("disk"), &["-t", "ext4"], name)).flatten()
    else {
        return peers::skip(test, "mkfs.ext4 and a mount");
    };
    let path = disk.0.join("file");
    let world = RealWorld::new();
    world.block_on(async {
        let how = OpenOptions { write: true, create: true, transient: true, ..OpenOptions::default() };
        let file = world.open(&path, how).await.unwrap();
        // Not whole pages: those the kernel would let go by itself.
        file.write(1, Lease::zeroed(SIZE as usize / 2)).await.0.unwrap();
    });
    // Ends when what was begun for the closed file has ended.
    drop(world);
    let next = std::fs::File::options().write(true).open(&path).unwrap();
    assert!(next.sync_data().is_err(), "nobody was told");
    drop(next);
    drop(disk);
    drop(device);
    drop(small);
}
