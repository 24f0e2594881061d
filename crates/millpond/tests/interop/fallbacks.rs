//! Every way that requests take to the disk serves the same bytes: with io_uring and where it is forbidden, on disk
//! and in memory, through the page cache and around it.

use std::path::Path;

use crate::lab::{Lab, MILLPOND, PYTHON, Server, is_full, signal, skip, wait_for};

const NEEDS: &[&str] = &["python3-libnbd"];
const REQUESTS: &str = include_str!("requests.py");
/// Runs a program where the kernel refuses io_uring.
const FORBID: &str = include_str!("forbid_io_uring.py");

/// Where images lie: on the disk of the build, and in memory.
const FOLDERS: &[&str] = &[env!("CARGO_TARGET_TMPDIR"), "/dev/shm"];

fn forbidden(lab: &Lab) -> std::process::Command {
    std::fs::write(lab.path("forbid.py"), FORBID).unwrap();
    let mut command = lab.command(PYTHON);
    command.args(["forbid.py", MILLPOND, "nbd", "-t"]);
    command
}

fn allowed(lab: &Lab) -> std::process::Command {
    let mut command = lab.command(MILLPOND);
    command.args(["nbd", "-t"]);
    command
}

type Start = fn(&Lab) -> std::process::Command;
const STARTS: &[(&str, Start)] = &[("io_uring allowed", allowed), ("io_uring forbidden", forbidden)];

/// Requests of all kinds and alignments on an image of odd length.
fn requests(lab: &Lab, how: &str, start: Start, options: &[&str]) {
    let bytes = lab.image("disk.img", (6 << 20) + 77);
    std::fs::write(lab.path("model.img"), bytes).unwrap();
    let all = [options, &["-f", "raw", "--discard=unmap", "disk.img"]].concat();
    let mut server = Server::spawn(lab, start(lab), &all);
    let count = if is_full() { "5000" } else { "300" };
    lab.python(REQUESTS, &[&server.uri(), "model.img", "structured", count]);
    let on_threads = how.ends_with("forbidden") || options.contains(&"--aio=threads");
    let engine = if on_threads { "disk.img', threads" } else { "disk.img', " };
    assert!(server.told().contains(engine), "no \"{engine}\" in: {}", server.told());
    assert!(server.stop().success());
    let (disk, model) = (std::fs::read(lab.path("disk.img")), std::fs::read(lab.path("model.img")));
    assert!(disk.unwrap() == model.unwrap(), "{how} {options:?}");
}

fn everywhere(test: &str, options: &[&str]) {
    let Some(_) = Lab::new(test, NEEDS) else { return };
    for folder in FOLDERS {
        if !Path::new(folder).is_dir() {
            skip(test, folder);
            continue;
        }
        for (how, start) in STARTS {
            let lab = Lab::on(Path::new(folder));
            requests(&lab, &format!("{folder}, {how}"), *start, options);
        }
    }
}

#[test]
fn buffered() {
    everywhere("fallbacks::buffered", &["--cache=writeback"]);
}

#[test]
fn around_the_page_cache() {
    everywhere("fallbacks::around_the_page_cache", &["--cache=none"]);
}

#[test]
fn on_threads() {
    everywhere("fallbacks::on_threads", &["--cache=directsync", "--aio=threads"]);
}

#[test]
fn io_uring_by_name_needs_io_uring() {
    let test = "io_uring_by_name_needs_io_uring";
    let Some(lab) = Lab::new(test, NEEDS) else { return };
    lab.image("disk.img", 1 << 20);
    let socket = lab.name("socket");
    let options = ["-k", &socket, "-f", "raw", "--aio=io_uring", "disk.img"];
    let refused = forbidden(&lab).args(options).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!((refused.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("disk.img") && told.contains("io_uring") && told.contains("threads"), "{told}");
    requests(&lab, "native", allowed, &["--aio=native", "--cache=none"]);
    // Whether this machine has it at all is seen by asking for it.
    let mut probe = allowed(&lab);
    probe.args(["--fork", "--pid-file", "pid"]).args(options);
    let has_it = probe.status().unwrap().success();
    lab.processes().iter().for_each(|pid| signal(*pid, "TERM"));
    wait_for("it has ended", || lab.processes().is_empty());
    match has_it {
        true => requests(&lab, "io_uring", allowed, &["--aio=io_uring", "--cache=none"]),
        false => skip(test, "io_uring"),
    }
}
