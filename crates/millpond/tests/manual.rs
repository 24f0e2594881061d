//! Every example of the manual works as it is written.
//!
//! A block that begins with `` ```sh example `` is run by bash in an empty directory, with `millpond` in PATH; it
//! must succeed in bounded time and leave no process behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{Lab, is_there, said};

/// The first line of an example.
const OPENING: &str = "```sh example";
/// Programs that examples use and a machine may lack.
const PEERS: &[&str] = &[
    "fio",
    "mke2fs",
    "nbd-server",
    "nbdcopy",
    "nbdinfo",
    "nbdkit",
    "nbdsh",
    "python3",
    "qemu-img",
    "qemu-io",
    "qemu-nbd",
    "qemu-storage-daemon",
    "socat",
];

/// How long servers may take to end that an example told to.
const GRACE: Duration = Duration::from_secs(10);

/// One example, and where it stands.
struct Example {
    page: String,
    line: usize,
    script: String,
}

#[test]
fn every_example_of_the_manual_works() {
    let examples: Vec<Example> = pages().iter().flat_map(|page| examples(page)).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(example) = examples.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if let Err(why) = works(example, GRACE) {
                        failures.lock().unwrap().push(format!("{}:{}: {why}", example.page, example.line));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {} examples:\n{}",
        failures.len(),
        examples.len(),
        failures.join("\n")
    );
}

#[test]
fn every_page_has_an_example() {
    let pages = pages();
    assert!(!pages.is_empty());
    for page in &pages {
        assert!(!examples(page).is_empty(), "{}: no example: add a {OPENING} block", page.display());
    }
}

/// A server that is told to end holds its files' locks a while longer: what comes next in an example waits for it.
#[test]
fn who_is_told_to_end_is_waited_for() {
    for example in pages().iter().flat_map(|page| examples(page)) {
        for (line, next) in example.script.lines().zip(example.script.lines().skip(1)) {
            let waits = !line.starts_with("kill ") || next.starts_with("while kill -0 ");
            assert!(waits, "{}:{}: after `{line}` comes `{next}`", example.page, example.line);
        }
    }
}

#[test]
fn an_example_that_fails_is_noticed() {
    let fails = |script: &str| {
        let example = Example { page: "sample".to_owned(), line: 1, script: script.to_owned() };
        works(&example, Duration::ZERO).unwrap_err()
    };
    assert!(fails("false\ntrue").contains("false"));
    assert!(fails("echo \"$unset_variable\"").contains("unset_variable"));
    assert!(fails("millpond nbd --no-such-option | cat").contains("no-such-option"));
    let leaves = "mkfifo up never\nsetsid bash -c 'echo > up; cat never' > /dev/null 2>&1 &\ncat up";
    assert!(fails(leaves).contains("left running"));
}

fn pages() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manual");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    // The list of the others.
    pages.retain(|page| !page.ends_with("README.md"));
    pages.sort();
    pages
}

fn examples(page: &Path) -> Vec<Example> {
    let text = std::fs::read_to_string(page).unwrap();
    let name = page.file_name().unwrap().to_string_lossy().into_owned();
    let mut lines = text.lines().enumerate();
    let mut examples = Vec::new();
    while let Some((at, line)) = lines.next() {
        if line.trim_end() == OPENING {
            let block = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim_end() != "```");
            let script = block.flat_map(|line| [line, "\n"]).collect();
            examples.push(Example { page: name.clone(), line: at + 1, script });
        }
    }
    examples
}

fn works(example: &Example, grace: Duration) -> Result<(), String> {
    let test = format!("manual/{}:{}", example.page, example.line);
    let missing: Vec<_> = peers(&example.script).filter(|peer| !is_there(peer)).collect();
    if !missing.is_empty() {
        missing.iter().for_each(|peer| lab::skip(&test, peer));
        return Ok(());
    }
    let lab = Lab::on(Path::new("/tmp"));
    std::fs::create_dir(lab.path("here")).unwrap();
    let script = format!("cd here\nset -euxo pipefail\n{}", example.script);
    let output = lab.run("bash", &["-c", &script]);
    if !output.status.success() {
        return Err(format!("{}\n{}", output.status, said(&output)));
    }
    // Servers that were told to end may take a moment.
    let begun = Instant::now();
    while !lab.processes().is_empty() && begun.elapsed() < grace {
        std::thread::sleep(Duration::from_millis(10));
    }
    match lab.processes().len() {
        0 => Ok(()),
        many => Err(format!("{many} processes are left running\n{}", said(&output))),
    }
}

/// The peers that a script calls.
fn peers(script: &str) -> impl Iterator<Item = &'static str> {
    let words: Vec<&str> = script.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
    PEERS.iter().copied().filter(move |peer| words.contains(peer))
}
