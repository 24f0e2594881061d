//! Overlays that are emptied while somebody reads them, and disks that clients empty.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lab::{Lab, oracle, qcow2 as images, same};
use block::ByteRange;
use flow::{Op, Request, seam};
use futures_util::future::join;
use io::Lease;
use qcow2::NewImage;
use serde_json::json;
use sim::{OpKind, Options, SimWorld, Verdict};

const SIZE: u64 = 300_032;

/// Empties an overlay while a client reads all of it, again and again; answers what its data file was asked to drop.
fn dropped(passes: bool, seed: u64) -> Vec<ByteRange> {
    let world = SimWorld::new(seed, Options::default());
    world.disk().put("disk", &images::with_data_file(&NewImage::new(SIZE, 12).over("base", "raw"), false));
    world.disk().put("data", &[]);
    world.disk().put("base", &oracle::initial(SIZE));
    let dropped = Arc::new(Mutex::new(Vec::new()));
    world.run(async {
        let lab = Lab::new(&world);
        let (below, _) = lab.file("base").await;
        let options = json!({"pass-discard-snapshot": passes});
        let view = lab.open_qcow2("disk", options, Some(&below)).await.view();
        // The overlay holds what is below it, as a commit leaves it.
        seam::write(&view, 0, &oracle::initial(SIZE)).await.unwrap();
        seam::execute(&view, Request::flush(), Lease::empty()).await.0.unwrap();
        let asked = dropped.clone();
        world.disk().set_policy(move |op| {
            if op.is(OpKind::Discard, "data") {
                asked.lock().unwrap().push(op.range);
            }
            // Who has begun to read there ends long after the tables have changed.
            if op.is(OpKind::Read, "data") { Verdict::Delay(Duration::from_millis(50)) } else { Verdict::Go }
        });
        let reading = async {
            for _ in 0..4 {
                same(&seam::read(&view, ByteRange::new(0, SIZE)).await.unwrap(), &oracle::initial(SIZE));
            }
        };
        join(reading, async { seam::make_empty(&view).await.unwrap() }).await;
        assert_eq!(images::check(&world.disk().bytes("disk").unwrap()).unwrap().data, 0);
    });
    world.disk().clear_policy();
    std::mem::take(&mut *dropped.lock().unwrap())
}

#[test]
fn readers_see_the_same_bytes_while_what_lies_in_a_data_file_goes() {
    // What is dropped there often reads as rubbish.
    for seed in 0..8 {
        assert_eq!(dropped(true, seed), [ByteRange::new(0, SIZE)]);
        assert_eq!(dropped(false, seed), []);
    }
}

#[test]
fn what_a_client_discards_leaves_the_file_with_the_flush_that_makes_it_durable() {
    let world = SimWorld::new(1, Options::default());
    let dropped = Arc::new(Mutex::new(0));
    world.run(async {
        let view = Lab::new(&world).qcow2("disk", &NewImage::new(SIZE, 12), json!({}), None).await.view();
        let execute = async |rq| seam::execute(&view, rq, Lease::empty()).await.0.unwrap();
        seam::write(&view, 0, &oracle::initial(SIZE)).await.unwrap();
        execute(Request::flush()).await;
        let asked = dropped.clone();
        world.disk().set_policy(move |op| {
            *asked.lock().unwrap() += if op.is(OpKind::Discard, "disk") { op.range.len() } else { 0 };
            Verdict::Go
        });
        execute(Request::new(Op::Discard, ByteRange::new(0, SIZE))).await;
        execute(Request::flush()).await;
        // Whoever asked has the answer before.
        io::sleep(Duration::from_millis(100)).await;
        assert_eq!(*dropped.lock().unwrap(), SIZE.next_multiple_of(4096));
        world.disk().clear_policy();
        execute(Request::flush()).await;
    });
    assert_eq!(images::check(&world.disk().bytes("disk").unwrap()).unwrap().leaks, 0);
}
