//! A verb that makes a file is ended at any of its steps: what is left is the whole image, or no file; or an empty one
//! where a file was there before.
//!
//! A step is a poll of the verb's future, so that every place at which it waits is one at which it is ended.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../crash/host.rs"]
#[allow(dead_code, reason = "power cuts use all of it")]
mod host;

use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use host::{Command, Running, Said};
use img::Session;
use sim::{Options, SimDisk, SimWorld};

/// Bytes of the source.
const SIZE: usize = 600 << 10;

/// Verbs that make `new`, and the format it gets. All but the last copy `old`.
fn making() -> Vec<(Command, &'static str)> {
    let convert = |format, more: &[_]| {
        let mut flags = vec![("source-format", Some("raw")), ("target-format", Some(format))];
        flags.extend(more);
        (Command { verb: "convert", flags, operands: vec!["old", "new"] }, format)
    };
    let dd = vec![("format", Some("raw")), ("output-format", Some("qcow2"))];
    let create = vec![("format", Some("qcow2")), ("options", Some("preallocation=full"))];
    vec![
        convert("qcow2", &[]),
        convert("qcow2", &[("compress", None)]),
        convert("raw", &[("oob-writes", None), ("options", Some("preallocation=full"))]),
        (Command { verb: "dd", flags: dd, operands: vec!["bs=64k", "if=old", "of=new"] }, "qcow2"),
        (Command { verb: "create", flags: create, operands: vec!["new", "600k"] }, "qcow2"),
    ]
}

/// Polls it until it is through or has been polled so often.
async fn some_steps(running: &mut Running, steps: u64) -> Option<Result<u8, img::Failure>> {
    let mut left = steps;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        running.as_mut().poll(context).map(Some)
    })
    .await
}

/// Ends it as the program does when it is told to.
async fn ended(session: Rc<Session>, mut running: Running) {
    let outcome = if session.call_off() { Some(running.as_mut().await) } else { None };
    drop(running);
    if !matches!(outcome, Some(Ok(0))) {
        session.end_early().await;
    }
}

/// Ends the verb after so many steps; `new` was there before or not. Answers whether it was through before.
fn end_after(steps: u64, command: &Command, format: &str, was_there: bool) -> bool {
    let what = format!("{} {:?}, {was_there}, ended after {steps} steps", command.verb, command.flags);
    let old: Vec<u8> = (0..SIZE).map(|at| (at / 512 % 251 + 1) as u8).collect();
    let disk = SimDisk::new();
    disk.put("old", &old);
    if was_there {
        disk.put("new", b"something");
    }
    let world = SimWorld::with_disk(steps, Options::default(), disk.clone());
    let through = world.run(async {
        let (session, mut running) = command.begin(&world, Rc::new(Said::default()));
        let through = some_steps(&mut running, steps).await.is_some();
        if !through {
            ended(session, running).await;
        }
        // Whatever it has not waited for happens.
        io::sleep(Duration::from_secs(60)).await;
        through
    });
    let bytes = disk.names().iter().any(|name| name == Path::new("new")).then(|| disk.bytes("new").unwrap());
    let is_image = match &bytes {
        None => false,
        Some(bytes) if was_there => !bytes.is_empty() && bytes != b"something",
        Some(_) => true,
    };
    assert!(is_image || !through, "{what}: no image");
    assert!(bytes.is_some() || !was_there, "{what}: removed what was there");
    if is_image {
        let bytes = world.run(host::read(&world, "new", format)).unwrap();
        let expected = if command.verb == "create" { vec![0; SIZE] } else { old };
        assert!(bytes == expected, "{what}: another image");
    }
    through
}

#[test]
fn whatever_is_ended_leaves_a_whole_image_or_none() {
    for was_there in [false, true] {
        for (command, format) in making() {
            let through = (0..10_000).find(|steps| end_after(*steps, &command, format, was_there));
            assert!(
                through.is_some_and(|steps| steps > 5),
                "{} {:?}: {through:?}",
                command.verb,
                command.flags
            );
        }
    }
}
