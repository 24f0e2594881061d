//! Resizing a qcow2 image. What a loss of power leaves of it is looked at in `qcow2_crash`.

use crate::lab::{Lab, Tree, qcow2 as images, same};
use block::ByteRange;
use flow::{Request, View, seam};
use io::Lease;
use qcow2::NewImage;
use serde_json::json;
use sim::{Options, SimWorld};

const K: u64 = 1 << 10;

async fn flush(view: &View) {
    seam::execute(view, Request::flush(), Lease::empty()).await.0.unwrap();
}

async fn bytes(view: &View, start: u64, len: u64) -> Vec<u8> {
    seam::read(view, ByteRange::new(start, len)).await.unwrap().to_vec()
}

/// The image at `path` over the file `base`, if that has any bytes.
async fn open(lab: &Lab<SimWorld>, path: &str, has_base: bool) -> Tree {
    let (base, _) = lab.file("base").await;
    lab.open_qcow2(path, json!({}), has_base.then_some(&base)).await
}

#[test]
fn it_grows_and_shrinks_and_what_is_new_reads_as_zeros() {
    for (bits, has_base) in [(9, false), (9, true), (12, false), (12, true), (16, true)] {
        let world = SimWorld::new(5, Options::calm());
        world.disk().put("base", &[0xbb; 700 << 10]);
        world.run(async {
            let lab = Lab::new(&world);
            let image = NewImage::new(100 * K + 512, bits);
            let image = if has_base { image.over("base", "raw") } else { image };
            images::put(&world.disk(), "disk", &image);
            let view = open(&lab, "disk", has_base).await.view();
            seam::write(&view, 90 * K, &[1; 10 << 10]).await.unwrap();
            let mut model = if has_base { vec![0xbb; 100 << 10] } else { vec![0; 100 << 10] };
            model[90 << 10..].fill(1);
            model.extend(if has_base { [0xbb; 512] } else { [0; 512] });
            for size in [300 * K, 8000 * K, 8001 * K, 50 * K + 512, 60 * K, 60 * K, 20_000 * K, 0, 3 * K] {
                seam::resize(&view, size).await.unwrap();
                assert_eq!(view.size(), size);
                model.resize(size as usize, 0);
                same(&bytes(&view, 0, size).await, &model);
                if size > 2 * K {
                    seam::write(&view, size - 2 * K, &[size as u8 | 1; 2 << 10]).await.unwrap();
                    model[(size - 2 * K) as usize..].fill(size as u8 | 1);
                }
                flush(&view).await;
                images::check(&world.disk().bytes("disk").unwrap()).unwrap();
                let again = open(&Lab::new(&world), "disk", has_base).await.view();
                same(&bytes(&again, 0, size).await, &model);
            }
        });
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let world = SimWorld::new(5, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let view = lab.qcow2("disk", &NewImage::new(100 * K, 9), json!({}), None).await.view();
        let refused = seam::resize(&view, 1 << 50).await.unwrap_err().to_string();
        assert!(refused.contains("grow the L1 table"), "{refused}");
        let mut old = images::file_of(&NewImage::new(100 * K, 16));
        // Version 2, and a snapshot without anything in it.
        old[7] = 2;
        old[63] = 1;
        old[64..72].copy_from_slice(&(1u64 << 20).to_be_bytes());
        world.disk().put("old", &old);
        let view = lab.open_qcow2("old", json!({}), None).await.view();
        let refused = seam::resize(&view, 200 * K).await.unwrap_err().to_string();
        assert!(refused.contains("v2 image which has snapshots"), "{refused}");
    });
}

/// Length of the file of an image as it is durable.
fn len_of(world: &SimWorld, path: &str) -> u64 {
    world.disk().durable_bytes(path).unwrap().len() as u64
}

#[test]
fn a_shorter_disk_leaves_a_shorter_file() {
    // Also the blocks that counted what is gone.
    for (bits, left) in [(9, 16 * K), (12, 40 * K), (16, 7 * 64 * K)] {
        let world = SimWorld::new(5, Options::calm());
        world.run(async {
            let lab = Lab::new(&world);
            let view = lab.qcow2("disk", &NewImage::new(2 << 20, bits), json!({}), None).await.view();
            seam::write(&view, 0, &[1; 2 << 20]).await.unwrap();
            flush(&view).await;
            assert!(len_of(&world, "disk") > 2 << 20);
            let size = if bits == 16 { 128 * K } else { 8 * K };
            seam::resize(&view, size).await.unwrap();
            flush(&view).await;
            let len = len_of(&world, "disk");
            assert!(len <= left, "{bits} bits: {len} bytes");
            images::check(&world.disk().bytes("disk").unwrap()).unwrap();
            // And goes on.
            seam::resize(&view, 3 << 20).await.unwrap();
            seam::write(&view, 4 * K, &[2; 2 << 20]).await.unwrap();
            flush(&view).await;
            images::check(&world.disk().bytes("disk").unwrap()).unwrap();
            let mut model = vec![0; 3 << 20];
            model[..4 << 10].fill(1);
            model[4 << 10..][..2 << 20].fill(2);
            same(&bytes(&view, 0, 3 << 20).await, &model);
            let again = open(&Lab::new(&world), "disk", false).await.view();
            same(&bytes(&again, 0, 3 << 20).await, &model);
        });
    }
}

#[test]
fn what_others_have_left_behind_the_end_goes_too() {
    let world = SimWorld::new(5, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        images::put(&world.disk(), "disk", &NewImage::new(2 << 20, 16));
        let view = open(&lab, "disk", false).await.view();
        seam::write(&view, 0, &[1; 256 << 10]).await.unwrap();
        flush(&view).await;
        drop(view);
        let mut file = world.disk().bytes("disk").unwrap();
        file.resize(20 << 20, 9);
        world.disk().put("again", &file);
        let view = open(&lab, "again", false).await.view();
        seam::resize(&view, 1 << 20).await.unwrap();
        flush(&view).await;
        assert_eq!(len_of(&world, "again"), 9 * 64 * K);
        same(&bytes(&view, 0, 256 << 10).await, &[1; 256 << 10]);
    });
}

#[test]
fn tables_may_be_longer_than_what_a_refcount_block_counts() {
    for refcount_bits in [16, 64] {
        let world = SimWorld::new(5, Options::calm());
        world.run(async {
            let lab = Lab::new(&world);
            let image = NewImage { refcount_bits, ..NewImage::new(100 * K, 9) };
            let view = lab.qcow2("disk", &image, json!({}), None).await.view();
            seam::write(&view, 0, &[1; 100 << 10]).await.unwrap();
            // As large as clusters of 512 bytes can make it.
            for size in [1 << 30, 100 << 30, 128 << 30] {
                seam::resize(&view, size).await.unwrap();
                seam::write(&view, size - K, &[2; 1 << 10]).await.unwrap();
                flush(&view).await;
                images::check(&world.disk().bytes("disk").unwrap()).unwrap();
            }
            let again = open(&Lab::new(&world), "disk", false).await.view();
            assert_eq!(again.size(), 128 << 30);
            same(&bytes(&again, 0, 100 * K).await, &[1; 100 << 10]);
            same(&bytes(&again, (100 << 30) - K, K).await, &[2; 1 << 10]);
            same(&bytes(&again, (128 << 30) - K, K).await, &[2; 1 << 10]);
        });
    }
}
