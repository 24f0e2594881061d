//! Writes end up in the store, in the order that counts.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use block::{ByteRange, ErrorKind};
use flow::{Flags, Op, Request, seam};
use futures_util::future::{join, join_all};
use io::Lease;
use sim::{Options, Rng};

use crate::stage::{Client, Stage, USE_ALL, config, patient, play};
use crate::store::Store;

const LEN: usize = 1 << 20;
/// Requests that run side by side keep to a part of the store each.
const LANES: usize = 8;
const LANE: u64 = LEN as u64 / LANES as u64;

/// Random changes and reads in one lane, against a model.
async fn lane(client: &Client, number: usize, mut rng: Rng) {
    let base = number as u64 * LANE;
    let mut model = client.read(base, LANE).await.unwrap().to_vec();
    for _ in 0..25 {
        let start = rng.below(LANE);
        let longest = 1 << (1 + rng.below(16));
        let len = 1 + rng.below((LANE - start).min(longest));
        let range = ByteRange::new(base + start, len);
        let span = start as usize..(start + len) as usize;
        match rng.below(10) {
            0..4 => {
                let mut bytes = vec![0; len as usize];
                rng.fill(&mut bytes);
                client.write(range.start(), &bytes).await.unwrap();
                model[span].copy_from_slice(&bytes);
            }
            4 => {
                let flags = if rng.chance(0.5) { Flags::MAY_UNMAP } else { Flags::NONE };
                client.run(Request::new(Op::WriteZeroes, range).with_flags(flags)).await.unwrap();
                model[span].fill(0);
            }
            5 => client.flush().await.unwrap(),
            _ => assert!(client.read(range.start(), len).await.unwrap()[..] == model[span], "{range}"),
        }
    }
    assert!(client.read(base, LANE).await.unwrap()[..] == model);
}

#[test]
fn random_changes_agree_with_a_model() {
    for seed in 0..15 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 0..=500;
            let _server = stage.serve(&store, true, seed % 2 == 0).await;
            let client = stage.client(config(), USE_ALL).await;
            join_all((0..LANES).map(|number| lane(&client, number, Rng::new(seed * 100 + number as u64))))
                .await;
            assert!(store.flushes.load(SeqCst) > 0);
        });
    }
}

#[test]
fn random_changes_survive_cuts() {
    let mut resent = 0;
    for seed in 0..25 {
        resent += play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 0..=500;
            let _server = stage.serve(&store, true, seed % 2 == 0).await;
            let client = stage.client(patient(60), USE_ALL).await;
            stage.world.net().adjust(|options| options.cut = 0.01);
            join_all((0..LANES).map(|number| lane(&client, number, Rng::new(seed * 100 + number as u64))))
                .await;
            client.nbd.counters().resent()
        });
    }
    assert!(resent > 100, "{resent}");
}

#[test]
fn of_overlapping_writes_the_last_one_wins() {
    for seed in 0..20 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 0..=3000;
            let _server = stage.serve(&store, true, true).await;
            let client = stage.client(config(), USE_ALL).await;
            let writes = (1..=6u8).map(|byte| {
                let client = client.clone();
                async move { client.write(u64::from(byte) * 512, &[byte; 8192]).await }
            });
            assert!(join_all(writes.collect::<Vec<_>>()).await.into_iter().all(|result| result.is_ok()));
            assert_eq!(store.at(ByteRange::new(6 * 512, 8192)), [6; 8192]);
            assert_eq!(store.at(ByteRange::new(5 * 512, 512)), [5; 512]);
        });
    }
}

#[test]
fn an_abandoned_write_does_not_land_behind_its_successor() {
    for with_deadline in [false, true] {
        play(1, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 50_000..=50_000;
            let _server = stage.serve(&store, true, true).await;
            let client = stage.client(config(), USE_ALL).await;
            let soon = io::now().after(Duration::from_millis(10));
            let mut rq = Request::new(Op::Write, ByteRange::new(0, 8192));
            rq.deadline = with_deadline.then_some(soon);
            let old = seam::execute(&client.view, rq, Lease::copy_of(&[1; 8192]));
            match with_deadline {
                true => {
                    let (result, lease) = old.await;
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
                    assert_eq!(lease[..], [1; 8192], "the bytes come back");
                }
                false => assert!(io::timeout_at(soon, old).await.is_none()),
            }
            *store.delay_us.lock().unwrap() = 0..=0;
            client.write(4096, &[2; 4096]).await.unwrap();
            io::sleep(Duration::from_millis(100)).await;
            assert_eq!(store.at(ByteRange::new(0, 4096)), [1; 4096]);
            assert_eq!(store.at(ByteRange::new(4096, 4096)), [2; 4096]);
        });
    }
}

#[test]
fn deadlines_come_at_any_point_of_a_write() {
    for seed in 0..40 {
        play(seed, Options::default(), async |stage: Stage| {
            stage.world.net().adjust(|options| options.buffer = 10_000);
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 0..=1000;
            let _server = stage.serve(&store, true, true).await;
            let client = stage.client(config(), USE_ALL).await;
            let mut rng = Rng::new(seed);
            let writes = (0..10u64).map(|at| {
                let mut rq = Request::new(Op::Write, ByteRange::new(at * 100_000, 100_000));
                rq.deadline = Some(io::now().after(Duration::from_micros(rng.below(8000))));
                let view = client.view.clone();
                async move {
                    let (result, lease) =
                        seam::execute(&view, rq, Lease::copy_of(&[at as u8; 100_000])).await;
                    assert!(lease[..] == [at as u8; 100_000]);
                    result.is_ok()
                }
            });
            let done = join_all(writes.collect::<Vec<_>>()).await;
            // Nothing has confused the stream, and what was acknowledged is there.
            client.flush().await.unwrap();
            io::sleep(Duration::from_millis(50)).await;
            let pattern = Store::patterned(LEN);
            for (at, done) in done.into_iter().enumerate() {
                let range = ByteRange::new(at as u64 * 100_000, 100_000);
                let now = store.at(range);
                assert!(now == [at as u8; 100_000] || (!done && now == pattern.at(range)), "{at}");
            }
            assert_eq!(client.nbd.counters().reconnects(), 0);
        });
    }
}

#[test]
fn large_writes_and_reads_do_not_block_each_other() {
    play(1, Options::default(), async |stage: Stage| {
        // Both directions are full at once: who does not receive while it sends is stuck.
        stage.world.net().adjust(|options| options.buffer = 4096);
        let store = Store::patterned(LEN);
        let _server = stage.serve(&store, true, false).await;
        let client = stage.client(config(), USE_ALL).await;
        let bytes = vec![9; 1 << 17];
        let writes = join_all((0..4).map(|at| client.write(at << 17, &bytes)));
        let reads = join_all((4..8).map(|at| client.read(at << 17, 1 << 17)));
        let (writes, reads) = join(writes, reads).await;
        assert!(writes.into_iter().all(|result| result.is_ok()));
        assert!(reads.into_iter().all(|result| result.is_ok()));
    });
}
