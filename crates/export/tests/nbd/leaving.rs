//! Clients that vanish, and garbage: it costs them their connection and nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use block::ByteRange;
use nbd::codec::{Command, CommandFlags, REQUEST_MAGIC};
use sim::{Options, Rng, SimWorld};

use crate::lab::client::{Answer, Client, connect, wish};
use crate::lab::garbage::garbage;
use crate::lab::stage::Stage;
use crate::lab::store::{Mood, Store};
use crate::play;

const NONE: CommandFlags = CommandFlags::NONE;

/// Nobody is there any more, and whoever comes next is served.
async fn all_is_well(stage: &Stage<SimWorld>, store: &Store) {
    stage.server.idle().await;
    assert!(stage.world.net().connections(&stage.address).is_empty());
    assert_eq!(store.begun.load(SeqCst), store.ended.load(SeqCst));
    let mut client = stage.client().await;
    let expected = store.bytes()[..100].to_vec();
    assert_eq!(client.read(0, 100).await, Answer::Done(expected));
    drop(client);
    stage.server.idle().await;
}

/// What a client sends: a handshake, a short write, a long one, a read.
fn script() -> Vec<u8> {
    let option = |code: u32, data: &[u8]| {
        let len = (data.len() as u32).to_be_bytes();
        [&b"IHAVEOPT"[..], &code.to_be_bytes(), &len, data].concat()
    };
    let request = |code: u16, offset: u64, len: u32| {
        let (magic, cookie) = (REQUEST_MAGIC.to_be_bytes(), 5u64.to_be_bytes());
        [&magic[..], &[0, 0], &code.to_be_bytes(), &cookie, &offset.to_be_bytes(), &len.to_be_bytes()]
            .concat()
    };
    let handshake = [
        &[0, 0, 0, 3][..],
        &option(8, &[]),
        &option(7, b"\0\0\0\x04disk\0\0"),
        &request(1, 0, 600),
        &[1; 600],
    ];
    let rest =
        [&request(1, 4096, 300_000)[..], &vec![2; 300_000], &request(0, 4096, 50_000), &request(3, 0, 0)];
    [handshake.concat(), rest.concat()].concat()
}

#[test]
fn clients_may_vanish_at_any_byte() {
    let script = script();
    let ends = (0..800).chain((800..script.len()).step_by(9973)).chain(script.len() - 60..=script.len());
    let ends: Vec<_> = ends.collect();
    for (seed, ends) in ends.chunks(40).enumerate() {
        play(seed as u64, Options::default(), 2, async |stage| {
            let store = Store::new(vec![7; 400_000], Mood::MIXED);
            stage.export(&store);
            for end in ends {
                let stream = connect(&stage.world, &stage.address).await;
                // It ends before all is sent when the answers that nobody reads fill the line.
                let _ = stream.send_all(&script[..*end]).await;
                if io::random().is_multiple_of(2) {
                    io::sleep(Duration::from_micros(io::random() % 2000)).await;
                }
                drop(stream);
            }
            all_is_well(&stage, &store).await;
        });
    }
}

#[test]
fn what_a_vanished_client_has_begun_is_carried_out() {
    for seed in 0..10 {
        play(seed, Options::default(), 1, async |stage| {
            let store = Store::new(vec![7; 400_000], Mood { wait: 100, ..Mood::MIXED });
            let export = stage.export(&store);
            store.hold(true);
            let mut client = stage.client().await;
            client.ask(Command::Write, NONE, ByteRange::new(0, 4096), &[3; 4096]);
            client.ask(Command::Write, NONE, ByteRange::new(100_000, 200_000), &[4; 200_000]);
            client.push().unwrap();
            while store.begun.load(SeqCst) < 2 {
                client.push().unwrap();
                io::sleep(Duration::from_millis(1)).await;
            }
            drop(client);
            io::sleep(Duration::from_secs(1)).await;
            assert_eq!(export.clients(), 1, "it holds what has begun");
            store.hold(false);
            stage.server.idle().await;
            assert_eq!((store.bytes()[0], store.bytes()[4096], store.bytes()[299_999]), (3, 7, 4));
            all_is_well(&stage, &store).await;
        });
    }
}

#[test]
fn connections_that_are_cut_take_nothing_with_them() {
    for seed in 0..30 {
        play(seed, Options::default(), 3, async |stage| {
            let store = Store::new(vec![7; 400_000], Mood::MIXED);
            stage.export(&store);
            let mut rng = Rng::new(seed);
            for _ in 0..20 {
                let mut client = stage.client().await;
                let cut = stage.world.net().connections(&stage.address);
                for _ in 0..rng.index(40) {
                    let range = ByteRange::new(rng.below(200_000), 1 + rng.below(150_000));
                    match rng.index(3) {
                        0 => client.ask(Command::Write, NONE, range, &vec![7; range.len() as usize]),
                        1 => client.ask(Command::BlockStatus, NONE, range, &[]),
                        _ => client.ask(Command::Read, NONE, range, &[]),
                    };
                    client.push().unwrap();
                }
                for _ in 0..rng.index(20) {
                    if client.unanswered() > 0 {
                        client.answer().await.unwrap();
                    }
                }
                cut.iter().for_each(|connection| connection.cut());
            }
            all_is_well(&stage, &store).await;
        });
    }
}

#[test]
fn a_thousand_cycles_of_garbage_leave_nothing() {
    play(1, Options::default(), 2, async |stage| {
        let store = Store::new(vec![7; 400_000], Mood::MIXED);
        let export = stage.export(&store);
        let mut honest = stage.client().await;
        let mut rng = Rng::new(1);
        for cycle in 0..1000 {
            let stream = connect(&stage.world, &stage.address).await;
            let _ = stream.send_all(&garbage(&mut rng)).await;
            if rng.chance(0.5) {
                stream.shutdown();
            }
            if rng.chance(0.5) {
                let receive = async { while stream.recv(&mut [0; 4096]).await.is_ok_and(|len| len > 0) {} };
                io::timeout_at(io::now().after(Duration::from_millis(5)), receive).await;
            }
            drop(stream);
            if cycle % 10 == 0 {
                assert_eq!(honest.read(1, 50_000).await, Answer::Done(vec![7; 50_000]));
            }
        }
        drop(honest);
        all_is_well(&stage, &store).await;
        let left = (export.clients(), stage.server.connections(), Arc::strong_count(&export));
        // The server's and ours.
        assert_eq!(left, (0, 0, 2));
        let gone = stage.ends(1002).await;
        assert!(gone.iter().flatten().all(|why| why.contains("client ")), "errors name the client");
    });
}

#[test]
fn garbage_among_requests_ends_that_connection_alone() {
    play(2, Options::default(), 1, async |stage| {
        stage.export(&Store::new(vec![7; 400_000], Mood::MIXED));
        let mut honest = stage.client().await;
        let mut other = Client::connect(&stage.world, &stage.address, wish("disk")).await;
        let asked = other.ask(Command::Read, NONE, ByteRange::new(0, 10), &[]);
        assert_eq!(other.answer().await.unwrap(), Some((asked, Answer::Done(vec![7; 10]))));
        other.stream.send_all(&[0x55; 100]).await.unwrap();
        assert!(matches!(other.answer().await, Ok(None) | Err(_)));
        assert_eq!(honest.read(0, 10).await, Answer::Done(vec![7; 10]));
        let gone = stage.ends(1).await;
        assert!(gone[0].as_deref().is_some_and(|why| why.contains("export 'disk': client")), "{gone:?}");
    });
}
