//! Writes that allocate: who waits for whom, what is read and written for them, and where it lies. Counted, not timed.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lab::{Lab, Tree, qcow2 as images, same, start};
use block::{ByteRange, Place, Result};
use flow::{Body, Op, Request, View, seam};
use futures_util::future::join_all;
use io::{Lease, World};
use qcow2::NewImage;
use serde_json::json;
use sim::{OpKind, Options, SimWorld, Verdict};

const K: u64 = 1 << 10;
const CLUSTER: u64 = 64 * K;
/// What lies below everything.
const OLD: u8 = 0xee;

type Write = Pin<Box<dyn Future<Output = Result<()>>>>;

/// An image in the file `disk`, and what reaches the files.
struct Bench {
    tree: Tree,
    view: Arc<View>,
    seen: Seen,
}

/// Operations on files, in the order in which they began.
type Seen = Arc<Mutex<Vec<sim::Op>>>;

impl Bench {
    async fn new(world: &SimWorld, image: &NewImage) -> Self {
        let lab = Lab::new(world);
        let base = match image.backing {
            Some(_) => {
                world.disk().put("base", &vec![OLD; image.size as usize]);
                Some(lab.file("base").await.0)
            }
            None => None,
        };
        Self::of(world, lab.qcow2("disk", image, json!({}), base.as_ref()).await)
    }

    fn of(world: &SimWorld, tree: Tree) -> Self {
        let bench = Self { view: tree.view(), tree, seen: Seen::default() };
        bench.hold(world, |_| false);
        bench
    }

    /// From now on these operations are held; those that are stay so.
    fn hold(&self, world: &SimWorld, is_held: impl Fn(&sim::Op) -> bool + Send + 'static) {
        let seen = self.seen.clone();
        world.disk().set_policy(move |op| {
            seen.lock().unwrap().push(op.clone());
            if is_held(op) { Verdict::Hold } else { Verdict::Go }
        });
    }

    /// What has reached `file` since this was last asked.
    fn take(&self, file: &str) -> Vec<(OpKind, ByteRange)> {
        let mut seen = self.seen.lock().unwrap();
        let (found, rest) = seen.drain(..).partition(|op| op.path.as_os_str() == file);
        *seen = rest;
        found.into_iter().map(|op: sim::Op| (op.kind, op.range)).collect()
    }

    async fn write(&self, at: u64, len: u64, byte: u8) {
        seam::write(&self.view, at, &vec![byte; len as usize]).await.unwrap();
    }

    /// A write that has gone as far as it can.
    async fn begin(&self, at: u64, len: u64, byte: u8) -> Write {
        let view = self.view.clone();
        let mut write: Write =
            Box::pin(async move { seam::write(&view, at, &vec![byte; len as usize]).await });
        self.stuck(&mut write).await;
        write
    }

    /// It waits for something that does not come by itself.
    async fn stuck(&self, write: &mut Write) {
        for _ in 0..20 {
            assert!(start(write).await.is_pending(), "it waits for nobody");
            io::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn flush(&self) {
        seam::execute(&self.view, Request::flush(), Lease::empty()).await.0.unwrap();
    }

    async fn reads(&self, at: u64, len: u64, byte: u8) {
        let read = seam::read(&self.view, ByteRange::new(at, len)).await.unwrap();
        same(&read, &vec![byte; len as usize]);
    }

    /// Where these guest bytes lie in the file, in their order.
    fn places(&self, mut range: ByteRange) -> Vec<ByteRange> {
        let Body::Maps(format) = self.tree.node().body() else { panic!() };
        let mut places = Vec::new();
        while !range.is_empty() {
            let mapping = format.map_now(range).unwrap().expect("its table is here");
            let Place::Data { offset, .. } = mapping.place else { panic!("{range} is not data") };
            places.push(ByteRange::new(offset, mapping.len));
            range = range.skip(mapping.len);
        }
        places
    }
}

/// How many runs of the file these places are, one behind the other.
fn runs(places: &[ByteRange]) -> usize {
    1 + places.windows(2).filter(|pair| pair[0].end() != pair[1].start()).count()
}

fn calm() -> SimWorld {
    SimWorld::new(1, Options::calm())
}

fn let_go(world: &SimWorld) {
    world.disk().clear_policy();
    world.disk().release_all();
}

fn is_write(op: &sim::Op) -> bool {
    op.is(OpKind::Write, "disk")
}

/// The ranges of what was written; nothing but writes was done.
fn written(ops: Vec<(OpKind, ByteRange)>) -> Vec<ByteRange> {
    let only = |(kind, range)| if kind == OpKind::Write { range } else { panic!("{kind:?} of {range}") };
    ops.into_iter().map(only).collect()
}

fn bytes_of(ranges: &[ByteRange]) -> u64 {
    ranges.iter().map(|range| range.len()).sum()
}

#[test]
fn a_writer_whose_data_is_on_its_way_holds_up_nobody() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(64 << 20, 16)).await;
        bench.write(20 * CLUSTER, 4 * K, 1).await;
        bench.hold(&world, is_write);
        let mut held = bench.begin(0, 4 * K, 9).await;
        assert_eq!(world.disk().held().len(), 1);
        bench.hold(&world, |_| false);
        // Its neighbours in the same table, from several threads.
        let threads: Vec<_> = (0..4).map(|i| world.start_thread(&format!("t{i}")).unwrap()).collect();
        let mut answers = Vec::new();
        for i in 1..20 {
            let (sender, answer) = io::sync::oneshot::channel();
            let view = bench.view.clone();
            threads[i as usize % 4].run(Box::new(move || {
                Box::pin(async move {
                    let written = seam::write(&view, i * CLUSTER, &[i as u8; 4096]).await;
                    sender.send(written).unwrap();
                })
            }));
            answers.push(answer);
        }
        for answer in answers {
            answer.await.unwrap().unwrap();
        }
        bench.flush().await;
        bench.stuck(&mut held).await;
        let durable = images::check(&world.disk().durable_bytes("disk").unwrap()).unwrap();
        assert_eq!(durable, images::Report { data: 20, leaks: 1 }, "all but the one, whose room is taken");
        let_go(&world);
        held.await.unwrap();
        bench.reads(0, 4 * K, 9).await;
        for i in 1..20 {
            bench.reads(i * CLUSTER, 4 * K, i as u8).await;
        }
    });
}

#[test]
fn a_table_on_its_way_holds_up_its_own_writers_only() {
    // Tables of 4 KiB that map 2 MiB.
    let (world, second) = (calm(), 2 << 20);
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(8 << 20, 12)).await;
        bench.write(0, 100, 1).await;
        // One is made.
        bench.hold(&world, is_write);
        let mut held = bench.begin(second, 100, 2).await;
        bench.hold(&world, |_| false);
        for i in 1..20 {
            bench.write(i * 4 * K, 100, 3).await;
        }
        bench.stuck(&mut held).await;
        let_go(&world);
        held.await.unwrap();
        bench.flush().await;
    });
    let world = SimWorld::with_disk(1, Options::calm(), world.disk());
    world.run(async {
        let bench = Bench::of(&world, Lab::new(&world).open_qcow2("disk", json!({}), None).await);
        bench.write(0, 100, 1).await;
        // One is read.
        bench.hold(&world, |op| op.is(OpKind::Read, "disk"));
        let mut held = bench.begin(second, 100, 2).await;
        bench.hold(&world, |_| false);
        for i in 20..40 {
            bench.write(i * 4 * K, 100, 3).await;
        }
        bench.stuck(&mut held).await;
        let_go(&world);
        held.await.unwrap();
        bench.reads(second, 100, 2).await;
    });
}

#[test]
fn writers_go_on_while_a_flush_is_under_way() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(256 << 20, 16)).await;
        bench.write(0, CLUSTER, 1).await;
        bench.hold(&world, |op| op.is(OpKind::Flush, "disk"));
        let view = bench.view.clone();
        let mut flush: Write =
            Box::pin(async move { seam::execute(&view, Request::flush(), Lease::empty()).await.0 });
        bench.stuck(&mut flush).await;
        for at in 1..100 {
            bench.write(at << 20, 1 << 20, 2).await;
        }
        bench.stuck(&mut flush).await;
        let_go(&world);
        flush.await.unwrap();
        bench.reads(99 << 20, 1 << 20, 2).await;
    });
}

#[test]
fn new_bytes_in_a_new_cluster_are_all_that_is_written() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(64 << 20, 16)).await;
        bench.write(20 * CLUSTER, 4 * K, 1).await;
        bench.take("disk");
        for (cluster, (at, len)) in
            [(0, 4 * K), (8 * K, 4 * K), (100, 1000), (0, CLUSTER)].into_iter().enumerate()
        {
            let at = cluster as u64 * CLUSTER + at;
            bench.write(at, len, 2).await;
            let ranges = written(bench.take("disk"));
            assert_eq!((ranges.len(), bytes_of(&ranges)), (1, len), "at {at}");
        }
    });
}

#[test]
fn a_cluster_that_is_used_again_is_written_once_all_over() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(64 << 20, 16)).await;
        bench.write(0, 8 * CLUSTER, 1).await;
        let dropped = Request::new(Op::Discard, ByteRange::new(0, 4 * CLUSTER));
        seam::execute(&bench.view, dropped, Lease::empty()).await.0.unwrap();
        bench.flush().await;
        bench.flush().await;
        bench.take("disk");
        bench.write(8 * K, 4 * K, 2).await;
        let mut ranges = written(bench.take("disk"));
        ranges.sort_by_key(|range| range.start());
        assert_eq!(bytes_of(&ranges), CLUSTER, "{ranges:?}");
        assert!(ranges.windows(2).all(|pair| pair[0].end() == pair[1].start()), "{ranges:?}");
        bench.reads(0, 8 * K, 0).await;
        bench.reads(8 * K, 4 * K, 2).await;
        bench.reads(12 * K, 4 * CLUSTER - 12 * K, 0).await;
    });
}

#[test]
fn only_what_is_missing_is_read_from_below() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(64 << 20, 16).over("base", "raw")).await;
        bench.write(20 * CLUSTER, CLUSTER, 1).await;
        bench.take("disk");
        assert_eq!(bench.take("base"), [], "a whole cluster needs nothing from below");
        bench.write(CLUSTER + 8 * K, 4 * K, 2).await;
        let mut read: Vec<_> = bench.take("base").into_iter().map(|(_, range)| range).collect();
        read.sort_by_key(|range| range.start());
        let (head, tail) =
            (ByteRange::new(CLUSTER, 8 * K), ByteRange::between(CLUSTER + 12 * K, 2 * CLUSTER));
        assert_eq!(read, [head, tail]);
        let ranges = written(bench.take("disk"));
        assert_eq!((ranges.len(), bytes_of(&ranges)), (3, CLUSTER), "{ranges:?}");
        // Behind a write that ends with its cluster there is nothing to be copied.
        bench.write(4 * CLUSTER - 4 * K, 4 * K, 3).await;
        assert_eq!(bench.take("base"), [(OpKind::Read, ByteRange::new(3 * CLUSTER, CLUSTER - 4 * K))]);
        bench.reads(CLUSTER, 8 * K, OLD).await;
        bench.reads(CLUSTER + 12 * K, CLUSTER - 12 * K, OLD).await;
    });
}

#[test]
fn what_is_missing_is_copied_all_at_once() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(64 << 20, 16).over("base", "raw")).await;
        bench.write(20 * CLUSTER, CLUSTER, 1).await;
        bench.hold(&world, |op| op.is(OpKind::Read, "base"));
        let write = bench.begin(8 * K, 4 * K, 2).await;
        assert_eq!(world.disk().held().len(), 2, "what lies before and what lies behind");
        let_go(&world);
        write.await.unwrap();
        bench.reads(0, 8 * K, OLD).await;
        bench.reads(12 * K, CLUSTER - 12 * K, OLD).await;
    });
}

#[test]
fn neighbours_share_a_new_cluster_and_what_is_copied_for_it() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(64 << 20, 16).over("base", "raw")).await;
        bench.write(20 * CLUSTER, CLUSTER, 1).await;
        bench.take("disk");
        bench.hold(&world, is_write);
        let mut writes = Vec::new();
        for i in 0..4 {
            writes.push(bench.begin((16 + 4 * i) * K, 4 * K, 2).await);
        }
        assert!(bench.take("base").is_empty(), "nothing is copied before they have written");
        bench.hold(&world, |_| false);
        world.disk().release_all();
        join_all(writes).await.into_iter().for_each(|written| written.unwrap());
        let copied: Vec<_> = bench.take("base").into_iter().map(|(_, range)| range).collect();
        assert_eq!((copied.len(), bytes_of(&copied)), (2, CLUSTER - 16 * K), "{copied:?}");
        let ranges = written(bench.take("disk"));
        assert_eq!((ranges.len(), bytes_of(&ranges)), (4 + 2, CLUSTER), "{ranges:?}");
        bench.flush().await;
        let report = images::check(&world.disk().bytes("disk").unwrap()).unwrap();
        assert_eq!(report, images::Report { data: 2, leaks: 0 });
        bench.reads(0, 16 * K, OLD).await;
        bench.reads(16 * K, 16 * K, 2).await;
        bench.reads(32 * K, 32 * K, OLD).await;
    });
}

#[test]
fn a_sequence_is_contiguous_in_the_file() {
    let world = calm();
    world.run(async {
        let bench = Bench::new(&world, &NewImage::new(64 << 20, 16)).await;
        // As a client with 16 requests on their way.
        for piece in 0..16 {
            let write = |at: u64| bench.write(at * CLUSTER, CLUSTER, 1);
            join_all((piece * 16..piece * 16 + 16).map(write)).await;
        }
        assert_eq!(runs(&bench.places(ByteRange::new(0, 256 * CLUSTER))), 1);
        // In pieces that fill no cluster.
        for at in 0..64 {
            bench.write(256 * CLUSTER + at * 24 * K, 24 * K, 2).await;
        }
        assert_eq!(runs(&bench.places(ByteRange::new(256 * CLUSTER, 64 * 24 * K))), 1);
    });
}

/// Clusters are given out in the order in which they are asked for: several sequences share one run of the file.
#[test]
fn sequences_beside_one_another_leave_no_holes() {
    for seed in 0..10 {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let bench = Bench::new(&world, &NewImage::new(64 << 20, 16)).await;
            bench.write(0, CLUSTER, 1).await;
            let (bench, starts) = (&bench, [1, 300, 600, 900]);
            let sequence = |start: u64| async move {
                for at in start..start + 40 {
                    bench.write(at * CLUSTER, CLUSTER, 1).await;
                }
            };
            join_all(starts.map(sequence)).await;
            let part = |start: u64| bench.places(ByteRange::new(start * CLUSTER, 40 * CLUSTER));
            let mut places: Vec<_> = starts.into_iter().flat_map(part).collect();
            places.sort_by_key(|range| range.start());
            assert_eq!(runs(&places), 1, "seed {seed}: {places:?}");
        });
    }
}
