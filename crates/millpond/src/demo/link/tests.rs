//! The line in the simulated world, where time is exact.

use std::cell::RefCell;

use ::io::{Address, World, sleep_until};
use sim::{Options, Rng, SimWorld};

use super::*;

const MIB: usize = 1 << 20;
const LINE: Shape = Shape { round_trip: Duration::from_millis(10), rate: 25_000_000 };

fn near() -> Address {
    Address::Tcp { host: "near".to_owned(), port: 1 }
}

fn far() -> Address {
    Address::Tcp { host: "far".to_owned(), port: 2 }
}

/// A listener behind the line, and the line.
fn stand(
    world: &SimWorld,
    shape: Shape,
    wake: impl Fn(Moment) -> Moment + 'static,
) -> (Rc<Link>, Box<dyn Listener>) {
    let server = world.listen(&far()).unwrap();
    let relay = world.listen(&near()).unwrap();
    let link = Rc::new(Link::new(shape, Rc::new(move |when| sleep_until(wake(when)))));
    let (its, world) = (link.clone(), world.clone());
    let connect: Connect = Rc::new(move || {
        let world = world.clone();
        Box::pin(async move { world.connect(&far()).await?.attach() })
    });
    spawn(async move { its.serve(&*relay, connect).await.unwrap() });
    (link, server)
}

/// A connection over the line: its near end and its far end.
async fn pair(world: &SimWorld, server: &dyn Listener) -> (Rc<dyn Stream>, Rc<dyn Stream>) {
    let client = world.connect(&near()).await.unwrap().attach().unwrap();
    let server = server.accept().await.unwrap().attach().unwrap();
    (Rc::from(client), Rc::from(server))
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251 + seed) as u8).collect()
}

fn send(from: &Rc<dyn Stream>, bytes: Vec<u8>) {
    let from = from.clone();
    spawn(async move { from.send_all(&bytes).await.unwrap() });
}

async fn receive(at: &dyn Stream, len: usize) -> (Vec<u8>, Moment) {
    let mut bytes = vec![0; len];
    at.recv_exact(&mut bytes).await.unwrap();
    (bytes, now())
}

/// Within a hundredth, and one piece, of what is right.
fn about(took: Duration, right: Duration) -> bool {
    took >= right && took <= right + right / 100 + PIECE_TIME
}

#[test]
fn a_byte_takes_half_a_round_trip_and_many_what_the_rate_says() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let (link, server) = stand(&world, LINE, |when| when);
        let (client, server) = pair(&world, &*server).await;
        for (from, to) in [(&client, &server), (&server, &client)] {
            let begun = now();
            send(from, vec![7]);
            let (_, came) = receive(&**to, 1).await;
            assert!(about(came.since(begun), LINE.round_trip / 2), "{:?}", came.since(begun));
            let begun = now();
            send(from, pattern(4 * MIB, 0));
            let (bytes, came) = receive(&**to, 4 * MIB).await;
            assert!(bytes == pattern(4 * MIB, 0));
            let right = LINE.round_trip / 2 + Duration::from_nanos(4 * MIB as u64 * 40);
            assert!(about(came.since(begun), right), "{:?} for {right:?}", came.since(begun));
        }
        assert_eq!(link.bytes_down(), 4 * MIB as u64 + 1);
    });
}

#[test]
fn waking_late_costs_no_throughput() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        // As a busy machine does it: up to 3 ms late, each time differently.
        let rng = RefCell::new(Rng::new(1));
        let late = move |when: Moment| when.after(Duration::from_micros(rng.borrow_mut().below(3000)));
        let (_link, server) = stand(&world, LINE, late);
        let (client, server) = pair(&world, &*server).await;
        let begun = now();
        send(&server, pattern(8 * MIB, 0));
        let (_, came) = receive(&*client, 8 * MIB).await;
        let right = Duration::from_nanos(8 * MIB as u64 * 40);
        assert!(came.since(begun) <= right + LINE.round_trip, "{:?} for {right:?}", came.since(begun));
    });
}

#[test]
fn connections_share_the_line_and_one_that_has_little_waits_little() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let (_link, server) = stand(&world, LINE, |when| when);
        let (bulk, bulk_far) = pair(&world, &*server).await;
        let (quick, quick_far) = pair(&world, &*server).await;
        let begun = now();
        send(&bulk_far, pattern(4 * MIB, 0));
        let bulk_done = Rc::new(Cell::new(Moment::default()));
        let done = bulk_done.clone();
        spawn(async move { done.set(receive(&*bulk, 4 * MIB).await.1) });
        (sleep_until)(begun.after(Duration::from_millis(50))).await;
        let asked = now();
        send(&quick_far, pattern(64 << 10, 1));
        let (bytes, came) = receive(&*quick, 64 << 10).await;
        assert!(bytes == pattern(64 << 10, 1) && bulk_done.get() == Moment::default());
        // Alone it would take 2.6 ms and half a round trip; beside the other one twice that and a piece.
        let alone = Duration::from_nanos((64 << 10) * 40);
        let most = LINE.round_trip / 2 + 2 * alone + 3 * PIECE_TIME;
        assert!(came.since(asked) <= most, "{:?}", came.since(asked));
        while bulk_done.get() == Moment::default() {
            ::io::sleep(Duration::from_millis(1)).await;
        }
        let both = Duration::from_nanos((4 * MIB as u64 + (64 << 10)) * 40);
        assert!(about(bulk_done.get().since(begun), LINE.round_trip / 2 + both));
    });
}

#[test]
fn what_is_not_taken_is_not_taken_in() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let (link, server) = stand(&world, LINE, |when| when);
        let (client, server) = pair(&world, &*server).await;
        send(&server, pattern(16 * MIB, 0));
        ::io::sleep(Duration::from_secs(5)).await;
        // What the line holds, some pieces, and the buffers of the sockets.
        assert!(link.bytes_down() < 2 * MIB as u64, "{} bytes are kept", link.bytes_down());
        assert!(receive(&*client, 16 * MIB).await.0 == pattern(16 * MIB, 0));
    });
}

#[test]
fn bytes_are_whole_in_any_world_and_the_end_comes_behind_them() {
    for seed in 0..20 {
        let world = SimWorld::new(seed, Options::default());
        world.run(async {
            let shape = Shape {
                round_trip: Duration::from_millis(seed % 3),
                rate: [u64::MAX, 9_000_000][seed as usize % 2],
            };
            let (link, server) = stand(&world, shape, |when| when);
            let (client, server) = pair(&world, &*server).await;
            let len = 300_000 + seed as usize;
            send(&client, pattern(len, 1));
            send(&server, pattern(2 * len, 2));
            assert!(receive(&*client, 2 * len).await.0 == pattern(2 * len, 2), "seed {seed}");
            assert!(receive(&*server, len).await.0 == pattern(len, 1), "seed {seed}");
            assert_eq!(link.bytes_down(), 2 * len as u64);
            send(&server, pattern(999, 3));
            // Sent, then the end.
            ::io::sleep(Duration::from_millis(1)).await;
            server.shutdown();
            assert!(receive(&*client, 999).await.0 == pattern(999, 3), "seed {seed}");
            assert_eq!(client.recv(&mut [0; 9]).await.unwrap(), 0);
        });
    }
}

#[test]
fn bytes_can_be_spoiled() {
    let world = SimWorld::new(1, Options::calm());
    world.run(async {
        let (link, server) = stand(&world, LINE, |when| when);
        let (client, server) = pair(&world, &*server).await;
        send(&server, vec![5; 10]);
        receive(&*client, 10).await;
        link.spoil(20_000);
        send(&server, vec![5; 300_000]);
        let (bytes, _) = receive(&*client, 300_000).await;
        let wrong: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] == 4).collect();
        assert_eq!(wrong, [20_000, 40_000, 60_000, 80_000, 100_000, 120_000, 140_000, 160_000]);
        assert_eq!(bytes.iter().filter(|byte| **byte == 5).count(), 300_000 - wrong.len());
    });
}
