//! Filters come and go below roots that several threads use: once drained, a filter sees every request, and a removed
//! one none.

mod bodies;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use block::{ByteRange, ChildIndex, Result};
use bodies::World;
use flow::{Body, Execute, Limits, Next, Now, Op, Request, Role, Root, Window, seam};
use futures_util::FutureExt;
use graph::{Drained, Edit, Place};
use io::{Lease, LocalFut};

const READERS: usize = 2;

/// Counts requests, and those that come when none may.
#[derive(Default)]
struct Counter {
    seen: AtomicU64,
    removed: AtomicBool,
    late: AtomicU64,
}

impl Counter {
    fn count(&self) {
        self.seen.fetch_add(1, Ordering::SeqCst);
        if self.removed.load(Ordering::SeqCst) {
            self.late.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Execute for Counter {
    fn size(&self) -> Option<u64> {
        None
    }

    fn limits(&self) -> Limits {
        Limits::NONE
    }

    fn try_now(&self, rq: &mut Request, window: Window<'_>, next: Next<'_>) -> Result<Now> {
        if rq.act(next.slot()) {
            self.count();
        }
        next.try_now(ChildIndex(0), rq, window)
    }

    fn execute<'a>(
        &'a self,
        mut rq: Request,
        lease: Lease,
        next: Next<'a>,
    ) -> LocalFut<'a, (Result<()>, Lease)> {
        if rq.act(next.slot()) {
            self.count();
        }
        next.execute(ChildIndex(0), rq, lease)
    }
}

/// Reads until it is told to stop; `begun` counts the rounds, each before it begins.
fn reader(root: Arc<Root>, stop: Arc<AtomicBool>, begun: Arc<AtomicU64>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            begun.fetch_add(1, Ordering::SeqCst);
            let mut byte = [0];
            let range = ByteRange::new(0, 1);
            let turn = root.turn();
            let answer = seam::try_now(&turn, &mut Request::new(Op::Read, range), Window::In(&mut byte));
            assert_eq!((answer.expect("read"), byte[0]), (Now::Done, b'a'));
            drop(turn);
            let lease = seam::read(&root.view(), range).now_or_never().expect("at once").expect("read");
            assert_eq!(lease[0], b'a');
            // So that the test makes progress where there are fewer processors than threads.
            std::thread::yield_now();
        }
    })
}

fn wait(mut drained: Drained) {
    while (&mut drained).now_or_never().is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_filter_sees_every_request_or_none() {
    let mut world = World::new();
    world.disk("a");
    let stop = Arc::new(AtomicBool::new(false));
    let begun: Vec<Arc<AtomicU64>> = (0..READERS).map(|_| Arc::default()).collect();
    let roots: Vec<_> = (0..READERS).map(|_| world.export("a")).collect();
    let of = |root| world.graph.root(root).expect("attached");
    let readers: Vec<_> = roots
        .iter()
        .zip(&begun)
        .map(|(root, begun)| reader(of(*root), stop.clone(), begun.clone()))
        .collect();
    for _ in 0..1000 {
        let counter = Arc::new(Counter::default());
        let node = world.new_node("f", Body::Executes(counter.clone())).child(Role::Filtered, world.id("a"));
        let insert = Edit::InsertFilter { filter: node.node.id(), at: Place::Above };
        wait(world.edit(&[Edit::AddNode(node), insert]));
        // Each reader begins two rounds from here: the first has gone through the filter when the second begins. What
        // was seen is asked for first: a round in between would count as one of before.
        let seen = counter.seen.load(Ordering::SeqCst);
        let before = counts(&begun);
        while counts(&begun).iter().zip(&before).any(|(now, before)| *now < before + 2) {
            std::thread::yield_now();
        }
        assert!(counter.seen.load(Ordering::SeqCst) > seen, "requests went past the filter");
        wait(world.edit(&[Edit::RemoveFilter(world.id("f")), Edit::DeleteNode(world.id("f"))]));
        counter.removed.store(true, Ordering::SeqCst);
        wait(world.graph.drain_node(world.id("a")).expect("there"));
        assert_eq!(counter.late.load(Ordering::SeqCst), 0, "a removed filter saw a request");
    }
    stop.store(true, Ordering::SeqCst);
    readers.into_iter().for_each(|reader| reader.join().expect("no reader failed"));
}

fn counts(begun: &[Arc<AtomicU64>]) -> Vec<u64> {
    begun.iter().map(|count| count.load(Ordering::SeqCst)).collect()
}
