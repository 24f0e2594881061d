//! Reads and extents agree with what is served, whatever the network does in between.

use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, ErrorKind, ExtentState, Priority};
use driver::protocols::nbd::{Config, Use};
use flow::{Op, Request, seam};
use futures_util::future::join_all;
use io::{Lease, World};
use serde_json::json;
use sim::{Link, Options, Rng};

use crate::stage::{Stage, USE_ALL, address, config, play};
use crate::store::{Hollow, Store, UNIT};

const LEN: usize = 1 << 20;

#[test]
fn random_reads_side_by_side_agree_with_the_store() {
    for seed in 0..30 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 0..=2000;
            let _server = stage.serve(&store, false, seed % 2 == 0).await;
            let client = stage.client(config(), Use::READ).await;
            let mut rng = Rng::new(seed);
            let reads = (0..60).map(|_| {
                let start = rng.below(LEN as u64);
                let longest = 1 << (1 + rng.below(18));
                let len = 1 + rng.below((LEN as u64 - start).min(longest));
                let priority = [Priority::Fill, Priority::Prefetch, Priority::Demand][rng.index(3)];
                let (client, store) = (client.clone(), store.clone());
                async move {
                    let got = client.read_at(priority, start, len).await.unwrap();
                    assert!(got[..] == store.at(ByteRange::new(start, len)), "{len} at {start}");
                }
            });
            join_all(reads.collect::<Vec<_>>()).await;
            assert_eq!(client.nbd.counters().resent(), 0);
        });
    }
}

#[test]
fn bytes_that_come_one_by_one_are_put_where_they_belong() {
    for seed in 0..4 {
        play(seed, Options::default(), async |stage: Stage| {
            stage.world.net().adjust(|options| (options.short, options.single) = (1.0, 1.0));
            let store = Store::patterned(32 << 10);
            let _server = stage.serve(&store, true, false).await;
            let client = stage.client(config(), Use::READ).await;
            let parts = [(0, 9000), (10_000, 6000), (100, 1), (16_000, 16_768)];
            let reads = parts.map(|(start, len)| client.read(start, len));
            for (got, (start, len)) in join_all(reads).await.into_iter().zip(parts) {
                assert!(got.unwrap()[..] == store.at(ByteRange::new(start, len)));
            }
        });
    }
}

#[test]
fn extents_are_those_of_the_server() {
    for seed in 0..10 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            let _server = stage.serve(&store, false, true).await;
            let client = stage.client(config(), Use::READ).await;
            let mut rng = Rng::new(seed);
            for _ in 0..20 {
                let start = rng.below(LEN as u64 - 1);
                let range = ByteRange::new(start, 1 + rng.below(LEN as u64 - start));
                assert_eq!(
                    seam::extents(&client.view, range).await.unwrap(),
                    store.extents(range),
                    "{range}"
                );
            }
        });
    }
}

#[test]
fn a_question_for_extents_may_be_gigabytes_long() {
    play(1, Options::calm(), async |stage: Stage| {
        let size = 2 << 30;
        let _server = stage.serve_node(Arc::new(Hollow(size)), false, true, "").await;
        let client = stage.client(config(), Use::READ).await;
        let told = seam::extents(&client.view, ByteRange::new(0, size)).await.unwrap();
        let states: Vec<_> = told.iter().map(|e| (e.range.len(), e.state)).collect();
        assert_eq!(states, [(size - UNIT, ExtentState::Hole), (UNIT, ExtentState::Data)]);
        assert_eq!(client.nbd.counters().requests(), 1);
    });
}

#[test]
fn each_byte_comes_once_and_holes_do_not() {
    play(1, Options::calm(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let _server = stage.serve(&store, false, true).await;
        let client = stage.client(config(), Use::READ).await;
        let reads = (0..16).map(|at| client.read(at << 16, 1 << 16));
        for got in join_all(reads).await {
            got.unwrap();
        }
        let counters = client.nbd.counters();
        assert_eq!((counters.requests(), counters.reconnects()), (16, 0));
        let stats = client.view.root().powers().stats.unwrap().stats();
        assert_eq!(stats[0], ("requests".to_owned(), 16));
        // A quarter are holes, and whether it sends them as such is the server's choice.
        let data = LEN as u64 / 4 * 3;
        assert!((data..=LEN as u64).contains(&counters.received_bytes()), "{}", counters.received_bytes());
    });
}

#[test]
fn fill_goes_over_a_connection_of_its_own_where_it_may() {
    let connections = |writable: bool, multi_conn: bool| {
        play(1, Options::calm(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            let server = stage.serve(&store, writable, multi_conn).await;
            let client = stage.client(config(), Use::READ).await;
            client.read(0, 4096).await.unwrap();
            assert_eq!(server.export.clients(), 1);
            for at in 0..8 {
                client.read_at(Priority::Fill, at << 16, 1 << 16).await.unwrap();
            }
            client.read(0, 4096).await.unwrap();
            (server.export.clients(), client.nbd.counters().connections())
        })
    };
    assert_eq!(connections(true, true), (2, 2));
    assert_eq!(connections(false, false), (2, 2));
    assert_eq!(connections(true, false), (1, 1));
}

#[test]
fn demand_does_not_wait_behind_fill() {
    play(1, Options::calm(), async |stage: Stage| {
        // 10 ms and 100 MB/s: 8 MiB of fill take 84 ms.
        let link = Link { round_trip: Duration::from_millis(10), rate: 100_000_000 };
        stage.world.net().set_link(&address(), link);
        let store = Store::patterned(64 << 20);
        let _server = stage.serve(&store, true, false).await;
        let client = stage.client(config(), Use::READ).await;
        let filler = client.clone();
        io::spawn(async move {
            let reads = (0..32).map(|at| filler.read_at(Priority::Fill, at << 20, 1 << 20));
            join_all(reads).await;
        });
        io::sleep(Duration::from_millis(20)).await;
        let begun = io::now();
        client.read(40 << 20, 4096).await.unwrap();
        let took = io::now().since(begun);
        assert!(took < Duration::from_millis(110), "{took:?}");
    });
}

#[test]
fn demand_does_not_wait_behind_the_first_fill() {
    play(1, Options::calm(), async |stage: Stage| {
        // 10 ms and 25 MB/s: 256 KiB take 10.5 ms, all of the fill 168 ms.
        let link = Link { round_trip: Duration::from_millis(10), rate: 25_000_000 };
        stage.world.net().set_link(&address(), link);
        let store = Store::patterned(64 << 20);
        let _server = stage.serve(&store, true, true).await;
        let client = stage.client(config(), Use::READ).await;
        let filler = client.clone();
        io::spawn(async move {
            let reads = (0..16).map(|at| filler.read_at(Priority::Fill, at << 18, 1 << 18));
            join_all(reads).await;
        });
        // The fill's own connection takes some round trips to make; this is before.
        for at in 0..2 {
            io::sleep(Duration::from_millis(1)).await;
            let begun = io::now();
            client.read((40 + at) << 20, 4096).await.unwrap();
            let took = io::now().since(begun);
            assert!(took < Duration::from_millis(32), "read {at}: {took:?}");
        }
    });
}

#[test]
fn requests_are_pipelined() {
    play(1, Options::calm(), async |stage: Stage| {
        let link = Link { round_trip: Duration::from_millis(10), rate: u64::MAX };
        stage.world.net().set_link(&address(), link);
        let store = Store::patterned(LEN);
        let _server = stage.serve(&store, false, true).await;
        let client = stage.client(config(), Use::READ).await;
        let begun = io::now();
        join_all((0..64).map(|at| client.read(at * 4096, 4096))).await;
        assert_eq!(io::now().since(begun), Duration::from_millis(10));
    });
}

#[test]
fn a_dropped_reader_leaves_nothing_behind() {
    play(3, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        *store.delay_us.lock().unwrap() = 1000..=3000;
        let _server = stage.serve(&store, false, true).await;
        let client = stage.client(config(), Use::READ).await;
        let cargo = Arc::new(());
        let mut lease = Lease::new(65_536);
        lease.carry(Box::new(cargo.clone()));
        let rq = Request::new(Op::Read, ByteRange::new(0, 65_536));
        let dropped = seam::execute(&client.view, rq, lease);
        assert!(io::timeout_at(io::now().after(Duration::from_micros(500)), dropped).await.is_none());
        assert_eq!(Arc::strong_count(&cargo), 2, "the I/O in flight still has the lease");
        assert!(client.read(4096, 9000).await.unwrap()[..] == store.at(ByteRange::new(4096, 9000)));
        io::sleep(Duration::from_millis(10)).await;
        assert_eq!(Arc::strong_count(&cargo), 1);
    });
}

#[test]
fn deadlines_give_the_lease_back() {
    play(3, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        *store.delay_us.lock().unwrap() = 50_000..=50_000;
        let _server = stage.serve(&store, false, true).await;
        let client = stage.client(config(), Use::READ).await;
        let mut rq = Request::new(Op::Read, ByteRange::new(0, 65_536));
        rq.deadline = Some(io::now().after(Duration::from_millis(5)));
        let begun = io::now();
        let cargo = Arc::new(());
        let mut lease = Lease::new(65_536);
        lease.carry(Box::new(cargo.clone()));
        let (result, lease) = seam::execute(&client.view, rq, lease).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind(), lease.len()), (ErrorKind::TimedOut, 65_536));
        assert!(error.to_string().contains("'disk'"), "{error}");
        assert!(io::now().since(begun) < Duration::from_millis(6));
        drop(lease);
        assert_eq!(Arc::strong_count(&cargo), 2, "the I/O has not ended");
        io::sleep(Duration::from_millis(100)).await;
        assert_eq!(Arc::strong_count(&cargo), 1);
        // The late reply harms nobody.
        assert!(client.read(0, 65_536).await.unwrap()[..] == store.at(ByteRange::new(0, 65_536)));
    });
}

#[test]
fn requests_come_from_any_thread() {
    for seed in 0..5 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            let _server = stage.serve(&store, false, true).await;
            let client = stage.client(config(), Use::READ).await;
            let (done, mut all) = io::sync::mpsc::unbounded_channel();
            for thread in 0..3u64 {
                let (client, store, done) = (client.clone(), store.clone(), done.clone());
                let reader = stage.world.start_thread("reader").unwrap();
                reader.run(Box::new(move || {
                    Box::pin(async move {
                        for at in 0..20 {
                            let range = ByteRange::new((at * 3 + thread) * 4096, 10_000);
                            let got = client.read(range.start(), range.len()).await.unwrap();
                            assert!(got[..] == store.at(range));
                        }
                        done.send(()).unwrap();
                    })
                }));
            }
            for _ in 0..3 {
                all.recv().await.unwrap();
            }
        });
    }
}

#[test]
fn a_closed_node_says_goodbye() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let server = stage.serve(&store, false, true).await;
        let client = stage.client(config(), Use::READ).await;
        client.read_at(Priority::Fill, 0, 4096).await.unwrap();
        io::sleep(Duration::from_millis(10)).await;
        assert_eq!(server.export.clients(), 2);
        drop(client);
        io::sleep(Duration::from_millis(10)).await;
        assert_eq!(server.export.clients(), 0);
    });
}

#[test]
fn it_opens_by_name_with_qemu_s_options() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let _server = stage.serve(&store, true, true).await;
        let options = json!({"server": {"type": "inet", "host": "repo", "port": "10809"}, "export": "disk"});
        let tree = stage.lab.open("nbd", options, &[]).await;
        assert_eq!(tree.view().size(), LEN as u64);
        let tree = stage.lab.open("nbd", json!({"filename": "nbd://repo/disk"}), &[]).await;
        let over = stage.lab.memory_format("cache", json!({"size": LEN}), Some(&tree)).await;
        let got = seam::read(&over.view(), ByteRange::new(5000, 100_000)).await.unwrap();
        assert!(got[..] == store.at(ByteRange::new(5000, 100_000)));
    });
}

#[test]
fn what_cannot_be_opened_is_explained() {
    play(1, Options::default(), async |stage: Stage| {
        let error = stage.connect(config(), Use::READ).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Disconnected);
        assert!(
            error.to_string().contains("NBD server repo:10809, export 'disk': cannot connect"),
            "{error}"
        );
        let store = Store::patterned(LEN);
        let _server = stage.serve(&store, false, true).await;
        let other = Config { export: "other".to_owned(), ..config() };
        let error = stage.connect(other, Use::READ).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("'other'"), "{error}");
        let error = stage.connect(config(), USE_ALL).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ReadOnly);
    });
}
