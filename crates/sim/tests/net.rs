//! Streams of the simulated network: pieces, lines, stalls, cuts, ends.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::join;
use io::{Address, Lease, OpenOptions, Stream, World, timeout_at};
use sim::{Link, Options, SimWorld};

fn address() -> Address {
    Address::Tcp { host: "repo".to_owned(), port: 10809 }
}

async fn pair(world: &SimWorld) -> (Box<dyn io::Stream>, Box<dyn io::Stream>) {
    let listener = world.listen(&address()).unwrap();
    let asked = address();
    let (client, server) = join(world.connect(&asked), listener.accept()).await;
    (client.unwrap().attach().unwrap(), server.unwrap().attach().unwrap())
}

#[test]
fn a_link_takes_its_time() {
    let mut options = Options::calm();
    // 10 ms and 25 MB/s: 1 MiB takes 41.94 ms, and half a round trip.
    options.net.link = Link { round_trip: Duration::from_millis(10), rate: 25_000_000 };
    let world = SimWorld::new(1, options);
    world.run(async {
        let begin = io::now();
        let (client, server) = pair(&world).await;
        assert_eq!(io::now().since(begin), Duration::from_millis(10));
        let begin = io::now();
        io::spawn(async move {
            server.send_all(&vec![1; 1 << 20]).await.unwrap();
            std::future::pending().await
        });
        client.recv_exact(&mut vec![0; 1 << 20]).await.unwrap();
        let expected = Duration::from_nanos((1 << 20) * 40) + Duration::from_millis(5);
        let took = io::now().since(begin);
        assert!(took >= expected && took < expected + Duration::from_micros(1), "{took:?}");
    });
}

#[test]
fn sent_files_are_read_when_they_are_taken() {
    let world = SimWorld::new(1, Options::calm());
    world.disk().put("image", &[1; 8192]);
    world.run(async {
        let file = world.open(Path::new("image"), OpenOptions::CREATE).await.unwrap();
        let (client, server) = pair(&world).await;
        assert_eq!(server.try_send(&[IoSlice::new(&[9; 10])], true).unwrap(), Some(10));
        assert_eq!(server.try_send_file(&*file, 4096, 100_000).unwrap(), Some(4096));
        assert_eq!(server.try_send_file(&*file, 8192, 1).unwrap(), Some(0));
        // What changes before it is taken is what the receiver sees: the sender broke the rule.
        file.write(5000, Lease::copy_of(&[2; 10])).await.0.unwrap();
        let mut got = [0; 10 + 4096];
        client.recv_exact(&mut got).await.unwrap();
        let mut expected = [1; 10 + 4096];
        expected[..10].fill(9);
        expected[10 + 5000 - 4096..][..10].fill(2);
        assert_eq!(got, expected);
    });
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn bytes_arrive_in_pieces_and_in_order() {
    let (mut single, mut whole) = (0, 0);
    for seed in 0..20 {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let (client, server) = pair(&world).await;
            let upload = async move {
                server.send_all(&pattern(100_000)).await.unwrap();
                server.recv_exact(&mut [0; 1]).await.unwrap();
            };
            let download = async {
                let (mut got, mut buf) = (Vec::new(), [0; 8192]);
                while got.len() < 100_000 {
                    let len = client.recv(&mut buf).await.unwrap();
                    assert_ne!(len, 0);
                    (single, whole) = (single + i32::from(len == 1), whole + i32::from(len == 8192));
                    got.extend_from_slice(&buf[..len]);
                }
                assert!(got == pattern(100_000));
                client.send_all(&[1]).await.unwrap();
            };
            join(upload, download).await;
        });
    }
    assert!(single > 10 && whole > 10, "{single} {whole}");
}

#[test]
fn bytes_can_come_one_by_one() {
    let world = SimWorld::new(1, Options::default());
    world.net().adjust(|options| (options.short, options.single) = (1.0, 1.0));
    world.run(async {
        let (client, server) = pair(&world).await;
        let send = async { server.send_all(&pattern(300)).await.unwrap() };
        let receive = async {
            for byte in pattern(300) {
                let mut buf = [0; 9];
                assert_eq!((client.recv(&mut buf).await.unwrap(), buf[0]), (1, byte));
            }
        };
        join(send, receive).await;
    });
}

#[test]
fn a_full_buffer_stops_the_sender() {
    let world = SimWorld::new(1, Options::calm());
    world.net().adjust(|options| options.buffer = 10_000);
    world.run(async {
        let (client, server) = pair(&world).await;
        assert_eq!(
            server.try_send(&[IoSlice::new(&[1; 8000]), IoSlice::new(&[2; 8000])], false).unwrap(),
            Some(10_000)
        );
        assert_eq!(server.try_send(&[IoSlice::new(&[1])], false).unwrap(), None);
        assert!(timeout_at(io::now().after(Duration::from_secs(9)), server.writable()).await.is_none());
        let mut got = [0; 10_000];
        assert_eq!(client.recv(&mut got[..9000]).await.unwrap(), 9000);
        server.writable().await.unwrap();
        assert_eq!(client.recv(&mut got[9000..]).await.unwrap(), 1000);
        assert!(got[..8000] == [1; 8000] && got[8000..] == [2; 2000]);
        assert_eq!(client.try_recv(&mut got).unwrap(), None);
    });
}

#[test]
fn connections_share_a_line_and_directions_do_not() {
    let world = SimWorld::new(1, Options::calm());
    world.net().set_link(&address(), Link { round_trip: Duration::ZERO, rate: 1_000_000 });
    world.run(async {
        let ((one, two), begin) = (pair(&world).await, io::now());
        let (three, four) = pair(&world).await;
        for stream in [&one, &two, &three] {
            assert_eq!(stream.try_send(&[IoSlice::new(&[0; 10_000])], false).unwrap(), Some(10_000));
        }
        let mut buf = [0; 10_000];
        let after = |moment: io::Moment| moment.since(begin).as_millis();
        for stream in [&one, &two] {
            stream.recv_exact(&mut buf).await.unwrap();
            assert_eq!(after(io::now()), 10);
        }
        four.recv_exact(&mut buf).await.unwrap();
        assert_eq!(after(io::now()), 20);
    });
}

#[test]
fn a_stall_delays_and_loses_nothing() {
    for seed in 0..10 {
        let world = SimWorld::new(seed, Options::default());
        let net = world.net();
        world.run(async {
            let (client, server) = pair(&world).await;
            let begin = io::now();
            net.stall(&address(), Duration::from_secs(60));
            server.send_all(&[1; 1000]).await.unwrap();
            client.recv_exact(&mut [0; 1000]).await.unwrap();
            assert_eq!(io::now().since(begin), Duration::from_secs(60));
            // Of one connection only, for ever, until it is resumed; new connections are not stalled by that.
            let [connection] = &net.connections(&address())[..] else { panic!() };
            connection.stall(Duration::MAX);
            server.send_all(&[2; 10]).await.unwrap();
            let later = io::now().after(Duration::from_secs(999));
            assert!(timeout_at(later, client.recv_exact(&mut [0; 1])).await.is_none());
            connection.resume();
            client.recv_exact(&mut [0; 10]).await.unwrap();
        });
    }
}

#[test]
fn nobody_connects_while_the_address_is_stalled() {
    let world = SimWorld::new(1, Options::calm());
    let net = world.net();
    world.run(async {
        let _listener = world.listen(&address()).unwrap();
        net.stall(&address(), Duration::MAX);
        let asked = address();
        let later = io::now().after(Duration::from_secs(5));
        assert!(timeout_at(later, world.connect(&asked)).await.is_none());
        let other = net.clone();
        io::spawn(async move {
            io::sleep(Duration::from_secs(5)).await;
            other.resume(&address());
        });
        world.connect(&asked).await.unwrap();
        assert_eq!(io::now().0, 10_000_000_000);
    });
}

#[test]
#[should_panic(expected = "seed 9: deadlock")]
fn to_wait_for_a_dead_line_is_a_deadlock() {
    let world = SimWorld::new(9, Options::calm());
    world.run(async {
        let (client, server) = pair(&world).await;
        world.net().stall(&address(), Duration::MAX);
        server.send_all(&[1]).await.unwrap();
        client.recv_exact(&mut [0]).await.unwrap();
    });
}

/// Receives until the end or an error; answers what came and whether it was an error.
async fn drain(stream: &dyn Stream) -> (Vec<u8>, bool) {
    let (mut got, mut buf) = (Vec::new(), [0; 500]);
    loop {
        match stream.recv(&mut buf).await {
            Ok(0) => return (got, false),
            Ok(len) => got.extend_from_slice(&buf[..len]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                return (got, true);
            }
        }
    }
}

#[test]
fn both_sides_see_a_cut() {
    let (mut errors, mut partial, bytes) = ([0; 2], 0, pattern(4 << 20));
    for seed in 0..60 {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let (client, server) = pair(&world).await;
            let net = world.net();
            io::spawn(async move {
                io::sleep(Duration::from_micros(io::random() % 1000)).await;
                assert_eq!(net.cut_all(&address()), 1);
            });
            let sender = async {
                let sent = server.send_all(&bytes).await;
                assert_eq!(sent.unwrap_err().kind(), ErrorKind::BrokenPipe);
                drain(&*server).await.1
            };
            let (failed, (got, error)) = join(sender, drain(&*client)).await;
            assert!(got == bytes[..got.len()]);
            partial += i32::from(!got.is_empty());
            errors[usize::from(error)] += 1;
            errors[usize::from(failed)] += 1;
        });
    }
    assert!(errors[0] > 30 && errors[1] > 30 && partial > 10, "{errors:?} {partial}");
}

#[test]
fn cuts_by_chance_end_every_transfer() {
    for seed in 0..30 {
        let world = SimWorld::new(seed, Options::default());
        world.net().adjust(|options| options.cut = 0.01);
        world.run(async {
            let (client, server) = pair(&world).await;
            let endless = async { while server.send_all(&[3; 5000]).await.is_ok() {} };
            let ((), (got, _)) = join(endless, drain(&*client)).await;
            assert!(got.iter().all(|byte| *byte == 3));
        });
        assert!(world.net().connections(&address()).is_empty());
    }
}

#[test]
fn closing_delivers_what_was_sent() {
    let world = SimWorld::new(1, Options::calm());
    world.net().set_link(&address(), Link { round_trip: Duration::from_millis(2), rate: u64::MAX });
    world.run(async {
        let (client, server) = pair(&world).await;
        server.send_all(b"last words").await.unwrap();
        server.shutdown();
        assert_eq!(server.try_recv(&mut [0]).unwrap(), Some(0));
        assert_eq!(drain(&*client).await, (b"last words".to_vec(), false));
        assert_eq!(client.send_all(&[1]).await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        // Who goes away without reading what has come resets the connection.
        let (client, server) = pair(&world).await;
        client.send_all(b"unread").await.unwrap();
        drop(server);
        assert_eq!(drain(&*client).await, (Vec::new(), true));
    });
}

#[test]
fn who_is_not_there_or_refuses() {
    let world = SimWorld::new(1, Options::default());
    let kind = async |address: &Address| world.connect(address).await.err().map(|error| error.kind());
    let unix = Address::Unix { path: PathBuf::from("/run/pond") };
    world.run(async {
        assert_eq!(kind(&unix).await, Some(ErrorKind::NotFound));
        assert_eq!(kind(&address()).await, Some(ErrorKind::ConnectionRefused));
        let everywhere = Address::Tcp { host: String::new(), port: 10809 };
        let listener = world.listen(&everywhere).unwrap();
        assert_eq!(world.listen(&everywhere).err().unwrap().kind(), ErrorKind::AddrInUse);
        world.net().refuse(&address(), true);
        assert_eq!(kind(&address()).await, Some(ErrorKind::ConnectionRefused));
        world.net().refuse(&address(), false);
        let waiting = world.connect(&address()).await.unwrap().attach().unwrap();
        drop(listener);
        // Never accepted, and now never will be.
        assert_eq!(drain(&*waiting).await.0, []);
        assert_eq!(kind(&address()).await, Some(ErrorKind::ConnectionRefused));
        let listener = world.listen(&Address::Tcp { host: String::new(), port: 0 }).unwrap();
        assert!(matches!(listener.address(), Address::Tcp { port: 1.., .. }));
    });
}

#[test]
fn a_waiting_reader_wakes_on_another_thread() {
    let world = SimWorld::new(4, Options::default());
    world.run(async {
        let listener = world.listen(&address()).unwrap();
        let (asked, inner) = (address(), world.clone());
        let thread = world.start_thread("client").unwrap();
        thread.run(Box::new(move || {
            Box::pin(async move {
                let client = inner.connect(&asked).await.unwrap().attach().unwrap();
                client.recv_exact(&mut [0; 3]).await.unwrap();
                client.send_all(&[io::thread_index() as u8]).await.unwrap();
                std::future::pending().await
            })
        }));
        let server = listener.accept().await.unwrap().attach().unwrap();
        io::sleep(Duration::from_secs(1)).await;
        server.send_all(&[0; 3]).await.unwrap();
        let mut index = [0];
        server.recv_exact(&mut index).await.unwrap();
        assert_eq!(index, [1]);
        // A thread that ends closes its connections.
        thread.stop();
        assert_eq!(server.recv(&mut index).await.unwrap(), 0);
    });
}
