//! `block_resize`, beside QEMU's storage daemon: what is refused and how, sizes, and nodes that are exported meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::path::Path;
use std::process::Command;

use lab::{Client, Server, skip};
use serde_json::{Value, json};

const M: i64 = 1 << 20;

/// What one server has answered: to each step, and the events and sizes that followed it.
#[derive(Debug, PartialEq)]
struct Answer {
    step: String,
    /// Class and description of the error, if it is one.
    error: Option<(String, String)>,
    events: Vec<String>,
    sizes: Vec<(String, i64)>,
}

/// The images, where qemu-img is there.
fn images(folder: &Path) -> Option<()> {
    let script = "qemu-img create -q -f qcow2 a.qcow2 1M && qemu-io -f qcow2 -c 'write -q -P 5 0 1M' a.qcow2 && \
         qemu-img create -q r.raw 1M && qemu-img create -q below.raw 1M && qemu-img create -q -f qcow2 o.qcow2 1M && \
         qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M && qemu-img snapshot -c s v2.qcow2";
    Command::new("qemu-img").arg("--version").output().ok()?;
    assert!(Command::new("sh").args(["-c", script]).current_dir(folder).status().unwrap().success());
    Some(())
}

/// Nodes, by name, with the file that each lies on.
const NODES: [(&str, &str, &str, bool); 4] = [
    ("a", "qcow2", "a.qcow2", false),
    ("r", "raw", "r.raw", false),
    ("v2", "qcow2", "v2.qcow2", false),
    ("ro", "qcow2", "o.qcow2", true),
];

fn steps(socket: &str) -> Vec<Value> {
    let resize = |arguments| json!({"execute": "block_resize", "arguments": arguments});
    let node = |node: &str, size: i64| resize(json!({"node-name": node, "size": size}));
    let export = |writable| {
        let arguments = json!({"type": "nbd", "id": "e", "node-name": "a", "writable": writable});
        json!({"execute": "block-export-add", "arguments": arguments})
    };
    let unexport =
        || json!({"execute": "block-export-del", "arguments": {"id": "e", "mode": "hard"}, "id": "gone"});
    let address = json!({"addr": {"type": "unix", "data": {"path": socket}}});
    let alone = [2 * M, M, 3 * M + 512, 0, -1, 1000, 1 << 62, M].map(|size| node("a", size));
    let wrong = [
        resize(json!({"node-name": "a"})),
        resize(json!({"size": 1})),
        resize(json!({"device": "a", "size": M})),
        resize(json!({"device": "x", "node-name": "a", "size": M})),
        resize(json!({"node-name": "a", "size": "x"})),
        resize(json!({"node-name": "a", "size": M, "more": 1})),
        node("nix", 1),
        node("v2", 2 * M),
        node("ro", 2 * M),
    ];
    let raw = [2 * M, M, 1000, 0, M].map(|size| node("r", size));
    let mut all = [&alone[..], &wrong, &raw].concat();
    all.extend(above_what_is_read_only(&socket.replace("/nbd", "/below.raw")));
    all.extend([node("high", M / 2), node("high", 2 * M), node("low", 2 * M), node("below", 2 * M)]);
    all.push(json!({"execute": "nbd-server-start", "arguments": address}));
    for writable in [true, false] {
        all.push(export(writable));
        // Longer, shorter, the same: nobody may while clients rely on the size.
        all.extend([4 * M, M / 2, M].map(|size| node("a", size)));
        all.push(node("r", 2 * M));
        all.push(unexport());
    }
    all.push(node("a", 4 * M));
    all
}

/// A node that may be written to, over one that may not, over a file that may.
fn above_what_is_read_only(file: &str) -> [Value; 3] {
    let add = |arguments| json!({"execute": "blockdev-add", "arguments": arguments});
    [
        add(json!({"driver": "file", "node-name": "below", "filename": file})),
        add(json!({"driver": "raw", "node-name": "low", "read-only": true, "file": "below"})),
        add(json!({"driver": "raw", "node-name": "high", "file": "low"})),
    ]
}

/// What ends an export, and when it has ended, is told by an event.
fn wait_for_end(client: &mut Client, reply: &Value) -> Vec<String> {
    let name = |event: &Value| event["event"].as_str().unwrap().to_owned();
    let mut events: Vec<_> = client.events.iter().map(name).collect();
    while reply["id"] == "gone" && events.is_empty() {
        events.push(name(&client.line()));
    }
    events
}

fn sizes(client: &mut Client) -> Vec<(String, i64)> {
    let nodes = client.ask(json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}));
    let size = |(name, ..): &(&str, &str, &str, bool)| {
        let node = nodes["return"].as_array().unwrap().iter().find(|node| node["node-name"] == *name);
        ((*name).to_owned(), node.unwrap()["image"]["virtual-size"].as_i64().unwrap())
    };
    NODES.iter().map(size).collect()
}

fn play(server: &Server) -> Vec<Answer> {
    let mut client = server.client();
    let path = |name: &str| server.dir.path().join(name).to_str().unwrap().to_owned();
    for (name, driver, file, read_only) in NODES {
        let file = json!({"driver": "file", "filename": path(file)});
        let node = json!({"driver": driver, "node-name": name, "read-only": read_only, "file": file});
        let reply = client.ask(json!({"execute": "blockdev-add", "arguments": node}));
        assert!(reply.get("return").is_some(), "{reply}");
    }
    let mut answers = Vec::new();
    for step in steps(&path("nbd")) {
        let reply = client.ask(step.clone());
        let error = reply.get("error").map(|error| {
            let text = |name: &str| error[name].as_str().unwrap().to_owned();
            (text("class"), text("desc"))
        });
        let events = wait_for_end(&mut client, &reply);
        let step = step.to_string().replace(&path(""), "");
        answers.push(Answer { step, error, events, sizes: sizes(&mut client) });
    }
    answers
}

#[test]
fn both_resize_alike() {
    let ours = Server::ours();
    if images(ours.dir.path()).is_none() {
        return skip("both_resize_alike", "qemu-img");
    }
    let mut mine = play(&ours);
    let refused = |answer: &Answer| answer.error.is_some() && answer.step.contains(r#""node-name":"a""#);
    let exported = mine.iter().skip_while(|answer| !answer.step.contains("block-export-add"));
    assert_eq!(exported.filter(|answer| refused(answer)).count(), 6, "{mine:#?}");
    let Some(qsd) = Server::qsd("both_resize_alike") else { return };
    images(qsd.dir.path()).unwrap();
    let mut theirs = play(&qsd);
    for (mine, theirs) in mine.iter_mut().zip(&mut theirs) {
        let (Some((_, said)), Some((_, text))) = (&mut mine.error, &mut theirs.error) else { continue };
        // Ours names node and image in front. Who is in the way is told in other words, and what cannot be written.
        let own = text.contains("'resize'") || text.contains("read-only");
        if own || said.ends_with(&*text) {
            *said = text.clone();
        }
    }
    let differences: Vec<_> = mine.iter().zip(&theirs).filter(|(mine, theirs)| mine != theirs).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}
