//! Copies that fail, that may leave out what cannot be read, or that are called off.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::*;

/// Fails the `number`th operation of this kind on that file.
fn fail_one(world: &SimWorld, path: &'static str, kind: OpKind, number: u64) {
    let seen = AtomicU64::new(0);
    world.disk().set_policy(move |op| match op.is(kind, path) && seen.fetch_add(1, SeqCst) + 1 == number {
        true => Verdict::Fail(Errno::IO),
        false => Verdict::Go,
    });
}

#[test]
fn what_fails_in_the_middle_ends_it_where_it_failed() {
    for (seed, (path, kind)) in
        (1..=40).flat_map(|seed| [("source", OpKind::Read), ("target", OpKind::Write)].map(|it| (seed, it)))
    {
        let (world, ordered) = (SimWorld::new(seed, Options::default()), seed % 2 == 0);
        world.run(async {
            let (bench, rng) = (Bench::new(&world), &mut Rng::new(seed));
            let size = 1 << 20;
            world.disk().put("source", &vec![7; size as usize]);
            world.disk().put_hole("target", size);
            let (from, to) = (bench.raw("source").await, bench.raw("target").await);
            fail_one(&world, path, kind, 1 + rng.below(12));
            let how = Transfer { chunk: 32 * K, parallel: 1 + rng.index(8), ordered, ..PLAIN };
            let (from, to) = (bench.lab.root(&from), bench.lab.root(&to));
            let failed = transfer(&[&from], &to, &how, &Noting::default()).await.unwrap_err();
            assert_eq!(world.disk().in_flight(), 0, "seed {seed}: something is still under way");
            let at = match (&failed, kind) {
                (Failed::Reading(at, _), OpKind::Read) | (Failed::Writing(at, _), OpKind::Write) => *at,
                _ => panic!("seed {seed}: {failed:?}"),
            };
            world.disk().clear_policy();
            let found = seam::read(&to.view(), ByteRange::new(0, size)).await.unwrap();
            if ordered && kind == OpKind::Write {
                assert!(found[..at as usize].iter().all(|byte| *byte == 7), "seed {seed}: before {at}");
                // The one after it may have begun.
                let behind = (at + 2 * how.chunk).min(size) as usize;
                assert!(found[behind..].iter().all(|byte| *byte == 0), "seed {seed}: behind {at}");
            }
        });
    }
}

#[test]
fn what_cannot_be_read_becomes_zeros_where_it_may() {
    let world = world(1);
    world.run(async {
        let bench = Bench::new(&world);
        world.disk().put("source", &vec![7; 256 << 10]);
        world.disk().put_hole("target", 256 * K);
        let (from, to) = (bench.raw("source").await, bench.raw("target").await);
        let bad = ByteRange::new(100 * K, 512);
        world.disk().set_policy(move |op| match op.is(OpKind::Read, "source") && op.range.overlaps(bad) {
            true => Verdict::Fail(Errno::IO),
            false => Verdict::Go,
        });
        let (how, noting) = (Transfer { salvage: true, ..PLAIN }, Noting::default());
        transfer(&[&bench.lab.root(&from)], &bench.lab.root(&to), &how, &noting).await.unwrap();
        assert_eq!(*noting.lost.borrow(), [bad.start()]);
        let mut expected = vec![7; 256 << 10];
        expected[bad.start() as usize..bad.end() as usize].fill(0);
        same(&content(&to).await, &expected);
    });
}

#[test]
fn of_an_image_whose_end_is_missing_the_rest_is_copied_where_it_may() {
    const CLUSTER: usize = 64 << 10;
    for over in [None, Some(Over::Backing(1 << 20))] {
        let world = world(1);
        world.run(async {
            let bench = Bench::new(&world);
            let source = bench.new_qcow2("source", 1 << 20, 16).await;
            seam::write(&source.view(), 0, &[7; 10 * CLUSTER]).await.unwrap();
            seam::execute(&source.view(), Request::flush(), Lease::empty()).await.0.unwrap();
            drop(source);
            let mut bytes = world.disk().bytes("source").unwrap();
            bytes.truncate(bytes.len() - 3 * CLUSTER);
            world.disk().put("source", &bytes);
            let (from, to) =
                (bench.qcow2("source", None).await, bench.new_qcow2("target", 1 << 20, 12).await);
            let (how, noting) = (Transfer { over, ..PLAIN }, Noting::default());
            let (from, to_root) = (bench.lab.root(&from), bench.lab.root(&to));
            let failed = transfer(&[&from], &to_root, &how, &noting).await.unwrap_err();
            assert!(matches!(failed, Failed::Reading(..)), "{failed:?}");
            let how = Transfer { salvage: true, ..how };
            transfer(&[&from], &to_root, &how, &noting).await.unwrap();
            let lost: Vec<u64> = (7 * CLUSTER as u64..10 * CLUSTER as u64).step_by(512).collect();
            assert_eq!(*noting.lost.borrow(), lost);
            let mut expected = vec![0; 1 << 20];
            expected[..7 * CLUSTER].fill(7);
            same(&content(&to).await, &expected);
            is_sound(&to).await;
        });
    }
}

#[test]
fn a_target_has_to_take_all_but_what_fills_the_last_sector() {
    let world = world(1);
    world.run(async {
        let bench = Bench::new(&world);
        world.disk().put("source", &[7; 100_001]);
        let from = bench.raw("source").await;
        for (size, is_enough) in [(100_000, false), (100_001, true), (100_352, true)] {
            world.disk().put_hole("target", size);
            let to = bench.raw("target").await;
            let (from, root, noting) = (bench.lab.root(&from), bench.lab.root(&to), Noting::default());
            let copied = transfer(&[&from], &root, &PLAIN, &noting).await;
            assert_eq!(copied.is_ok(), is_enough, "{size}: {copied:?}");
            if is_enough {
                let found = content(&to).await;
                same(&found[..100_001], &[7; 100_001]);
                assert!(seam::is_zero(&found[100_001..]));
            }
        }
    });
}

#[test]
fn a_copy_that_is_called_off_has_nothing_under_way() {
    let world = world(1);
    world.run(async {
        let bench = Bench::new(&world);
        world.disk().put("source", &vec![7; 2 << 20]);
        world.disk().put_hole("target", 2 << 20);
        let (from, to) = (bench.raw("source").await, bench.raw("target").await);
        let noting = Noting { ends_at: Some(256 * K), ..Noting::default() };
        let ended = transfer(&[&bench.lab.root(&from)], &bench.lab.root(&to), &PLAIN, &noting).await;
        assert!(matches!(ended, Err(Failed::Ended)), "{ended:?}");
        assert_eq!(world.disk().in_flight(), 0);
        assert!(noting.moved.get() < 2 << 20);
    });
}
