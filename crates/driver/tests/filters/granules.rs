//! Copy-on-read above other filters, and over caches whose clusters change in size while bytes are on their way.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::lab::{Lab, same};
use block::ByteRange;
use driver::filters::copy_on_read::CopyOnRead;
use flow::copy::{Policy, Progress, fill};
use flow::{Body, Role, seam};
use futures_util::future::{join, join3};
use serde_json::json;
use sim::{OpKind, Options, SimWorld, Verdict};

const SIZE: u64 = 256 << 10;

#[test]
fn whole_clusters_are_fetched_below_another_filter_too() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &[7; SIZE as usize]);
        let (base, counts) = lab.file("base").await;
        let cache =
            lab.memory_format("disk", json!({"size": SIZE, "cluster-size": 65536}), Some(&base)).await;
        let inner = lab.open("copy-on-read", json!({}), &[(Role::Filtered, &cache)]).await;
        let outer = lab.open("copy-on-read", json!({}), &[(Role::Filtered, &inner)]).await;
        for start in [1000, 3000, 60000] {
            same(&seam::read(&outer.view(), ByteRange::new(start, 1000)).await.unwrap(), &[7; 1000]);
        }
        assert_eq!(counts.read_bytes.load(SeqCst), 65536, "one cluster, once");
    });
}

#[test]
fn clusters_of_zeros_take_no_room_whatever_came_with_them() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        const CLUSTER: usize = 16 << 10;
        let mut bytes = vec![7; SIZE as usize];
        for cluster in [1, 2, 5, 15] {
            bytes[cluster * CLUSTER..][..CLUSTER].fill(0);
        }
        // One that is zeros but for its last byte.
        bytes[9 * CLUSTER..10 * CLUSTER - 1].fill(0);
        world.disk().put("base", &bytes);
        let (base, counts) = lab.file("base").await;
        let cache =
            lab.memory_format("disk", json!({"size": SIZE, "cluster-size": CLUSTER}), Some(&base)).await;
        let top = lab.open("copy-on-read", json!({}), &[(Role::Filtered, &cache)]).await;
        same(&seam::read(&top.view(), ByteRange::new(0, SIZE)).await.unwrap(), &bytes);
        assert_eq!(counts.reads.load(SeqCst), 1, "one fetch");
        seam::execute(&top.view(), flow::Request::flush(), io::Lease::empty()).await.0.unwrap();
        assert_eq!(world.disk().allocated("disk"), Some(12 * CLUSTER as u64));
        // All of it is there.
        same(&seam::read(&top.view(), ByteRange::new(0, SIZE)).await.unwrap(), &bytes);
        assert_eq!(counts.reads.load(SeqCst), 1, "nothing is fetched again");
    });
}

#[test]
fn a_flight_of_shorter_clusters_may_end_before_what_is_wanted() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        world.disk().put("base", &bytes);
        let (base, _) = lab.file("base").await;
        let filter = Arc::new(CopyOnRead::default());
        let over = async |path: &str, cluster: u64| {
            let options = json!({"size": SIZE, "cluster-size": cluster});
            let cache = lab.memory_format(path, options, Some(&base)).await;
            lab.node("copy-on-read", Body::Executes(filter.clone()), &[(Role::Filtered, &cache)]).view()
        };
        let (short, long) = (over("short", 512).await, over("long", 65536).await);
        world.disk().set_policy(|op| match op.is(OpKind::Read, "base") {
            true => Verdict::Hold,
            false => Verdict::Go,
        });
        let (first, second) = (ByteRange::new(1024, 512), ByteRange::new(40_000, 512));
        let release = async {
            while world.disk().held().is_empty() {
                io::yield_now().await;
            }
            io::yield_now().await;
            world.disk().clear_policy();
            world.disk().release_all();
        };
        let (one, two, ()) = join3(seam::read(&short, first), seam::read(&long, second), release).await;
        same(&one.unwrap(), &bytes[1024..][..512]);
        same(&two.unwrap(), &bytes[40_000..][..512]);
    });
}

/// While a guest misses, and for some times as long as that took, one request of a fill is under way; else a window.
#[test]
fn a_fill_makes_room_for_guests() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let lab = Lab::new(&world);
        world.disk().put("base", &vec![7; 8 << 20]);
        let (base, _) = lab.file("base").await;
        let cache = lab.memory_format("disk", json!({"size": 8 << 20}), Some(&base)).await;
        let top = lab.open("copy-on-read", json!({}), &[(Role::Filtered, &cache)]).await;
        let (root, view) = (lab.root(&top), top.view());
        world.disk().set_policy(|op| match op.is(OpKind::Read, "base") {
            true => Verdict::Hold,
            false => Verdict::Go,
        });
        let (progress, policy) = (Progress::default(), Policy::default());
        let under_way = async |millis: u64| {
            io::sleep(Duration::from_millis(millis)).await;
            world.disk().held().len()
        };
        let guest = async {
            let arrives = async {
                assert_eq!(under_way(10).await, 1, "the guest's");
                world.disk().release_all();
            };
            join(seam::read(&view, ByteRange::new(7 << 20, 512)), arrives).await.0.unwrap();
            assert_eq!(under_way(10).await, 1, "one of the fill, since the guest may be back");
            world.disk().release_all();
            assert_eq!(under_way(10).await, 1, "still");
            // The guest's took 10 ms: by now it is not expected any more.
            io::sleep(Duration::from_millis(40)).await;
            world.disk().release_all();
            assert!(under_way(10).await > 1, "the guest is gone, and there still is one only");
            world.disk().clear_policy();
            world.disk().release_all();
        };
        let filling = async {
            // The guest was first.
            io::sleep(Duration::from_millis(1)).await;
            fill(&root, &policy, &progress).await.unwrap();
        };
        join(guest, filling).await;
    });
}
