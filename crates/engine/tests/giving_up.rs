//! A node is given up with a file that fails: what could not be stored is told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use block::Errno;
use engine::{Engine, EngineOptions, Event};
use flow::BitmapChange;

use qcow2::NewImage;
use serde_json::json;
use sim::{OpKind, Options, SimWorld, Verdict};

/// A fresh image.
fn image() -> Vec<u8> {
    let fresh = NewImage::new(1 << 20, 16).bytes().unwrap();
    let mut bytes = vec![0; fresh.len as usize];
    for (at, piece) in fresh.tables.into_iter().flatten().chain(fresh.pieces) {
        bytes[at.0 as usize..][..piece.len()].copy_from_slice(&piece);
    }
    bytes
}

/// What is told when a node with a new persistent bitmap is given up; its file fails, or not.
fn told(fails: bool) -> Vec<(String, String)> {
    let world = Arc::new(SimWorld::new(3, Options::calm()));
    world.disk().put("disk", &image());
    world.run(async {
        let options = EngineOptions { threads: 1, ..EngineOptions::default() };
        let engine = Engine::new(world.clone(), options).unwrap();
        let file = json!({"driver": "file", "filename": "disk"});
        let node = json!({"driver": "qcow2", "node-name": "n", "file": file});
        engine.add_node(node.as_object().unwrap().clone()).await.unwrap();
        let add = BitmapChange::Add { granularity: 65536, recording: true, persistent: true };
        engine.change_bitmap("n", "b", add).await.unwrap();
        let mut told = engine.events().subscribe();
        if fails {
            let refuse = |op: &sim::Op| match op.is(OpKind::Write, "disk") {
                true => Verdict::Fail(Errno::IO),
                false => Verdict::Go,
            };
            world.disk().set_policy(refuse);
        }
        engine.delete_node("n").await.unwrap();
        assert!(!engine.has_node("n"), "it is given up, whatever becomes of its file");
        let mut all = Vec::new();
        while let Some(event) = told.try_next() {
            if let Event::NodeGivenUp { node, error } = event {
                all.push((node, error));
            }
        }
        all
    })
}

#[test]
fn what_could_not_be_stored_is_told() {
    let told = told(true);
    let [(node, error)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(node, "n");
    let lost = "Lost persistent bitmaps during inactivation of node 'n'";
    assert!(error.contains(lost) && error.contains("disk"), "{error}");
}

#[test]
fn a_node_that_is_stored_goes_without_a_word() {
    assert_eq!(told(false), []);
}
