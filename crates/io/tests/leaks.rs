//! Nothing is left behind: alone in its process, since it counts all descriptors and threads.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::mpsc;

use io::real::RealWorld;
use io::{Lease, OpenOptions, World};

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

/// A world with threads that open, read, listen and connect, and are stopped in the middle of it.
fn live() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, [7; 65536]).unwrap();
    let (send, receive) = mpsc::channel();
    let threads: Vec<_> = (0..4).map(|i| world.start_thread(&format!("t{i}")).unwrap()).collect();
    for (i, thread) in threads.iter().enumerate() {
        let (world, path, send) = (world.clone(), path.clone(), send.clone());
        let socket = folder.path().join(format!("s{i}"));
        thread.run(Box::new(move || {
            Box::pin(async move {
                let address = io::Address::Unix { path: socket };
                let listener = world.listen(&address).unwrap();
                let client = world.connect(&address).await.unwrap().attach().unwrap();
                let server = listener.accept().await.unwrap().attach().unwrap();
                for direct in [false, true] {
                    let options = OpenOptions { direct, write: true, ..Default::default() };
                    let file = world.open(&path, options).await.unwrap();
                    file.read(0, Lease::new(4096)).await.0.unwrap();
                    io::select::race(file.read(4096, Lease::new(4096)), async {}).await;
                    io::spawn(async move {
                        loop {
                            file.read(0, Lease::new(65536)).await.0.unwrap();
                        }
                    });
                }
                while server.try_send(&[std::io::IoSlice::new(&[0; 65536])], false).unwrap().is_some() {}
                send.send(()).unwrap();
                server.writable().await.unwrap();
                drop(client);
            })
        }));
    }
    threads.iter().for_each(|_| receive.recv().unwrap());
    threads.iter().for_each(|thread| thread.stop());
}

#[test]
fn threads_that_come_and_go_leave_no_descriptor_and_no_thread() {
    live();
    let before = (count("fd"), count("task"));
    for _ in 0..25 {
        live();
    }
    assert_eq!((count("fd"), count("task")), before);
}
