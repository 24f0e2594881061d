//! An image that was lent from is opened for writing while an answer is on its way: the answer keeps its bytes.

use std::time::Duration;

use crate::lab::far_client::{READ_FIRST, enter};
use crate::lab::{Lab, client};
use block::{ByteRange, Permissions};
use flow::{Flags, Op, Request, Role, Root, seam};
use io::Lease;
use qcow2::NewImage;
use serde_json::json;
use sim::{DiskOptions, Options, SimWorld};

const CLUSTER: usize = 64 << 10;
const CLUSTERS: u64 = 16;

async fn flush(root: &Root) {
    seam::execute(&root.view(), Request::flush(), Lease::empty()).await.0.unwrap();
}

/// Discards the first cluster, and writes and discards all others again and again.
async fn churn(root: &Root) {
    let first = ByteRange::new(0, CLUSTER as u64);
    client::change(root, Op::Discard, first, Flags::MAY_UNMAP).await.unwrap();
    flush(root).await;
    for _ in 0..3 {
        for at in 1..CLUSTERS {
            seam::write(&root.view(), at * CLUSTER as u64, &[2; CLUSTER]).await.unwrap();
        }
        flush(root).await;
        let rest = ByteRange::between(CLUSTER as u64, CLUSTERS * CLUSTER as u64);
        client::change(root, Op::Discard, rest, Flags::MAY_UNMAP).await.unwrap();
        flush(root).await;
    }
}

async fn read_across_a_reopen(world: &SimWorld) -> Vec<u8> {
    let lab = Lab::new(world);
    {
        let first = lab.qcow2("disk", &NewImage::new(CLUSTERS * CLUSTER as u64, 16), json!({}), None).await;
        seam::write(&first.view(), 0, &[1; CLUSTER]).await.unwrap();
        flush(&lab.root(&first)).await;
    }
    let file = lab.open_with("file", json!({"filename": "disk"}), &[], |c| c.read_only = true).await.unwrap();
    let reads = Permissions::CONSISTENT_READ;
    file.node().powers().permit.unwrap().permit(reads, reads).unwrap();
    let image =
        lab.open_with("qcow2", json!({}), &[(Role::File, &file)], |c| c.read_only = true).await.unwrap();
    let root = lab.root(&image);
    let (stream, export) = enter(world, &root).await;
    let mut answer = vec![0; 16 + CLUSTER];
    // What is asked for first makes it look for holes.
    for _ in 0..2 {
        stream.send_all(READ_FIRST).await.unwrap();
        stream.recv_exact(&mut answer).await.unwrap();
        assert!(answer[16..].iter().all(|byte| *byte == 1));
    }
    stream.send_all(READ_FIRST).await.unwrap();
    while export.counters().totals().bytes[Op::Read as usize] < 3 * CLUSTER as u64 {
        io::sleep(Duration::from_millis(1)).await;
    }
    // As blockdev-reopen does it: the file first.
    let kept = file.node().keep();
    let file2 = lab.open_with("file", json!({"filename": "disk"}), &[], |c| c.kept = kept).await.unwrap();
    let kept = image.node().keep();
    let image2 = lab.open_with("qcow2", json!({}), &[(Role::File, &file2)], |c| c.kept = kept).await.unwrap();
    let all = reads.union(Permissions::WRITE).union(Permissions::RESIZE);
    file2.node().powers().permit.unwrap().permit(all, reads).unwrap();
    drop((file, image));
    root.publish(image2.view()).gone().await;
    churn(&root).await;
    stream.recv_exact(&mut answer).await.unwrap();
    answer.split_off(16)
}

#[test]
fn the_place_of_what_was_lent_gets_no_other_bytes() {
    for seed in 0..10 {
        // It is discarded meanwhile, which may show, but not as what a disk without a page cache makes of that.
        let disk = DiskOptions { discard_rubbish: 0.0, ..DiskOptions::calm() };
        let world = SimWorld::new(seed, Options { disk, ..Options::calm() });
        let answer = world.run(read_across_a_reopen(&world));
        assert!(answer.iter().all(|byte| [0, 1].contains(byte)), "seed {seed}: {:?}", &answer[..4]);
    }
}
