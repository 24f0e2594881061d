//! Streams: bytes arrive whole and in order, readiness is never lost, ends and full sockets are seen.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::{ErrorKind, IoSlice, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use io::real::RealWorld;
use io::{Address, File, OpenOptions, Stream, World};

/// Hands a socket to the world as if this process had inherited it.
async fn adopt(world: &RealWorld, socket: impl Into<OwnedFd>) -> Box<dyn Stream> {
    let socket: OwnedFd = socket.into();
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    let address = Address::Inherited(socket.into_raw_fd());
    world.connect(&address).await.unwrap().attach().unwrap()
}

async fn pair(world: &RealWorld) -> (Box<dyn Stream>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (adopt(world, ours).await, theirs)
}

async fn both(world: &RealWorld) -> (Box<dyn Stream>, Box<dyn Stream>) {
    let (ours, theirs) = pair(world).await;
    (ours, adopt(world, theirs).await)
}

/// Byte number `at` of the test's endless text.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

async fn send_text(stream: &dyn Stream, len: u64) {
    let mut sent = 0;
    while sent < len {
        let piece = (sent % 70_000 + 1).min(len - sent);
        let text: Vec<u8> = (sent..sent + piece).map(byte).collect();
        let (head, tail) = text.split_at(text.len() / 3);
        match stream.try_send(&[IoSlice::new(head), IoSlice::new(tail)], sent % 2 == 0).unwrap() {
            Some(n) => sent += n as u64,
            None => stream.writable().await.unwrap(),
        }
    }
}

async fn receive_text(stream: &dyn Stream, len: u64) {
    let (mut received, mut buf) = (0, vec![0; 100_000]);
    while received < len {
        let room = (received as usize % 99_999 + 1).min((len - received) as usize);
        match stream.try_recv(&mut buf[..room]).unwrap() {
            Some(0) => panic!("ended after {received}"),
            Some(n) => {
                let wrong = buf[..n].iter().zip(received..).position(|(got, at)| *got != byte(at));
                assert_eq!(wrong, None);
                received += n as u64;
            }
            None => stream.readable().await.unwrap(),
        }
    }
}

#[test]
fn text_arrives_whole_through_full_and_empty_sockets() {
    let world = RealWorld::new();
    let len = 24 << 20;
    world.block_on(async {
        let (ours, theirs) = both(&world).await;
        let (done, finished) = io::sync::oneshot::channel();
        io::spawn(async move {
            send_text(&*theirs, len).await;
            let _ = done.send(());
        });
        receive_text(&*ours, len).await;
        finished.await.unwrap();
    });
}

#[test]
fn a_question_and_its_answer_never_miss_each_other() {
    let world = RealWorld::new();
    let thread = world.start_thread("echo").unwrap();
    world.block_on(async {
        let (ours, theirs) = pair(&world).await;
        let (world, theirs) = (world.clone(), OwnedFd::from(theirs));
        thread.run(Box::new(move || {
            Box::pin(async move {
                let (stream, mut buf) = (adopt(&world, theirs).await, [0; 64]);
                loop {
                    match stream.recv(&mut buf).await.unwrap() {
                        0 => return,
                        n => stream.send_all(&buf[..n]).await.unwrap(),
                    }
                }
            })
        }));
        for round in 0..20_000u64 {
            // Longer than the buffer now and then, so that receives come back full and short.
            let question: Vec<u8> = (0..round % 150 + 1).map(byte).collect();
            ours.send_all(&question).await.unwrap();
            let mut answer = vec![0; question.len()];
            ours.recv_exact(&mut answer).await.unwrap();
            assert_eq!(answer, question);
        }
    });
    thread.stop();
}

#[test]
fn what_has_come_is_there_before_it_is_told_of() {
    let world = RealWorld::new();
    world.block_on(async {
        let (ours, mut theirs) = pair(&world).await;
        let mut buf = [0; 8];
        for round in 0..3 {
            assert_eq!(ours.try_recv_unasked(&mut buf).unwrap(), None, "round {round}");
            theirs.write_all(b"early").unwrap();
            assert_eq!(ours.try_recv(&mut buf).unwrap(), None, "nobody has looked");
            assert_eq!(ours.try_recv_unasked(&mut buf).unwrap(), Some(5));
            // What comes after is told of as ever.
            theirs.write_all(b"late").unwrap();
            assert_eq!(ours.recv(&mut buf).await.unwrap(), 4);
        }
        drop(theirs);
        assert_eq!(ours.try_recv_unasked(&mut buf).unwrap(), Some(0));
    });
}

#[test]
fn the_end_is_seen_after_the_last_byte() {
    let world = RealWorld::new();
    world.block_on(async {
        for wait_first in [false, true] {
            let (ours, mut theirs) = pair(&world).await;
            assert_eq!(ours.try_recv(&mut [0; 9]).unwrap(), None);
            theirs.write_all(b"last").unwrap();
            if wait_first {
                ours.readable().await.unwrap();
            }
            drop(theirs);
            let mut buf = [0; 9];
            assert_eq!(ours.recv(&mut buf).await.unwrap(), 4);
            assert_eq!(ours.recv(&mut buf).await.unwrap(), 0);
            assert_eq!(ours.recv(&mut buf).await.unwrap(), 0);
            let error = ours.try_send(&[IoSlice::new(b"x")], false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
    });
}

#[test]
fn shutdown_wakes_both_ends() {
    let world = RealWorld::new();
    world.block_on(async {
        let (ours, theirs) = both(&world).await;
        let (done, finished) = io::sync::oneshot::channel();
        io::spawn(async move {
            let _ = done.send(theirs.recv(&mut [0; 9]).await.unwrap());
        });
        io::yield_now().await;
        ours.shutdown();
        assert_eq!(finished.await.unwrap(), 0);
        assert_eq!(ours.recv(&mut [0; 9]).await.unwrap(), 0);
        assert!(ours.peer().contains("pid"), "{}", ours.peer());
    });
}

async fn send_file(stream: &dyn Stream, file: &dyn File, mut offset: u64, end: u64) {
    while offset < end {
        match stream.try_send_file(file, offset, (end - offset) as usize).unwrap() {
            Some(n) => offset += n as u64,
            None => stream.writable().await.unwrap(),
        }
    }
}

#[test]
fn a_file_is_sent_as_it_is() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("file");
    let len = 9 << 20;
    std::fs::write(&path, (0..len).map(byte).collect::<Vec<_>>()).unwrap();
    world.block_on(async {
        let file = world.open(&path, OpenOptions::default()).await.unwrap();
        let (ours, theirs) = both(&world).await;
        let sent = file.clone();
        io::spawn(async move { send_file(&*theirs, &*sent, 0, len).await });
        receive_text(&*ours, len).await;
        assert_eq!(ours.try_send_file(&*file, len, 5).unwrap(), Some(0));
        let (ours, theirs) = pair(&world).await;
        drop(theirs);
        assert_eq!(ours.try_send_file(&*file, 0, 5).unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn waiting_for_room_and_for_bytes_at_once() {
    let world = RealWorld::new();
    world.block_on(async {
        let (ours, theirs) = both(&world).await;
        let len = 8 << 20;
        io::spawn(async move {
            send_text(&*theirs, len).await;
            receive_text(&*theirs, len).await;
            theirs.shutdown();
        });
        // Sends into a peer that does not read until it has been read from: both directions fill up.
        let send = send_text(&*ours, len);
        let receive = receive_text(&*ours, len);
        futures_util::future::join(send, receive).await;
        assert_eq!(ours.recv(&mut [0]).await.unwrap(), 0);
    });
}

#[test]
fn whoever_yields_lets_in_what_a_socket_has_for_others() {
    let world = RealWorld::new();
    world.block_on(async {
        let (ours, mut theirs) = pair(&world).await;
        let arrived = std::rc::Rc::new(std::cell::Cell::new(false));
        let seen = arrived.clone();
        io::spawn(async move {
            ours.recv(&mut [0; 8]).await.unwrap();
            seen.set(true);
        });
        let (tell, told) = io::sync::oneshot::channel();
        io::spawn(async move {
            // Until the other task waits for its socket.
            for _ in 0..200 {
                io::yield_now().await;
            }
            theirs.write_all(b"byte").unwrap();
            let mut yields = 0;
            while !arrived.get() {
                io::yield_now().await;
                yields += 1;
            }
            let _ = tell.send(yields);
        });
        let yields = told.await.unwrap();
        assert!(yields <= 2, "{yields} turns of one task before one of the other");
    });
}

#[test]
fn only_inherited_descriptors_are_taken() {
    let world = RealWorld::new();
    let (one, _two) = UnixStream::pair().unwrap();
    world.block_on(async {
        let own = world.connect(&Address::Inherited(one.as_raw_fd())).await;
        assert_eq!(own.err().unwrap().kind(), ErrorKind::InvalidInput);
        for nothing in [-1, 999_999] {
            assert!(world.connect(&Address::Inherited(nothing)).await.is_err());
            assert!(world.listen(&Address::Inherited(nothing)).is_err());
        }
        let spare = rustix::io::fcntl_dupfd_cloexec(&one, 0).unwrap();
        rustix::io::fcntl_setfd(&spare, rustix::io::FdFlags::empty()).unwrap();
        let number = spare.into_raw_fd();
        let taken = world.connect(&Address::Inherited(number)).await.unwrap();
        assert!(world.connect(&Address::Inherited(number)).await.is_err());
        drop(taken);
    });
}
