//! Where io_uring is forbidden, as in most containers, everything works without it.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "installs a filter of system calls")]

mod peers;

use std::path::Path;

use io::file::Engine;
use io::real::RealWorld;
use io::{Lease, OpenOptions, World};

/// `io_uring_setup`, `io_uring_enter`, `io_uring_register`; the same on every architecture.
const FORBIDDEN: [u32; 3] = [425, 426, 427];

/// Makes the kernel answer EPERM to everything about io_uring, for this thread and those that it starts.
fn forbid_io_uring() {
    let load_number = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let [setup, enter, register] = FORBIDDEN;
    let mut program = [
        step(load_number, 0, 0, 0),
        step(equal, 2, 0, setup),
        step(equal, 1, 0, enter),
        step(equal, 0, 1, register),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program and its steps live until the call has copied them.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn on_a_thread_without_io_uring(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            forbid_io_uring();
            run();
        });
    });
}

/// Opens with the automatic choice, which must be the pool, and moves some bytes.
fn works_on_the_pool(world: &RealWorld, path: &Path) {
    world.block_on(async {
        for direct in [false, true] {
            let options = OpenOptions { write: true, create: true, direct, ..Default::default() };
            let file = world.open(path, options).await.unwrap();
            assert_eq!(file.info().engine, "threads");
            let mut lease = Lease::zeroed(65536);
            lease.fill(7);
            file.write(4096, lease).await.0.unwrap();
            file.flush().await.unwrap();
            let (outcome, lease) = file.read(0, Lease::new(65536)).await;
            outcome.unwrap();
            assert!(
                lease[..4096].iter().all(|byte| *byte == 0) && lease[4096..].iter().all(|byte| *byte == 7)
            );
        }
        let refused = world.open(path, OpenOptions { engine: Engine::Uring, ..Default::default() }).await;
        let error = refused.err().unwrap();
        assert!(
            error.kind() == std::io::ErrorKind::Unsupported && error.to_string().contains("choose threads")
        );
    });
}

#[test]
fn auto_falls_back_to_the_pool() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk");
    on_a_thread_without_io_uring(|| works_on_the_pool(&RealWorld::new(), &path));
    works_on_the_pool(&RealWorld::without_io_uring(), &path);
}

/// A file that one thread opened with a ring is read on another that may not have one.
#[test]
fn a_thread_without_a_ring_uses_the_pool() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [7; 65536]).unwrap();
    let world = RealWorld::new();
    let options = OpenOptions { direct: true, ..Default::default() };
    let file = world.block_on(world.open(&path, options)).unwrap();
    on_a_thread_without_io_uring(|| {
        world.block_on(async {
            let (outcome, lease) = file.read(0, Lease::new(65536)).await;
            outcome.unwrap();
            assert!(lease.iter().all(|byte| *byte == 7));
        });
    });
}

/// Without the filter this machine has io_uring, else the tests above show nothing.
#[test]
fn elsewhere_auto_uses_the_ring() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("disk");
    std::fs::write(&path, [7; 65536]).unwrap();
    let world = RealWorld::new();
    world.block_on(async {
        let asked = OpenOptions { direct: true, engine: Engine::Uring, ..Default::default() };
        if let Err(error) = world.open(&path, asked).await {
            peers::skip("elsewhere_auto_uses_the_ring", &format!("io_uring: {error}"));
            return;
        }
        let file = world.open(&path, OpenOptions { direct: true, ..Default::default() }).await.unwrap();
        assert_eq!(file.info().engine, "io_uring");
    });
}
