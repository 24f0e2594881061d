//! The table: each kind of image, and what is done to it. A new scenario is a row here, and a function of a
//! [`Stage`](crate::stage::Stage) if what it does is new.

use flow::seam;
use qcow2::{Compression, Geometry, NewImage};
use serde_json::{Value, json};
use sim::{Options, SimWorld};

use crate::amend;
use crate::fill::fill;
use crate::lab::{Lab, qcow2 as images};
use crate::resizing::{fill_and_shrink, resize_under_clients};
use crate::row::{Row, SIZE, header_of};
use crate::scribble::{clients, compressing_clients, taking_clients};
use crate::snapshotting::{take_compressed_snapshots, take_snapshots, take_snapshots_beside_a_guest};
use crate::stage::flush;

/// An autoclear bit that nobody knows.
const UNKNOWN_AUTOCLEAR: u64 = 1 << 40;

/// All rows. Their names are theirs alone among all tables of the project.
pub fn all() -> Vec<Row> {
    let mut all = usual();
    all.extend(unusual());
    all.extend(resized());
    all.extend(passes());
    all.extend(packed());
    all.extend(taken());
    all.extend(refcount_widths());
    all.extend(with_snapshots());
    all.extend(amend::rows());
    all
}

/// Work on an image without backing image.
pub fn scribble(name: &'static str, image: Vec<u8>, options: Value) -> Row {
    let (base, data, errors) = (vec![], None, 0.0);
    Row { name, work: |stage| Box::pin(clients(stage)), image, options, base, data, errors }
}

/// The same over a backing image.
pub fn overlay(name: &'static str, image: Vec<u8>, options: Value) -> Row {
    Row { base: crate::lab::oracle::initial(SIZE), ..scribble(name, image, options) }
}

pub fn fresh(bits: u32) -> NewImage {
    NewImage::new(SIZE, bits)
}

fn file(bits: u32) -> Vec<u8> {
    images::file_of(&fresh(bits))
}

pub fn over(bits: u32) -> Vec<u8> {
    images::file_of(&fresh(bits).over("base", "raw"))
}

pub fn plain() -> Value {
    json!({})
}

fn usual() -> Vec<Row> {
    let short = crate::lab::oracle::initial(SIZE / 3);
    vec![
        scribble("tiny clusters", file(9), plain()),
        scribble("tiny clusters and caches", file(9), images::tiny()),
        overlay("an overlay", over(12), plain()),
        Row { base: short, ..scribble("an overlay of a short image", over(11), images::tiny()) },
        overlay("large clusters", over(16), plain()),
        scribble("an old image with an autoclear bit", marked(filled(&fresh(12))), plain()),
        scribble("a refcount table that is full", images::crowded(&fresh(9)), plain()),
        scribble("a refcount table that moves", images::overcrowded(&fresh(9)), plain()),
        Row { work: |stage| Box::pin(fill(stage)), ..overlay("a cache", over(12), plain()) },
        Row { errors: 0.02, ..overlay("a disk that fails", over(11), plain()) },
    ]
}

/// Images that have what few have.
fn unusual() -> Vec<Row> {
    let shared = |bits| images::with_snapshot(filled(&fresh(bits)));
    let shared_v2 = images::with_snapshot(images::version_2(filled(&fresh(12))));
    let apart = |name, raw| Row {
        data: Some(vec![]),
        ..scribble(name, images::with_data_file(&fresh(12), raw), plain())
    };
    let over_apart = images::with_data_file(&fresh(12).over("base", "raw"), false);
    vec![
        scribble("lazy refcounts", lazy(&fresh(9)), images::tiny()),
        scribble("version 2", images::version_2(images::crowded(&fresh(9))), plain()),
        overlay("an overlay of version 2", images::version_2(over(12)), plain()),
        scribble("a snapshot", shared(12), plain()),
        scribble("a snapshot and tiny clusters", shared(9), images::tiny()),
        scribble("a snapshot of version 2", shared_v2, plain()),
        scribble("subclusters", images::with_subclusters(file(14)), plain()),
        overlay("an overlay with subclusters", images::with_subclusters(over(14)), images::tiny()),
        scribble("discards that keep their clusters", file(12), json!({"discard-no-unref": true})),
        scribble("all that is dropped leaves the file", shared(11), json!({"pass-discard-other": true})),
        apart("a data file", false),
        apart("a raw data file", true),
        Row { data: Some(vec![]), ..overlay("an overlay with a data file", over_apart, plain()) },
        Row { errors: 0.02, ..scribble("a disk that fails with a snapshot", shared(11), plain()) },
    ]
}

/// Disks that grow and shrink.
fn resized() -> Vec<Row> {
    let shared = images::with_snapshot(filled(&fresh(9)));
    let subclusters = images::with_subclusters(over(14));
    let wide = NewImage { refcount_bits: 64, ..fresh(10) };
    let apart =
        scribble("a data file that grows and shrinks", images::with_data_file(&fresh(12), false), plain());
    let rows = [
        scribble("tiny clusters that grow and shrink", file(9), plain()),
        overlay("an overlay that grows and shrinks", over(12), images::tiny()),
        scribble("a disk with a snapshot that grows and shrinks", shared, plain()),
        overlay("subclusters that grow and shrink", subclusters, plain()),
        Row { data: Some(vec![]), ..apart },
        overlay("an overlay of version 2 that grows and shrinks", images::version_2(over(9)), plain()),
    ];
    let alone = [
        // Many refcount blocks, and an L1 table that stays where it is.
        scribble("a file that gets shorter", images::file_of(&wide), plain()),
        overlay("a file of an overlay that gets shorter", over(12), images::tiny()),
    ];
    let rows = rows.map(|row| Row { work: |stage| Box::pin(resize_under_clients(stage)), ..row });
    let alone = alone.map(|row| Row { work: |stage| Box::pin(fill_and_shrink(stage)), ..row });
    rows.into_iter().chain(alone).collect()
}

/// Each way of giving clusters back to the file, and keeping them.
fn passes() -> Vec<Row> {
    let pass = |request, other| json!({"pass-discard-request": request, "pass-discard-other": other});
    let kept = json!({"discard-no-unref": true, "pass-discard-request": false, "l2-cache-size": 1024});
    let split = NewImage { extended_l2: true, ..fresh(14) };
    vec![
        scribble("nothing that is dropped leaves the file", file(11), pass(false, false)),
        scribble("only what is not asked for leaves the file", file(9), pass(false, true)),
        overlay("an overlay that gives all back", over(12), pass(true, true)),
        scribble("what is discarded keeps its cluster in the file", file(11), kept),
        overlay("an overlay that keeps clusters", over(12), json!({"discard-no-unref": true})),
        scribble(
            "subclusters that keep their place",
            images::file_of(&split),
            json!({"discard-no-unref": true}),
        ),
        scribble("one cluster", file(18), plain()),
        scribble("places for all", images::file_of(&NewImage { preallocated: true, ..fresh(12) }), plain()),
    ]
}

/// Compressed clusters of all kinds.
fn packed() -> Vec<Row> {
    let zstd = |image: NewImage| NewImage { compression: Compression::Zstd, ..image };
    let split = zstd(NewImage { extended_l2: true, ..fresh(14) });
    let old = images::version_2(file(12));
    let shared = images::with_snapshot(filled(&fresh(9)));
    vec![
        compressing(scribble("compressed writes", file(9), plain())),
        compressing(scribble(
            "compressed writes and a snapshot",
            shared,
            json!({"pass-discard-other": true}),
        )),
        compressing(scribble("compressed clusters of 4 KiB", file(12), images::tiny())),
        compressing(overlay(
            "an overlay with zstd",
            images::file_of(&zstd(fresh(11).over("base", "raw"))),
            plain(),
        )),
        compressing(scribble("compressed clusters with subclusters", images::file_of(&split), plain())),
        compressing(scribble("compressed clusters of version 2", old, plain())),
        compressing(Row {
            errors: 0.02,
            ..scribble("a disk that fails under zstd", images::file_of(&zstd(fresh(9))), plain())
        }),
    ]
}

/// Clusters that are taken from other files, whose storage can be shared.
fn taken() -> Vec<Row> {
    let shared = images::with_snapshot(filled(&fresh(12)));
    let rows = [
        scribble("clusters of other files", file(12), images::tiny()),
        scribble("clusters of other files and a snapshot", shared, plain()),
        overlay("an overlay with clusters of other files", over(13), plain()),
        Row { errors: 0.02, ..scribble("a disk that fails to share", file(12), plain()) },
    ];
    rows.map(|row| Row { work: |stage| Box::pin(taking_clients(stage)), ..row }).into()
}

/// Refcounts of each width but QEMU's default, in which most are.
fn refcount_widths() -> Vec<Row> {
    let wide = |bits, cluster| images::file_of(&NewImage { refcount_bits: bits, ..fresh(cluster) });
    vec![
        scribble("refcounts of 1 bit", wide(1, 9), plain()),
        scribble("refcounts of 2 bits", wide(2, 9), images::tiny()),
        scribble("refcounts of 4 bits", wide(4, 10), plain()),
        compressing(scribble("refcounts of 8 bits", wide(8, 9), plain())),
        scribble("refcounts of 32 bits", wide(32, 9), images::tiny()),
        compressing(scribble("refcounts of 64 bits", wide(64, 9), plain())),
    ]
}

/// The same work, half of the writes compressed.
fn compressing(row: Row) -> Row {
    Row { work: |stage| Box::pin(compressing_clients(stage)), ..row }
}

/// Images whose snapshots change.
fn with_snapshots() -> Vec<Row> {
    let tiny = scribble("snapshots and compressed writes", file(9), images::tiny());
    let narrow = images::file_of(&NewImage { refcount_bits: 4, ..fresh(10) });
    let plainly = [
        scribble("snapshots", file(12), plain()),
        scribble("snapshots and tiny clusters and caches", file(9), images::tiny()),
        scribble("snapshots and narrow refcounts", narrow, plain()),
        scribble("snapshots that leave the file", file(10), json!({"pass-discard-snapshot": true})),
        overlay("snapshots of an overlay", over(11), plain()),
        overlay("snapshots of an overlay of version 2", images::version_2(over(12)), plain()),
        overlay("snapshots with subclusters", images::with_subclusters(over(14)), plain()),
        scribble("snapshots and a refcount table that is full", images::crowded(&fresh(9)), plain()),
        scribble("snapshots of an old image", marked(images::with_snapshot(filled(&fresh(12)))), plain()),
        Row { errors: 0.004, ..scribble("snapshots on a disk that fails", file(11), plain()) },
    ];
    let rows = plainly.map(|row| Row { work: |stage| Box::pin(take_snapshots(stage)), ..row });
    let packing = Row { work: |stage| Box::pin(take_compressed_snapshots(stage)), ..tiny };
    rows.into_iter().chain([packing]).chain(with_guests()).collect()
}

/// Images whose snapshots change beside one that holds a guest's state.
fn with_guests() -> impl Iterator<Item = Row> {
    let rows = [
        scribble("snapshots beside a guest", with_guest(12), plain()),
        scribble("snapshots beside a guest in tiny clusters", with_guest(9), images::tiny()),
        Row { errors: 0.01, ..scribble("a guest on a disk that fails", with_guest(9), plain()) },
    ];
    rows.into_iter().map(|row| Row { work: |stage| Box::pin(take_snapshots_beside_a_guest(stage)), ..row })
}

/// An image with a snapshot that a guest's state is stored with, which lies behind the disk. The present state has it,
/// too, as after going back to that snapshot.
fn with_guest(bits: u32) -> Vec<u8> {
    const STATE: u64 = 20 << 10;
    let behind = SIZE.next_multiple_of(Geometry::new(&header_of(&file(bits))).table_span());
    let world = SimWorld::new(7, Options::calm());
    world.run(async {
        let longer = NewImage::new(behind + STATE, bits);
        let view = Lab::new(&world).qcow2("disk", &longer, json!({}), None).await.view();
        let bytes = crate::lab::oracle::initial(SIZE / 2);
        seam::write(&view, 0, &bytes).await.unwrap();
        seam::write(&view, behind, &bytes[..STATE as usize]).await.unwrap();
        flush(&view).await;
    });
    let mut file = images::with_snapshot(world.disk().bytes("disk").unwrap());
    let entry = header_of(&file).snapshots.offset.0 as usize;
    file[24..32].copy_from_slice(&SIZE.to_be_bytes());
    file[entry + 32..entry + 36].copy_from_slice(&(STATE as u32).to_be_bytes());
    file[entry + 40..entry + 48].copy_from_slice(&STATE.to_be_bytes());
    file[entry + 48..entry + 56].copy_from_slice(&SIZE.to_be_bytes());
    file
}

/// An image that holds data, written by us.
pub fn filled(image: &NewImage) -> Vec<u8> {
    let world = SimWorld::new(7, Options::calm());
    world.run(async {
        let view = Lab::new(&world).qcow2("disk", image, json!({}), None).await.view();
        seam::write(&view, 0, &crate::lab::oracle::initial(SIZE / 2)).await.unwrap();
        flush(&view).await;
    });
    world.disk().bytes("disk").unwrap()
}

/// A fresh image that is to be marked dirty while it is changed.
fn lazy(image: &NewImage) -> Vec<u8> {
    images::file_of(&NewImage { lazy_refcounts: true, ..image.clone() })
}

/// The same with an autoclear bit that nobody knows.
fn marked(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[88..96].copy_from_slice(&UNKNOWN_AUTOCLEAR.to_be_bytes());
    bytes
}
