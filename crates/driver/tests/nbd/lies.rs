//! Servers that break the protocol cost us a connection, never a wrong byte.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use block::{ByteRange, Errno, ErrorKind, Extent, ExtentState, Priority};
use driver::protocols::nbd::Use;
use flow::{Flags, Op, Request, seam};
use futures_util::future::join_all;
use nbd::codec::{ChunkType, Command, Cookie, RequestHeader, TransmissionFlags, put_error};
use nbd::handshake::BlockSizes;
use sim::{Options, Rng};

use crate::script::*;
use crate::stage::{Stage, USE_ALL, config, patient, play};

const READ_ONLY: TransmissionFlags = TransmissionFlags::READ_ONLY;
const SIZE: u64 = 1 << 20;
/// What the reads of these tests ask for.
const RANGE: ByteRange = ByteRange::new(4096, 1000);

/// What we say about an answer, and the answer.
type Lie = (&'static str, fn(Cookie) -> Vec<u8>);

/// Answers to a read of [`RANGE`] that no server may give.
fn lies() -> Vec<Lie> {
    vec![
        ("was not made", |c| data(Cookie(c.0 + 7), true, 4096, 1000)),
        ("was not made", |c| [data(c, true, 4096, 1000), none(c)].concat()),
        ("outside the range", |c| data(c, true, 4095, 1000)),
        ("outside the range", |c| data(c, true, 4096, 1001)),
        ("outside the range", |c| data(c, true, u64::MAX - 3, 1000)),
        ("outside the range", |c| hole(c, true, 0, u32::MAX)),
        ("answered before", |c| [data(c, false, 4096, 600), data(c, true, 4600, 496)].concat()),
        ("answered before", |c| [hole(c, false, 4096, 1000), hole(c, true, 4096, 1000)].concat()),
        ("bytes missing", |c| data(c, true, 4096, 999)),
        ("bytes missing", |c| none(c)),
        ("without structure", |c| simple(c, None)),
        ("not asked for", |c| status(c, true, 0, &[(1000, 0)])),
        ("not agreed", |c| status(c, true, 5, &[(1000, 0)])),
        ("magic", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("impossible length", |c| chunk_head(c, ChunkType::OffsetData, true, u32::MAX)),
        ("impossible length", |c| chunk_head(c, ChunkType::Error, true, 1 << 20)),
        ("not the last", |c| chunk_head(c, ChunkType::None, false, 0)),
    ]
}

#[test]
fn errors_of_the_server_name_it_and_spare_the_terminal() {
    play(1, Options::default(), async |stage: Stage| {
        let tell =
            |_, number, rq: RequestHeader| Act::Say(if number > 0 { honest(rq) } else { failure(rq.cookie) });
        stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
        let client = stage.client(config(), Use::READ).await;
        let error = client.read(65_536, 8192).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let text = error.to_string();
        for part in ["repo:10809", "'disk'", "read of 8192 bytes at 65536", "the medium is broken\\u{1b}[2J"]
        {
            assert!(text.contains(part), "{text}");
        }
        client.read(0, 8192).await.unwrap();
    });
}

/// An error whose text would drive a terminal.
fn failure(cookie: Cookie) -> Vec<u8> {
    let mut chunk = [0; 100];
    let len = put_error(&mut chunk, cookie, true, Errno::IO, "the medium is broken\u{1b}[2J there");
    chunk[..len.unwrap()].to_vec()
}

#[test]
fn a_lie_fails_the_read_and_the_next_one_connects_again() {
    for (at, (said, lie)) in lies().into_iter().enumerate() {
        play(at as u64, Options::default(), async |stage: Stage| {
            let tell = move |connection, _, rq: RequestHeader| {
                Act::Say(if connection == 0 { lie(rq.cookie) } else { honest(rq) })
            };
            stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
            let client = stage.client(config(), Use::READ).await;
            let error = client.read(RANGE.start(), RANGE.len()).await;
            // The second of two replies may come after the first one was taken.
            match error {
                Err(error) => {
                    let text = error.to_string();
                    assert_eq!(error.kind(), ErrorKind::Protocol, "{text}");
                    assert!(text.contains(said) && text.contains("repo:10809, export 'disk'"), "{text}");
                }
                Ok(bytes) => assert!(said == "was not made" && bytes[..] == true_bytes(RANGE), "{said}"),
            }
            // Whatever follows a reply that came too often may find the connection broken.
            let _ = client.read(0, 1).await;
            assert!(client.read(RANGE.start(), RANGE.len()).await.unwrap()[..] == true_bytes(RANGE));
        });
    }
}

#[test]
fn with_patience_a_lie_is_asked_again() {
    for (at, (_, lie)) in lies().into_iter().enumerate() {
        play(at as u64, Options::default(), async |stage: Stage| {
            let tell = move |connection, _, rq: RequestHeader| {
                Act::Say(if connection < 2 { lie(rq.cookie) } else { honest(rq) })
            };
            stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
            let client = stage.client(patient(5), Use::READ).await;
            let reads = join_all((0..5).map(|_| client.read(RANGE.start(), RANGE.len())));
            for bytes in reads.await {
                assert!(bytes.unwrap()[..] == true_bytes(RANGE));
            }
        });
    }
}

#[test]
fn a_server_that_never_stops_lying_is_given_up() {
    play(1, Options::default(), async |stage: Stage| {
        let tell = |_, _, rq: RequestHeader| Act::Say(data(rq.cookie, true, 0, 1));
        stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
        let client = stage.client(patient(5), Use::READ).await;
        let begun = io::now();
        let error = client.read(RANGE.start(), RANGE.len()).await.unwrap_err();
        let took = io::now().since(begun);
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert!((5..7).contains(&took.as_secs()), "{took:?}");
        // In peace: a try every 0.8 s.
        assert!(client.nbd.counters().reconnects() < 12, "{}", client.nbd.counters().reconnects());
    });
}

#[test]
fn garbage_never_becomes_a_byte_or_a_panic() {
    for seed in 0..200 {
        play(seed, Options::default(), async |stage: Stage| {
            let tell = move |connection: usize, number: usize, rq: RequestHeader| {
                let mut rng = Rng::new(seed ^ (connection as u64) << 32 ^ number as u64);
                let mut bytes = honest(rq);
                // Only in the header: nobody can tell a wrong byte of data.
                let header = bytes.len() - rq.len as usize;
                if rng.chance(0.7) {
                    bytes[rng.index(header)] ^= 1 << rng.index(8);
                }
                if rng.chance(0.2) {
                    bytes.truncate(rng.index(header));
                    bytes.extend_from_slice(&[0x67; 40]);
                }
                if rng.chance(0.1) { Act::Close } else { Act::Say(bytes) }
            };
            stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
            let client = stage.client(config(), Use::READ).await;
            for _ in 0..10 {
                let read = client.read(RANGE.start(), RANGE.len());
                let soon = io::now().after(Duration::from_secs(60));
                // A length that was made larger leaves us waiting for bytes that never come.
                if let Some(Ok(bytes)) = io::timeout_at(soon, read).await {
                    assert!(bytes[..] == true_bytes(RANGE));
                }
            }
        });
    }
}

#[test]
fn chunks_in_any_order_are_put_together() {
    play(1, Options::default(), async |stage: Stage| {
        let tell = |_, _, rq: RequestHeader| {
            let chunks = [
                data(rq.cookie, false, 4596, 500),
                hole(rq.cookie, false, 4096, 100),
                data(rq.cookie, false, 4196, 400),
                none(rq.cookie),
            ];
            Act::Say(chunks.concat())
        };
        stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
        let client = stage.client(config(), Use::READ).await;
        let mut expected = true_bytes(RANGE);
        expected[..100].fill(0);
        assert!(client.read(RANGE.start(), RANGE.len()).await.unwrap()[..] == expected);
    });
}

#[test]
fn servers_without_structured_replies_are_read_and_known_as_data() {
    for seed in 0..5 {
        play(seed, Options::default(), async |stage: Stage| {
            let tell = |_, _, rq: RequestHeader| {
                let bytes = true_bytes(ByteRange::new(rq.offset, rq.len.into()));
                let error = (rq.offset == 77).then_some(Errno::IO);
                Act::Say([simple(rq.cookie, error), if error.is_some() { vec![] } else { bytes }].concat())
            };
            let manners = Manners { structured: false, ..Manners::new(SIZE, READ_ONLY) };
            stage.script(manners, Arc::new(tell)).await;
            let client = stage.client(config(), Use::READ).await;
            let reads = (0..40).map(|at| client.read(at * 1000, 1000));
            for (at, bytes) in join_all(reads).await.into_iter().enumerate() {
                assert!(bytes.unwrap()[..] == true_bytes(ByteRange::new(at as u64 * 1000, 1000)));
            }
            assert_eq!(client.read(77, 10).await.unwrap_err().kind(), ErrorKind::Io);
            let range = ByteRange::new(0, SIZE);
            let all_data = [Extent { range, state: ExtentState::Data }];
            assert_eq!(seam::extents(&client.view, range).await.unwrap(), all_data);
        });
    }
}

#[test]
fn extents_end_with_the_question_and_errors_count_as_data() {
    play(1, Options::default(), async |stage: Stage| {
        let tell = |_, number, rq: RequestHeader| {
            Act::Say(match number {
                0 => status(rq.cookie, true, 0, &[(5000, 3), (1 << 30, 0)]),
                1 => status(rq.cookie, true, 0, &[(5000, 3)]),
                2 => simple(rq.cookie, Some(Errno::IO)),
                _ => status(rq.cookie, true, 0, &[(0, 3)]),
            })
        };
        stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
        let client = stage.client(config(), Use::READ).await;
        let range = ByteRange::new(100, 10_000);
        let extent = |start, len, state| Extent { range: ByteRange::new(start, len), state };
        let hole = extent(100, 5000, ExtentState::Hole);
        let told = async || seam::extents(&client.view, range).await;
        assert_eq!(told().await.unwrap(), [hole, extent(5100, 5000, ExtentState::Data)]);
        assert_eq!(told().await.unwrap(), [hole]);
        assert_eq!(told().await.unwrap(), [extent(100, 10_000, ExtentState::Data)]);
        assert_eq!(told().await.unwrap_err().kind(), ErrorKind::Protocol);
    });
}

#[test]
fn a_write_refused_before_it_was_sent_is_sent_to_its_end() {
    for seed in 0..10 {
        play(seed, Options::default(), async |stage: Stage| {
            stage.world.net().adjust(|options| options.buffer = 20_000);
            let tell = |_, _, rq: RequestHeader| match rq.command() {
                Some(Command::Write) => Act::Say(simple(rq.cookie, Some(Errno::NOSPC))),
                _ => Act::Say(honest(rq)),
            };
            stage.script(Manners::new(SIZE, ALL), Arc::new(tell)).await;
            let client = stage.client(config(), USE_ALL).await;
            let bytes = vec![7; 100_000];
            for result in join_all((0..3).map(|at| client.write(at * 100_000, &bytes))).await {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::NoSpace);
            }
            assert!(client.read(RANGE.start(), RANGE.len()).await.unwrap()[..] == true_bytes(RANGE));
            assert_eq!(client.nbd.counters().reconnects(), 0);
        });
    }
}

/// The commands and flags that a server which offers `flags` is sent for a request.
fn asked(flags: TransmissionFlags, rq: Request, use_as: Use) -> Result<Vec<(&'static str, u16)>, ErrorKind> {
    play(1, Options::default(), async |stage: Stage| {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let tell = move |_, _, rq: RequestHeader| {
            if rq.command() != Some(Command::Disconnect) {
                noted.lock().unwrap().push((rq.command().unwrap().name(), rq.flags.bits()));
            }
            Act::Say(honest(rq))
        };
        stage.script(Manners::new(SIZE, flags), Arc::new(tell)).await;
        let client = stage.client(config(), use_as).await;
        let result = match rq.op {
            Op::Write => client.write(rq.range.start(), &vec![1; rq.range.len() as usize]).await,
            _ => client.run(rq).await,
        };
        let asked = asked.lock().unwrap().clone();
        result.map(|()| asked).map_err(|error| error.kind())
    })
}

#[test]
fn only_what_was_offered_is_asked_for() {
    use TransmissionFlags as T;
    let of = |op| Request::new(op, ByteRange::new(0, 8192));
    let (zero, discard, cache, write) = (of(Op::WriteZeroes), of(Op::Discard), of(Op::Cache), of(Op::Write));
    let (unmapping, fast) = (zero.with_flags(Flags::MAY_UNMAP), zero.with_flags(Flags::FAST_ZERO));
    let keeping = Use { unmap: false, ..USE_ALL };
    let careless = Use { no_flush: true, ..USE_ALL };
    let cases = [
        (ALL, zero, USE_ALL, Ok(vec![("write zeroes", 2)])),
        (ALL, unmapping, USE_ALL, Ok(vec![("write zeroes", 0)])),
        (ALL, unmapping, keeping, Ok(vec![("write zeroes", 2)])),
        (ALL, fast, USE_ALL, Ok(vec![("write zeroes", 18)])),
        (ALL.without(T::SEND_FAST_ZERO), fast, USE_ALL, Err(ErrorKind::Unsupported)),
        (T::SEND_FLUSH, zero, USE_ALL, Ok(vec![("write", 0)])),
        (ALL, discard, USE_ALL, Ok(vec![("discard", 0)])),
        (ALL, discard, keeping, Ok(vec![])),
        (T::SEND_FLUSH, discard, USE_ALL, Ok(vec![])),
        (ALL, cache, USE_ALL, Ok(vec![("cache", 0)])),
        (T::SEND_FLUSH, cache, USE_ALL, Ok(vec![])),
        (ALL, Request::flush(), USE_ALL, Ok(vec![("flush", 0)])),
        (ALL, Request::flush(), careless, Ok(vec![])),
        (T::NONE, Request::flush(), USE_ALL, Ok(vec![])),
        (ALL, write, USE_ALL, Ok(vec![("write", 0)])),
        // With FUA alone every write has to be durable by itself.
        (T::SEND_FUA, write, USE_ALL, Ok(vec![("write", 1)])),
        (T::SEND_FUA, write, careless, Ok(vec![("write", 0)])),
    ];
    for (flags, rq, use_as, expected) in cases {
        assert_eq!(asked(flags, rq, use_as), expected, "{rq:?} with {:#x}", flags.bits());
    }
}

#[test]
fn block_sizes_are_kept() {
    play(1, Options::default(), async |stage: Stage| {
        let tell = |_, _, rq: RequestHeader| {
            let fits = rq.offset.is_multiple_of(4096) && rq.len.is_multiple_of(4096) && rq.len <= 8192;
            Act::Say(if fits { honest(rq) } else { simple(rq.cookie, Some(Errno::INVAL)) })
        };
        let mut manners = Manners::new(SIZE, ALL.without(TransmissionFlags::SEND_WRITE_ZEROES));
        manners.export.block_sizes = BlockSizes::new(4096, 4096, 8192).unwrap();
        stage.script(manners, Arc::new(tell)).await;
        let client = stage.client(config(), USE_ALL).await;
        for (start, len) in [(0, 8192), (1, 8190), (1, 8192), (4095, 30_000), (100_000, 1), (8191, 8193)] {
            let got = client.read(start, len).await.unwrap();
            assert!(got[..] == true_bytes(ByteRange::new(start, len)), "{len} at {start}");
            client.write(start, &vec![1; len as usize]).await.unwrap();
            client.run(Request::new(Op::WriteZeroes, ByteRange::new(start, len))).await.unwrap();
        }
    });
}

#[test]
fn a_server_that_is_shutting_down_is_asked_again_when_it_is_back() {
    for (config, survives) in [(config(), false), (patient(5), true)] {
        play(1, Options::default(), async |stage: Stage| {
            let tell = |connection, _, rq: RequestHeader| match connection {
                0 => Act::Say(simple(rq.cookie, Some(Errno::SHUTDOWN))),
                _ => Act::Say(honest(rq)),
            };
            stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
            let client = stage.client(config, Use::READ).await;
            match client.read(RANGE.start(), RANGE.len()).await {
                Ok(bytes) => assert!(survives && bytes[..] == true_bytes(RANGE)),
                Err(error) => assert!(!survives && error.kind() == ErrorKind::Disconnected, "{error}"),
            }
        });
    }
}

#[test]
fn a_second_connection_that_says_nothing_keeps_nobody_waiting() {
    play(1, Options::default(), async |stage: Stage| {
        let tell = |connection, number, rq: RequestHeader| match (connection, number) {
            (0, 3) => Act::Close,
            _ => Act::Say(honest(rq)),
        };
        let manners = Manners { silent: Some(1), ..Manners::new(SIZE, READ_ONLY) };
        stage.script(manners, Arc::new(tell)).await;
        let client = stage.client(patient(60), Use::READ).await;
        let begun = io::now();
        for at in 0..6 {
            let got = client.read_at(Priority::Fill, at * 4096, 4096).await.unwrap();
            assert!(got[..] == true_bytes(ByteRange::new(at * 4096, 4096)));
        }
        assert!(io::now().since(begun) < Duration::from_millis(100), "{:?}", io::now().since(begun));
    });
}

#[test]
fn a_server_that_only_closes_is_no_reason_to_spin() {
    play(1, Options::default(), async |stage: Stage| {
        let closed = Arc::new(AtomicBool::new(false));
        let noted = closed.clone();
        let tell = move |_, _, _| {
            noted.store(true, SeqCst);
            Act::Close
        };
        stage.script(Manners::new(SIZE, READ_ONLY), Arc::new(tell)).await;
        let client = stage.client(patient(10), Use::READ).await;
        let error = client.read(0, 512).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
        assert!(closed.load(SeqCst) && client.nbd.counters().reconnects() < 20);
    });
}
