//! Lost connections: how long requests wait, what is sent again, and what is never mixed in.

use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, ErrorKind, Priority};
use driver::protocols::nbd::{Config, Use};
use flow::events::Event;
use flow::{Op, Request, seam};
use futures_util::future::{join, join_all};
use io::Lease;
use sim::{Link, Options, Rng};

use crate::stage::{Stage, USE_ALL, address, config, patient, play};
use crate::store::Store;

const LEN: usize = 1 << 20;

#[test]
fn cuts_at_any_point_lose_and_change_nothing() {
    for seed in 0..40 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 0..=1000;
            let _server = stage.serve(&store, false, seed % 2 == 0).await;
            let client = stage.client(patient(60), Use::READ).await;
            // A hundredth of all sends cuts the connection.
            stage.world.net().adjust(|options| options.cut = 0.01);
            let mut rng = Rng::new(seed);
            for _ in 0..4 {
                let reads: Vec<_> = (0..30).map(|_| random_read(&mut rng)).collect();
                let reads = reads.into_iter().map(async |(priority, range)| {
                    let got = client.read_at(priority, range.start(), range.len()).await.unwrap();
                    assert!(got[..] == store.at(range), "{range}");
                });
                join_all(reads).await;
            }
        });
    }
}

fn random_read(rng: &mut Rng) -> (Priority, ByteRange) {
    let start = rng.below(LEN as u64);
    let longest = 1 << (1 + rng.below(17));
    let len = 1 + rng.below((LEN as u64 - start).min(longest));
    ([Priority::Fill, Priority::Prefetch, Priority::Demand][rng.index(3)], ByteRange::new(start, len))
}

#[test]
fn a_server_that_comes_back_is_found_within_a_second() {
    for seed in 0..20 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            let server = stage.serve(&store, false, true).await;
            let mut told = stage.events.subscribe();
            let client = stage.client(patient(120), Use::READ).await;
            *store.delay_us.lock().unwrap() = 5000..=5000;
            let reads = join_all((0..10).map(|at| client.read(at * 4096, 4096)));
            let outage = async {
                io::sleep(Duration::from_millis(2)).await;
                server.kill(&stage);
                io::sleep(Duration::from_millis(60_000 + seed * 77)).await;
                let _server = stage.serve(&store, false, true).await;
                io::now()
            };
            let (reads, back) = join(reads, outage).await;
            let took = io::now().since(back);
            assert!(took < Duration::from_secs(1), "{took:?}");
            assert!(reads.into_iter().all(|read| read.is_ok()));
            let counters = client.nbd.counters();
            assert_eq!((counters.reconnects(), counters.resent()), (1, 10));
            let mut told: Vec<_> = std::iter::from_fn(|| told.try_next()).collect();
            assert!(matches!(told.pop(), Some(Event::SourceBack { .. })));
            // Once for each reason, however many attempts there were.
            assert!((1..5).contains(&told.len()), "{told:?}");
            for event in told {
                assert!(
                    matches!(&event, Event::SourceLost { error, .. } if error.contains("repo:10809")),
                    "{event:?}"
                );
            }
        });
    }
}

#[test]
fn a_server_that_stays_away_is_given_up_in_time() {
    play(1, Options::calm(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        *store.delay_us.lock().unwrap() = 5000..=5000;
        let server = stage.serve(&store, false, true).await;
        let client = stage.client(patient(30), Use::READ).await;
        let begun = io::now();
        let early = client.read(0, 4096);
        let late = async {
            io::sleep(Duration::from_secs(20)).await;
            client.read(0, 4096).await
        };
        let kill = async {
            io::sleep(Duration::from_millis(1)).await;
            server.kill(&stage);
        };
        let ((early, late), ()) = join(join(early, late), kill).await;
        // Both gave up when the outage was 30 s old.
        assert_eq!(io::now().since(begun), Duration::from_millis(30_001));
        for error in [early.unwrap_err(), late.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Disconnected);
            let text = error.to_string();
            for part in ["repo:10809", "'disk'", "waited 30 s", "start the server again", "refused"] {
                assert!(text.contains(part), "{text}");
            }
        }
        // From now on each request has one attempt.
        let begun = io::now();
        assert_eq!(client.read(0, 4096).await.unwrap_err().kind(), ErrorKind::Disconnected);
        assert!(io::now().since(begun) < Duration::from_millis(801), "{:?}", io::now().since(begun));
        let _server = stage.serve(&store, false, true).await;
        assert!(client.read(0, 4096).await.unwrap()[..] == store.at(ByteRange::new(0, 4096)));
    });
}

#[test]
fn without_patience_what_is_under_way_fails_and_the_next_request_connects() {
    for seed in 0..10 {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            *store.delay_us.lock().unwrap() = 5000..=5000;
            let server = stage.serve(&store, false, true).await;
            let client = stage.client(config(), Use::READ).await;
            let begun = io::now();
            let kill = async {
                io::sleep(Duration::from_millis(2)).await;
                server.kill(&stage);
            };
            let (read, ()) = join(client.read(0, 4096), kill).await;
            let error = read.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("with 'reconnect-delay' requests wait") && !text.contains("waited"),
                "{text}"
            );
            assert_eq!(client.read(0, 4096).await.unwrap_err().kind(), ErrorKind::Disconnected);
            assert!(io::now().since(begun) < Duration::from_millis(200));
            let _server = stage.serve(&store, false, true).await;
            assert!(client.read(0, 4096).await.unwrap()[..] == store.at(ByteRange::new(0, 4096)));
        });
    }
}

#[test]
fn another_image_in_the_place_of_ours_is_refused() {
    play(1, Options::default(), async |stage: Stage| {
        let (ours, longer) = (Store::patterned(LEN), Store::patterned(2 * LEN));
        let server = stage.serve_described(&Store::patterned(LEN), false, true, "millpond-id:1").await;
        let client = stage.client(patient(60), Use::READ).await;
        server.kill(&stage);
        for (other, id, said) in
            [(&longer, "millpond-id:1", "its size was 1048576"), (&ours, "millpond-id:2", "version")]
        {
            let server = stage.serve_described(other, false, true, id).await;
            let error = client.read(0, 4096).await.unwrap_err();
            assert!(error.to_string().contains(said) && error.kind() == ErrorKind::Protocol, "{error}");
            server.kill(&stage);
        }
        let _server = stage.serve_described(&ours, false, true, "millpond-id:1").await;
        assert!(client.read(0, 4096).await.unwrap()[..] == ours.at(ByteRange::new(0, 4096)));
    });
}

#[test]
fn a_writable_node_does_not_go_on_with_a_read_only_export() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let server = stage.serve(&store, true, true).await;
        let client = stage.client(patient(60), USE_ALL).await;
        server.kill(&stage);
        let _server = stage.serve(&store, false, true).await;
        let error = client.write(0, &[1; 512]).await.unwrap_err();
        assert!(error.to_string().contains("its flags were"), "{error}");
    });
}

#[test]
fn opening_waits_for_a_server_that_is_not_there_yet() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let config = Config { open_timeout: Duration::from_secs(20), ..config() };
        let late = async {
            io::sleep(Duration::from_secs(12)).await;
            stage.serve(&store, false, true).await
        };
        let (client, _server) = join(stage.connect(config.clone(), Use::READ), late).await;
        client.unwrap().read(0, 4096).await.unwrap();
        assert!(io::now().0 < 13_000_000_000);
        let other = Config { address: io::Address::Unix { path: "/run/none".into() }, ..config };
        let begun = io::now();
        let error = stage.connect(other, Use::READ).await.err().unwrap();
        let took = io::now().since(begun).as_secs_f64();
        assert!(error.to_string().contains("/run/none") && (19.0..20.0).contains(&took), "{took}: {error}");
    });
}

#[test]
fn either_of_two_connections_can_go() {
    for (seed, victim) in [(1, 0), (2, 1), (3, 0), (4, 1)] {
        play(seed, Options::default(), async |stage: Stage| {
            let store = Store::patterned(LEN);
            let _server = stage.serve(&store, false, true).await;
            // No patience: only because there is another one does nobody notice.
            let client = stage.client(config(), Use::READ).await;
            client.read_at(Priority::Fill, 0, 4096).await.unwrap();
            io::sleep(Duration::from_millis(10)).await;
            assert_eq!(client.nbd.counters().connections(), 2);
            *store.delay_us.lock().unwrap() = 5000..=5000;
            let demand = join_all((0..5).map(|at| client.read(at * 4096, 4096)));
            let fill = join_all((0..5).map(|at| client.read_at(Priority::Fill, at * 65_536, 65_536)));
            let cut = async {
                io::sleep(Duration::from_millis(2)).await;
                stage.world.net().connections(&address())[victim].cut();
            };
            let ((demand, fill), ()) = join(join(demand, fill), cut).await;
            for (got, len) in
                demand.into_iter().map(|got| (got, 4096)).chain(fill.into_iter().map(|got| (got, 65_536)))
            {
                assert_eq!(got.unwrap().len(), len);
            }
            let counters = client.nbd.counters();
            assert_eq!((counters.resent(), counters.reconnects()), (5, 0));
            // The next fill request asks for a second one again.
            client.read_at(Priority::Fill, 0, 4096).await.unwrap();
            io::sleep(Duration::from_secs(2)).await;
            client.read_at(Priority::Fill, 0, 4096).await.unwrap();
            io::sleep(Duration::from_millis(10)).await;
            assert_eq!(client.nbd.counters().connections(), 2);
        });
    }
}

#[test]
fn a_server_for_one_client_serves_fill_as_well() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        // A second connection is let in only when the first one has gone.
        let _server = stage.serve_few(&store, 1).await;
        let client = stage.client(patient(60), Use::READ).await;
        let begun = io::now();
        for at in 0..20 {
            client.read_at(Priority::Fill, at * 4096, 4096).await.unwrap();
            client.read(at * 4096, 4096).await.unwrap();
            io::sleep(Duration::from_millis(100)).await;
        }
        assert!(
            io::now().since(begun) < Duration::from_millis(2100),
            "nothing waited for the second connection"
        );
        let net = stage.world.net();
        net.connections(&address())[0].cut();
        let begun = io::now();
        client.read(0, 4096).await.unwrap();
        assert!(io::now().since(begun) < Duration::from_secs(1), "{:?}", io::now().since(begun));
    });
}

#[test]
fn deadlines_hold_without_a_connection_too() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let server = stage.serve(&store, false, true).await;
        let client = stage.client(patient(60), Use::READ).await;
        server.kill(&stage);
        io::sleep(Duration::from_secs(1)).await;
        let mut rq = Request::new(Op::Read, ByteRange::new(0, 4096));
        rq.deadline = Some(io::now().after(Duration::from_secs(3)));
        let begun = io::now();
        let (result, lease) = seam::execute(&client.view, rq, Lease::new(4096)).await;
        assert_eq!((result.unwrap_err().kind(), lease.len()), (ErrorKind::TimedOut, 4096));
        assert_eq!(io::now().since(begun), Duration::from_secs(3));
    });
}

#[test]
fn a_stalled_network_is_waited_for() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let _server = stage.serve(&store, false, true).await;
        let client = stage.client(patient(10), Use::READ).await;
        stage.world.net().stall(&address(), Duration::from_secs(40));
        // The connection stands: nothing is lost, and so nothing gives up.
        assert!(client.read(0, 4096).await.unwrap()[..] == store.at(ByteRange::new(0, 4096)));
        // Cut and stalled: connecting takes as long as the stall.
        let net = stage.world.net();
        net.stall(&address(), Duration::from_secs(7));
        net.cut_all(&address());
        let begun = io::now();
        client.read(0, 4096).await.unwrap();
        let took = io::now().since(begun);
        assert!((7.0..9.0).contains(&took.as_secs_f64()), "{took:?}");
    });
}

#[test]
fn an_owner_thread_that_ends_fails_the_requests() {
    play(1, Options::default(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let _server = stage.serve(&store, false, true).await;
        let (give, got) = io::sync::oneshot::channel();
        let thread = io::World::start_thread(&stage.world, "owner").unwrap();
        let world: Arc<dyn io::World> = Arc::new(stage.world.clone());
        thread.run(Box::new(move || {
            Box::pin(async move {
                let client =
                    driver::protocols::nbd::NbdClient::connect(config(), Use::READ, world).await.unwrap();
                let _ = give.send(Arc::new(client));
                std::future::pending().await
            })
        }));
        let client = stage.adopt(got.await.unwrap(), Use::READ);
        client.read(0, 4096).await.unwrap();
        *store.delay_us.lock().unwrap() = 5000..=5000;
        let stop = async {
            io::sleep(Duration::from_millis(2)).await;
            thread.stop();
        };
        let (read, ()) = join(client.read(0, 4096), stop).await;
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(client.read(0, 4096).await.unwrap_err().kind(), ErrorKind::Cancelled);
    });
}

#[test]
fn a_slow_line_with_cuts_still_gets_on() {
    for seed in 0..5 {
        play(seed, Options::default(), async |stage: Stage| {
            let link = Link { round_trip: Duration::from_millis(600), rate: 2_000_000 };
            stage.world.net().set_link(&address(), link);
            let store = Store::patterned(LEN);
            let _server = stage.serve(&store, false, true).await;
            let client = stage.client(patient(60), Use::READ).await;
            let reads = join_all((0..4).map(|at| client.read(at << 18, 1 << 18)));
            let cuts = async {
                for _ in 0..3 {
                    io::sleep(Duration::from_secs(2)).await;
                    stage.world.net().cut_all(&address());
                }
            };
            let (reads, ()) = join(reads, cuts).await;
            for (at, got) in reads.into_iter().enumerate() {
                assert!(got.unwrap()[..] == store.at(ByteRange::new((at as u64) << 18, 1 << 18)));
            }
        });
    }
}

#[test]
fn what_is_known_already_is_opened_without_its_server() {
    play(1, Options::calm(), async |stage: Stage| {
        let store = Store::patterned(LEN);
        let server = stage.serve_described(&store, false, true, "millpond-id:1").await;
        let first = stage.client(patient(10), Use::READ).await;
        let known = flow::Identity::identity(&*first.nbd);
        assert_eq!(flow::Identity::version(&*first.nbd).as_deref(), Some("millpond-id:1"));
        drop(first);
        server.kill(&stage);
        let known = Config { identity: Some(known), ..patient(10) };
        let mut told = stage.events.subscribe();
        let begun = io::now();
        let client = stage.client(known.clone(), Use::READ).await;
        assert_eq!((io::now(), client.view.size()), (begun, LEN as u64));
        let back = async {
            io::sleep(Duration::from_secs(5)).await;
            stage.serve_described(&store, false, true, "millpond-id:1").await
        };
        let (read, server) = join(client.read(4096, 4096), back).await;
        assert!(read.unwrap()[..] == store.at(ByteRange::new(4096, 4096)));
        let told: Vec<_> = std::iter::from_fn(|| told.try_next()).collect();
        assert!(matches!(told.first(), Some(Event::SourceLost { .. })), "{told:?}");
        assert!(matches!(told.last(), Some(Event::SourceBack { .. })), "{told:?}");
        // Another image in its place is never taken for it.
        server.kill(&stage);
        let _other = stage.serve_described(&store, false, true, "millpond-id:2").await;
        let stale = stage.client(known, Use::READ).await;
        let error = stale.read(0, 4096).await.unwrap_err().to_string();
        assert!(error.contains("its version was millpond-id:1 and is now millpond-id:2"), "{error}");
    });
}
