//! `millpond img` beside qemu-img: the same arguments, the same answers, the same images.
//!
//! The files beside this one are the cases. A line that begins with `!` is run by a shell in both directories, each
//! other line as arguments of both programs, the exit status and both outputs of which must be the same. What has been
//! made is compared at the end: what qemu-img says of it, its tables by `qemu-img check`, its content.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../lab/mod.rs"]
mod lab;

mod bitmaps;
mod committing;
mod ending;
mod locks;
mod measuring;
mod memory;
mod offload;
mod over;
mod page_cache;
mod parts;
mod quota;
mod rebasing;
mod validation;
mod vm_state;

use std::path::Path;
use std::process::{Command, Stdio};

use lab::Lab;

const READING: &str = include_str!("reading.txt");
const CREATING: &str = include_str!("creating.txt");
const CONVERTING: &str = include_str!("converting.txt");

const CHECKING: &str = include_str!("checking.txt");
const CHANGING: &str = include_str!("changing.txt");
const OPTIONS: &str = include_str!("options.txt");
const NODE_OPTIONS: &str = include_str!("node_options.txt");
const COMMITTING: &str = include_str!("committing.txt");
const BELOW: &str = include_str!("below.txt");
const LAYERS: &str = include_str!("layers.txt");
const AMENDING: &str = include_str!("amending.txt");
const EXPORTS: &str = include_str!("exports.txt");
const DEVICES: &str = include_str!("devices.txt");
const BENCHING: &str = include_str!("benching.txt");
const BITMAPPING: &str = include_str!("bitmapping.txt");
const SNAPSHOTS: &str = include_str!("snapshots.txt");

/// Larger disks are not compared byte by byte.
const COMPARED_MAX: u64 = 1 << 34;

#[test]
fn what_only_reads_answers_as_qemu_img_does() {
    both("what_only_reads_answers_as_qemu_img_does", READING);
}

#[test]
fn create_makes_what_qemu_img_makes() {
    both("create_makes_what_qemu_img_makes", CREATING);
}

#[test]
fn convert_makes_what_qemu_img_makes() {
    both("convert_makes_what_qemu_img_makes", CONVERTING);
}

#[test]
fn check_finds_and_mends_what_qemu_img_does() {
    both("check_finds_and_mends_what_qemu_img_does", CHECKING);
}

#[test]
fn images_are_changed_as_qemu_img_changes_them() {
    both("images_are_changed_as_qemu_img_changes_them", CHANGING);
}

#[test]
fn commits_go_where_those_of_qemu_img_go() {
    both("commits_go_where_those_of_qemu_img_go", COMMITTING);
}

#[test]
fn options_of_what_is_below_are_taken_as_qemu_img_takes_them() {
    both("options_of_what_is_below_are_taken_as_qemu_img_takes_them", BELOW);
}

#[test]
fn layers_are_called_and_told_of_as_qemu_img_does() {
    both("layers_are_called_and_told_of_as_qemu_img_does", LAYERS);
}

#[test]
fn amended_images_are_those_of_qemu_img() {
    both("amended_images_are_those_of_qemu_img", AMENDING);
}

#[test]
fn options_are_taken_as_qemu_img_takes_them() {
    both("options_are_taken_as_qemu_img_takes_them", OPTIONS);
}

#[test]
fn options_of_nodes_are_taken_as_qemu_img_takes_them() {
    both("options_of_nodes_are_taken_as_qemu_img_takes_them", NODE_OPTIONS);
}

#[test]
fn images_are_made_on_exports_as_qemu_img_makes_them() {
    both("images_are_made_on_exports_as_qemu_img_makes_them", EXPORTS);
}

#[test]
fn images_are_made_on_devices_as_qemu_img_makes_them() {
    let test = "images_are_made_on_devices_as_qemu_img_makes_them";
    let may = std::fs::OpenOptions::new().write(true).open("/dev/loop-control").is_ok();
    let free = Command::new("losetup").arg("--find").output();
    if !may || !free.is_ok_and(|found| found.status.success()) {
        return lab::skip(test, "loop device (needs root)");
    }
    both(test, DEVICES);
}

#[test]
fn bench_says_what_qemu_img_says() {
    both("bench_says_what_qemu_img_says", BENCHING);
}

#[test]
fn bitmaps_are_changed_as_qemu_img_changes_them() {
    both("bitmaps_are_changed_as_qemu_img_changes_them", BITMAPPING);
}

#[test]
fn snapshots_are_those_of_qemu_img() {
    both("snapshots_are_those_of_qemu_img", SNAPSHOTS);
}

/// What a program has answered.
#[derive(Debug, PartialEq)]
struct Answer {
    status: Option<i32>,
    out: String,
    err: String,
}

fn both(test: &str, cases: &str) {
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    let (theirs, ours, link) = (lab.path("theirs"), lab.path("ours"), lab.path("bin/qemu-img"));
    std::fs::create_dir(&theirs).unwrap();
    std::fs::create_dir(&ours).unwrap();
    let mut differences = Vec::new();
    for line in cases.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(script) = line.strip_prefix('!') {
            [&theirs, &ours].iter().for_each(|dir| shell(script, dir));
            continue;
        }
        if !link.exists() {
            std::os::unix::fs::symlink(lab::MILLPOND, &link).unwrap();
        }
        let arguments = words(line);
        let expected = answer(&mut program("qemu-img", &theirs, &lab), &arguments);
        let got = answer(&mut program(link.to_str().unwrap(), &ours, &lab), &arguments);
        if expected != got {
            differences.push(format!("{line}\n  theirs {expected:?}\n  ours   {got:?}"));
        }
    }
    differences.extend(images(&theirs, &ours));
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
}

fn shell(script: &str, dir: &Path) {
    let status = Command::new("sh").args(["-c", script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

/// A program that is found by the machine's own path, where qemu-img is the peer.
fn program(name: &str, dir: &Path, lab: &Lab) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = lab.command("timeout");
    command.args(["-k", "5", "60", name]).current_dir(dir).env("PATH", path).stdin(Stdio::null());
    command
}

fn answer(command: &mut Command, arguments: &[String]) -> Answer {
    let output = command.args(arguments).output().unwrap();
    // What is copied is known beforehand; other progress is a matter of speed.
    let has_steps = arguments.first().is_some_and(|verb| verb == "convert");
    let stepped = |text: String| if has_steps { text } else { without_steps(&text) };
    let text = |bytes: &[u8]| {
        without_room(&without_time(&without_dates(&stepped(without_ours(&String::from_utf8_lossy(bytes))))))
    };
    Answer { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Lines of lists that only we have, and why.
const OURS: &[(&str, &str)] = &[
    // Razavi's caches: an option of our own.
    ("  cache_img_quota=", "docs/formats/cache.md"),
];

fn without_ours(text: &str) -> String {
    let is_ours = |line: &str| OURS.iter().any(|(start, _)| line.starts_with(start));
    text.split_inclusive('\n').filter(|line| !is_ours(line)).collect()
}

/// Without when a snapshot was taken: the programs run one after the other.
fn without_dates(text: &str) -> String {
    let is_date = |part: &str| {
        part.len() == 19
            && part.bytes().zip(*b"0000-00-00 00:00:00").all(|(byte, like)| match like {
                b'0' => byte.is_ascii_digit(),
                _ => byte == like,
            })
    };
    let undated = |line: &str| {
        if let Some(at) = line.find("\"date-sec\":").or_else(|| line.find("\"date-nsec\":")) {
            return line[..at].to_owned();
        }
        let at = (0..line.len()).find(|at| line.get(*at..at + 19).is_some_and(is_date));
        at.map_or_else(|| line.to_owned(), |at| line[..at].to_owned() + &line[at + 19..])
    };
    text.split_inclusive('\n').map(undated).collect()
}

/// Without how much room files take, if any: their copies in the two folders may be in more pieces or in fewer.
fn without_room(text: &str) -> String {
    let roomless = |line: &str| {
        let found = ["disk size: ", "\"actual-size\": "].iter().find_map(|name| line.split_once(name));
        match found {
            Some((before, size)) if size.starts_with(|first: char| ('1'..='9').contains(&first)) => {
                format!("{before}some room\n")
            }
            _ => line.to_owned(),
        }
    };
    text.split_inclusive('\n').map(roomless).collect()
}

/// Without how long it took.
fn without_time(text: &str) -> String {
    let timed = |line: &str| match line.strip_prefix("Run completed in ") {
        Some(rest) if rest.trim_end().ends_with(" seconds.") => "Run completed.\n".to_owned(),
        _ => line.to_owned(),
    };
    text.split_inclusive('\n').map(timed).collect()
}

/// Without the progress between the beginning and the end, which is a matter of speed.
fn without_steps(text: &str) -> String {
    let is_step = |part: &&str| part.ends_with("/100%)") && part.starts_with("    (");
    let parts: Vec<&str> = text.split('\r').collect();
    let shown = |at: usize| {
        let part = parts[at];
        !is_step(&part) || part == "    (0.00/100%)" && at == 0
    };
    (0..parts.len()).filter(|at| shown(*at)).map(|at| parts[at]).collect::<Vec<_>>().join("\r")
}

/// At spaces, except between single quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quoted, mut chars) = (vec![None::<String>], false, line.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => words.last_mut().unwrap().get_or_insert_default().extend(chars.next()),
            '\'' => {
                quoted = !quoted;
                words.last_mut().unwrap().get_or_insert_default();
            }
            ' ' if !quoted => words.push(None),
            _ => words.last_mut().unwrap().get_or_insert_default().push(c),
        }
    }
    words.into_iter().flatten().collect()
}

/// How what was made differs.
fn images(theirs: &Path, ours: &Path) -> Vec<String> {
    let names = |dir: &Path| {
        let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    if names(theirs) != names(ours) {
        return vec![format!("files: theirs {:?}\n  ours {:?}", names(theirs), names(ours))];
    }
    names(ours).iter().filter_map(|name| image(name, theirs, ours)).collect()
}

fn image(name: &str, theirs: &Path, ours: &Path) -> Option<String> {
    let (expected, got) = (facts(name, theirs), facts(name, ours));
    if expected != got {
        return Some(format!("{name}: theirs {expected:?}\n  ours {got:?}"));
    }
    let facts = expected?;
    let format = facts["format"].as_str().unwrap();
    if format == "qcow2" {
        let check = |dir| peer(dir, &["check", "-q", name]);
        let (status, told) = check(ours);
        if status != Some(0) && check(theirs).0 == Some(0) {
            return Some(format!("{name}: check: {told}"));
        }
    }
    let opens = peer(theirs, &["map", "-f", format, "-l", "0", name]).0 == Some(0);
    if facts["virtual-size"].as_u64().unwrap() > COMPARED_MAX || !opens {
        return None;
    }
    let other = theirs.join(name);
    let (status, told) = peer(ours, &["compare", "-f", format, "-F", format, name, other.to_str().unwrap()]);
    (status != Some(0)).then(|| format!("{name}: compare: {told}"))
}

/// What qemu-img says of an image, without what allocation decides.
fn facts(name: &str, dir: &Path) -> Option<serde_json::Value> {
    let (status, told) = peer(dir, &["info", "--output", "json", name]);
    let mut facts: serde_json::Value = serde_json::from_str(&told).ok().filter(|_| status == Some(0))?;
    let members = facts.as_object_mut().unwrap();
    members.remove("children");
    members.remove("actual-size");
    // The scripts run at different times.
    members.remove("snapshots");
    Some(facts)
}

fn peer(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("qemu-img").args(arguments).current_dir(dir).output().unwrap();
    (output.status.code(), lab::said(&output))
}
