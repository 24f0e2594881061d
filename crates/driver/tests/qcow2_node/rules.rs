//! What a writable image promises beyond its bytes: bounds, faults, its header, being reopened.

use crate::lab::{Lab, Tree, qcow2 as images, same};
use block::{ByteRange, ErrorKind};
use flow::{Body, Flags, Op, Request, Role, View, seam};
use io::Lease;
use qcow2::{Header, NewImage, Version, cache};
use serde_json::{Value, json};
use sim::{OpKind, Options, Rng, SimWorld, Verdict};

const CLUSTER: u64 = 64 << 10;

fn world() -> SimWorld {
    SimWorld::new(1, Options::calm())
}

async fn flush(view: &View) -> block::Result<()> {
    seam::execute(view, Request::flush(), Lease::empty()).await.0
}

fn header(world: &SimWorld) -> Header {
    Header::parse(&world.disk().peek("disk", ByteRange::new(0, CLUSTER)).unwrap()).unwrap()
}

/// A cache over `base` with an identity, and a bit that nobody knows.
fn cache_image(size: u64) -> NewImage {
    NewImage {
        extensions: vec![cache::extension(r#"{"source":"x"}"#).unwrap()],
        autoclear: cache::AUTOCLEAR | 1 << 33,
        ..NewImage::new(size, 16).over("base", "raw")
    }
}

#[test]
fn autoclear_bits_go_with_the_first_change_and_not_before() {
    for (keep, left) in [(false, 0), (true, cache::AUTOCLEAR)] {
        for change in [Op::Write, Op::WriteZeroes, Op::Discard] {
            let world = world();
            world.run(async {
                let lab = Lab::new(&world);
                world.disk().put("base", &[7; 1 << 20]);
                let (base, _) = lab.file("base").await;
                let options = json!({"keep-identity": keep});
                let view = lab.qcow2("disk", &cache_image(1 << 20), options, Some(&base)).await.view();
                seam::read(&view, ByteRange::new(0, 1000)).await.unwrap();
                flush(&view).await.unwrap();
                assert_eq!(world.disk().counts().writes, 0, "reading changes nothing");
                let rq = Request::new(change, ByteRange::new(5, 100));
                let bytes = if change == Op::Write { Lease::zeroed(100) } else { Lease::empty() };
                seam::execute(&view, rq, bytes).await.0.unwrap();
            });
            let header = header(&world);
            assert_eq!(header.features.autoclear, left, "{change:?}");
            assert_eq!(cache::read(&header).unwrap().is_some(), keep);
            let durable = world.disk().durable_bytes("disk").unwrap();
            assert_eq!(Header::parse(&durable[..CLUSTER as usize]).unwrap().features.autoclear, left);
        }
    }
}

#[test]
fn fast_zeroing_that_is_refused_has_changed_nothing() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; 1 << 20]);
        let (base, _) = lab.file("base").await;
        // Nothing marks zeros above a backing image in version 2.
        let image = NewImage { version: Version::V2, ..NewImage::new(1 << 20, 16).over("base", "raw") };
        let view = lab.qcow2("disk", &image, json!({}), Some(&base)).await.view();
        for range in [ByteRange::new(512, 256 << 10), ByteRange::new(5, 100), ByteRange::new(0, CLUSTER)] {
            let rq = Request::new(Op::WriteZeroes, range);
            let fast = seam::execute(&view, rq.with_flags(Flags::FAST_ZERO), Lease::empty()).await.0;
            assert_eq!(fast.unwrap_err().kind(), ErrorKind::Unsupported, "{range:?}");
            assert!(seam::read(&view, range).await.unwrap().iter().all(|byte| *byte == 7), "{range:?}");
        }
        let rq = Request::new(Op::WriteZeroes, ByteRange::new(512, 256 << 10));
        seam::execute(&view, rq, Lease::empty()).await.0.unwrap();
        assert!(seam::read(&view, rq.range).await.unwrap().iter().all(|byte| *byte == 0));
    });
}

#[test]
fn the_backing_name_is_cut_and_replaced() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; 1 << 20]);
        let (base, _) = lab.file("base").await;
        let view = lab.qcow2("disk", &cache_image(1 << 20), json!({}), Some(&base)).await.view();
        seam::write(&view, 0, &[1; 100]).await.unwrap();
        let power = view.root().powers().backing.unwrap();
        let other = flow::BackingName { name: "other.qcow2".to_owned(), format: "qcow2".to_owned() };
        power.set_backing(Some(other), view.next()).await.unwrap();
        let named = header(&world).backing.unwrap();
        assert_eq!((&*named.name, named.format.as_deref()), ("other.qcow2", Some("qcow2")));
        power.set_backing(None, view.next()).await.unwrap();
        assert_eq!(header(&world).backing, None);
        let too_long = flow::BackingName { name: "n".repeat(2000), format: "raw".to_owned() };
        assert_eq!(
            power.set_backing(Some(too_long), view.next()).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
        assert_eq!(header(&world).backing, None);
        // What was acknowledged before came first.
        let bytes = world.disk().durable_bytes("disk").unwrap();
        assert_eq!(images::check(&bytes).unwrap().data, 1);
    });
}

#[test]
fn what_lies_behind_the_end_of_a_short_image_does_not_show_above_it() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; 1 << 20]);
        let (base, _) = lab.file("base").await;
        let short =
            lab.qcow2("short", &NewImage::new(40_000, 12).over("base", "raw"), json!({}), Some(&base)).await;
        let image = NewImage::new(1 << 20, 16).over("short", "qcow2");
        let view = lab.qcow2("disk", &image, json!({}), Some(&short)).await.view();
        // A part of a cluster that ends behind the short image: what is around it is copied.
        let zeroing = Request::new(Op::WriteZeroes, ByteRange::new(1000, 1000));
        seam::execute(&view, zeroing, Lease::empty()).await.0.unwrap();
        let read = seam::read(&view, ByteRange::new(0, 1 << 16)).await.unwrap();
        same(&read[..1000], &[7; 1000]);
        same(&read[1000..2000], &[0; 1000]);
        same(&read[2000..40_000], &[7; 38_000]);
        same(&read[40_000..], &[0; 25_536]);
    });
}

/// Writes 160 MiB that nobody flushes; answers how many of them a power cut would leave, and how many flushes there
/// were.
fn written_and_not_flushed(image: NewImage) -> (u64, u64) {
    const SIZE: u64 = 160 << 20;
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.qcow2("disk", &NewImage { size: SIZE, ..image }, json!({}), None).await.view();
        let bytes = vec![3; 1 << 20];
        for at in 0..SIZE >> 20 {
            seam::write(&view, at << 20, &bytes).await.unwrap();
        }
    });
    let left = world.disk().crash(&mut Rng::new(1)).bytes("disk").unwrap();
    (images::check(&left).unwrap().data * CLUSTER, world.disk().counts().flushes)
}

#[test]
fn what_a_cache_holds_is_durable_but_for_a_bound() {
    let (data, flushes) = written_and_not_flushed(NewImage { backing: None, ..cache_image(0) });
    assert!(data >= 96 << 20, "{} MiB are there", data >> 20);
    assert!(flushes >= 4);
}

#[test]
fn an_image_that_clients_flush_is_not_flushed_for_its_data() {
    assert_eq!(written_and_not_flushed(NewImage::new(0, 16)), (0, 0));
}

#[test]
fn dirty_tables_are_bounded() {
    const SIZE: u64 = 4 << 20;
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        // Slices of 512 bytes that map 64 clusters of 512 bytes: a write into each is too much for the cache.
        let view = lab.qcow2("disk", &NewImage::new(SIZE, 9), images::tiny(), None).await.view();
        for at in (0..SIZE).step_by(32 << 10) {
            seam::write(&view, at, &[5; 512]).await.unwrap();
        }
        assert!(world.disk().counts().flushes > 10);
        flush(&view).await.unwrap();
    });
    assert_eq!(images::check(&world.disk().bytes("disk").unwrap()).unwrap().data, SIZE / (32 << 10));
}

/// Writes data, and flushes while the operation of that number fails.
async fn failing_flush(world: &SimWorld, view: &View, failing: OpKind, number: i32) -> block::Result<()> {
    seam::write(view, 0, &[9; 300_000]).await.unwrap();
    let mut left = number;
    world.disk().set_policy(move |op| {
        let is_due = op.kind == failing && left == 0;
        left -= i32::from(op.kind == failing);
        if is_due { Verdict::Fail(block::Errno::IO) } else { Verdict::Go }
    });
    let flushed = flush(view).await;
    world.disk().clear_policy();
    flushed
}

#[test]
fn a_flush_whose_writes_failed_is_made_up_for() {
    // A refcount block, a slice and a piece of the L1 table.
    for number in 0..5 {
        let world = world();
        world.run(async {
            let lab = Lab::new(&world);
            let view = lab.qcow2("disk", &NewImage::new(1 << 20, 12), json!({}), None).await.view();
            let first = failing_flush(&world, &view, OpKind::Write, number).await;
            assert_eq!(first.is_err(), number < 3, "{number}");
            if let Err(error) = first {
                assert!(error.to_string().contains("image"), "{error}");
            }
            seam::write(&view, 400_000, &[8; 1000]).await.unwrap();
            flush(&view).await.unwrap();
            same(&seam::read(&view, ByteRange::new(0, 300_000)).await.unwrap(), &[9; 300_000]);
        });
        let report = images::check(&world.disk().durable_bytes("disk").unwrap()).unwrap();
        assert_eq!((report.data, report.leaks), (75, 0), "{number}");
    }
}

#[test]
fn after_a_failed_barrier_nothing_points_to_what_may_be_lost() {
    for number in 0..2 {
        let world = world();
        world.run(async {
            let lab = Lab::new(&world);
            let view = lab.qcow2("disk", &NewImage::new(1 << 20, 12), json!({}), None).await.view();
            failing_flush(&world, &view, OpKind::Flush, number).await.unwrap_err();
            let later = flush(&view).await.unwrap_err();
            assert!(later.to_string().contains("an earlier flush of its file failed"), "{later}");
            same(&seam::read(&view, ByteRange::new(0, 300_000)).await.unwrap(), &[9; 300_000]);
        });
        let report = images::check(&world.disk().durable_bytes("disk").unwrap()).unwrap();
        assert!(number == 1 || report.data == 0, "{report:?}");
    }
}

#[test]
fn a_full_disk_costs_the_write_that_met_it() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.qcow2("disk", &NewImage::new(8 << 20, 16), json!({}), None).await.view();
        world.disk().adjust(|options| options.quota = 1 << 20);
        let mut done = 0;
        let error = loop {
            match seam::write(&view, done, &vec![6; CLUSTER as usize]).await {
                Ok(()) => done += CLUSTER,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(done > 512 << 10);
        world.disk().adjust(|options| options.quota = u64::MAX);
        seam::write(&view, done, &vec![6; CLUSTER as usize]).await.unwrap();
        for _ in 0..3 {
            flush(&view).await.unwrap();
        }
        let report = images::check(&world.disk().bytes("disk").unwrap()).unwrap();
        assert_eq!((report.data, report.leaks), (done / CLUSTER + 1, 0));
    });
}

#[test]
fn what_is_discarded_is_used_again() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.qcow2("disk", &NewImage::new(8 << 20, 16), json!({}), None).await.view();
        let whole = ByteRange::new(0, 8 << 20);
        for round in 0..10 {
            seam::write(&view, 0, &vec![round; 8 << 20]).await.unwrap();
            let rq = Request::new(Op::Discard, whole).with_flags(Flags::NONE);
            seam::execute(&view, rq, Lease::empty()).await.0.unwrap();
            flush(&view).await.unwrap();
        }
        same(&seam::read(&view, whole).await.unwrap(), &vec![0; 8 << 20]);
        assert!(
            world.disk().bytes("disk").unwrap().len() < 20 << 20,
            "it has room for twice the disk at most"
        );
    });
}

/// Writes, discards and flushes 4 MiB; answers how much the file takes before and after, and how long it is in the end,
/// once all has been written again.
fn discarded(options: Value) -> (u64, u64, usize) {
    const LEN: u64 = 4 << 20;
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.qcow2("disk", &NewImage::new(LEN, 16), options, None).await.view();
        seam::write(&view, 0, &[5; LEN as usize]).await.unwrap();
        flush(&view).await.unwrap();
        let before = world.disk().allocated("disk").unwrap();
        let rq = Request::new(Op::Discard, ByteRange::new(0, LEN));
        seam::execute(&view, rq, Lease::empty()).await.0.unwrap();
        same(&seam::read(&view, ByteRange::new(0, LEN)).await.unwrap(), &[0; LEN as usize]);
        // What was dropped before the first is free by the second.
        flush(&view).await.unwrap();
        flush(&view).await.unwrap();
        while world.disk().in_flight() > 0 {
            io::sleep(std::time::Duration::from_millis(1)).await;
        }
        let after = world.disk().allocated("disk").unwrap();
        seam::write(&view, 0, &[6; LEN as usize]).await.unwrap();
        flush(&view).await.unwrap();
        flush(&view).await.unwrap();
        let file = world.disk().bytes("disk").unwrap();
        assert_eq!(images::check(&file).unwrap(), images::Report { data: LEN / CLUSTER, leaks: 0 });
        (before, after, file.len())
    })
}

#[test]
fn what_is_discarded_leaves_the_file_where_that_is_wanted() {
    const DATA: u64 = 4 << 20;
    let (before, after, len) = discarded(json!({}));
    assert!(before >= DATA && after < before - DATA / 2, "{before}, {after}");
    let (before, after, same_len) = discarded(json!({"pass-discard-request": false}));
    assert!(after >= before && same_len == len, "{before}, {after}");
    // Each cluster stays where it was: nothing is free.
    let (before, after, same_len) = discarded(json!({"discard-no-unref": true}));
    assert!(after >= before && same_len == len, "{before}, {after}");
}

#[test]
fn clusters_are_kept_where_entries_can_say_so() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("disk", &images::version_2(images::file_of(&NewImage::new(1 << 20, 16))));
        let (file, _) = lab.file("disk").await;
        let options = json!({"discard-no-unref": true});
        let Err(error) = lab.open_with("qcow2", options, &[(Role::File, &file)], |_| {}).await else {
            panic!("version 2 has no zeros")
        };
        assert!(error.to_string().contains("discard-no-unref is only supported"), "{error}");
    });
}

/// A body for `node` opened anew.
async fn reopened(lab: &Lab, old: &Tree, file: &Tree, read_only: bool) -> block::Result<Tree> {
    let kept = old.node().keep();
    lab.open_with("qcow2", json!({}), &[(Role::File, file)], |context| {
        context.read_only = read_only;
        context.kept = kept;
    })
    .await
}

#[test]
fn a_reopened_node_goes_on_with_its_tables() {
    let world = world();
    world.run(async {
        let lab = Lab::new(&world);
        images::put(&world.disk(), "disk", &NewImage::new(1 << 20, 12));
        let (file, _) = lab.file("disk").await;
        let first = lab.open("qcow2", Value::Object(Default::default()), &[(Role::File, &file)]).await;
        seam::write(&first.view(), 0, &[1; 5000]).await.unwrap();
        let Err(error) = reopened(&lab, &first, &file, true).await else { panic!("it has changes") };
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        let (elsewhere, _) = lab.file("disk").await;
        assert!(reopened(&lab, &first, &elsewhere, false).await.is_err(), "its file stays");
        // What is not in the file yet is there for the other body.
        let second = reopened(&lab, &first, &file, false).await.unwrap();
        same(&seam::read(&second.view(), ByteRange::new(0, 5000)).await.unwrap(), &[1; 5000]);
        seam::write(&second.view(), 5000, &[2; 5000]).await.unwrap();
        same(&seam::read(&first.view(), ByteRange::new(5000, 5000)).await.unwrap(), &[2; 5000]);
        flush(&second.view()).await.unwrap();
        let third = reopened(&lab, &second, &file, true).await.unwrap();
        let Body::Maps(format) = third.node().body() else { panic!() };
        assert!(format.changes().is_none() && third.node().powers().backing.is_none());
        same(&seam::read(&third.view(), ByteRange::new(5000, 5000)).await.unwrap(), &[2; 5000]);
        let report = images::check(&world.disk().durable_bytes("disk").unwrap()).unwrap();
        assert_eq!((report.data, report.leaks), (3, 0));
        // What is dropped while the read-only body is there is not used again; later it is.
        for (gone, grows) in [(None, true), (Some(third), false)] {
            drop(gone);
            let before = world.disk().bytes("disk").unwrap().len();
            for round in 0..6 {
                let rq = Request::new(Op::Discard, ByteRange::new(0, 1 << 20));
                seam::execute(&second.view(), rq, Lease::empty()).await.0.unwrap();
                flush(&second.view()).await.unwrap();
                flush(&second.view()).await.unwrap();
                seam::write(&second.view(), 0, &[round; 100_000]).await.unwrap();
            }
            assert_eq!(world.disk().bytes("disk").unwrap().len() > before + 400_000, grows);
        }
    });
}

/// Zeros are not copied around new bytes where the file reads as zeros already; where it does not, they are.
#[test]
fn fresh_clusters_are_not_filled_with_zeros() {
    let world = world();
    let clusters = 40;
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.qcow2("disk", &NewImage::new(clusters * CLUSTER, 16), json!({}), None).await.view();
        let mut sent = 0;
        for cluster in 0..clusters {
            seam::write(&view, cluster * CLUSTER + 5000, &[7; 4000]).await.unwrap();
            sent += 4000;
        }
        flush(&view).await.unwrap();
        let used = world.disk().allocated("disk").unwrap();
        assert!(used < sent + 12 * CLUSTER, "{used} bytes for {sent} written");
        for cluster in 0..clusters {
            let read = seam::read(&view, ByteRange::new(cluster * CLUSTER, CLUSTER)).await.unwrap();
            assert!(read[5000..9000].iter().all(|byte| *byte == 7), "cluster {cluster}");
            assert!(read[..5000].iter().chain(&read[9000..]).all(|byte| *byte == 0), "cluster {cluster}");
        }
        // What was dropped is used again, and was not clean.
        let discard = Request::new(Op::Discard, ByteRange::new(0, clusters * CLUSTER));
        seam::execute(&view, discard, Lease::empty()).await.0.unwrap();
        flush(&view).await.unwrap();
        for cluster in 0..clusters {
            seam::write(&view, cluster * CLUSTER + 20_000, &[9; 100]).await.unwrap();
            let read = seam::read(&view, ByteRange::new(cluster * CLUSTER, CLUSTER)).await.unwrap();
            assert_eq!(read.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 900, "cluster {cluster}");
        }
    });
}
