//! What a qcow2 image does while nobody uses it: tables leave memory, and it is marked clean.

use std::time::Duration;

use crate::lab::{Lab, qcow2 as images};
use block::ByteRange;
use flow::{Request, View, seam};
use io::Lease;
use qcow2::{Header, NewImage};
use serde_json::json;
use sim::{Options, SimWorld};

const SIZE: u64 = 1 << 20;

async fn flush(view: &View) {
    seam::execute(view, Request::flush(), Lease::empty()).await.0.unwrap();
}

fn is_dirty(world: &SimWorld) -> bool {
    let file = world.disk().bytes("disk").unwrap();
    Header::parse(&file[..Header::needed(&file).unwrap()]).unwrap().features.dirty()
}

/// Bytes that are read from the disk meanwhile.
async fn read(world: &SimWorld, view: &View) -> u64 {
    let before = world.disk().counts().read_bytes;
    seam::read(view, ByteRange::new(0, 512)).await.unwrap();
    world.disk().counts().read_bytes - before
}

#[test]
fn tables_that_nobody_looks_at_leave_memory() {
    for (interval, goes) in [(10, true), (0, false)] {
        let world = SimWorld::new(5, Options::calm());
        world.run(async {
            let lab = Lab::new(&world);
            let options = json!({"cache-clean-interval": interval});
            let view = lab.qcow2("disk", &NewImage::new(SIZE, 12), options, None).await.view();
            seam::write(&view, 0, &[1; 4096]).await.unwrap();
            // What is not in the file stays.
            io::sleep(Duration::from_secs(25)).await;
            flush(&view).await;
            seam::read(&view, ByteRange::new(0, 512)).await.unwrap();
            let in_memory = read(&world, &view).await;
            io::sleep(Duration::from_secs(25)).await;
            assert_eq!(read(&world, &view).await > in_memory, goes, "{interval}");
            assert_eq!(read(&world, &view).await, in_memory);
        });
    }
}

#[test]
fn with_lazy_refcounts_it_is_marked_dirty_until_it_comes_to_rest() {
    let (on, off) = (json!({"lazy-refcounts": true}), json!({"lazy-refcounts": false}));
    for (in_header, option, lazy) in [(true, json!({}), true), (false, on, true), (true, off, false)] {
        let world = SimWorld::new(5, Options::calm());
        world.run(async {
            let lab = Lab::new(&world);
            let image = NewImage { lazy_refcounts: in_header, ..NewImage::new(SIZE, 12) };
            let view = lab.qcow2("disk", &image, option, None).await.view();
            assert!(!is_dirty(&world));
            for _ in 0..2 {
                seam::write(&view, 0, &[1; 4096]).await.unwrap();
                assert_eq!(is_dirty(&world), lazy);
                seam::rest(&view).await.unwrap();
                assert!(!is_dirty(&world));
                images::check(&world.disk().bytes("disk").unwrap()).unwrap();
            }
        });
    }
}
