//! Disks that fail at one write: whatever is told to have failed, no bitmap says less than was changed, none is lost
//! that was stored, and none shares clusters with another.

use block::{ByteRange, Errno};
use flow::{BitmapChange, View, seam};
use qcow2::NewImage;
use serde_json::json;
use sim::{OpKind, Options, SimWorld, Verdict};

use crate::lab::{Lab, Tree};

const SIZE: u64 = 1 << 20;
const WRITTEN: ByteRange = ByteRange::new(4096, 9000);

async fn change(view: &View, name: &str, change: BitmapChange) -> block::Result<()> {
    view.root().powers().bitmaps.unwrap().change(name, change, view.next()).await
}

/// An image with two bitmaps at rest, in which a write is recorded.
async fn stored(lab: &Lab) -> Tree {
    let tree = lab.qcow2("disk", &NewImage::new(SIZE, 12), json!({}), None).await;
    for name in ["a", "b"] {
        let add = BitmapChange::Add { granularity: 512, recording: true, persistent: true };
        change(&tree.view(), name, add).await.unwrap();
    }
    seam::write(&tree.view(), WRITTEN.start(), &[1; WRITTEN.len() as usize]).await.unwrap();
    seam::rest(&tree.view()).await.unwrap();
    tree
}

/// Lets the write of that number, from now on, fail.
fn fail_write(world: &SimWorld, number: usize) {
    let mut left = number;
    world.disk().set_policy(move |op| {
        let is_due = op.kind == OpKind::Write && left == 0;
        left = left.wrapping_sub(usize::from(op.kind == OpKind::Write));
        if is_due { Verdict::Fail(Errno::IO) } else { Verdict::Go }
    });
}

/// Does `work` with each of its first writes failing, which leaves something behind or not, as the seed says; answers
/// how often it said that something had failed.
fn failing(work: impl AsyncFn(&SimWorld, &Lab, Tree, usize) -> bool) -> usize {
    let run = |(seed, number): &(u64, usize)| {
        let world = SimWorld::new(*seed, Options::calm());
        let failed = world.run(async {
            let lab = Lab::new(&world);
            let tree = stored(&lab).await;
            work(&world, &lab, tree, *number).await
        });
        images_are_sound(&world);
        failed
    };
    (0..6).flat_map(|seed| (0..12).map(move |number| (seed, number))).filter(run).count()
}

fn images_are_sound(world: &SimWorld) {
    crate::left::check_tables(&world.disk().bytes("disk").unwrap()).unwrap();
}

/// What the image has of its bitmaps when it is opened again: `None` for one that is lost.
async fn opened_again(lab: &Lab, tree: Tree) -> Vec<(String, Option<u64>)> {
    drop(tree);
    let view = lab.open_qcow2("disk", json!({}), None).await.view();
    let list = view.root().powers().bitmaps.unwrap().list(view.next()).await.unwrap();
    list.into_iter().map(|found| (found.name, (!found.inconsistent).then_some(found.count))).collect()
}

#[test]
fn a_bitmap_whose_removal_was_told_to_fail_is_there_or_not() {
    let failed = failing(async |world, lab, tree, number| {
        fail_write(world, number);
        let removed = change(&tree.view(), "a", BitmapChange::Remove).await;
        world.disk().clear_policy();
        // What it had is used for something else, if it is gone.
        for at in (100 << 10..200 << 10).step_by(4096) {
            let _ = seam::write(&tree.view(), at, &[7; 512]).await;
        }
        let rested = seam::rest(&tree.view()).await;
        let found = opened_again(lab, tree).await;
        let kept = found.iter().find(|(name, _)| name == "b").unwrap();
        assert!(kept.1.is_some_and(|count| count >= 18 * 512) || rested.is_err(), "{number}: {found:?}");
        removed.is_err()
    });
    assert!(failed > 3, "{failed}");
}

#[test]
fn a_bitmap_that_could_not_be_marked_is_stored_again() {
    let failed = failing(async |world, lab, tree, number| {
        fail_write(world, number);
        let written = seam::write(&tree.view(), 0, &[2; 512]).await;
        world.disk().clear_policy();
        seam::rest(&tree.view()).await.unwrap();
        let found = opened_again(lab, tree).await;
        assert!(found.iter().all(|(_, count)| count.is_some_and(|count| count >= 18 * 512)), "{found:?}");
        written.is_err()
    });
    assert!(failed > 0);
}

#[test]
fn what_could_not_be_stored_is_marked_before_anything_changes() {
    let failed = failing(async |world, lab, tree, number| {
        seam::write(&tree.view(), 64 << 10, &[2; 512]).await.unwrap();
        fail_write(world, number);
        let rested = seam::rest(&tree.view()).await;
        world.disk().clear_policy();
        let written = seam::write(&tree.view(), 15_872, &[3; 512]).await;
        let found = opened_again(lab, tree).await;
        // 18 sectors and one, and one more where it was written (in place).
        let least = (19 + u64::from(written.is_ok())) * 512;
        assert!(
            found.iter().all(|(_, count)| count.is_none_or(|count| count >= least)),
            "{number}: {found:?}"
        );
        rested.is_err()
    });
    assert!(failed > 3, "{failed}");
}

#[test]
fn a_disk_does_not_outgrow_its_bitmaps() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let tree = stored(&lab).await;
        // 512 MiB of bits are what a bitmap may have.
        let refused = seam::resize(&tree.view(), 4 << 40).await.unwrap_err().to_string();
        assert!(refused.contains("bitmap 'a'") && refused.contains("Use larger granularity"), "{refused}");
        assert_eq!(tree.view().size(), SIZE);
        seam::resize(&tree.view(), 1 << 30).await.unwrap();
        seam::rest(&tree.view()).await.unwrap();
        let found = opened_again(&lab, tree).await;
        assert!(found.len() == 2 && found.iter().all(|(_, count)| count.is_some()), "{found:?}");
    });
    images_are_sound(&world);
}
