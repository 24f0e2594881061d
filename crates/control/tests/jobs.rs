//! Jobs: the same scripts played to `qemu-storage-daemon` and to us. The same answers, the same events, and images that
//! stock QEMU finds in order.
//!
//! QEMU's jobs pause for a moment whenever the graph changes, which clients are told of and must bear with; so a pause
//! that is over at once is left out on both sides, and whether an event comes before or after an answer is not
//! compared.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::path::Path;
use std::process::Command;

use lab::{Client, Server};
use serde_json::{Value, json};

/// A step of a script; `DIR` stands for the directory of the server.
enum Step {
    /// A command.
    Ask(Value),
    /// Wait for an event that contains this.
    Until(&'static str),
}

#[derive(Default)]
struct Said {
    replies: Vec<String>,
    events: Vec<Value>,
}

fn run(command: &str, arguments: Value) -> Step {
    Step::Ask(json!({"execute": command, "arguments": arguments}))
}

fn play(server: &Server, script: &[Step]) -> Said {
    let dir = server.dir.path().to_str().unwrap().to_owned();
    let (mut client, mut said) = (server.client(), Said::default());
    for step in script {
        match step {
            Step::Ask(line) => {
                let line: Value = serde_json::from_str(&line.to_string().replace("DIR", &dir)).unwrap();
                client.send(format!("{line}\n").as_bytes());
                let reply = listen(&mut client, &mut said, &dir, |line| line.get("event").is_none());
                said.replies.push(format!("{line} -> {reply}").replace(&dir, "DIR"));
            }
            // It may have come with an answer already.
            Step::Until(text) if said.events.iter().any(|event| event.to_string().contains(text)) => {}
            Step::Until(text) => {
                listen(&mut client, &mut said, &dir, |line| line.to_string().contains(text));
            }
        }
    }
    said.events = without_blinks(said.events);
    said
}

/// Notes events until one is the one.
fn listen(client: &mut Client, said: &mut Said, dir: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    loop {
        let mut line = client.line();
        line.as_object_mut().unwrap().remove("timestamp");
        tidy(&mut line);
        let line: Value = serde_json::from_str(&line.to_string().replace(dir, "DIR")).unwrap();
        if line.get("event").is_some() {
            said.events.push(line.clone());
        }
        if is_it(&line) {
            return line;
        }
    }
}

/// Takes out what depends on the moment, and puts members in one order.
fn tidy(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::Object(map) => {
            map.remove("busy");
            if map.get("speed") == Some(&json!(1)) {
                // So slow that it is stopped somewhere.
                map.remove("offset");
            }
            map.values_mut().for_each(tidy);
            let mut pairs: Vec<_> = std::mem::take(map).into_iter().collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            map.extend(pairs);
        }
        _ => {}
    }
}

/// Without pauses that are over at once.
fn without_blinks(events: Vec<Value>) -> Vec<Value> {
    let is = |event: &Value, status: &str, id: &Value| {
        event["event"] == "JOB_STATUS_CHANGE"
            && event["data"]["status"] == status
            && event["data"]["id"] == *id
    };
    let mut kept: Vec<Value> = Vec::new();
    for event in events {
        let id = event["data"]["id"].clone();
        match kept.last() {
            Some(last) if is(&event, "running", &id) && is(last, "paused", &id) => drop(kept.pop()),
            _ => kept.push(event),
        }
    }
    kept
}

/// Plays to both, compares what they said, and lets `after` look at each directory.
fn same(test: &str, prepare: impl Fn(&Path), script: &[Step], after: impl Fn(&Path)) {
    let mut said = Vec::new();
    for qsd in [true, false] {
        let server = if qsd { Server::qsd(test) } else { Some(Server::ours()) };
        let Some(server) = server else { return };
        prepare(server.dir.path());
        said.push(play(&server, script));
        // Images are whole once the server has ended.
        let dir = server.end();
        after(dir.path());
    }
    for (theirs, ours) in said[0].replies.iter().zip(&said[1].replies) {
        assert_eq!(ours, theirs);
    }
    let text = |said: &Said| said.events.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let (theirs, ours) = (text(&said[0]), text(&said[1]));
    assert!(ours == theirs, "ours:\n{ours}\ntheirs:\n{theirs}");
}

fn tool(dir: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{output:?}");
    text
}

fn img(dir: &Path, arguments: &[&str]) -> String {
    tool(dir, "qemu-img", arguments)
}

fn write(dir: &Path, image: &str, commands: &[&str]) {
    let mut arguments = vec!["-f", "qcow2"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(image);
    tool(dir, "qemu-io", &arguments);
}

/// `base <- mid <- top`, 4 MiB, each with bytes of its own, some over those of the one below; and `flat`, which reads
/// as `top` does.
fn chain(dir: &Path) {
    img(dir, &["create", "-q", "-f", "qcow2", "base", "4M"]);
    write(dir, "base", &["write -P 1 0 1M", "write -P 5 3M 64k"]);
    img(dir, &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "mid"]);
    write(dir, "mid", &["write -P 2 960k 1M", "write -z 0 128k"]);
    img(dir, &["create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top"]);
    write(dir, "top", &["write -P 3 1900k 512k"]);
    img(dir, &["convert", "-O", "raw", "top", "flat"]);
}

/// What `image` says lies below it.
fn backing(dir: &Path, image: &str) -> Value {
    let info: Value = serde_json::from_str(&img(dir, &["info", "--output", "json", image])).unwrap();
    let name = info["backing-filename"].as_str().unwrap_or("").replace(dir.to_str().unwrap(), "DIR");
    json!([name, info["backing-filename-format"]])
}

/// `image` is whole and reads as the chain did.
fn sound(dir: &Path, image: &str) {
    img(dir, &["check", "-q", image]);
    img(dir, &["compare", "-q", "-f", "qcow2", "-F", "raw", image, "flat"]);
}

fn node(name: &str, backing: Option<&str>, read_only: bool) -> Step {
    let file = json!({"driver": "file", "filename": format!("DIR/{name}")});
    run(
        "blockdev-add",
        json!({"driver": "qcow2", "node-name": name, "file": file, "backing": backing, "read-only": read_only}),
    )
}

fn nodes() -> [Step; 3] {
    [node("base", None, false), node("mid", Some("base"), false), node("top", Some("mid"), false)]
}

fn stream(more: Value) -> Step {
    let mut arguments = json!({"job-id": "j", "device": "top"});
    arguments.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    run("block-stream", arguments)
}

fn script(steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    nodes().into_iter().chain(steps).collect()
}

#[test]
fn a_whole_chain_is_streamed() {
    let steps = script([
        stream(json!({})),
        Step::Until("\"null\""),
        run("query-jobs", json!({})),
        // Nothing is below any more.
        run("blockdev-del", json!({"node-name": "mid"})),
        run("blockdev-del", json!({"node-name": "base"})),
        stream(json!({"job-id": "again"})),
        Step::Until("{\"id\":\"again\",\"status\":\"null\"}"),
        run("blockdev-del", json!({"node-name": "top"})),
    ]);
    same("jobs: a whole chain", chain, &steps, |dir| {
        assert_eq!(backing(dir, "top"), json!(["", null]));
        sound(dir, "top");
    });
}

#[test]
fn a_part_of_a_chain_is_streamed_in_every_way_to_say_so() {
    let ways = [
        (json!({"base-node": "base"}), json!(["DIR/base", "qcow2"])),
        (json!({"bottom": "mid"}), json!(["DIR/base", "qcow2"])),
        (json!({"base": "DIR/base", "backing-mask-protocol": true}), json!(["DIR/base", "qcow2"])),
        (json!({"base-node": "base", "backing-file": "DIR/./base"}), json!(["DIR/./base", "qcow2"])),
    ];
    for (way, named) in ways {
        let steps = script([stream(way), Step::Until("\"null\"")]);
        same("jobs: a part of a chain", chain, &steps, |dir| {
            assert_eq!(backing(dir, "top"), named);
            sound(dir, "top");
        });
    }
}

#[test]
fn names_of_images_that_were_opened_by_name_are_found_as_their_overlays_have_them() {
    for base in ["base", "DIR/base"] {
        let file = json!({"driver": "file", "filename": "DIR/top"});
        let steps = [
            run("blockdev-add", json!({"driver": "qcow2", "node-name": "top", "file": file})),
            stream(json!({"base": base})),
            Step::Until("\"null\""),
        ];
        same("jobs: names", chain, &steps, |dir| {
            assert_eq!(backing(dir, "top"), json!(["DIR/base", "qcow2"]));
            sound(dir, "top");
        });
    }
}

/// A part of a raw file under two images, each with bytes of its own; and `flat`, which reads as `top` does.
fn over_a_part(dir: &Path) {
    img(dir, &["create", "-q", "-f", "raw", "base", "6M"]);
    tool(dir, "qemu-io", &["-f", "raw", "-c", "write -q -P 9 0 1M", "-c", "write -q -P 1 1M 4M", "base"]);
    let part =
        "json:{'driver':'raw','offset':1048576,'size':4194304,'file':{'driver':'file','filename':'base'}}";
    img(dir, &["create", "-q", "-f", "qcow2", "-b", part, "-F", "raw", "mid", "4M"]);
    write(dir, "mid", &["write -q -P 2 960k 1M"]);
    img(dir, &["create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top"]);
    write(dir, "top", &["write -q -P 3 1900k 512k"]);
    img(dir, &["convert", "-O", "raw", "top", "flat"]);
}

#[test]
fn what_options_say_of_the_image_below_is_in_its_name() {
    let file = json!({"driver": "file", "filename": "DIR/base"});
    let part =
        json!({"driver": "raw", "node-name": "base", "offset": 1 << 20, "size": 4 << 20, "file": file});
    let steps = [
        run("blockdev-add", part),
        node("mid", Some("base"), false),
        node("top", Some("mid"), false),
        stream(json!({"base-node": "base"})),
        Step::Until("\"null\""),
    ];
    same("jobs: a part of a file", over_a_part, &steps, |dir| {
        let name = concat!(
            r#"json:{"offset": 1048576, "driver": "raw", "size": 4194304, "#,
            r#""file": {"driver": "file", "filename": "DIR/base"}}"#
        );
        assert_eq!(backing(dir, "top"), json!([name, "raw"]));
        sound(dir, "top");
    });
}

#[test]
fn right_above_what_stays_only_the_name_changes() {
    let steps =
        script([stream(json!({"base-node": "mid", "backing-file": "./mid"})), Step::Until("\"null\"")]);
    same("jobs: right above", chain, &steps, |dir| {
        assert_eq!(backing(dir, "top"), json!(["./mid", "qcow2"]));
        sound(dir, "top");
    });
}

#[test]
fn into_an_image_below_that_is_read_only() {
    let steps = [
        node("base", None, true),
        node("mid", Some("base"), true),
        node("top", Some("mid"), false),
        stream(json!({"device": "mid"})),
        Step::Until("\"null\""),
        run("blockdev-del", json!({"node-name": "base"})),
    ];
    same("jobs: read-only", chain, &steps, |dir| {
        assert_eq!((backing(dir, "mid"), backing(dir, "top")), (json!(["", null]), json!(["mid", "qcow2"])));
        sound(dir, "top");
        img(dir, &["check", "-q", "mid"]);
    });
}

#[test]
fn arguments_and_names() {
    let id = |id: &str| json!({"job-id": id});
    let steps = script([
        stream(json!({"device": "nope"})),
        run("block-stream", json!({"device": "top"})),
        stream(id("1bad")),
        stream(json!({"base": "x", "base-node": "base"})),
        stream(json!({"base": "x", "bottom": "base"})),
        stream(json!({"base-node": "base", "bottom": "mid"})),
        stream(json!({"base-node": "nope"})),
        stream(json!({"base-node": "top"})),
        stream(json!({"device": "base", "base-node": "top"})),
        stream(json!({"bottom": "nope"})),
        stream(json!({"device": "mid", "bottom": "top"})),
        stream(json!({"base": "/nope"})),
        stream(json!({"backing-file": "x"})),
        stream(json!({"base-node": "base", "filter-node-name": "mid"})),
        stream(json!({"on-error": "foo"})),
        stream(json!({"speed": "fast"})),
        stream(json!({"speed": -1})),
        run("query-jobs", json!({})),
    ]);
    same("jobs: arguments", chain, &steps, |dir| sound(dir, "top"));
}

/// Every verb under both names.
fn verbs(id: &str, which: &[&str]) -> Vec<Step> {
    let of = |verb: &&str| {
        let key = if ["finalize", "dismiss"].contains(verb) { "id" } else { "device" };
        [run(&format!("job-{verb}"), json!({"id": id})), run(&format!("block-job-{verb}"), json!({key: id}))]
    };
    which.iter().flat_map(of).collect()
}

#[test]
fn verbs_in_states_that_do_not_take_them() {
    let all = ["cancel", "pause", "resume", "complete", "finalize", "dismiss"];
    let mut steps = script(verbs("nope", &all));
    steps.push(run("block-job-set-speed", json!({"device": "nope", "speed": 1})));
    // Running: so slow that it does not end by itself.
    steps.push(stream(json!({"speed": 1, "base-node": "base", "filter-node-name": "flt"})));
    steps.extend(verbs("j", &["resume", "complete", "finalize", "dismiss"]));
    steps.extend([
        run("block-job-set-speed", json!({"device": "j", "speed": -1})),
        stream(json!({})),
        stream(json!({"job-id": "other", "device": "mid"})),
        run("blockdev-del", json!({"node-name": "flt"})),
        run("blockdev-del", json!({"node-name": "top"})),
        run("blockdev-del", json!({"node-name": "mid"})),
        run("blockdev-del", json!({"node-name": "base"})),
    ]);
    steps.push(run("job-pause", json!({"id": "j"})));
    steps.push(Step::Until("\"paused\""));
    steps.extend(verbs("j", &["pause", "complete", "finalize", "dismiss"]));
    steps.push(run("block-job-cancel", json!({"device": "j", "force": true})));
    steps.push(Step::Until("\"null\""));
    same("jobs: verbs", chain, &steps, |dir| {
        assert_eq!(backing(dir, "top"), json!(["mid", "qcow2"]));
        sound(dir, "top");
    });
}

#[test]
fn a_job_that_waits_for_its_words() {
    let steps = script([
        stream(json!({"auto-finalize": false, "auto-dismiss": false})),
        Step::Until("BLOCK_JOB_PENDING"),
        run("query-jobs", json!({})),
        run("query-block-jobs", json!({})),
        run("job-pause", json!({"id": "j"})),
        run("block-job-set-speed", json!({"device": "j", "speed": 7})),
        run("job-complete", json!({"id": "j"})),
        run("job-dismiss", json!({"id": "j"})),
        run("block-job-finalize", json!({"id": "j"})),
        Step::Until("concluded"),
        run("query-jobs", json!({})),
        run("query-block-jobs", json!({})),
        run("job-cancel", json!({"id": "j"})),
        run("job-finalize", json!({"id": "j"})),
        run("block-job-dismiss", json!({"id": "j"})),
        run("query-block-jobs", json!({})),
    ]);
    same("jobs: words", chain, &steps, |dir| {
        assert_eq!(backing(dir, "top"), json!(["", null]));
        sound(dir, "top");
    });
}

#[test]
fn cancelled_while_it_runs_or_waits() {
    let steps = script([
        stream(json!({"speed": 1, "auto-dismiss": false})),
        run("job-cancel", json!({"id": "j"})),
        Step::Until("concluded"),
        run("job-dismiss", json!({"id": "j"})),
        stream(json!({"job-id": "l", "auto-finalize": false})),
        Step::Until("BLOCK_JOB_PENDING"),
        run("block-job-cancel", json!({"device": "l"})),
        Step::Until("{\"id\":\"l\",\"status\":\"null\"}"),
        run("query-jobs", json!({})),
    ]);
    same("jobs: cancelled", chain, &steps, |dir| {
        assert_eq!(backing(dir, "top"), json!(["mid", "qcow2"]));
        sound(dir, "top");
    });
}

#[test]
fn quit_ends_jobs_in_whatever_state() {
    let prepare = |dir: &Path| {
        chain(dir);
        img(dir, &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "other"]);
        std::fs::copy(dir.join("base"), dir.join("base2")).unwrap();
        img(dir, &["create", "-q", "-f", "qcow2", "-b", "base2", "-F", "qcow2", "third"]);
    };
    let steps = script([
        node("other", Some("base"), false),
        node("base2", None, false),
        node("third", Some("base2"), false),
        stream(json!({"job-id": "p", "device": "other", "auto-finalize": false})),
        Step::Until("BLOCK_JOB_PENDING"),
        stream(json!({"job-id": "c", "base-node": "base", "auto-dismiss": false})),
        Step::Until("concluded"),
        run("query-jobs", json!({})),
        run("query-block-jobs", json!({})),
        stream(json!({"job-id": "r", "device": "third", "speed": 1})),
        Step::Ask(json!({"execute": "quit"})),
    ]);
    same("jobs: quit", prepare, &steps, |dir| {
        assert_eq!(backing(dir, "other"), json!(["base", "qcow2"]));
        assert_eq!(backing(dir, "third"), json!(["base2", "qcow2"]));
        sound(dir, "top");
    });
}

#[test]
fn an_export_follows_and_its_writers_are_kept_off_the_layers() {
    let export = |id: &str, node: &str, writable: bool| {
        run(
            "block-export-add",
            json!({"type": "nbd", "id": id, "node-name": node, "writable": writable, "name": id}),
        )
    };
    let steps = script([
        run("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": "DIR/nbd"}}})),
        export("e", "top", true),
        stream(json!({"filter-node-name": "flt", "speed": 1})),
        run("query-block-exports", json!({})),
        export("base", "base", false),
        run("block-job-set-speed", json!({"device": "j", "speed": 0})),
        Step::Until("\"null\""),
        run("block-export-del", json!({"id": "base"})),
        run("query-block-exports", json!({})),
    ]);
    same("jobs: exports", chain, &steps, |dir| sound(dir, "top"));
}

/// Where QEMU's daemon aborts: an export on an iothread, streamed below while a client writes.
#[test]
fn an_export_on_an_iothread_lives_through_a_stream() {
    let server = Server::ours();
    let dir = server.dir.path();
    if Command::new("qemu-io").arg("--version").output().is_err() {
        return lab::skip("jobs: iothread", "qemu-io");
    }
    chain(dir);
    let export = json!({"type": "nbd", "id": "e", "node-name": "top", "writable": true, "iothread": "t"});
    let begun = script([
        run("object-add", json!({"qom-type": "iothread", "id": "t"})),
        run("nbd-server-start", json!({"addr": {"type": "unix", "data": {"path": "DIR/nbd"}}})),
        run("block-export-add", export),
        stream(json!({"speed": 100_000})),
    ]);
    let said = play(&server, &begun);
    assert!(said.replies.iter().all(|reply| reply.ends_with("{\"return\":{}}")), "{:?}", said.replies);
    let uri = format!("nbd+unix:///top?socket={}/nbd", dir.display());
    let write = ["-f", "raw", "-c", "write -P 9 100k 70k", "-c", "write -z 1M 33k", "-c", "flush"];
    tool(dir, "qemu-io", &[&write[..], &[&uri]].concat());
    tool(dir, "qemu-io", &[&write[..], &["flat"]].concat());
    let rest = [run("block-job-set-speed", json!({"device": "j", "speed": 0})), Step::Until("\"null\"")];
    play(&server, &rest);
    let check = ["-r", "-f", "raw", "-c", "read -P 9 100k 70k", "-c", "read -P 0 1M 33k", &uri];
    tool(dir, "qemu-io", &check);
    let dir = server.end();
    assert_eq!(backing(dir.path(), "top"), json!(["", null]));
    sound(dir.path(), "top");
}
