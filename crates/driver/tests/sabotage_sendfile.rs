//! The rule about lending is broken on purpose, under a whole NBD server and a slow line: then a client gets the bytes
//! of another part of the disk.
//!
//! A process of its own, since a broken rule stays broken.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::time::Duration;

use block::ByteRange;
use flow::sabotage::{Rule, break_rule};
use flow::{Flags, Op, Role, seam};
use lab::far_client::{READ_FIRST, enter};
use lab::{Lab, client};
use serde_json::json;
use sim::{Options, SimWorld};

const CLUSTER: usize = 64 << 10;
const CLUSTERS: u64 = 16;

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
    stream.send_all(READ_FIRST).await.unwrap();
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
