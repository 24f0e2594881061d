//! What is answered at once asks for no memory: alone in its process, with an allocator that counts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::sync::Arc;

use block::ByteRange;
use export::nbd::ServerOptions;
use io::counting::{self, Counting};
use io::real::RealWorld;
use io::sync::oneshot;
use io::{Address, OpenOptions, Thread, World};
use nbd::codec::{Command, CommandFlags};
use tempfile::TempDir;

use lab::client::{Answer, Client, wish};
use lab::stage::Stage;
use lab::store::{Mood, Store, UNIT};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MEMORY: usize = 64 * UNIT;

/// How often the thread has asked for memory so far. Asking asks for some itself, the same each time.
async fn asked_on(thread: &Arc<dyn Thread>) -> u64 {
    let (tell, told) = oneshot::channel();
    thread.run(Box::new(|| {
        Box::pin(async {
            let _ = tell.send(counting::asked_here());
        })
    }));
    told.await.unwrap()
}

/// One of each kind, several under way at a time.
async fn round(client: &mut Client) {
    let own = |units: usize| ByteRange::new(0, (units * UNIT) as u64);
    let lent = ByteRange::new(MEMORY as u64, 40_000);
    let (read, write) = (Command::Read, Command::Write);
    let requests = [
        (read, own(1), 0),
        (read, ByteRange::new(100, 512), 0),
        (read, own(16), 0),
        (read, lent, 0),
        (write, own(1), UNIT),
        (Command::Trim, ByteRange::new((8 * UNIT) as u64, UNIT as u64), 0),
        (Command::WriteZeroes, ByteRange::new((12 * UNIT) as u64, 1), 0),
        (Command::Flush, ByteRange::default(), 0),
        (Command::Cache, own(4), 0),
    ];
    for (command, range, payload) in requests {
        client.ask(command, CommandFlags::NONE, range, &vec![5; payload]);
    }
    while client.unanswered() > 0 {
        assert!(matches!(client.answer().await.unwrap(), Some((_, Answer::Done(_)))));
    }
}

#[test]
fn what_is_answered_at_once_allocates_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    let stable = vec![3; 100_000];
    std::fs::write(&path, &stable).unwrap();
    let address = Address::Unix { path: folder.path().join("socket") };
    let world = RealWorld::new();
    world.block_on(async {
        let stage = Stage::start(world.clone(), ServerOptions::default(), 1, address);
        let file = world.open(&path, OpenOptions::default()).await.unwrap();
        let mut bytes = vec![9; MEMORY];
        bytes[2 * UNIT..7 * UNIT].fill(0);
        let mood = Mood { lend: 100, ..Mood::PROMPT };
        stage.export(&Store::with_stable(bytes, Some((file, stable)), mood));
        let mut client = Client::connect(&stage.world, &stage.address, wish("disk")).await;
        for _ in 0..200 {
            round(&mut client).await;
        }
        let thread = &stage.threads[0];
        asked_on(thread).await;
        let asking = asked_on(thread).await;
        let asking = asked_on(thread).await - asking;
        let before = asked_on(thread).await;
        for _ in 0..2000 {
            round(&mut client).await;
        }
        assert_eq!(asked_on(thread).await - before, asking);
    });
}
