//! The hot path allocates nothing: alone in its process, with an allocator that counts.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use io::real::RealWorld;
use io::{Address, File, OpenOptions, Stream, World};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; the count is a plain cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of the caller, and passed on as it is.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait demands of the caller, and passed on as it is.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One request and its answer: part from the file by way of memory, part straight from it.
async fn serve(stream: &dyn Stream, file: &dyn File, buf: &mut [u8], peer: &mut UnixStream) {
    peer.write_all(&[1; 28]).unwrap();
    assert_eq!(stream.recv(buf).await.unwrap(), 28);
    assert_eq!(stream.try_recv(buf).unwrap(), None);
    assert_eq!(file.try_read(4096, &mut buf[..4096]).unwrap(), 4096);
    let parts = [IoSlice::new(&buf[..16]), IoSlice::new(&buf[16..4096])];
    assert_eq!(stream.try_send(&parts, true).unwrap(), Some(4096));
    assert_eq!(stream.try_send_file(file, 0, 4096).unwrap(), Some(4096));
    peer.read_exact(&mut buf[..8192]).unwrap();
    // Refused, which is an answer too.
    assert!(file.try_write(0, &buf[..16]).is_err());
    io::yield_now().await;
    assert!(io::now() > io::Moment(0) && io::random() != io::random());
}

#[test]
fn serving_allocates_nothing() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, [7; 65536]).unwrap();
    world.block_on(async {
        let file = world.open(&path, OpenOptions::default()).await.unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let ours = OwnedFd::from(ours);
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
        let incoming = world.connect(&Address::Inherited(ours.into_raw_fd())).await.unwrap();
        let (stream, mut buf) = (incoming.attach().unwrap(), vec![0; 65536]);
        for _ in 0..100 {
            serve(&*stream, &*file, &mut buf, &mut theirs).await;
        }
        let before = COUNT.get();
        for _ in 0..10_000 {
            serve(&*stream, &*file, &mut buf, &mut theirs).await;
        }
        assert_eq!(COUNT.get() - before, 0);
    });
}
