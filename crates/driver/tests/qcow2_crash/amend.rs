//! An image becomes one of another kind, and reads as before at any moment.

use block::ByteRange;
use flow::{Amendment, Flags, Op, Request, Role, seam};
use io::Lease;
use qcow2::NewImage;
use serde_json::json;
use sim::{Options, SimWorld};

use crate::lab::{Lab, oracle, qcow2 as images};
use crate::row::{Row, SIZE};
use crate::stage::{Stage, flush};
use crate::table::{filled, fresh, over, overlay, plain, scribble};

/// Images that become images of another kind.
pub fn rows() -> Vec<Row> {
    let shared = |bits| images::with_snapshot(zeroed(&fresh(bits)));
    let shared_over = |bits| images::with_snapshot(zeroed(&fresh(bits).over("base", "raw")));
    let old = images::with_incomplete_snapshot(images::version_2(images::with_snapshot(filled(&fresh(12)))));
    let crowded = images::crowded(&fresh(9));
    vec![
        Row {
            work: |stage| Box::pin(widths(stage)),
            ..scribble("refcounts of other widths", shared(9), plain())
        },
        Row {
            work: |stage| Box::pin(widths(stage)),
            ..scribble("refcounts of other widths in a crowd", crowded, plain())
        },
        Row { work: |stage| Box::pin(versions(stage)), ..scribble("other versions", shared(11), plain()) },
        Row {
            work: |stage| Box::pin(versions(stage)),
            ..overlay("other versions over a backing image", shared_over(11), plain())
        },
        Row {
            work: |stage| Box::pin(upgrade(stage)),
            ..scribble("a new version with incomplete snapshots", old, plain())
        },
        Row { work: |stage| Box::pin(header(stage)), ..overlay("other headers", over(12), plain()) },
    ]
}

/// An image that holds data and zeros, some of which keep their clusters.
fn zeroed(image: &NewImage) -> Vec<u8> {
    let world = SimWorld::new(7, Options::calm());
    images::put(&world.disk(), "disk", image);
    world.disk().put("base", &oracle::initial(SIZE));
    world.run(async {
        let lab = Lab::new(&world);
        let (base, _) = lab.file("base").await;
        let backing = image.backing.is_some().then_some(&base);
        let view = lab.open_qcow2("disk", json!({}), backing).await.view();
        seam::write(&view, 0, &oracle::initial(SIZE / 2)).await.unwrap();
        for (start, flags) in [(8 << 10, Flags::NONE), (48 << 10, Flags::MAY_UNMAP)] {
            let rq = Request::new(Op::WriteZeroes, ByteRange::new(start, 16 << 10)).with_flags(flags);
            seam::execute(&view, rq, Lease::empty()).await.0.unwrap();
        }
        flush(&view).await;
    });
    world.disk().bytes("disk").unwrap()
}

/// Refcounts get wider and narrower.
async fn widths(stage: &Stage<'_>) {
    let few = [[64, 2], [32, 4], [2, 8]][stage.seed as usize % 3];
    amend(stage, &few.map(Amendment::RefcountBits)).await;
}

/// Version 3 becomes version 2, and back again.
async fn versions(stage: &Stage<'_>) {
    amend(stage, &[Amendment::Version(2), Amendment::Version(3), Amendment::Version(2)]).await;
}

/// Version 2 becomes version 3 with snapshots that do not say how large the disk was.
async fn upgrade(stage: &Stage<'_>) {
    amend(stage, &[Amendment::Version(3)]).await;
}

/// What fields of the header say.
async fn header(stage: &Stage<'_>) {
    let quota = [1 << 20, 1 << 40][stage.seed as usize % 2];
    let changes = [
        Amendment::Quota(Some(quota)),
        Amendment::LazyRefcounts(true),
        Amendment::Quota(Some(77)),
        Amendment::LazyRefcounts(false),
        Amendment::Quota(None),
    ];
    amend(stage, &changes).await;
}

async fn amend(stage: &Stage<'_>, changes: &[Amendment]) {
    let (base, _) = stage.lab.file("base").await;
    let (file, _) = stage.lab.file("disk").await;
    let children = [(Role::File, &file), (Role::Backing, &base)];
    let tree = stage.lab.open("qcow2", json!({"check-only": true}), &children).await;
    let view = tree.view();
    assert_eq!(view.size(), SIZE);
    for change in changes {
        view.root().powers().amend.unwrap().amend(change, view.next()).await.unwrap();
    }
}
