//! The rule about lending is broken on purpose: then a client gets bytes that were never there when it asked.
//!
//! A process of its own, since a broken rule stays broken.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use block::ByteRange;
use flow::sabotage::{Rule, break_rule};
use flow::{Now, Op, Pieces, Request, Root, Window, seam};
use lab::Lab;
use lab::model::collect;
use serde_json::json;
use sim::{Options, SimWorld};

/// A client asks for bytes, a guest overwrites them, and only then the client takes what it was sent.
async fn read_across_a_write(root: &Root) -> Vec<u8> {
    let mut pieces = Pieces::new();
    let mut rq = Request::new(Op::Read, ByteRange::new(0, 4096));
    let lent = seam::try_now(&root.turn(), &mut rq, Window::Lend(&mut pieces)).unwrap() == Now::Lent;
    let copied = match lent {
        true => Vec::new(),
        false => seam::read(&root.view(), rq.range).await.unwrap().to_vec(),
    };
    seam::write(&root.view(), 0, &[2; 4096]).await.unwrap();
    if lent { collect(&mut pieces).await } else { copied }
}

#[test]
fn lending_what_can_change_gives_wrong_bytes() {
    let world = SimWorld::new(1, Options::calm());
    world.disk().put("disk", &[1; 4096]);
    world.run(async {
        let lab = Lab::new(&world);
        let file = lab.open("file", json!({"filename": "disk"}), &[]).await;
        let root = lab.root(&file);
        assert_eq!(read_across_a_write(&root).await, [1; 4096]);
        seam::write(&root.view(), 0, &[1; 4096]).await.unwrap();
        break_rule(Rule::Lending);
        assert_eq!(read_across_a_write(&root).await, [2; 4096], "the rule is broken and nothing went wrong");
    });
}
