//! The executor: interleaving, virtual time, threads that end, runs that hang; and one seed, one run.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use io::sync::{mpsc, oneshot};
use io::{Address, Lease, OpenOptions, World};
use sim::{Options, SimWorld};

fn address() -> Address {
    Address::Tcp { host: "repo".to_owned(), port: 10809 }
}

/// Writes, reads back and flushes from one task on each of three threads, over an echoing connection.
async fn busy(world: SimWorld) -> u64 {
    let listener = world.listen(&address()).unwrap();
    io::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap().attach().unwrap();
            io::spawn(async move {
                let mut buf = [0; 100];
                while let Ok(n @ 1..) = stream.recv(&mut buf).await {
                    stream.send_all(&buf[..n]).await.unwrap();
                }
            });
        }
    });
    let (sender, mut receiver) = mpsc::unbounded_channel();
    for index in 0..3u8 {
        let (world, sender) = (world.clone(), sender.clone());
        let thread = world.start_thread(&format!("t{index}")).unwrap();
        thread.run(Box::new(move || {
            Box::pin(async move {
                sender.send(work(&world, index).await).unwrap();
            })
        }));
    }
    let mut sum = 0;
    for _ in 0..3 {
        sum += receiver.recv().await.unwrap();
    }
    sum
}

async fn work(world: &SimWorld, index: u8) -> u64 {
    let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
    let stream = world.connect(&address()).await.unwrap().attach().unwrap();
    let mut sum = 0;
    for round in 0..20u8 {
        let lease = Lease::copy_of(&[index * 20 + round; 3000]);
        file.write(u64::from(index) * 3000, lease).await.0.unwrap();
        file.flush().await.unwrap();
        let (result, lease) = file.read(u64::from(index) * 3000, Lease::new(3000)).await;
        result.unwrap();
        assert_eq!(&lease[..], &[index * 20 + round; 3000]);
        stream.send_all(&lease[..200]).await.unwrap();
        let mut back = [0; 200];
        stream.recv_exact(&mut back).await.unwrap();
        sum += back.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        io::sleep(Duration::from_micros(io::random() % 100)).await;
    }
    sum
}

#[test]
fn one_seed_is_one_run() {
    let digest = |seed| {
        let world = SimWorld::new(seed, Options::default());
        let sum = world.run(busy(world.clone()));
        assert_eq!(sum, (0..60).sum::<u64>() * 200);
        (world.digest(), world.now())
    };
    for seed in 0..20 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
        assert_ne!(digest(seed), digest(seed + 1), "seed {seed}");
    }
}

#[test]
fn threads_interleave_as_the_seed_says() {
    let order = |seed| {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let (sender, mut receiver) = mpsc::unbounded_channel();
            for _ in 0..2 {
                let sender = sender.clone();
                let task = async move {
                    for _ in 0..20 {
                        sender.send(io::thread_index()).unwrap();
                        io::yield_now().await;
                    }
                };
                world.start_thread("t").unwrap().run(Box::new(|| Box::pin(task)));
            }
            drop(sender);
            let mut order = Vec::new();
            while let Some(index) = receiver.recv().await {
                order.push(index);
            }
            order
        })
    };
    let orders: Vec<_> = (0..30).map(order).collect();
    for order in &orders {
        assert_eq!(order.iter().filter(|index| **index == 1).count(), 20);
        assert_eq!(order.iter().filter(|index| **index == 2).count(), 20);
    }
    let changes = |order: &Vec<usize>| order.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(orders.iter().any(|order| changes(order) > 10), "{orders:?}");
    assert!(orders.iter().any(|order| changes(order) < 8), "{orders:?}");
}

#[test]
fn time_jumps_to_the_next_timer() {
    let world = SimWorld::new(1, Options::default());
    world.run(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        for seconds in [3600, 5, 60] {
            let order = order.clone();
            io::spawn(async move {
                io::sleep(Duration::from_secs(seconds)).await;
                order.borrow_mut().push(seconds);
            });
        }
        io::sleep(Duration::from_secs(4000)).await;
        assert_eq!(*order.borrow(), [5, 60, 3600]);
        assert_eq!(io::now().0, 4000 * 1_000_000_000);
        assert_eq!(io::timeout_at(io::now(), std::future::pending::<()>()).await, None);
    });
}

#[test]
#[should_panic(expected = "seed 77: deadlock")]
fn a_deadlock_names_the_seed() {
    let world = SimWorld::new(77, Options::default());
    world.run(async {
        let (_sender, receiver) = oneshot::channel::<()>();
        io::spawn(async { io::sleep(Duration::from_secs(9)).await });
        let _ = receiver.await;
    });
}

#[test]
#[should_panic(expected = "seed 78: too many turns")]
fn a_live_lock_names_the_seed() {
    let world = SimWorld::new(78, Options { max_turns: 1000, ..Options::default() });
    world.run(async {
        loop {
            io::yield_now().await;
        }
    });
}

/// Tells that it was dropped, and needs its thread for that.
struct Tell(Arc<AtomicBool>, usize);

impl Drop for Tell {
    fn drop(&mut self) {
        assert_eq!(io::thread_index(), self.1);
        io::spawn(async {});
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_stopped_thread_drops_its_tasks_at_once() {
    let world = SimWorld::new(5, Options::default());
    let told = Arc::new(AtomicBool::new(false));
    world.run(async {
        let thread = world.start_thread("t").unwrap();
        let (tell, (sender, receiver)) = (Tell(told.clone(), 1), oneshot::channel());
        thread.run(Box::new(move || {
            Box::pin(async move {
                let _tell = tell;
                sender.send(()).unwrap();
                std::future::pending().await
            })
        }));
        receiver.await.unwrap();
        thread.stop();
        assert!(told.load(Ordering::Relaxed));
        // Late tasks are dropped unrun; the index is free again.
        thread.run(Box::new(|| unreachable!()));
        world
            .start_thread("u")
            .unwrap()
            .run(Box::new(|| Box::pin(async { assert_eq!(io::thread_index(), 1) })));
        io::sleep(Duration::from_secs(1)).await;
    });
}

#[test]
fn a_thread_may_stop_itself() {
    let world = SimWorld::new(6, Options::default());
    let told = Arc::new(AtomicBool::new(false));
    world.run(async {
        let thread = world.start_thread("t").unwrap();
        let (myself, tell) = (thread.clone(), Tell(told.clone(), 1));
        thread.run(Box::new(move || {
            Box::pin(async move {
                let _tell = tell;
                myself.stop();
                io::yield_now().await;
                unreachable!();
            })
        }));
        io::sleep(Duration::from_secs(1)).await;
        assert!(told.load(Ordering::Relaxed));
    });
}

#[test]
fn dropped_writes_still_land_and_keep_their_lease() {
    for seed in 0..50 {
        let world = SimWorld::new(seed, Options::default());
        let cargo = Arc::new(());
        world.run(async {
            let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
            let mut lease = Lease::copy_of(&[7; 5000]);
            lease.carry(Box::new(cargo.clone()));
            // One poll starts it; then nobody waits any more.
            assert!(io::timeout_at(io::now(), file.write(0, lease)).await.is_none());
            assert_eq!(Arc::strong_count(&cargo), 2);
            io::sleep(Duration::from_millis(1)).await;
            assert_eq!(Arc::strong_count(&cargo), 1);
        });
        assert_eq!(world.disk().bytes("disk").unwrap(), [7; 5000]);
    }
}

#[test]
fn operations_of_a_world_that_ends_let_go_of_everything() {
    let cargo = Arc::new(());
    let world = SimWorld::new(1, Options::default());
    world.run(async {
        let file = world.open(Path::new("disk"), OpenOptions::CREATE).await.unwrap();
        let mut lease = Lease::new(512);
        lease.carry(Box::new(cargo.clone()));
        io::spawn(async move { drop(file.write(0, lease).await) });
        io::yield_now().await;
    });
    drop(world);
    assert_eq!(Arc::strong_count(&cargo), 1);
}
