//! The power to check of a qcow2 node: of an image in use, of one that is opened for it, and of one that was not
//! closed. And an image that is opened for what is left of it.

use crate::lab::{Lab, Tree, qcow2 as images, same};
use block::{ByteRange, ErrorKind, Result};
use flow::{CheckReport, Op, Repair, Request, Role, View, seam};
use io::Lease;
use qcow2::NewImage;
use serde_json::{Value, json};
use sim::{Options, SimWorld};

const SIZE: u64 = 1 << 20;

async fn check(view: &View, repair: Repair) -> Result<(CheckReport, Vec<String>)> {
    let mut lines = Vec::new();
    let mut tell = |line: &str| lines.push(line.to_owned());
    let report = seam::check_tables(view, repair, &mut tell).await?;
    Ok((report, lines))
}

async fn check_only(lab: &Lab<SimWorld>, path: &str) -> Tree {
    let (file, _) = lab.file(path).await;
    lab.open("qcow2", json!({"check-only": true}), &[(Role::File, &file)]).await
}

/// The image in `disk`, opened to be used.
async fn opened(lab: &Lab<SimWorld>, options: Value, read_only: bool) -> Result<Tree> {
    let (below, _) = lab.file("disk").await;
    let children = [(Role::File, &below)];
    lab.open_with("qcow2", options, &children, |context| context.read_only = read_only).await
}

async fn flush(view: &View) {
    seam::execute(view, Request::flush(), Lease::empty()).await.0.unwrap();
}

/// An image with some data, closed.
async fn filled(lab: &Lab<SimWorld>, path: &str) {
    let view = lab.qcow2(path, &NewImage::new(SIZE, 12), json!({}), None).await.view();
    seam::write(&view, 0, &[7; 300 << 10]).await.unwrap();
    flush(&view).await;
}

/// A test of such an image: its lab and world, its bytes and its header.
fn on_filled(test: impl AsyncFnOnce(&Lab<SimWorld>, &SimWorld, Vec<u8>, qcow2::Header)) {
    let world = SimWorld::new(3, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        filled(&lab, "disk").await;
        let file = world.disk().bytes("disk").unwrap();
        let header = qcow2::Header::parse(&file[..4096]).unwrap();
        test(&lab, &world, file, header).await;
    });
}

fn change(world: &SimWorld, path: &str, at: usize, byte: u8) {
    let mut file = world.disk().bytes(path).unwrap();
    file[at] ^= byte;
    world.disk().put(path, &file);
}

#[test]
fn an_image_in_use_is_sound_whatever_was_written_dropped_and_flushed() {
    let world = SimWorld::new(3, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let tree = lab.qcow2("disk", &NewImage::new(SIZE, 12), json!({}), None).await;
        let view = tree.view();
        for round in 0..6u64 {
            seam::write(&view, round << 16, &[1; 100 << 10]).await.unwrap();
            let dropped = Request::new(Op::Discard, ByteRange::new(round << 15, 64 << 10));
            seam::execute(&view, dropped, Lease::empty()).await.0.unwrap();
            let (report, lines) = check(&view, Repair::Nothing).await.unwrap();
            assert_eq!(report.leaks + report.corruptions + report.errors, 0, "{report:?} {lines:?}");
            assert_eq!(report.total, SIZE >> 12);
            assert!(report.allocated > 0 && report.image_end > 0);
        }
        let refused = check(&view, Repair::All).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert!(refused.to_string().contains("check-only"), "{refused}");
    });
}

#[test]
fn an_image_is_opened_for_repair_whatever_its_tables_hold() {
    let world = SimWorld::new(3, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        filled(&lab, "disk").await;
        let header = qcow2::Header::parse(&world.disk().bytes("disk").unwrap()[..4096]).unwrap();
        // The entry of the refcount table: its block is nowhere.
        change(&world, "disk", header.refcount_table.offset.0 as usize + 3, 0x40);
        let tree = check_only(&lab, "disk").await;
        let view = tree.view();
        let (before, lines) = check(&view, Repair::Nothing).await.unwrap();
        assert!(before.corruptions > 70, "{before:?}");
        assert!(lines.iter().any(|line| line.contains("is outside image")), "{lines:?}");
        let refused = seam::read(&view, ByteRange::new(0, 512)).await.unwrap_err();
        assert!(refused.to_string().contains("opened to be checked"), "{refused}");
        assert_eq!(check(&view, Repair::Leaks).await.unwrap_err().kind(), ErrorKind::Corrupt);
        let (repaired, _) = check(&view, Repair::All).await.unwrap();
        assert_eq!((repaired.corruptions, repaired.leaks, repaired.errors), (0, 0, 0), "{repaired:?}");
        // Flags that disagreed with what was not there are not counted as mended.
        assert!(repaired.corruptions_fixed > 70 && repaired.corruptions_fixed < before.corruptions);
        let (after, _) = check(&view, Repair::Nothing).await.unwrap();
        assert_eq!((after.corruptions, after.leaks, after.errors), (0, 0, 0), "{after:?}");
        images::check(&world.disk().bytes("disk").unwrap()).unwrap();
        let view = lab.open_qcow2("disk", json!({}), None).await.view();
        assert!(seam::read(&view, ByteRange::new(0, 300 << 10)).await.unwrap().iter().all(|byte| *byte == 7));
    });
}

#[test]
fn an_image_that_was_not_closed_is_repaired_when_it_is_opened_for_writing() {
    on_filled(async |lab, world, file, header| {
        let table = header.refcount_table.offset.0 as usize;
        let block = u64::from_be_bytes(file[table..table + 8].try_into().unwrap()) as usize;
        // The dirty bit; and a cluster in use that counts as free, one that leaks.
        change(world, "disk", 79, 1);
        change(world, "disk", block + 2 * 20 + 1, 1);
        change(world, "disk", block + 2 * 1000 + 1, 1);
        assert!(images::check(&world.disk().bytes("disk").unwrap()).is_err());
        let view = lab.open_qcow2("disk", json!({}), None).await.view();
        let left = world.disk().bytes("disk").unwrap();
        assert_eq!(left[79], 0, "it is clean");
        assert_eq!(images::check(&left).unwrap().leaks, 0);
        seam::write(&view, 500 << 10, &[9; 100 << 10]).await.unwrap();
        flush(&view).await;
        images::check(&world.disk().bytes("disk").unwrap()).unwrap();
        assert!(seam::read(&view, ByteRange::new(0, 300 << 10)).await.unwrap().iter().all(|byte| *byte == 7));
    });
}

#[test]
fn an_image_past_repair_stays_dirty_and_is_not_opened_for_writing() {
    on_filled(async |lab, world, _, header| {
        let l1 = qcow2::Geometry::new(&header).l1_offset().0 as usize;
        change(world, "disk", 79, 1);
        // An L2 table that is not aligned.
        change(world, "disk", l1 + 6, 2);
        let (file, _) = lab.file("disk").await;
        let opened = lab.open_with("qcow2", json!({}), &[(Role::File, &file)], |_| {}).await;
        let Err(error) = opened else { panic!("it was opened for writing") };
        assert!(error.to_string().contains("marked dirty, and could not be repaired"), "{error}");
        assert_eq!(world.disk().bytes("disk").unwrap()[79], 1);
    });
}

#[test]
fn an_image_without_a_refcount_table_is_only_repaired() {
    on_filled(async |lab, world, mut file, _| {
        // Where the header has its refcount table: offset and clusters.
        file[48..60].fill(0);
        world.disk().put("disk", &file);
        for read_only in [true, false] {
            let refused = opened(lab, json!({}), read_only).await.map(|_| ()).unwrap_err();
            assert!(refused.to_string().contains("does not contain a reference count table"), "{refused}");
        }
        let (report, _) = check(&check_only(lab, "disk").await.view(), Repair::All).await.unwrap();
        assert!(report.corruptions_fixed > 0 && report.corruptions == 0, "{report:?}");
        let view = lab.open_qcow2("disk", json!({}), None).await.view();
        same(&seam::read(&view, ByteRange::new(0, 300 << 10)).await.unwrap(), &[7; 300 << 10]);
    });
}

#[test]
fn what_is_left_of_a_broken_image_is_only_read() {
    on_filled(async |lab, world, file, header| {
        // The lowest byte of the first L1 entry: its lowest bit is reserved.
        change(world, "disk", header.l1_offset.0 as usize + 7, 1);
        let whole = ByteRange::new(0, 300 << 10);
        let strict = opened(lab, json!({}), true).await.unwrap().view();
        assert_eq!(seam::read(&strict, whole).await.unwrap_err().kind(), ErrorKind::Corrupt);
        let saved = opened(lab, json!({"salvage": true}), true).await.unwrap().view();
        same(&seam::read(&saved, whole).await.unwrap(), &[7; 300 << 10]);
        let refused = opened(lab, json!({"salvage": true}), false).await.map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("read-only=on"), "{refused}");
        assert_eq!(world.disk().bytes("disk").unwrap().len(), file.len());
    });
}
