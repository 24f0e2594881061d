//! I/O threads: their tasks, their numbers, their end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use io::real::RealWorld;
use io::{World, thread_index};

/// Sends when dropped.
struct Tell(mpsc::Sender<&'static str>);

impl Drop for Tell {
    fn drop(&mut self) {
        // Whatever belongs to the thread is still there while its tasks are dropped.
        let _ = io::now();
        io::spawn(async {});
        let _ = self.0.send("dropped");
    }
}

#[test]
fn tasks_run_where_they_were_sent() {
    let world = RealWorld::new();
    let (send, receive) = mpsc::channel();
    let threads: Vec<_> = (0..3).map(|i| world.start_thread(&format!("t{i}")).unwrap()).collect();
    for thread in &threads {
        let send = send.clone();
        thread.run(Box::new(move || {
            // Not `Send`: proof that it is polled only there.
            let name = Rc::new(RefCell::new(String::new()));
            Box::pin(async move {
                *name.borrow_mut() = std::thread::current().name().unwrap().to_owned();
                io::sleep(Duration::from_millis(1)).await;
                send.send((name.borrow().clone(), thread_index())).unwrap();
            })
        }));
    }
    let mut told: Vec<_> = threads.iter().map(|_| receive.recv().unwrap()).collect();
    told.sort();
    assert_eq!(told, [("t0".to_owned(), 0), ("t1".to_owned(), 1), ("t2".to_owned(), 2)]);
    threads[1].stop();
    threads[1].stop();
    world.block_on(async { assert_eq!(thread_index(), 1) });
    assert_eq!((threads[2].name(), thread_index()), ("t2", 0));
    threads.iter().for_each(|thread| thread.stop());
}

#[test]
fn stop_drops_tasks_and_what_comes_later_is_dropped_unrun() {
    let world = RealWorld::new();
    let (send, receive) = mpsc::channel();
    let thread = world.start_thread("t").unwrap();
    let (tell, running) = (Tell(send.clone()), send.clone());
    thread.run(Box::new(move || {
        Box::pin(async move {
            let _tell = tell;
            running.send("running").unwrap();
            std::future::pending::<()>().await;
        })
    }));
    assert_eq!(receive.recv().unwrap(), "running");
    thread.stop();
    assert_eq!(receive.try_recv().unwrap(), "dropped");
    thread.run(Box::new(move || {
        send.send("ran after the end").unwrap();
        Box::pin(async {})
    }));
    assert!(receive.recv().is_err());
}

#[test]
fn a_thread_can_stop_itself() {
    let world = RealWorld::new();
    let thread = world.start_thread("t").unwrap();
    let own = thread.clone();
    let (send, receive) = mpsc::channel::<()>();
    thread.run(Box::new(move || {
        Box::pin(async move {
            let _send = send;
            own.stop();
            std::future::pending::<()>().await;
        })
    }));
    assert!(receive.recv().is_err());
    thread.stop();
}

#[test]
fn a_task_that_panics_takes_nobody_with_it() {
    let world = RealWorld::new();
    let thread = world.start_thread("t").unwrap();
    let (send, receive) = mpsc::channel();
    thread.run(Box::new(|| Box::pin(async { panic!("on purpose") })));
    thread.run(Box::new(move || Box::pin(async move { send.send(7).unwrap() })));
    assert_eq!(receive.recv().unwrap(), 7);
    thread.stop();
}

#[test]
fn wakes_cross_threads() {
    let world = RealWorld::new();
    let thread = world.start_thread("t").unwrap();
    world.block_on(async {
        let (to, mut from_us) = io::sync::mpsc::unbounded_channel::<u32>();
        let (to_us, mut from) = io::sync::mpsc::unbounded_channel();
        thread.run(Box::new(move || {
            Box::pin(async move {
                while let Some(n) = from_us.recv().await {
                    to_us.send(n + 1).unwrap();
                }
            })
        }));
        for n in 0..2000 {
            to.send(n).unwrap();
            assert_eq!(from.recv().await, Some(n + 1));
        }
    });
    thread.stop();
}

#[test]
fn time_passes_and_dice_differ() {
    let world = RealWorld::new();
    world.block_on(async {
        let before = io::now();
        io::sleep(Duration::from_millis(3)).await;
        assert!(io::now().since(before) >= Duration::from_millis(3));
        let never = io::sleep_until(io::Moment(u64::MAX));
        assert!(io::timeout_at(io::now(), never).await.is_none());
        let numbers: std::collections::HashSet<_> = (0..100).map(|_| io::random()).collect();
        assert_eq!(numbers.len(), 100);
    });
}

#[test]
fn block_on_answers_and_drops_what_is_left() {
    let world = RealWorld::new();
    let kept = Arc::new(());
    let inner = kept.clone();
    let answer = world.block_on(async {
        io::spawn(async move {
            let _kept = inner;
            std::future::pending::<()>().await;
        });
        io::yield_now().await;
        5
    });
    assert_eq!((answer, Arc::strong_count(&kept)), (5, 1));
}

#[test]
fn a_computation_leaves_the_thread_to_others() {
    let world = RealWorld::new();
    let (go, wait) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    world.block_on(async {
        // Ends when another task of this thread says so, or in disgrace.
        let work = world.compute(Box::new(move || {
            let gone_on = wait.recv_timeout(Duration::from_secs(10)).is_ok();
            tell.send(gone_on).unwrap();
        }));
        io::spawn(async move { go.send(()).unwrap() });
        work.await;
    });
    assert!(told.recv().unwrap());
    // It is done though nobody waits for it.
    let (tell, told) = mpsc::channel();
    drop(world.compute(Box::new(move || tell.send(()).unwrap())));
    told.recv().unwrap();
}
