//! From the first byte to the transmission phase: options, limits, exports that come and go.

use std::sync::Arc;
use std::time::Duration;

use block::{ByteRange, ErrorKind};
use export::nbd::{ExportOptions, ServerOptions};
use io::{Address, Moment, Stream, World};
use nbd::codec::{
    Command, CommandFlags, Cookie, OPTION_MAGIC, REQUEST_LEN, RequestHeader, TransmissionFlags,
};
use nbd::handshake::client::{ClientHandshake, Outcome};
use sim::{Options, SimWorld};

use crate::lab::client::{Answer, Client, connect, shake_hands, wish};
use crate::lab::stage::{Stage, options};
use crate::lab::store::{Mood, Store, StoreNode};
use crate::play;

pub(crate) fn option(code: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &code.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

fn read_request(start: u64, len: u32) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    let flags = CommandFlags::NONE;
    RequestHeader { flags, code: 0, cookie: Cookie(77), offset: start, len }.encode(&mut bytes);
    bytes
}

/// A name with its length before it.
pub(crate) fn named(name: &str) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat()
}

pub(crate) async fn receive(stream: &dyn Stream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.recv_exact(&mut bytes).await.unwrap();
    bytes
}

/// Receives the reply to an option; answers the option and the type.
pub(crate) async fn reply(stream: &dyn Stream) -> (u32, u32) {
    let head = receive(stream, 20).await;
    let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    receive(stream, number(16) as usize).await;
    (number(8), number(12))
}

#[test]
fn exports_are_listed_with_their_details() {
    play(1, Options::default(), 1, async |stage| {
        stage.export(&Store::new(vec![0; 1000], Mood::PROMPT));
        let other = Store::new(vec![0; 2000], Mood::PROMPT);
        let read_only = ExportOptions { writable: false, multi_conn: false, ..options("other") };
        stage.export_node(read_only, Arc::new(StoreNode(other)));
        let stream = connect(&stage.world, &stage.address).await;
        let (outcome, _) = shake_hands(&*stream, ClientHandshake::list()).await;
        let Outcome::Listed(listed) = outcome else { panic!("{outcome:?}") };
        let exports: Vec<_> = listed.iter().map(|listed| listed.details.as_ref().unwrap()).collect();
        let sizes: Vec<_> = exports.iter().map(|export| (export.name.as_str(), export.size)).collect();
        assert_eq!(sizes, [("disk", 1000), ("other", 2000)]);
        assert_eq!(exports[1].description.as_deref(), Some("the export other"));
        assert_eq!((exports[0].flags.bits(), exports[1].flags.bits()), (0xd6d, 0x40f));
        drop(stream);
        stage.server.idle().await;
    });
}

const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const CONTEXT: u32 = 4;
const UNSUPPORTED: u32 = 0x8000_0001;
const POLICY: u32 = 0x8000_0002;
const UNKNOWN: u32 = 0x8000_0006;

/// Every option, with its data and the types of the replies to it; the last one enters the export.
fn options_and_replies() -> Vec<(u32, Vec<u8>, &'static [u32])> {
    let context = [&named("disk")[..], &[0, 0, 0, 1], &named("base:allocation")].concat();
    let go = [&named("disk")[..], &[0, 0]].concat();
    let missing = [&named("no such")[..], &[0, 0]].concat();
    vec![
        (99, b"who knows".to_vec(), &[UNSUPPORTED]),
        (3, vec![], &[SERVER, ACK]),
        (4, b"disk".to_vec(), &[UNSUPPORTED]),
        (5, vec![], &[POLICY]),
        (6, missing.clone(), &[UNKNOWN]),
        (6, go.clone(), &[INFO, INFO, INFO, ACK]),
        (8, vec![], &[ACK]),
        (9, context.clone(), &[CONTEXT, ACK]),
        (10, context, &[CONTEXT, ACK]),
        (11, vec![], &[UNSUPPORTED]),
        (7, missing, &[UNKNOWN]),
        (7, go, &[INFO, INFO, INFO, ACK]),
    ]
}

#[test]
fn names_that_no_client_could_take_are_refused() {
    play(6, Options::calm(), 1, async |stage| {
        let node = || Arc::new(StoreNode(Store::new(vec![0; 1000], Mood::PROMPT)));
        let add = |options| {
            let domain = Arc::new(flow::guard::Domain::default());
            let root = flow::Root::new(crate::lab::stage::view(node(), &domain), domain);
            stage.server.add(export::nbd::Export::new(options, Arc::new(root))).map_err(|e| e.kind())
        };
        let (longest, longer) = ("n".repeat(4096), "n".repeat(4097));
        assert_eq!(add(options(&longer)), Err(ErrorKind::Invalid));
        assert_eq!(add(options("a\0b")), Err(ErrorKind::Invalid));
        let described =
            |description: &str| ExportOptions { description: description.to_owned(), ..options("d") };
        assert_eq!(add(described(&longer)), Err(ErrorKind::Invalid));
        assert_eq!(add(described(&longest)), Ok(()));
        let named = ExportOptions { description: String::new(), ..options(&longest) };
        assert_eq!(add(named.clone()), Ok(()));
        assert_eq!(add(named), Err(ErrorKind::Exists));
        assert_eq!(stage.client_as(wish(&longest)).await.read(0, 9).await, Answer::Done(vec![0; 9]));
    });
}

#[test]
fn every_option_is_answered_and_requests_may_follow_at_once() {
    for seed in 0..10 {
        play(seed, Options::default(), 1, async |stage| {
            stage.export(&Store::new((0..=255).collect(), Mood::MIXED));
            let stream = connect(&stage.world, &stage.address).await;
            let all = options_and_replies();
            let asked: Vec<u8> = all.iter().flat_map(|(code, data, _)| option(*code, data)).collect();
            let asked = [&[0, 0, 0, 3][..], &asked, &read_request(3, 5)].concat();
            stream.send_all(&asked).await.unwrap();
            assert_eq!(receive(&*stream, 18).await, b"NBDMAGICIHAVEOPT\0\x03");
            for (code, _, replies) in all {
                for kind in replies {
                    assert_eq!(reply(&*stream).await, (code, *kind));
                }
            }
            let answer = receive(&*stream, 20 + 8 + 5).await;
            assert_eq!(answer[8..16], 77u64.to_be_bytes());
            assert_eq!(answer[28..], [3, 4, 5, 6, 7]);
        });
    }
}

#[test]
fn the_oldest_way_in_works_too() {
    for (flags, zeroes) in [(0u32, 124), (1, 124), (2, 0), (3, 0)] {
        play(2, Options::default(), 1, async |stage| {
            stage.export(&Store::new(vec![9; 4096], Mood::PROMPT));
            let stream = connect(&stage.world, &stage.address).await;
            let asked = [&flags.to_be_bytes()[..], &option(1, b"disk"), &read_request(0, 7)].concat();
            stream.send_all(&asked).await.unwrap();
            receive(&*stream, 18).await;
            let granted = receive(&*stream, 10 + zeroes).await;
            assert_eq!(granted[..8], 4096u64.to_be_bytes());
            let answer = receive(&*stream, 16 + 7).await;
            assert_eq!(answer, [&b"\x67\x44\x66\x98\0\0\0\0"[..], &77u64.to_be_bytes(), &[9; 7]].concat());
        });
    }
}

#[test]
fn whoever_aborts_is_told_so_and_leaves_in_good_order() {
    play(3, Options::default(), 1, async |stage| {
        let stream = connect(&stage.world, &stage.address).await;
        stream.send_all(&[&[0, 0, 0, 1][..], &option(2, &[])].concat()).await.unwrap();
        receive(&*stream, 18).await;
        assert_eq!(reply(&*stream).await, (2, 1));
        assert_eq!(stream.recv(&mut [0; 8]).await.unwrap(), 0);
        stage.server.idle().await;
        assert_eq!(stage.ends(1).await, [None]);
    });
}

#[test]
fn a_handshake_that_takes_too_long_is_cut_off() {
    for trickling in [false, true] {
        play(4, Options::calm(), 1, async |stage| {
            let stream = connect(&stage.world, &stage.address).await;
            let mut ended_at = None;
            for byte in [&[0, 0, 0, 3][..], &option(99, &[0; 1000])].concat() {
                if trickling && stream.send_all(&[byte]).await.is_err() {
                    break;
                }
                io::sleep(Duration::from_millis(50)).await;
                if ended_at.is_none() && stage.server.connections() == 0 {
                    ended_at = Some(io::now());
                }
            }
            let span = ended_at.expect("it never ended").since(Moment(0));
            assert!(span >= Duration::from_secs(10) && span < Duration::from_millis(10_100), "{span:?}");
            let gone = stage.ends(1).await;
            assert!(gone[0].as_deref().is_some_and(|why| why.contains("in time")), "{gone:?}");
        });
    }
}

/// A world whose server lets in at most `most` clients, through two listeners.
fn play_limited(seed: u64, most: usize, play: impl AsyncFnOnce(Stage<SimWorld>, Address)) {
    let world = SimWorld::new(seed, Options::default());
    world.run(async {
        let options = ServerOptions { max_connections: most, ..ServerOptions::default() };
        let address = |port| Address::Tcp { host: "server".to_owned(), port };
        let stage = Stage::start(world.clone(), options, 2, address(1));
        let second = stage.world.listen(&address(2)).unwrap();
        let server = stage.server.clone();
        io::spawn(async move {
            let _ = server.listen(second).await;
        });
        stage.export(&Store::new(vec![9; 4096], Mood::PROMPT));
        play(stage, address(2)).await;
    });
}

#[test]
fn who_is_one_too_many_waits_for_a_place() {
    for seed in 0..10 {
        play_limited(seed, 2, async |stage, second| {
            let first = Client::connect(&stage.world, &stage.address, wish("disk")).await;
            let _other = Client::connect(&stage.world, &second, wish("disk")).await;
            let third = Client::connect(&stage.world, &second, wish("disk"));
            let in_vain = io::timeout_at(io::now().after(Duration::from_secs(60)), third).await;
            assert!(in_vain.is_none() && stage.server.connections() <= 2);
            drop(first);
            let mut third = Client::connect(&stage.world, &stage.address, wish("disk")).await;
            assert_eq!(third.read(0, 1).await, Answer::Done(vec![9]));
        });
    }
}

#[test]
fn listeners_together_keep_to_the_limit() {
    for seed in 0..20 {
        play_limited(seed, 3, async |stage, second| {
            let clients = (0..12).map(async |at| {
                let address = if at % 2 == 0 { &stage.address } else { &second };
                let mut client = Client::connect(&stage.world, address, wish("disk")).await;
                assert!(stage.server.connections() <= 3);
                assert_eq!(client.read(0, 1).await, Answer::Done(vec![9]));
            });
            futures_util::future::join_all(clients.collect::<Vec<_>>()).await;
            stage.server.idle().await;
        });
    }
}

#[test]
fn what_a_client_was_promised_holds_though_the_name_goes_to_another_export() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let outcome = play(seed, Options::default(), 2, async |stage| {
            stage.world.net().adjust(|net| net.buffer = 3);
            let (old, new) =
                (Store::new(vec![0; 9000], Mood::PROMPT), Store::new(vec![0; 9000], Mood::PROMPT));
            let before = stage.export(&old);
            let (server, next) = (stage.server.clone(), new.clone());
            let domain = Arc::new(flow::guard::Domain::default());
            let view = crate::lab::stage::view(Arc::new(StoreNode(next)), &domain);
            let root = Arc::new(flow::Root::new(view, domain));
            let read_only = ExportOptions { writable: false, ..options("disk") };
            io::spawn(async move {
                io::sleep(Duration::from_micros(io::random() % 40_000)).await;
                server.remove("disk");
                server.add(export::nbd::Export::new(read_only, root)).unwrap();
            });
            let mut client = stage.client().await;
            let writable = !client.export.flags.contains(TransmissionFlags::READ_ONLY);
            let range = ByteRange::new(0, 4096);
            client.ask(Command::Write, CommandFlags::NONE, range, &[1; 4096]);
            let answer = client.answer().await.unwrap().unwrap().1;
            assert_eq!(new.bytes(), [0; 9000], "a write to a read-only export");
            assert_eq!((answer == Answer::Done(vec![]), old.bytes()[0] == 1), (writable, writable));
            before.close().await;
            writable
        });
        outcomes.insert(outcome);
    }
    assert_eq!(outcomes.len(), 2, "the change came before and after");
}
