//! Internal snapshots of qcow2 images: made, gone back to and deleted between writes, against a plain model.
//!
//! `MILLPOND_TEST_FULL=1` runs more seeds.

use crate::lab::reader;
use crate::lab::{Lab, oracle, qcow2 as images, same};
use block::{ByteRange, ErrorKind, NewSnapshot};
use flow::{Flags, Op, Request, SnapshotInfo, View, seam};
use io::Lease;
use qcow2::NewImage;
use serde_json::{Value, json};
use sim::{OpKind, Options, Rng, SimWorld, Verdict};

const SIZE: u64 = 300_032;

fn named(name: &str) -> NewSnapshot {
    NewSnapshot { name: name.to_owned(), date_s: 1_700_000_000, ..NewSnapshot::default() }
}

async fn create(view: &View, name: &str) -> block::Result<()> {
    view.root().powers().snapshots.unwrap().create(named(name), view.next()).await
}

async fn apply(view: &View, wanted: &str) -> block::Result<()> {
    view.root().powers().snapshots.unwrap().apply(wanted, view.next()).await
}

async fn delete(view: &View, id: &str) -> block::Result<()> {
    view.root().powers().snapshots.unwrap().delete(id, view.next()).await
}

async fn list(view: &View) -> Vec<SnapshotInfo> {
    view.root().powers().snapshots.unwrap().list(view.next()).await.unwrap()
}

async fn flush(view: &View) {
    seam::execute(view, Request::flush(), Lease::empty()).await.0.unwrap();
}

/// The present state, and the snapshots by id.
struct Model {
    now: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
}

impl Model {
    async fn step(&mut self, view: &View, rng: &mut Rng) {
        let ids: Vec<_> = self.snapshots.iter().map(|(id, _)| id.clone()).collect();
        match rng.below(12) {
            0 | 1 if ids.len() < 3 => {
                create(view, "x").await.unwrap();
                self.snapshots.push((list(view).await.last().unwrap().id.clone(), self.now.clone()));
            }
            2 if !ids.is_empty() => {
                let at = rng.index(ids.len());
                apply(view, &ids[at]).await.unwrap();
                self.now = self.snapshots[at].1.clone();
            }
            3 if !ids.is_empty() => {
                let at = rng.index(ids.len());
                delete(view, &ids[at]).await.unwrap();
                self.snapshots.remove(at);
            }
            4 => flush(view).await,
            5 => self.change(view, Op::WriteZeroes, rng).await,
            6 => self.change(view, Op::Discard, rng).await,
            _ => self.write(view, rng).await,
        }
        let found = seam::read(view, ByteRange::new(0, SIZE)).await.unwrap();
        same(&found, &self.now);
    }

    async fn write(&mut self, view: &View, rng: &mut Rng) {
        let range = range(rng);
        let bytes: Vec<u8> = (0..range.len()).map(|_| rng.below(250) as u8 + 1).collect();
        seam::write(view, range.start(), &bytes).await.unwrap();
        self.now[range.start() as usize..range.end() as usize].copy_from_slice(&bytes);
    }

    /// What is dropped reads as zeros, or stays (in version 2 over a backing image): the image says which.
    async fn change(&mut self, view: &View, op: Op, rng: &mut Rng) {
        let range = range(rng);
        let rq = Request::new(op, range).with_flags(Flags::MAY_UNMAP);
        seam::execute(view, rq, Lease::empty()).await.0.unwrap();
        let found = seam::read(view, range).await.unwrap();
        let now = &mut self.now[range.start() as usize..range.end() as usize];
        for (byte, found) in now.iter_mut().zip(&found[..]) {
            assert!(*found == 0 || op == Op::Discard && found == byte);
            *byte = *found;
        }
    }
}

fn range(rng: &mut Rng) -> ByteRange {
    let start = rng.below(SIZE);
    let longest = if rng.chance(0.2) { SIZE } else { 9000 };
    ByteRange::between(start, (start + 1 + rng.below(longest)).min(SIZE))
}

fn seeds() -> std::ops::Range<u64> {
    0..if std::env::var_os("MILLPOND_TEST_FULL").is_some() { 100 } else { 6 }
}

fn run(what: &str, file: &[u8], base: &[u8], options: &Value) {
    let leaks = images::check(file).unwrap().leaks;
    for seed in seeds() {
        let world = SimWorld::new(seed, Options::calm());
        world.disk().put("disk", file);
        world.disk().put("base", base);
        let model = world.run(async {
            let lab = Lab::new(&world);
            let (below, _) = lab.file("base").await;
            let below = (!base.is_empty()).then_some(&below);
            let view = lab.open_qcow2("disk", options.clone(), below).await.view();
            let now = seam::read(&view, ByteRange::new(0, SIZE)).await.unwrap().to_vec();
            let (mut model, mut rng) = (Model { now, snapshots: Vec::new() }, Rng::new(seed));
            for step in 0..60 {
                model.step(&view, &mut rng).await;
                if step % 10 == 0 {
                    flush(&view).await;
                    let report = images::check(&world.disk().bytes("disk").unwrap());
                    report.unwrap_or_else(|wrong| panic!("{what}, seed {seed}, step {step}: {wrong}"));
                }
            }
            // What was dropped last is free after the second.
            flush(&view).await;
            flush(&view).await;
            flush(&view).await;
            model
        });
        let report = images::check(&world.disk().bytes("disk").unwrap());
        let report = report.unwrap_or_else(|wrong| panic!("{what}, seed {seed}: {wrong}"));
        assert_eq!(report.leaks, leaks, "{what}, seed {seed}");
        same(&reader::read(&world.disk()).unwrap(), &model.now);
        let found = reader::snapshots(&world.disk()).unwrap();
        assert!(found == model.snapshots, "{what}, seed {seed}: other snapshots");
    }
}

fn fresh(bits: u32) -> NewImage {
    NewImage::new(SIZE, bits)
}

#[test]
fn states_come_back_and_nothing_leaks() {
    let plain = json!({});
    run("an image", &images::file_of(&fresh(12)), &[], &plain);
    run("large clusters", &images::file_of(&fresh(16)), &[], &plain);
    run("tiny clusters and caches", &images::file_of(&fresh(9)), &[], &images::tiny());
    let mut watched = images::tiny();
    watched["overlap-check"] = json!("all");
    run("all structures looked after", &images::file_of(&fresh(9)), &[], &watched);
    run("version 2", &images::version_2(images::file_of(&fresh(12))), &[], &plain);
    run("a crowded refcount table", &images::crowded(&fresh(9)), &[], &images::tiny());
    run("subclusters", &images::with_subclusters(images::file_of(&fresh(14))), &[], &plain);
}

#[test]
fn overlays_have_snapshots_too() {
    let base = oracle::initial(SIZE);
    let over = |bits| fresh(bits).over("base", "raw");
    run("an overlay", &images::file_of(&over(12)), &base, &json!({}));
    run("of version 2", &images::version_2(images::file_of(&over(12))), &base, &json!({}));
    run("with subclusters", &images::with_subclusters(images::file_of(&over(14))), &base, &images::tiny());
}

/// Fails with a kind of error and that text in it.
#[track_caller]
fn fails(outcome: block::Result<()>, kind: ErrorKind, text: &str) {
    let error = outcome.unwrap_err();
    assert!(error.kind() == kind && error.to_string().contains(text), "{error:?}");
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_written() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let narrow = NewImage { refcount_bits: 2, ..fresh(12) };
        let view = lab.qcow2("disk", &narrow, json!({}), None).await.view();
        seam::write(&view, 0, &[7; 10_000]).await.unwrap();
        for name in ["a", "b"] {
            create(&view, name).await.unwrap();
        }
        let before = world.disk().bytes("disk").unwrap();
        fails(create(&view, "c").await, ErrorKind::Invalid, "refcounts of 2 bits");
        fails(apply(&view, "a").await, ErrorKind::Invalid, "refcounts of 2 bits");
        fails(apply(&view, "c").await, ErrorKind::NotFound, "no internal snapshot 'c'");
        fails(delete(&view, "a").await, ErrorKind::NotFound, "no internal snapshot 'a'");
        let after = world.disk().bytes("disk").unwrap();
        assert_eq!(&after[..512], &before[..512], "the header");
        seam::write(&view, 0, &[8; 10_000]).await.unwrap();
        // They are not shared by the present state any more.
        create(&view, "c").await.unwrap();
        let names: Vec<_> = list(&view).await.into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        flush(&view).await;
        images::check(&world.disk().bytes("disk").unwrap()).unwrap();
    });
}

#[test]
fn images_with_data_files_have_none() {
    let world = SimWorld::new(1, Options::calm());
    world.disk().put("disk", &images::with_data_file(&fresh(12), false));
    world.disk().put("data", &[]);
    world.run(async {
        let view = Lab::new(&world).open_qcow2("disk", json!({}), None).await.view();
        for outcome in [create(&view, "a").await, apply(&view, "a").await, delete(&view, "1").await] {
            fails(outcome, ErrorKind::Unsupported, "data file");
        }
        assert!(list(&view).await.is_empty());
    });
}

#[test]
fn the_size_of_the_disk_comes_back_with_its_state() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let view = Lab::new(&world).qcow2("disk", &fresh(9), json!({}), None).await.view();
        seam::write(&view, 0, &oracle::initial(SIZE)).await.unwrap();
        create(&view, "small").await.unwrap();
        seam::resize(&view, 4 * SIZE).await.unwrap();
        seam::write(&view, 3 * SIZE, &[9; 5000]).await.unwrap();
        create(&view, "large").await.unwrap();
        seam::resize(&view, 1024).await.unwrap();
        for (name, size) in [("small", SIZE), ("large", 4 * SIZE), ("small", SIZE), ("large", 4 * SIZE)] {
            apply(&view, name).await.unwrap();
            assert_eq!(view.size(), size);
            let found = seam::read(&view, ByteRange::new(0, size)).await.unwrap();
            same(&found[..SIZE as usize], &oracle::initial(SIZE));
            same(
                found.get(3 * SIZE as usize..).unwrap_or_default().get(..5000).unwrap_or_default(),
                match name {
                    "large" => &[9; 5000],
                    _ => &[],
                },
            );
            seam::write(&view, 0, &[1; 3000]).await.unwrap();
        }
        flush(&view).await;
        images::check(&world.disk().bytes("disk").unwrap()).unwrap();
    });
}

#[test]
fn what_a_snapshot_held_alone_leaves_the_file_where_that_is_asked_for() {
    let taken = |asked: bool, seed: u64| {
        let world = SimWorld::new(seed, Options::calm());
        world.run(async {
            let options = json!({"pass-discard-snapshot": asked});
            let view = Lab::new(&world).qcow2("disk", &fresh(12), options, None).await.view();
            let mut wanted = vec![7; SIZE as usize];
            seam::write(&view, 0, &wanted).await.unwrap();
            create(&view, "a").await.unwrap();
            // Every other cluster, so that there are many runs: a disk may leave any of them as it is.
            for at in (0..SIZE as usize - 4096).step_by(8192) {
                wanted[at..at + 4096].fill(8);
                seam::write(&view, at as u64, &[8; 4096]).await.unwrap();
            }
            delete(&view, "1").await.unwrap();
            same(&seam::read(&view, ByteRange::new(0, SIZE)).await.unwrap(), &wanted);
            flush(&view).await;
        });
        images::check(&world.disk().bytes("disk").unwrap()).unwrap();
        world.disk().allocated("disk").unwrap()
    };
    // 37 clusters were the snapshot's alone.
    let all = |asked: bool| (0..8).map(|seed| taken(asked, seed)).sum::<u64>();
    let (given_back, kept) = (all(true), all(false));
    assert!(given_back + 8 * 10 * 4096 <= kept, "{given_back} and {kept}");
}

#[test]
fn writes_and_reads_go_on_while_snapshots_come_and_go() {
    for seed in seeds() {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let view = Lab::new(&world).qcow2("disk", &fresh(9), images::tiny(), None).await.view();
            let clients = (0..4u64).map(|number| {
                let view = &view;
                async move {
                    let mut rng = Rng::new(seed * 4 + number);
                    // Sectors of one cluster belong to several clients.
                    let mine = |rng: &mut Rng| (rng.below(100) * 4 + number) * 100;
                    for round in 0..60u8 {
                        let at = mine(&mut rng);
                        seam::write(view, at, &[round; 100]).await.unwrap();
                        same(&seam::read(view, ByteRange::new(at, 100)).await.unwrap(), &[round; 100]);
                    }
                }
            });
            let taker = async {
                for _ in 0..6 {
                    create(&view, "x").await.unwrap();
                    io::sleep(std::time::Duration::from_micros(300)).await;
                    delete(&view, &list(&view).await[0].id).await.unwrap();
                }
            };
            futures_util::future::join(futures_util::future::join_all(clients), taker).await;
            for _ in 0..3 {
                flush(&view).await;
            }
        });
        let report = images::check(&world.disk().bytes("disk").unwrap());
        assert_eq!(report.map(|report| report.leaks), Ok(0), "seed {seed}");
    }
}

/// Makes a snapshot while the write of that number fails.
async fn create_failing(world: &SimWorld, view: &View, number: i32) -> block::Result<()> {
    let mut left = number;
    world.disk().set_policy(move |op| {
        let is_due = op.kind == OpKind::Write && left == 0;
        left -= i32::from(op.kind == OpKind::Write);
        if is_due { Verdict::Fail(block::Errno::IO) } else { Verdict::Go }
    });
    let created = create(view, "b").await;
    world.disk().clear_policy();
    created
}

#[test]
fn a_change_that_fails_leaves_the_image_as_it_was_or_closed() {
    let (mut failed, mut unknown) = (0, 0);
    for number in 0..12 {
        let world = SimWorld::new(1, Options::calm());
        world.run(async {
            let view = Lab::new(&world).qcow2("disk", &fresh(12), json!({}), None).await.view();
            seam::write(&view, 0, &[7; 100_000]).await.unwrap();
            create(&view, "a").await.unwrap();
            seam::write(&view, 0, &[8; 50_000]).await.unwrap();
            flush(&view).await;
            let Err(error) = create_failing(&world, &view, number).await else { return };
            let mut now = seam::read(&view, ByteRange::new(0, SIZE)).await.unwrap().to_vec();
            if error.to_string().contains("nobody knows") {
                unknown += 1;
                assert!(seam::write(&view, 0, &[9]).await.is_err(), "nothing is written any more");
                return;
            }
            failed += 1;
            assert_eq!(list(&view).await.len(), 1);
            // New clusters read as zeros where nobody has written, whatever the failed change has left there.
            for at in (110_000..SIZE as usize - 10).step_by(5000) {
                seam::write(&view, at as u64, &[9; 10]).await.unwrap();
                now[at..at + 10].fill(9);
            }
            flush(&view).await;
            same(&seam::read(&view, ByteRange::new(0, SIZE)).await.unwrap(), &now);
            images::check(&world.disk().bytes("disk").unwrap()).unwrap();
        });
    }
    assert!(failed > 3 && unknown > 0, "{failed} and {unknown}");
}
