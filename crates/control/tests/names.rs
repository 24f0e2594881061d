//! What nodes are called to whoever would open them again (`query-named-block-nodes`), beside QEMU's storage daemon.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::BTreeMap;
use std::process::Command;

use lab::{Server, skip};
use serde_json::{Value, json};

/// Nodes on top of one another, each with a name of its own.
fn nodes() -> Vec<Value> {
    let file = |name: &str, path: &str| json!({"driver": "file", "node-name": name, "filename": path, "locking": "off"});
    let below = json!({"driver": "raw", "node-name": "below", "file": file("below-file", "DIR/b.raw")});
    vec![
        json!({"driver": "null-co", "node-name": "null", "latency-ns": 5}),
        json!({"driver": "null-aio", "node-name": "small", "size": 1 << 20, "read-zeroes": true}),
        json!({"driver": "raw", "node-name": "part", "offset": 512, "size": 1024, "file": "small"}),
        json!({"driver": "raw", "node-name": "twice", "file": "part"}),
        json!({"driver": "throttle", "node-name": "slow", "throttle-group": "t", "file": file("slow-file", "DIR/b.raw")}),
        json!({"driver": "raw", "node-name": "over-slow", "file": "slow"}),
        json!({"driver": "qcow2", "node-name": "as-named", "file": file("f1", "DIR/o.qcow2"), "backing": below}),
        json!({"driver": "qcow2", "node-name": "led", "file": {"driver": "file", "filename": "DIR/o.qcow2"}}),
        json!({"driver": "qcow2", "node-name": "cut", "file": "f1-again", "backing": null, "l2-cache-size": 65536}),
        json!({"driver": "qcow2", "node-name": "other", "file": "f1-again", "backing": "part", "discard": "unmap"}),
        json!({"driver": "qcow2", "node-name": "apart", "file": file("f2", "DIR/d.qcow2")}),
    ]
}

fn prepare(server: &Server) {
    let script = "truncate -s 1M b.raw; \
         qemu-img create -q -f qcow2 -b $PWD/b.raw -F raw o.qcow2; \
         qemu-img create -q -f qcow2 -o data_file=$PWD/d.raw d.qcow2 1M";
    let made = Command::new("sh").args(["-c", script]).current_dir(server.dir.path()).status();
    assert!(made.unwrap().success());
}

/// What the nodes that have a name are called, by that.
fn names(server: &Server) -> BTreeMap<String, Value> {
    prepare(server);
    let dir = server.dir.path().to_str().unwrap();
    let mut client = server.client();
    let mut ask = |command: &str, arguments: Value| {
        let line = json!({"execute": command, "arguments": arguments}).to_string().replace("DIR", dir);
        client.send(format!("{line}\n").as_bytes());
        let reply = client.line();
        assert!(reply.get("return").is_some(), "{line}: {reply}");
        reply["return"].clone()
    };
    ask("object-add", json!({"qom-type": "throttle-group", "id": "t"}));
    ask(
        "blockdev-add",
        json!({"driver": "file", "node-name": "f1-again", "filename": "DIR/o.qcow2", "read-only": true}),
    );
    for mut node in nodes() {
        node["read-only"] = json!(true);
        ask("blockdev-add", node);
    }
    let found = ask("query-named-block-nodes", json!({}));
    let named =
        found.as_array().unwrap().iter().filter(|node| !node["node-name"].as_str().unwrap().starts_with('#'));
    let called = |node: &Value| {
        let called = json!([node["file"], node["image"]["filename"], node["backing_file"]]);
        serde_json::from_str(&called.to_string().replace(dir, "DIR")).unwrap()
    };
    named.map(|node| (node["node-name"].as_str().unwrap().to_owned(), called(node))).collect()
}

#[test]
fn nodes_are_called_as_those_of_qemu_are() {
    let Some(qsd) = Server::qsd("names: nodes") else { return };
    if Command::new("qemu-img").arg("--version").output().is_err() {
        return skip("names: nodes", "qemu-img");
    }
    let (theirs, ours) = (names(&qsd), names(&Server::ours()));
    assert_eq!(ours.len(), 17);
    for (node, called) in theirs {
        assert_eq!(ours[&node], called, "{node}");
    }
}

/// Each layer of a long chain that says nothing of what it stands on is named with all below, once.
#[test]
fn long_chains_are_named_as_far_as_anybody_could_open_them() {
    let server = Server::ours();
    let mut client = server.client();
    let mut ask = |command: &str, arguments: Value| {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        client.send(format!("{line}\n").as_bytes());
        client.line()["return"].clone()
    };
    ask("blockdev-add", json!({"driver": "null-co", "node-name": "n0", "size": 1 << 20}));
    for number in 1..300 {
        let below = format!("n{}", number - 1);
        ask("blockdev-add", json!({"driver": "raw", "node-name": format!("n{number}"), "file": below}));
    }
    let nodes = ask("query-named-block-nodes", json!({"flat": true}));
    let name = |node: &str| {
        let node = nodes.as_array().unwrap().iter().find(|found| found["node-name"] == node);
        node.unwrap()["file"].as_str().unwrap().to_owned()
    };
    assert_eq!(name("n100").matches("\"raw\"").count(), 100);
    assert_eq!(name("n299"), r#"json:{"driver":"raw"}"#);
}
