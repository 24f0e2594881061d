//! Writers who share a new cluster, and what becomes of clusters whose writers fail or are dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;
use std::time::Duration;

use crate::lab::file::Counts;
use crate::lab::{Lab, Tree, same, start};
use block::{ByteRange, Errno, ErrorKind, Result};
use flow::{CheckReport, Flags, Op, Request, Role, View, seam};
use futures_util::future::{join, join_all};
use io::sync::oneshot;
use io::{Lease, World};
use serde_json::json;
use sim::{OpKind, Options, SimWorld, Verdict};

const K: u64 = 1 << 10;
const CLUSTER: u64 = 64 * K;
const SIZE: u64 = 16 * CLUSTER;
/// What lies below everything.
const OLD: u8 = 0xee;

/// `memory-format` on the file `disk`, over a file full of [`OLD`].
struct Bench {
    tree: Tree,
    view: Arc<View>,
    disk: Arc<Counts>,
    base: Arc<Counts>,
}

impl Bench {
    async fn new(world: &SimWorld) -> Self {
        Self::with(world, false).await
    }

    async fn with(world: &SimWorld, direct: bool) -> Self {
        Self::missing(world, direct, 0.0).await
    }

    /// `probability` of a look-up to wait for its table.
    async fn missing(world: &SimWorld, direct: bool, probability: f64) -> Self {
        let lab = Lab::new(world);
        world.disk().put("base", &[OLD; SIZE as usize]);
        let (base, base_counts) = lab.file("base").await;
        let (file, disk) = lab.file_with("disk", direct).await;
        let children = [(Role::File, &file), (Role::Backing, &base)];
        let misses = json!({"probability": probability, "seed": world.seed()});
        let options = json!({"size": SIZE, "table-misses": misses});
        let tree = lab.open("memory-format", options, &children).await;
        Self { view: tree.view(), tree, disk, base: base_counts }
    }

    /// A write that has begun: all that needs no wait is done.
    async fn begin(&self, start_at: u64, len: u64, byte: u8) -> Pin<Box<dyn Future<Output = Result<()>>>> {
        let view = self.view.clone();
        let mut write: Pin<Box<dyn Future<Output = _>>> =
            Box::pin(async move { seam::write(&view, start_at, &vec![byte; len as usize]).await });
        assert!(start(&mut write).await.is_pending(), "the disk answers nothing at once");
        write
    }

    async fn read(&self, start: u64, len: u64) -> Vec<u8> {
        seam::read(&self.view, ByteRange::new(start, len)).await.unwrap().to_vec()
    }

    async fn check(&self) -> CheckReport {
        self.tree
            .node()
            .powers()
            .check
            .unwrap()
            .check(flow::Repair::Nothing, &mut |_| (), self.view.next())
            .await
            .unwrap()
    }
}

fn sound(allocated: u64) -> CheckReport {
    CheckReport { allocated, ..CheckReport::default() }
}

/// A calm world whose writes to `disk` are held.
fn holding() -> SimWorld {
    let world = SimWorld::new(1, Options::calm());
    hold(&world);
    world
}

fn hold(world: &SimWorld) {
    world.disk().set_policy(|op| match op.is(OpKind::Write, "disk") {
        true => Verdict::Hold,
        false => Verdict::Go,
    });
}

fn let_go(world: &SimWorld) {
    world.disk().clear_policy();
    world.disk().release_all();
}

#[test]
fn neighbours_who_fill_a_cluster_copy_nothing() {
    for seed in 0..40 {
        // Half of them with tables to wait for: who comes while the first one prepares still joins it.
        let probability = if seed < 20 { 0.0 } else { 0.5 };
        let world = SimWorld::new(seed, Options { disk: sim::DiskOptions::calm(), ..Options::default() });
        world.run(async {
            let bench = Bench::missing(&world, false, probability).await;
            let threads: Vec<_> = (0..4).map(|i| world.start_thread(&format!("t{i}")).unwrap()).collect();
            let mut answers = Vec::new();
            for i in 0..16u64 {
                let (sender, answer) = oneshot::channel();
                let view = bench.view.clone();
                threads[i as usize % 4].run(Box::new(move || {
                    Box::pin(async move {
                        let written = seam::write(&view, CLUSTER + i * 4 * K, &[i as u8; 4096]).await;
                        sender.send(written).unwrap();
                    })
                }));
                answers.push(answer);
            }
            for answer in answers {
                answer.await.unwrap().unwrap();
            }
            assert_eq!(bench.base.reads.load(SeqCst), 0, "seed {seed}: nothing is copied from below");
            let written = (bench.disk.writes.load(SeqCst), bench.disk.written_bytes.load(SeqCst));
            assert_eq!(written, (16, CLUSTER), "seed {seed}: each writes its own bytes");
            let expected: Vec<u8> = (0..16).flat_map(|i| [i; 4096]).collect();
            same(&bench.read(CLUSTER, CLUSTER).await, &expected);
            assert_eq!(bench.check().await, sound(1));
        });
    }
}

#[test]
fn only_what_nobody_wrote_is_copied() {
    let world = holding();
    world.run(async {
        let bench = Bench::new(&world).await;
        let first = bench.begin(CLUSTER + 100, 1000, 1).await;
        let second = bench.begin(CLUSTER + 1100, 20 * K, 2).await;
        // One that goes on into a cluster of its own, and one that must not be answered before the others.
        let third = bench.begin(CLUSTER + 60 * K, 8 * K, 3).await;
        let_go(&world);
        for written in join_all([second, third, first]).await {
            written.unwrap();
        }
        let mut model = vec![OLD; 2 << 16];
        model[100..1100].fill(1);
        model[1100..1100 + (20 << 10)].fill(2);
        model[60 << 10..68 << 10].fill(3);
        same(&bench.read(CLUSTER, 2 * CLUSTER).await, &model);
        let copied = bench.base.read_bytes.load(SeqCst);
        assert_eq!(copied, 2 * CLUSTER - 1000 - 20 * K - 8 * K);
    });
}

#[test]
fn joiners_finish_when_their_leader_fails() {
    let world = holding();
    world.run(async {
        let bench = Bench::new(&world).await;
        let leader = bench.begin(0, 4 * K, 1).await;
        let joiner = bench.begin(8 * K, 4 * K, 2).await;
        let (leaders, _) = world.disk().held()[0].clone();
        world.disk().fail(leaders, Errno::IO);
        assert_eq!(leader.await.unwrap_err().kind(), ErrorKind::Io);
        let_go(&world);
        joiner.await.unwrap();
        let mut model = vec![OLD; 1 << 16];
        model[8 << 10..12 << 10].fill(2);
        same(&bench.read(0, CLUSTER).await, &model);
        assert_eq!(bench.check().await.leaks, 0);
    });
}

#[test]
fn joiners_finish_when_their_leader_is_dropped() {
    let world = holding();
    world.run(async {
        let bench = Bench::new(&world).await;
        let leader = bench.begin(0, 4 * K, 1).await;
        let joiner = bench.begin(8 * K, 4 * K, 2).await;
        drop(leader);
        let (leaders, _) = world.disk().held()[0].clone();
        world.disk().clear_policy();
        for (id, _) in world.disk().held().into_iter().filter(|(id, _)| *id != leaders) {
            world.disk().release(id);
        }
        joiner.await.unwrap();
        let mut model = vec![OLD; 1 << 16];
        model[8 << 10..12 << 10].fill(2);
        same(&bench.read(0, CLUSTER).await, &model);
        assert_eq!(
            bench.check().await,
            sound(2),
            "the leader's cluster is taken while its write is on its way"
        );
        world.disk().release(leaders);
        io::sleep(Duration::from_millis(1)).await;
        assert_eq!(bench.check().await, sound(1));
        same(&bench.read(0, CLUSTER).await, &model);
    });
}

#[test]
fn a_dropped_joiner_lands_before_the_commit_or_never() {
    let world = holding();
    world.run(async {
        let bench = Bench::new(&world).await;
        let mut leader = bench.begin(0, 4 * K, 1).await;
        drop(bench.begin(8 * K, 4 * K, 2).await);
        let held = world.disk().held();
        world.disk().clear_policy();
        world.disk().release(held[0].0);
        let early = advance(&mut leader).await;
        assert!(early.is_pending(), "mapped while a write to it is on its way");
        world.disk().release(held[1].0);
        leader.await.unwrap();
        let mut model = vec![OLD; 1 << 16];
        model[..4 << 10].fill(1);
        let left = bench.read(0, CLUSTER).await;
        assert!(left[8 << 10..12 << 10].iter().all(|b| *b == 2 || *b == OLD));
        model[8 << 10..12 << 10].copy_from_slice(&left[8 << 10..12 << 10]);
        same(&left, &model);
    });
}

/// Polls `write` until its bytes are on their way.
async fn until_held<T>(world: &SimWorld, write: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) {
    while world.disk().held().is_empty() {
        assert!(start(write).await.is_pending());
        io::sleep(Duration::from_micros(5)).await;
    }
}

/// Polls `write` for as long as the disk does something for it.
async fn advance<T>(write: &mut Pin<Box<impl Future<Output = T> + ?Sized>>) -> Poll<T> {
    for _ in 0..10 {
        if let Poll::Ready(done) = start(write).await {
            return Poll::Ready(done);
        }
        io::sleep(Duration::from_millis(1)).await;
    }
    Poll::Pending
}

/// Drops a write that is held, writes all other clusters, lets it land, and looks for its bytes.
async fn abandoned_writes_keep_their_room(world: &SimWorld, bench: &Bench, abandoned: ByteRange) {
    hold(world);
    let mut write = bench.begin(abandoned.start(), abandoned.len(), 0xbb).await;
    until_held(world, &mut write).await;
    drop(write);
    world.disk().clear_policy();
    for cluster in 4..8 {
        seam::write(&bench.view, cluster * CLUSTER, &[cluster as u8; CLUSTER as usize]).await.unwrap();
    }
    world.disk().release_all();
    io::sleep(Duration::from_millis(1)).await;
    for cluster in 4..8 {
        same(&bench.read(cluster * CLUSTER, CLUSTER).await, &[cluster as u8; CLUSTER as usize]);
    }
    assert_eq!(bench.check().await, sound(4), "in the end the room is back");
}

#[test]
fn rooms_come_back_when_abandoned_writes_have_landed() {
    let world = holding();
    world.run(async {
        let bench = Bench::new(&world).await;
        abandoned_writes_keep_their_room(&world, &bench, ByteRange::new(CLUSTER + 7, 10 * K)).await;
    });
}

#[test]
fn copies_made_for_alignment_keep_the_room_too() {
    let world = holding();
    world.run(async {
        let bench = Bench::with(&world, true).await;
        abandoned_writes_keep_their_room(&world, &bench, ByteRange::new(CLUSTER, 10 * K + 1)).await;
    });
}

#[test]
fn parts_split_off_by_a_format_below_keep_the_room_too() {
    let world = holding();
    world.run(async {
        let lab = Lab::new(&world);
        let inner = json!({"size": 2 * SIZE, "cluster-size": 4096});
        let inner = lab.memory_format("disk", inner, None).await;
        let tree = lab.open("memory-format", json!({"size": SIZE}), &[(Role::File, &inner)]).await;
        let view = tree.view();
        // Clusters that the inner format has in pieces, so that writes to them are split.
        world.disk().clear_policy();
        for at in (0..32).rev() {
            seam::write(&inner.view(), at * 4 * K, &[9; 4096]).await.unwrap();
        }
        let bench = Bench { tree, view, disk: Arc::default(), base: Arc::default() };
        abandoned_writes_keep_their_room(&world, &bench, ByteRange::new(CLUSTER, CLUSTER)).await;
    });
}

#[test]
fn a_store_of_what_nobody_wrote_never_overwrites_a_guest() {
    let world = holding();
    world.run(async {
        let bench = Bench::new(&world).await;
        let rq = Request::new(Op::Write, ByteRange::new(0, CLUSTER)).with_flags(Flags::UNCHANGED);
        let view = bench.view.clone();
        let mut store =
            Box::pin(async move { seam::execute(&view, rq, Lease::copy_of(&[OLD; 1 << 16])).await.0 });
        assert!(start(&mut store).await.is_pending());
        let view = bench.view.clone();
        let mut guest = Box::pin(async move { seam::write(&view, 4 * K, &[1; 4096]).await });
        assert!(start(&mut guest).await.is_pending());
        let held = world.disk().held();
        // Whatever of the guest's is on its way lands first.
        for (id, _) in held.iter().skip(1) {
            world.disk().release(*id);
        }
        io::sleep(Duration::from_millis(1)).await;
        let_go(&world);
        let (stored, written) = join(store, guest).await;
        stored.unwrap();
        written.unwrap();
        let mut model = vec![OLD; 1 << 16];
        model[4 << 10..8 << 10].fill(1);
        same(&bench.read(0, CLUSTER).await, &model);
    });
}

#[test]
fn an_abandoned_read_modify_write_keeps_its_neighbours_locked() {
    let world = holding();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("disk", &[OLD; 512]);
        let (file, _) = lab.file_with("disk", true).await;
        let view = file.view();
        let mut first = Box::pin(seam::write(&view, 0, &[1; 100]));
        until_held(&world, &mut first).await;
        drop(first);
        world.disk().clear_policy();
        let mut second = Box::pin(seam::write(&view, 100, &[2; 100]));
        let early = advance(&mut second).await;
        world.disk().release_all();
        io::sleep(Duration::from_millis(1)).await;
        match early {
            Poll::Ready(written) => written.unwrap(),
            Poll::Pending => second.await.unwrap(),
        }
        let bytes = seam::read(&view, ByteRange::new(0, 512)).await.unwrap();
        same(&bytes[100..200], &[2; 100]);
        same(&bytes[200..], &[OLD; 312]);
    });
}
