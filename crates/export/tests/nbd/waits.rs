//! Who waits for whom: clients that do not read, closing exports, requests that take long, greedy neighbours.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use block::{ByteRange, Errno};
use io::sync::oneshot;
use nbd::codec::{Command, CommandFlags};
use sim::Options;

use crate::lab::client::Answer;
use crate::lab::store::{Mood, Store};
use crate::play;

const MIB: usize = 1 << 20;
const NONE: CommandFlags = CommandFlags::NONE;
/// Everything has to wait.
const SLOW: Mood = Mood { wait: 100, lend: 0, fail: 0, delay_us: 1..=50 };

/// As long as it takes until nothing happens any more by itself.
async fn settle() {
    io::sleep(Duration::from_secs(1)).await;
}

#[test]
fn a_client_that_does_not_read_holds_no_more_than_its_bound() {
    play(1, Options::calm(), 1, async |stage| {
        let store = Store::new(vec![7; 64 * MIB], SLOW);
        stage.export(&store);
        let mut client = stage.client().await;
        for _ in 0..5000 {
            client.ask(Command::Read, NONE, ByteRange::new(0, 32 << 20), &[]);
        }
        for _ in 0..100 {
            client.push().unwrap();
            io::sleep(Duration::from_millis(1)).await;
        }
        // Two of them are all that fits; nothing more is begun until they are taken.
        assert_eq!((store.begun.load(SeqCst), store.ended.load(SeqCst)), (2, 2));
        for _ in 0..10 {
            assert!(
                matches!(client.answer().await.unwrap(), Some((_, Answer::Done(bytes))) if bytes[0] == 7)
            );
        }
    });
}

#[test]
fn a_full_waiting_room_is_waited_for_in_peace() {
    play(2, Options::calm(), 1, async |stage| {
        let store = Store::new(vec![7; 64 * MIB], SLOW);
        stage.export(&store);
        store.hold(true);
        let mut client = stage.client().await;
        for _ in 0..2 {
            client.ask(Command::Read, NONE, ByteRange::new(0, 32 << 20), &[]);
        }
        client.push().unwrap();
        settle().await;
        // There is more to receive, and no room for it: a server that asks in vain runs for ever.
        client.ask(Command::Flush, NONE, ByteRange::default(), &[]);
        client.push().unwrap();
        settle().await;
        assert_eq!(store.begun.load(SeqCst), 2);
        store.hold(false);
        for _ in 0..3 {
            assert!(client.answer().await.unwrap().is_some());
        }
    });
}

#[test]
fn requests_go_on_while_their_client_does_not_read() {
    play(3, Options::calm(), 1, async |stage| {
        let store = Store::new(vec![7; MIB], SLOW);
        stage.export(&store);
        let mut client = stage.client().await;
        store.hold(true);
        for at in 0..2 {
            client.ask(Command::Write, NONE, ByteRange::new(at, 1), &[1]);
        }
        client.push().unwrap();
        settle().await;
        // Then so many answers that there is no room for more, not even for the ones that say "done".
        store.set_mood(Mood::PROMPT);
        for _ in 0..200 {
            client.ask(Command::Read, NONE, ByteRange::new(0, 16 << 10), &[]);
        }
        client.push().unwrap();
        settle().await;
        assert_eq!((store.begun.load(SeqCst), store.ended.load(SeqCst)), (2, 0));
        store.hold(false);
        settle().await;
        assert_eq!(store.ended.load(SeqCst), 2, "a write is left lying until its client reads");
    });
}

#[test]
fn others_of_the_thread_are_served_beside_those_that_do_not_get_on() {
    for seed in 0..10 {
        play(seed, Options::default(), 1, async |stage| {
            let store = Store::new(vec![7; 2 * MIB], Mood::MIXED);
            stage.export(&store);
            // One does not read, one stops in the middle of a payload, one in the middle of a request.
            let mut deaf = stage.client().await;
            for _ in 0..500 {
                deaf.ask(Command::Read, NONE, ByteRange::new(0, MIB as u64), &[]);
            }
            deaf.push().unwrap();
            let mut slow = stage.client().await;
            slow.ask(Command::Write, NONE, ByteRange::new(0, MIB as u64), &[7; 300_000]);
            slow.push().unwrap();
            let hesitant = stage.client().await;
            hesitant.stream.send_all(&[0x25, 0x60, 0x95, 0x13, 0]).await.unwrap();
            settle().await;
            let mut client = stage.client().await;
            for at in 0..100 {
                assert_eq!(client.read(at, 20_000).await, Answer::Done(vec![7; 20_000]));
                assert_eq!(client.write(at, &[7; 5000]).await, Answer::Done(vec![]));
            }
        });
    }
}

#[test]
fn an_export_closes_under_a_client_that_does_not_read() {
    for (waiting, goodbye) in [(true, false), (false, false), (true, true), (false, true)] {
        play(4, Options::calm(), 1, async |stage| {
            let mood = if waiting { SLOW } else { Mood::PROMPT };
            let store = Store::new(vec![7; 4 * MIB], mood);
            let export = stage.export(&store);
            let mut client = stage.client().await;
            for _ in 0..8 {
                client.ask(Command::Read, NONE, ByteRange::new(0, MIB as u64), &[]);
            }
            if goodbye {
                client.ask(Command::Disconnect, NONE, ByteRange::default(), &[]);
            }
            client.push().unwrap();
            settle().await;
            assert_eq!(export.clients(), 1);
            export.close().await;
            assert_eq!((export.clients(), stage.server.connections()), (0, 0));
            assert_eq!(store.begun.load(SeqCst), store.ended.load(SeqCst));
        });
    }
}

#[test]
fn an_export_closes_when_what_has_begun_is_carried_out() {
    play(5, Options::calm(), 1, async |stage| {
        let store = Store::new(vec![0; MIB], SLOW);
        let export = stage.export(&store);
        let mut client = stage.client().await;
        store.hold(true);
        let asked = client.ask(Command::Write, NONE, ByteRange::new(0, 512), &[9; 512]);
        client.push().unwrap();
        settle().await;
        let closed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (closing, told) = (export.clone(), closed.clone());
        io::spawn(async move {
            closing.close().await;
            told.store(true, SeqCst);
        });
        settle().await;
        assert!(!closed.load(SeqCst), "a write is under way");
        store.hold(false);
        settle().await;
        assert!(closed.load(SeqCst));
        assert_eq!(store.bytes()[..513], [&[9; 512][..], &[0]].concat());
        // The answer was sent, since there was room for it; then nothing more.
        assert_eq!(client.answer().await.unwrap(), Some((asked, Answer::Done(vec![]))));
        assert!(matches!(client.answer().await, Ok(None) | Err(_)));
        // And nobody comes in any more, though the server still knows the export.
        let mut late = stage.client().await;
        late.ask(Command::Flush, NONE, ByteRange::default(), &[]);
        assert!(matches!(late.answer().await, Ok(None) | Err(_)));
    });
}

#[test]
fn an_export_closes_under_a_client_that_never_pauses() {
    play(6, Options::calm(), 2, async |stage| {
        let export = stage.export(&Store::new(vec![0; MIB], Mood::PROMPT));
        let mut client = stage.client().await;
        let (begun, is_begun) = oneshot::channel();
        let (ended, is_ended) = oneshot::channel();
        io::spawn(async move {
            let mut begun = Some(begun);
            loop {
                while client.unanswered() < 2000 {
                    client.ask(Command::Read, NONE, ByteRange::new(0, 512), &[]);
                }
                if !matches!(client.answer().await, Ok(Some(_))) {
                    break;
                }
                begun.take().map(|begun| begun.send(()));
            }
            ended.send(()).unwrap();
        });
        is_begun.await.unwrap();
        export.close().await;
        is_ended.await.unwrap();
    });
}

#[test]
fn what_was_asked_before_a_goodbye_is_answered() {
    for mood in [Mood::PROMPT, SLOW] {
        play(7, Options::calm(), 1, async |stage| {
            stage.export(&Store::new(vec![3; MIB], mood));
            let mut client = stage.client().await;
            // More answers than the socket holds, more requests than one turn takes.
            for at in 0..300 {
                client.ask(Command::Read, NONE, ByteRange::new(at, 4096), &[]);
            }
            client.ask(Command::Disconnect, NONE, ByteRange::default(), &[]);
            client.push().unwrap();
            for _ in 0..300 {
                assert!(matches!(client.answer().await.unwrap(), Some((_, Answer::Done(_)))));
            }
            drop(client);
            stage.server.idle().await;
            assert_eq!(stage.ends(1).await, [None]);
        });
    }
}

#[test]
fn errors_of_the_node_come_back_as_its_numbers() {
    play(8, Options::calm(), 1, async |stage| {
        let store = Store::new(vec![3; MIB], Mood { fail: 100, ..SLOW });
        let export = stage.export(&store);
        let mut client = stage.client().await;
        let range = ByteRange::new(0, 4096);
        for (command, payload) in [(Command::Read, 0), (Command::Write, 4096), (Command::Trim, 0)] {
            let answer = client.call(command, NONE, range, &vec![0; payload]).await;
            assert_eq!(answer, Answer::Failed(Errno::IO));
        }
        assert_eq!(export.counters().totals().failed, 3);
        // The first one is told to whoever runs the server; its text is not for the client.
        let troubles = stage.troubles();
        assert_eq!(troubles.len(), 1);
        assert!(
            troubles[0].starts_with("export 'disk': client client ")
                && troubles[0].ends_with(": the dice say so")
        );
        // What the client did itself is no trouble.
        let mut other = stage.client().await;
        assert_eq!(other.read(MIB as u64, 1).await, Answer::Failed(Errno::INVAL));
        assert_eq!(stage.troubles().len(), 1);
    });
}
