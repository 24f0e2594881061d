//! The NBD server on real sockets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use block::ByteRange;
use export::nbd::ServerOptions;
use io::real::RealWorld;
use io::{Address, OpenOptions, World};
use nbd::codec::{Command, CommandFlags};
use tempfile::TempDir;

use lab::client::{Answer, wish};
use lab::player::{OWN, STABLE, several_clients, some_bytes};
use lab::stage::Stage;
use lab::store::{Mood, Store, UNIT};

/// Runs `play` with a server on two threads, at a unix socket or on TCP.
fn play(tcp: bool, play: impl AsyncFnOnce(Stage<RealWorld>, &Path)) {
    let folder = TempDir::new().unwrap();
    let address = match tcp {
        true => Address::Tcp { host: "127.0.0.1".to_owned(), port: 0 },
        false => Address::Unix { path: folder.path().join("socket") },
    };
    let world = RealWorld::new();
    world.block_on(async {
        let stage = Stage::start(world.clone(), ServerOptions::default(), 2, address);
        play(stage, folder.path()).await;
    });
}

async fn file(world: &RealWorld, folder: &Path, bytes: &[u8]) -> Arc<dyn io::File> {
    let path = folder.join("file");
    std::fs::write(&path, bytes).unwrap();
    world.open(&path, OpenOptions::default()).await.unwrap()
}

#[test]
fn clients_agree_with_the_model() {
    for seed in 0..6 {
        play(seed % 2 == 0, async |stage, folder| {
            let stable = file(&stage.world, folder, &some_bytes(seed, STABLE)).await;
            let mood = Mood { delay_us: 0..=300, ..Mood::MIXED };
            several_clients(&stage, seed, stable, mood, (OWN as u64, 300)).await;
        });
    }
}

#[test]
fn long_reads_that_are_lent_are_the_bytes_of_the_file() {
    const LEN: usize = 16 << 20;
    for tcp in [false, true] {
        play(tcp, async |stage, folder| {
            let bytes = some_bytes(1, LEN);
            let lent = file(&stage.world, folder, &bytes).await;
            let mood = Mood { lend: 100, ..Mood::PROMPT };
            stage.export(&Store::with_stable(vec![0; UNIT], Some((lent, bytes.clone())), mood));
            let mut client = stage.client_as(wish("disk")).await;
            let mut asked = std::collections::BTreeMap::new();
            for at in 0..48 {
                // 20,000 bytes a piece at most, and not more than 32 pieces.
                let range = ByteRange::new((at * 300_007) as u64, 120_000 + at as u64);
                asked.insert(client.ask(Command::Read, CommandFlags::NONE, range, &[]), range);
            }
            while !asked.is_empty() {
                let (cookie, answer) = client.answer().await.unwrap().unwrap();
                let range = asked.remove(&cookie).unwrap();
                let disk = [&[0; UNIT][..], &bytes].concat();
                let expected = &disk[range.start() as usize..range.end() as usize];
                assert!(answer == Answer::Done(expected.to_vec()), "{range}");
            }
        });
    }
}

/// The bytes of a handshake up to GO without structured replies, and the length of what is answered.
fn handshake() -> (Vec<u8>, usize) {
    let asked = b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04disk";
    (asked.to_vec(), 18 + 10)
}

fn read_request(len: u32) -> Vec<u8> {
    let head = b"\x25\x60\x95\x13\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\0";
    [&head[..], &len.to_be_bytes()].concat()
}

/// A client that sends all of `bytes`, ends its side, and only then reads what is answered.
fn send_and_end(path: &Path, bytes: Vec<u8>) -> io::sync::oneshot::Receiver<Vec<u8>> {
    let (tell, told) = io::sync::oneshot::channel();
    let path = path.join("socket");
    std::thread::spawn(move || {
        let mut socket = UnixStream::connect(path).unwrap();
        socket.write_all(&bytes).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        socket.read_to_end(&mut answers).unwrap();
        let _ = tell.send(answers);
    });
    told
}

#[test]
fn what_was_asked_before_the_end_of_the_stream_is_answered() {
    const READS: usize = 1000;
    const LEN: usize = 5000;
    for wait in [0, 100] {
        play(false, async |stage, folder| {
            stage.export(&Store::new(vec![3; 1 << 20], Mood { wait, ..Mood::PROMPT }));
            let (mut asked, granted) = handshake();
            asked.extend(read_request(LEN as u32).repeat(READS));
            let answers = send_and_end(folder, asked).await.unwrap();
            assert_eq!(answers.len(), granted + READS * (16 + LEN));
            stage.server.idle().await;
            assert_eq!(stage.ends(1).await, [None]);
        });
    }
}

#[test]
fn an_end_in_the_middle_of_a_request_is_told() {
    play(false, async |stage, folder| {
        stage.export(&Store::new(vec![3; 1 << 20], Mood::PROMPT));
        let (mut asked, granted) = handshake();
        asked.extend(read_request(100));
        asked.extend(&read_request(100)[..27]);
        let answers = send_and_end(folder, asked).await.unwrap();
        assert_eq!(answers.len(), granted + 16 + 100);
        stage.server.idle().await;
        let gone = stage.ends(1).await;
        assert!(gone[0].as_deref().is_some_and(|why| why.contains("in the middle")), "{gone:?}");
    });
}
