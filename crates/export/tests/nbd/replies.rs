//! How single requests are answered, byte for byte where it matters.

use block::{ByteRange, Errno};
use nbd::codec::{Command, CommandFlags};
use nbd::handshake::client::Wish;
use sim::Options;

use crate::client::Answer;
use crate::stage::play;
use crate::store::{Mood, Store, UNIT};

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
