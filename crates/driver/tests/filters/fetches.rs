//! When copy-on-read fetches, and who waits for it: a flush does not, and long granules are fetched once.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::lab::file::Counts;
use crate::lab::{Lab, Tree, same};
use block::{ByteRange, Priority};
use flow::{Op, Request, Role, seam};
use futures_util::future::join;
use io::Lease;
use qcow2::NewImage;
use serde_json::json;
use sim::{Options, SimWorld};

const CLUSTER: u64 = 64 << 10;

fn bytes(size: u64) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8 | 1).collect()
}

/// Copy-on-read over a new cache of the file `base`, which takes its time; and what is read of that.
async fn cached(lab: &Lab<SimWorld>, read_ms: u64, image: &NewImage) -> (Tree, Arc<Counts>) {
    let (base, counts) = lab.file("base").await;
    let slow = lab.open("delay", json!({"read-ms": read_ms}), &[(Role::Filtered, &base)]).await;
    let image = image.clone().over("base", "raw");
    let cache = lab.qcow2("disk", &image, json!({}), Some(&slow)).await;
    (lab.open("copy-on-read", json!({}), &[(Role::Filtered, &cache)]).await, counts)
}

#[test]
fn a_flush_does_not_wait_for_a_source_that_does_not_answer() {
    let size = 4 << 20;
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &bytes(size));
        let (top, _) = cached(&lab, 600_000, &NewImage::new(size, 16)).await;
        let view = top.view();
        let fill = Request::new(Op::Cache, ByteRange::new(0, CLUSTER)).with_priority(Priority::Fill);
        let fill = async { seam::execute(&view, fill, Lease::empty()).await.0.unwrap() };
        let begun = io::now();
        let guest = async {
            seam::write(&view, 10 * CLUSTER, &[3; CLUSTER as usize]).await.unwrap();
            // The fill is under way.
            io::sleep(Duration::from_millis(1)).await;
            seam::execute(&view, Request::flush(), Lease::empty()).await.0.unwrap();
            io::now().since(begun)
        };
        let (took, ()) = join(guest, fill).await;
        assert!(took < Duration::from_secs(10), "{took:?}");
    });
}

/// How often each byte of the source is fetched where a cache of clusters of 2 MiB is asked for it piece by piece.
fn fetched(op: Op, step: u64) -> f64 {
    let size = 16 << 20;
    let (world, bytes) = (SimWorld::new(1, Options::calm()), bytes(size));
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &bytes);
        let (top, counts) = cached(&lab, 5, &NewImage::new(size, 21)).await;
        for start in (0..size).step_by(step as usize) {
            let lease = Lease::new(if op == Op::Read { step as usize } else { 0 });
            let rq = Request::new(op, ByteRange::new(start, step));
            let (result, lease) = seam::execute(&top.view(), rq, lease).await;
            result.unwrap();
            if op == Op::Read {
                same(&lease, &bytes[start as usize..][..step as usize]);
            }
        }
        seam::execute(&top.view(), Request::flush(), Lease::empty()).await.0.unwrap();
        counts.read_bytes.load(SeqCst) as f64 / size as f64
    })
}

#[test]
fn a_granule_longer_than_a_flight_is_fetched_once() {
    for (op, step) in [(Op::Read, 65536), (Op::Read, 2 << 20), (Op::Cache, 1 << 20), (Op::Cache, 16 << 20)] {
        let times = fetched(op, step);
        assert!(times <= 1.02, "{op:?} of {step} bytes: {times}");
    }
}
