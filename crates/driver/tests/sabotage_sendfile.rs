//! The rule about lending is broken on purpose, under a whole NBD server and a slow line: then a client gets the bytes
//! of another part of the disk.
//!
//! A process of its own, since a broken rule stays broken.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::sync::Arc;
use std::time::Duration;

use block::ByteRange;
use export::nbd::{Export, ExportOptions, Server, ServerOptions};
use flow::sabotage::{Rule, break_rule};
use flow::{Flags, Op, Role, Root, seam};
use io::{Address, Stream, World};
use lab::{Lab, client};
use serde_json::json;
use sim::{Link, Options, SimWorld};

const CLUSTER: usize = 64 << 10;
const CLUSTERS: u64 = 16;

/// A client that has entered the export, on a line that takes its time.
async fn enter(world: &SimWorld, root: &Arc<Root>) -> (Box<dyn Stream>, Arc<Export>) {
    let address = Address::Tcp { host: "server".to_owned(), port: 10809 };
    let options = ExportOptions {
        name: "disk".to_owned(),
        description: String::new(),
        writable: true,
        multi_conn: true,
        writethrough: false,
    };
    let export = Export::new(options, root.clone());
    let server =
        Server::new(ServerOptions::default(), vec![world.start_thread("io").unwrap()], Default::default());
    server.add(export.clone()).unwrap();
    let listener = world.listen(&address).unwrap();
    world.net().set_link(&address, Link { round_trip: Duration::from_millis(100), rate: u64::MAX });
    let stream = world.connect(&address).await.unwrap().attach().unwrap();
    server.serve(listener.accept().await.unwrap());
    stream.send_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04disk").await.unwrap();
    stream.recv_exact(&mut [0; 18 + 10]).await.unwrap();
    (stream, export)
}

/// A client asks for the first cluster. When it has been answered, and the answer is on its way, the cluster is
/// dropped and all others are written: one of them is put where it was.
async fn read_across_a_reuse(world: &SimWorld) -> Vec<u8> {
    let lab = Lab::new(world);
    let file = lab.open("file", json!({"filename": "clusters"}), &[]).await;
    let options = json!({"size": CLUSTERS * CLUSTER as u64});
    let format = lab.open("memory-format", options, &[(Role::File, &file)]).await;
    let root = lab.root(&format);
    seam::write(&root.view(), 0, &[1; CLUSTER]).await.unwrap();
    let (stream, export) = enter(world, &root).await;
    stream.send_all(b"\x25\x60\x95\x13\0\0\0\0cookie..\0\0\0\0\0\0\0\0\0\x01\0\0").await.unwrap();
    while export.counters().totals().bytes[Op::Read as usize] == 0 {
        io::sleep(Duration::from_millis(1)).await;
    }
    let first = ByteRange::new(0, CLUSTER as u64);
    client::change(&root, Op::Discard, first, Flags::MAY_UNMAP).await.unwrap();
    for at in 1..CLUSTERS {
        seam::write(&root.view(), at * CLUSTER as u64, &[2; CLUSTER]).await.unwrap();
    }
    let mut answer = vec![0; 16 + CLUSTER];
    stream.recv_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..16], *b"\x67\x44\x66\x98\0\0\0\0cookie..");
    answer.split_off(16)
}

#[test]
fn lending_what_can_be_reused_gives_the_bytes_of_others() {
    let play = || {
        let world = SimWorld::new(1, Options::calm());
        world.disk().put("clusters", &[]);
        world.run(read_across_a_reuse(&world))
    };
    assert_eq!(play(), [1; CLUSTER]);
    break_rule(Rule::Lending);
    assert!(play().contains(&2), "the rule is broken and nothing went wrong");
}
