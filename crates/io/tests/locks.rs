//! Image locks, against ourselves and against QEMU's own programs.
#![allow(clippy::unwrap_used, reason = "a test")]

mod peers;

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use block::Permissions;
use io::file::LockConflict;
use io::real::RealWorld;
use io::{File, OpenOptions, World};
use peers::has;

/// What QEMU holds of a writable and of a read-only image.
const WRITER: Permissions = Permissions::CONSISTENT_READ.union(Permissions::WRITE).union(Permissions::RESIZE);
const READER: Permissions = Permissions::CONSISTENT_READ;

fn not_written() -> Permissions {
    !(Permissions::WRITE | Permissions::RESIZE)
}

fn image() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("image.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    (folder, path)
}

/// QEMU's raw driver lets others write; its qcow2 driver does not.
fn qcow2() -> (tempfile::TempDir, std::path::PathBuf) {
    let (folder, path) = image();
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("1M").status();
    assert!(made.unwrap().success());
    (folder, path)
}

fn open(world: &RealWorld, path: &Path) -> Arc<dyn File> {
    world.block_on(world.open(path, OpenOptions { write: true, ..Default::default() })).unwrap()
}

fn conflict(outcome: std::io::Result<()>) -> LockConflict {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    *error.get_ref().and_then(|inner| inner.downcast_ref()).unwrap()
}

#[test]
fn every_pair_of_uses_and_shares_excludes_as_the_words_say() {
    let world = RealWorld::new();
    let (_folder, path) = image();
    let (ours, theirs) = (open(&world, &path), open(&world, &path));
    let sets: Vec<Permissions> = (0..16u32)
        .map(|bits| {
            let chosen = Permissions::NAMES.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1);
            chosen.fold(Permissions::NONE, |set, (_, (one, _))| set | *one)
        })
        .collect();
    for uses in &sets {
        for shares in &sets {
            ours.lock(*uses, *shares).unwrap();
            for more in &sets {
                // They use some and share everything; then they use nothing and share only some.
                let fits = shares.contains(*more);
                assert_eq!(theirs.lock(*more, Permissions::ALL).is_ok(), fits, "{uses} {shares} {more}");
                theirs.lock(Permissions::NONE, Permissions::ALL).unwrap();
                let fits = more.contains(*uses);
                assert_eq!(theirs.lock(Permissions::NONE, *more).is_ok(), fits, "{uses} {shares} {more}");
                theirs.lock(Permissions::NONE, Permissions::ALL).unwrap();
            }
        }
    }
}

#[test]
fn a_conflict_changes_nothing_and_says_which() {
    let world = RealWorld::new();
    let (_folder, path) = image();
    let (first, second) = (open(&world, &path), open(&world, &path));
    first.lock(READER, not_written()).unwrap();
    second.lock(READER, not_written()).unwrap();
    let found = conflict(second.lock(WRITER, not_written()));
    assert_eq!(found, LockConflict { permission: Permissions::WRITE, in_use: false });
    // Still what it was: it lets readers in, and keeps writers out after the first has gone.
    drop(first);
    let third = open(&world, &path);
    third.lock(READER, not_written()).unwrap();
    let found = conflict(third.lock(Permissions::WRITE, Permissions::ALL));
    assert_eq!(found.to_string(), "Failed to get \"write\" lock: is another process using the file?");
    second.lock(Permissions::NONE, Permissions::ALL).unwrap();
    third.lock(WRITER, not_written()).unwrap();
    let found = conflict(second.lock(READER, not_written()));
    assert_eq!(found.to_string(), "Failed to get shared \"write\" lock: is another process using the file?");
}

#[test]
fn taking_the_same_locks_twice_is_fine_and_they_end_with_the_file() {
    let world = RealWorld::new();
    let (_folder, path) = image();
    let (first, second) = (open(&world, &path), open(&world, &path));
    first.lock(WRITER, not_written()).unwrap();
    first.lock(WRITER, not_written()).unwrap();
    drop(first);
    second.lock(WRITER, not_written()).unwrap();
}

#[test]
fn qemu_img_sees_our_locks() {
    if !has("qemu_img_sees_our_locks", "qemu-img") {
        return;
    }
    let world = RealWorld::new();
    let (_folder, path) = qcow2();
    let file = open(&world, &path);
    let info = || Command::new("qemu-img").args(["info", "-f", "qcow2"]).arg(&path).output().unwrap();
    assert!(info().status.success());
    file.lock(WRITER, not_written()).unwrap();
    let refused = info();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && message.contains("Failed to get shared \"write\" lock"),
        "{message}"
    );
    file.lock(READER, not_written()).unwrap();
    assert!(info().status.success());
    let write =
        || Command::new("qemu-io").args(["-f", "qcow2", "-c", "write 0 512"]).arg(&path).output().unwrap();
    let refused = write();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("Failed to get \"write\" lock"), "{message}");
    drop(file);
    assert!(write().status.success());
}

/// A running qemu-nbd; killed when dropped.
struct Server(Child);

impl Server {
    fn start(image: &Path, options: &[&str]) -> Self {
        let socket = image.with_extension("sock");
        let child = Command::new("qemu-nbd")
            .args(["-f", "qcow2", "-t", "-k"])
            .arg(&socket)
            .args(options)
            .arg(image)
            .spawn()
            .unwrap();
        let mut server = Self(child);
        // It greets a client only after it has opened and locked the image.
        let greeted = || UnixStream::connect(&socket).and_then(|mut client| client.read_exact(&mut [0; 8]));
        while greeted().is_err() {
            assert!(server.0.try_wait().unwrap().is_none(), "qemu-nbd has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn we_see_the_locks_of_qemu_nbd() {
    if !has("we_see_the_locks_of_qemu_nbd", "qemu-nbd") {
        return;
    }
    let world = RealWorld::new();
    let (_folder, path) = qcow2();
    let file = open(&world, &path);
    {
        let _writer = Server::start(&path, &[]);
        let found = conflict(file.lock(WRITER, not_written()));
        assert_eq!(found, LockConflict { permission: Permissions::WRITE, in_use: false });
        let found = conflict(file.lock(READER, not_written()));
        assert_eq!(found, LockConflict { permission: Permissions::WRITE, in_use: true });
    }
    {
        let _reader = Server::start(&path, &["-r"]);
        file.lock(READER, not_written()).unwrap();
        conflict(file.lock(WRITER, not_written()));
    }
    file.lock(WRITER, not_written()).unwrap();
}
