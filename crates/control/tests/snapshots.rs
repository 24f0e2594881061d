//! Internal snapshots in QMP, beside QSD: made, refused, listed with the image of a node, and deleted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::process::Command;

use lab::{Server, skip};
use serde_json::{Value, json};

/// An image with one snapshot below an empty one; `None` without QEMU's tools.
fn images(server: &Server) -> Option<()> {
    let script = "qemu-img create -q -f qcow2 base 1M && qemu-img snapshot -c first base \
                  && qemu-img create -q -f qcow2 -b base -F qcow2 disk && qemu-img create -q raw 1M";
    let status = Command::new("sh").args(["-c", script]).current_dir(server.dir.path()).status().ok()?;
    status.success().then_some(())
}

fn node(name: &str, driver: &str, file: &str, more: Value) -> Value {
    let file = json!({"driver": "file", "filename": format!("DIR/{file}")});
    let mut node = json!({"driver": driver, "node-name": name, "file": file});
    node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    node
}

fn script() -> Vec<(&'static str, Value)> {
    let create = |device: &str, name: &str| {
        ("blockdev-snapshot-internal-sync", json!({"device": device, "name": name}))
    };
    let delete = |more: Value| ("blockdev-snapshot-delete-internal-sync", more);
    let query = || ("query-named-block-nodes", json!({}));
    vec![
        ("blockdev-add", node("base", "qcow2", "base", json!({"read-only": true}))),
        ("blockdev-add", node("disk", "qcow2", "disk", json!({"backing": "base"}))),
        ("blockdev-add", node("raw", "raw", "raw", json!({}))),
        query(),
        create("disk", "one"),
        create("disk", "two"),
        create("disk", "two"),
        create("disk", ""),
        create("base", "two"),
        create("raw", "two"),
        create("nope", "two"),
        query(),
        delete(json!({"device": "disk"})),
        delete(json!({"device": "disk", "id": "7"})),
        delete(json!({"device": "disk", "id": "1", "name": "two"})),
        delete(json!({"device": "disk", "name": "one"})),
        delete(json!({"device": "raw", "name": "one"})),
        query(),
        delete(json!({"device": "disk", "id": "2"})),
        query(),
    ]
}

/// What a server answers; of nodes the snapshots of their images, and of those below.
fn play(server: &Server) -> Vec<String> {
    let mut client = server.client();
    let dir = server.dir.path().to_str().unwrap().to_owned();
    let said = |(command, arguments): (&str, Value)| {
        let line = json!({"execute": command, "arguments": arguments}).to_string().replace("DIR", &dir);
        let mut reply = client.ask(serde_json::from_str(&line).unwrap());
        if command.starts_with("query") {
            let about = |node: &Value| {
                let image = &node["image"];
                let below = &image["backing-image"]["snapshots"];
                (node["node-name"] == "disk" || node["node-name"] == "base" || node["node-name"] == "raw")
                    .then(|| json!([node["node-name"], image["snapshots"], below]))
            };
            let mut nodes: Vec<_> = reply["return"].as_array().unwrap().iter().filter_map(about).collect();
            nodes.sort_by_key(ToString::to_string);
            reply = json!(nodes);
        }
        undated(&mut reply);
        // One order of members.
        let members: std::collections::BTreeMap<String, Value> = match reply {
            Value::Object(map) => map.into_iter().collect(),
            other => [("nodes".to_owned(), other)].into(),
        };
        json!(members).to_string()
    };
    script().into_iter().map(said).collect()
}

/// Without when snapshots were taken, and in one order of members.
fn undated(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(undated),
        Value::Object(map) => {
            // QSD takes the host's time for a guest's, too.
            for time in ["date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec"] {
                map.remove(time);
            }
            map.values_mut().for_each(undated);
            let sorted: std::collections::BTreeMap<_, _> = std::mem::take(map).into_iter().collect();
            map.extend(sorted);
        }
        _ => {}
    }
}

#[test]
fn both_answer_the_same() {
    let ours = Server::ours();
    if images(&ours).is_none() {
        return skip("snapshots: both_answer_the_same", "qemu-img");
    }
    let mine = play(&ours);
    let listed = mine.iter().filter(|line| line.contains("\"vm-state-size\"")).count();
    assert!(listed >= 5, "{mine:#?}");
    let Some(qsd) = Server::qsd("snapshots: both_answer_the_same") else { return };
    images(&qsd).unwrap();
    for (at, (mine, theirs)) in mine.iter().zip(play(&qsd)).enumerate() {
        assert_eq!(*mine, theirs, "answer {at}");
    }
}
