//! The same scripts played to `qemu-storage-daemon` and to us: the same answers, and the same events before them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use lab::{Client, Server};
use serde_json::{Value, json};

/// What a server said to each line of a script, without what may differ: times, version, directory.
fn play(server: &Server, script: &[Value]) -> Vec<String> {
    let mut client = server.client();
    let dir = server.dir.path().to_str().unwrap().to_owned();
    let mut said = Vec::new();
    for line in script {
        // `DIR` stands for the directory of the server.
        let line: Value = serde_json::from_str(&line.to_string().replace("DIR", &dir)).unwrap();
        let reply = client.ask(line);
        let events = std::mem::take(&mut client.events);
        said.extend(events.into_iter().chain([reply]).map(|mut line| {
            line.as_object_mut().unwrap().remove("timestamp");
            sorted(&line).to_string().replace(&dir, "DIR")
        }));
    }
    said
}

/// With the members of objects in one order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => list.iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(pairs.into_iter().collect())
        }
        other => other.clone(),
    }
}

fn same(test: &str, script: &[Value]) {
    let ours = play(&Server::ours(), script);
    let Some(qsd) = Server::qsd(test) else { return };
    let theirs = play(&qsd, script);
    for (at, (mine, other)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(mine, other, "answer {at}");
    }
    assert_eq!(ours.len(), theirs.len());
}

fn run(command: &str, arguments: Value) -> Value {
    json!({"execute": command, "arguments": arguments})
}

fn null(name: &str) -> Value {
    run(
        "blockdev-add",
        json!({"driver": "null-co", "node-name": name, "size": 1_048_576, "read-zeroes": true}),
    )
}

fn export(id: &str, node: &str, more: Value) -> Value {
    let mut arguments = json!({"type": "nbd", "id": id, "node-name": node});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    run("block-export-add", arguments)
}

fn start() -> Value {
    run("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": "DIR/nbd"}}}))
}

#[test]
fn arguments() {
    same(
        "dialogue: arguments",
        &[
            json!({"execute": "nope", "id": [1, {"a": null}]}),
            json!({"execute": "qmp_capabilities"}),
            json!({"execute": "quit", "foo": 1, "id": "x"}),
            json!({"exec-oob": "query-version"}),
            run("query-block-exports", json!({"x": 1})),
            run("block-export-del", json!({"id": 1})),
            run("block-export-del", json!({"id": "a", "mode": "foo"})),
            run("block-export-del", json!({"id": "a", "mode": 3})),
            run("block-export-del", json!({"id": "a"})),
            run("nbd-server-start", json!({"addr": 1})),
            run("nbd-server-start", json!({"addr": {"type": "foo"}})),
            run("nbd-server-start", json!({"addr": {"type": "unix"}})),
            run("nbd-server-start", json!({"addr": {"type": "unix", "data": {}}})),
            run("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": "x", "foo": 1}}})),
            run(
                "nbd-server-start",
                json!({"max-connections": -1, "addr": {"type": "unix", "data": {"path": "x"}}}),
            ),
            run(
                "nbd-server-start",
                json!({"tls-creds": "t", "addr": {"type": "unix", "data": {"path": "x"}}}),
            ),
            run("object-add", json!({"qom-type": "nope", "id": "x"})),
            run("object-del", json!({"id": "nope"})),
        ],
    );
}

#[test]
fn nodes() {
    same(
        "dialogue: nodes",
        &[
            null("n"),
            null("n"),
            null("#n"),
            run("blockdev-add", json!({"driver": "null-co"})),
            run("blockdev-add", json!({"driver": "nope", "node-name": "x"})),
            run("blockdev-add", json!({"driver": "raw", "node-name": "x"})),
            run("blockdev-add", json!({"driver": "raw", "node-name": "x", "file": 1})),
            run("blockdev-add", json!({"driver": "raw", "node-name": "x", "file": "nope"})),
            run("blockdev-add", json!({"driver": "raw", "node-name": "x", "file": {"driver": "file"}})),
            run("blockdev-add", json!({"driver": "raw", "node-name": "x", "cache": {"foo": 1}, "file": "n"})),
            run("blockdev-add", json!({"driver": "qcow2", "node-name": "x", "file": "n", "backing": 5})),
            run("blockdev-add", json!({"driver": "raw", "node-name": "r", "file": "n"})),
            run("blockdev-del", json!({"node-name": "n"})),
            run("blockdev-del", json!({"node-name": "nope"})),
            run("blockdev-del", json!({"node-name": "r"})),
            run("blockdev-del", json!({"node-name": "n"})),
            run("blockdev-del", json!({"node-name": "n"})),
        ],
    );
}

#[test]
fn exports() {
    same(
        "dialogue: exports",
        &[
            null("n"),
            run("blockdev-add", json!({"driver": "raw", "node-name": "ro", "file": "n", "read-only": true})),
            export("e0", "n", json!({})),
            run("nbd-server-stop", json!({})),
            start(),
            start(),
            export("e0", "nope", json!({})),
            export("e0", "ro", json!({})),
            export("e0", "ro", json!({})),
            export("e1", "ro", json!({})),
            export("0bad", "ro", json!({"name": "x"})),
            export("e1", "ro", json!({"name": "x", "writable": true})),
            export("e1", "ro", json!({"name": "x", "iothread": "nope"})),
            run("query-block-exports", json!({})),
            run("blockdev-del", json!({"node-name": "ro"})),
            run("block-export-del", json!({"id": "e0"})),
            run("block-export-del", json!({"id": "e0"})),
            export("e2", "ro", json!({})),
            run("nbd-server-stop", json!({})),
            run("nbd-server-stop", json!({})),
            start(),
            export("e3", "ro", json!({})),
            json!({"execute": "quit", "id": 7}),
        ],
    );
}

#[test]
fn objects() {
    same(
        "dialogue: objects",
        &[
            run("object-add", json!({"qom-type": "throttle-group", "id": "tg"})),
            run("object-add", json!({"qom-type": "throttle-group", "id": "tg"})),
            run("object-add", json!({"qom-type": "secret", "id": "s"})),
            run("object-add", json!({"qom-type": "secret", "id": "s", "data": "x"})),
            null("n"),
            run(
                "blockdev-add",
                json!({"driver": "throttle", "node-name": "t", "throttle-group": "tg", "file": "n"}),
            ),
            run("object-del", json!({"id": "tg"})),
            run("blockdev-del", json!({"node-name": "t"})),
            run("object-del", json!({"id": "tg"})),
        ],
    );
}

#[test]
fn garbage_costs_one_error_each() {
    let lines = |server: &Server| {
        let mut client = server.client();
        let garbage: [&[u8]; 4] = [b"this\n", b"{'execute' 1}\n", b"{'execute':'\xff'}\n", b"[1,\n2]\n"];
        garbage.iter().for_each(|bytes| client.send(bytes));
        client.send(b"{'execute':'query-block-exports','id':'it\\'s'}");
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains("it's")) {
            said.push(client.text().unwrap());
        }
        said
    };
    let ours = lines(&Server::ours());
    assert!(ours.len() > 4);
    if let Some(qsd) = Server::qsd("dialogue: garbage") {
        assert_eq!(ours, lines(&qsd), "letter by letter");
    }
}

#[test]
fn nothing_goes_before_negotiation() {
    let server = Server::ours();
    let mut client = server.connect();
    let refused = client.ask(json!({"execute": "query-version"}));
    assert_eq!(refused["error"]["desc"], "Expecting capabilities negotiation with 'qmp_capabilities'");
    assert_eq!(
        client.ask(json!({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})),
        json!({"return": {}})
    );
    let oob = client.ask(json!({"exec-oob": "query-version", "id": 3}));
    assert_eq!(oob["error"]["desc"], "The command query-version does not support OOB");
}

#[test]
fn many_clients_at_once_all_hear_of_events() {
    let server = Server::ours();
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    let mut silent = server.connect();
    let dir = server.dir.path().to_str().unwrap().to_owned();
    for line in [null("n"), start(), export("e", "n", json!({})), run("block-export-del", json!({"id": "e"}))]
    {
        let line = serde_json::from_str(&line.to_string().replace("DIR", &dir)).unwrap();
        assert_eq!(clients[0].ask(line), json!({"return": {}}));
    }
    assert_eq!(clients[0].events.len(), 1, "before the reply");
    for client in &mut clients[1..] {
        let event = client.line();
        assert_eq!((&event["event"], &event["data"]), (&json!("BLOCK_EXPORT_DELETED"), &json!({"id": "e"})));
    }
    assert_eq!(silent.ask(json!({"execute": "qmp_capabilities"})), json!({"return": {}}), "and no event");
}
