//! How single requests are answered, byte for byte where it matters.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use block::{ByteRange, Errno, Extent, ExtentState};
use export::nbd::ExportOptions;
use nbd::codec::{Command, CommandFlags};
use nbd::handshake::client::Wish;
use sim::Options;

use crate::lab::client::Answer;
use crate::lab::stage::options;
use crate::lab::store::{Mood, Store, StoreNode, UNIT};
use crate::play;

/// `len` bytes in units of which every second one is zeros, beginning with one of zeros.
fn striped(len: usize) -> Vec<u8> {
    (0..len).map(|i| if (i / UNIT).is_multiple_of(2) { 0 } else { i as u8 | 1 }).collect()
}

#[test]
fn a_read_that_waited_and_has_very_many_holes_is_whole() {
    // More runs than are sent as holes, the first one of zeros.
    let bytes = striped(200 * UNIT);
    for wait in [0, 100] {
        play(1, Options::calm(), 1, async |stage| {
            let mood = Mood { wait, ..Mood::PROMPT };
            stage.export(&Store::new(bytes.clone(), mood));
            let mut client = stage.client().await;
            for len in [200 * UNIT, 65 * UNIT, 64 * UNIT, 4 * UNIT, 3 * UNIT + 7, UNIT - 1] {
                for start in [0, 512, UNIT, UNIT + 1] {
                    let len = len.min(bytes.len() - start);
                    let answer = client.read(start as u64, len as u64).await;
                    assert_eq!(answer, Answer::Done(bytes[start..start + len].to_vec()), "{len} at {start}");
                }
            }
        });
    }
}

#[test]
fn a_fragment_is_not_cut_even_where_it_is_lent() {
    play(2, Options::calm(), 1, async |stage| {
        let store = Store::new(vec![0; 100 * UNIT], Mood { lend: 100, ..Mood::PROMPT });
        stage.export(&store);
        let mut client = stage.client().await;
        for flags in [CommandFlags::NONE, CommandFlags::DF] {
            let range = ByteRange::new(100, 30 * UNIT as u64);
            let answer = client.call(Command::Read, flags, range, &[]).await;
            assert_eq!(answer, Answer::Done(vec![0; 30 * UNIT]));
        }
    });
}

#[test]
fn reads_of_nothing_are_answered_in_the_style_of_the_client() {
    for structured in [false, true] {
        play(3, Options::calm(), 1, async |stage| {
            stage.export(&Store::new(vec![5; 1000], Mood::PROMPT));
            let wish = Wish { export: "disk".into(), structured, allocation: structured };
            let mut client = stage.client_as(wish).await;
            assert_eq!(client.read(1000, 0).await, Answer::Done(vec![]));
            assert_eq!(client.write(1000, &[]).await, Answer::Done(vec![]));
            assert_eq!(client.read(1000, 1).await, Answer::Failed(Errno::INVAL));
            assert_eq!(client.read(998, 2).await, Answer::Done(vec![5; 2]));
        });
    }
}

#[test]
fn a_long_write_that_arrives_at_once_leaves_the_connection_open() {
    play(4, Options::calm(), 1, async |stage| {
        // All of it is there at once, and more behind it.
        stage.world.net().adjust(|net| net.buffer = 4 << 20);
        let store = Store::new(vec![0; 1 << 20], Mood::PROMPT);
        stage.export(&store);
        let mut client = stage.client().await;
        // Longer than what is taken with its request, shorter than the room for what is received.
        for len in [127 << 10, 129 << 10, 192 << 10, (256 << 10) - 28, 256 << 10, 300 << 10, 1 << 20] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
            let range = ByteRange::new(0, len as u64);
            client.ask(Command::Write, CommandFlags::NONE, range, &bytes);
            client.ask(Command::Write, CommandFlags::NONE, range, &bytes);
            for _ in 0..2 {
                assert!(matches!(client.answer().await.unwrap(), Some((_, Answer::Done(_)))), "{len}");
            }
            assert!(store.bytes()[..len] == bytes, "{len}");
        }
    });
}

#[test]
fn the_payload_of_a_refused_write_is_not_taken_for_requests() {
    play(5, Options::default(), 1, async |stage| {
        let store = Store::new(vec![6; 2 << 20], Mood::MIXED);
        let read_only = ExportOptions { writable: false, ..options("disk") };
        stage.export_node(read_only, Arc::new(StoreNode(store.clone())));
        let mut client = stage.client().await;
        for len in [0, 1, 27, 28, 29, 5000, 100_000, 128 << 10, 200_000, 256 << 10, 1 << 20] {
            let range = ByteRange::new(0, len as u64);
            // Looks like requests, in case that it is taken for some.
            let payload: Vec<u8> = b"\x25\x60\x95\x13".iter().copied().cycle().take(len).collect();
            client.ask(Command::Write, CommandFlags::NONE, range, &payload);
            client.ask(Command::Read, CommandFlags::NONE, ByteRange::new(1, 100), &[]);
            let mut answers = [client.answer().await, client.answer().await].map(|a| a.unwrap().unwrap().1);
            // The read may have waited.
            answers.sort_by_key(|answer| matches!(answer, Answer::Done(_)));
            assert_eq!(answers, [Answer::Failed(Errno::PERM), Answer::Done(vec![6; 100])], "{len}");
        }
    });
}

#[test]
fn a_write_longer_than_any_is_refused_and_ends_the_connection() {
    play(6, Options::calm(), 1, async |stage| {
        stage.export(&Store::new(vec![6; 64 << 20], Mood::PROMPT));
        let mut client = stage.client().await;
        let range = ByteRange::new(0, (32 << 20) + 1);
        let asked = client.ask(Command::Write, CommandFlags::NONE, range, &[0; 1000]);
        assert_eq!(client.answer().await.unwrap(), Some((asked, Answer::Failed(Errno::INVAL))));
        assert!(matches!(client.answer().await, Ok(None) | Err(_)));
        stage.server.idle().await;
        let gone = stage.ends(1).await;
        assert!(gone[0].as_deref().is_some_and(|why| why.contains("longer than any")), "{gone:?}");
    });
}

#[test]
fn writes_are_durable_when_answered_where_that_was_asked() {
    for (writethrough, flags, flushes) in
        [(false, CommandFlags::NONE, 0), (false, CommandFlags::FUA, 1), (true, CommandFlags::NONE, 1)]
    {
        play(7, Options::calm(), 1, async |stage| {
            let store = Store::new(vec![6; 1 << 20], Mood::PROMPT);
            let options = ExportOptions { writethrough, ..options("disk") };
            stage.export_node(options, Arc::new(StoreNode(store.clone())));
            let mut client = stage.client().await;
            for command in [Command::Write, Command::WriteZeroes, Command::Trim] {
                let payload = vec![1; if command == Command::Write { 512 } else { 0 }];
                let before = store.flushes.load(SeqCst);
                let answer = client.call(command, flags, ByteRange::new(0, 512), &payload).await;
                assert_eq!(answer, Answer::Done(vec![]));
                assert_eq!(store.flushes.load(SeqCst) - before, flushes, "{command:?}");
            }
        });
    }
}

#[test]
fn block_status_of_one_extent_is_all_of_it() {
    play(8, Options::calm(), 1, async |stage| {
        // The look ahead grows from 1 MiB.
        let mut bytes = vec![0; 20 << 20];
        bytes[15 << 20] = 1;
        stage.export(&Store::new(bytes, Mood::PROMPT));
        let mut client = stage.client().await;
        let extent = |start: u64, end: u64, state| Extent { range: ByteRange::between(start, end), state };
        let (data, hole) = (ExtentState::Data, ExtentState::Hole);
        let cases = [
            (0, 20 << 20, CommandFlags::REQ_ONE, vec![extent(0, 15 << 20, hole)]),
            (100, 2 << 20, CommandFlags::REQ_ONE, vec![extent(100, 2 << 20, hole)]),
            (15 << 20, 20 << 20, CommandFlags::REQ_ONE, vec![extent(15 << 20, (15 << 20) + 4096, data)]),
            (15 << 20, (15 << 20) + 1, CommandFlags::REQ_ONE, vec![extent(15 << 20, (15 << 20) + 1, data)]),
            (
                (15 << 20) - 512,
                (15 << 20) + 8192,
                CommandFlags::NONE,
                vec![
                    extent((15 << 20) - 512, 15 << 20, hole),
                    extent(15 << 20, (15 << 20) + 4096, data),
                    extent((15 << 20) + 4096, (15 << 20) + 8192, hole),
                ],
            ),
        ];
        for (start, end, flags, expected) in cases {
            let answer = client.call(Command::BlockStatus, flags, ByteRange::between(start, end), &[]).await;
            assert_eq!(answer, Answer::Extents(expected));
        }
    });
}
