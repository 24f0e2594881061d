//! Everything that can be asked of an image, and what it took.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use block::Errno;
use img::Listener;
use io::counting::peak_here;
use sim::{Options, SimDisk, SimWorld, Verdict};

use crate::host::Command;

/// Turns after which a call counts as one without end.
const TURNS_MAX: u64 = 2_000_000;
/// Requests after which the disk fails, so that a call without end has one.
const REQUESTS_END: u64 = 1_000_000;
/// Bytes of the longest failure.
const WORDS_MAX: usize = 4096;
/// Disks up to this size are read from end to end, and up to that size copied.
const READ_MAX: u64 = 16 << 20;
const COPY_MAX: u64 = 2 << 20;

/// What a call took.
#[derive(Debug)]
pub struct Used {
    pub call: String,
    pub status: u8,
    /// Bytes, without those of the simulated disk.
    pub peak: i64,
    pub requests: u64,
}

/// The most of all calls.
#[derive(Default)]
pub struct Most {
    peak: (i64, String),
    requests: (u64, String),
}

impl Most {
    pub fn note(&mut self, image: &str, used: &Used) {
        let name = || format!("{image}: {}", used.call);
        if used.peak > self.peak.0 {
            self.peak = (used.peak, name());
        }
        if used.requests > self.requests.0 {
            self.requests = (used.requests, name());
        }
    }
}

impl fmt::Display for Most {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((peak, by), (requests, of)) = (&self.peak, &self.requests);
        write!(f, "{peak} bytes at most ({by}), {requests} requests at most ({of})")
    }
}

type Flags = Vec<(&'static str, Option<&'static str>)>;

/// A verb with its flags and operands.
type Call = (&'static str, Flags, Vec<&'static str>);

/// Calls every verb on an image of these bytes, each on a fresh copy.
pub fn all(image: &[u8]) -> Vec<Used> {
    let size = image.get(24..32).map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
    let mut calls: Vec<Call> = [looks(), changes()].concat();
    if size <= READ_MAX {
        calls.push(("compare", vec![], vec!["disk", "disk"]));
        calls.push(("measure", vec![("target-format", Some("qcow2"))], vec!["disk"]));
    }
    if size <= COPY_MAX {
        calls.extend(copies());
    }
    calls.into_iter().map(|(verb, flags, operands)| used(image, verb, flags, operands)).collect()
}

/// Those that read tables, whatever the size of the disk.
fn looks() -> Vec<Call> {
    vec![
        ("info", vec![], vec!["disk"]),
        ("info", vec![("output", Some("json")), ("backing-chain", None)], vec!["disk"]),
        ("check", vec![], vec!["disk"]),
        ("check", vec![("repair", Some("leaks"))], vec!["disk"]),
        ("check", vec![("repair", Some("all"))], vec!["disk"]),
        ("map", vec![("max-length", Some("64M"))], vec!["disk"]),
        ("map", vec![("output", Some("json")), ("max-length", Some("64M"))], vec!["disk"]),
        ("snapshot", vec![("list", None)], vec!["disk"]),
        ("dd", vec![("output-format", Some("raw"))], vec!["if=disk", "of=out", "bs=1M", "count=2"]),
    ]
}

fn changes() -> Vec<Call> {
    let large = vec![("count", Some("8")), ("buffer-size", Some("1M")), ("depth", Some("8"))];
    vec![
        ("snapshot", vec![("create", Some("new"))], vec!["disk"]),
        ("snapshot", vec![("delete", Some("s"))], vec!["disk"]),
        ("snapshot", vec![("apply", Some("1"))], vec!["disk"]),
        ("bitmap", vec![("add", None), ("merge", Some("b"))], vec!["disk", "new"]),
        ("bitmap", vec![("merge", Some("b"))], vec!["disk", "b"]),
        ("bitmap", vec![("remove", None)], vec!["disk", "1"]),
        ("bitmap", vec![("clear", None), ("disable", None)], vec!["disk", "b"]),
        ("resize", vec![], vec!["disk", "+1M"]),
        ("resize", vec![("shrink", None)], vec!["disk", "512k"]),
        ("amend", vec![("options", Some("compat=0.10"))], vec!["disk"]),
        ("amend", vec![("options", Some("refcount_bits=1"))], vec!["disk"]),
        ("rebase", vec![("backing-unsafe", None), ("backing", Some(""))], vec!["disk"]),
        ("bench", vec![("count", Some("64")), ("write", None), ("depth", Some("8"))], vec!["disk"]),
        ("bench", large, vec!["disk"]),
    ]
}

fn copies() -> Vec<Call> {
    let to = |format, flag| {
        let flags = [("target-format", Some(format))].into_iter().chain(flag);
        ("convert", flags.collect(), vec!["disk", "out"])
    };
    vec![
        to("raw", None),
        to("qcow2", Some(("bitmaps", None))),
        to("qcow2", Some(("compress", None))),
        ("commit", vec![], vec!["disk"]),
    ]
}

fn used(image: &[u8], verb: &'static str, mut flags: Flags, operands: Vec<&'static str>) -> Used {
    match verb {
        "convert" => flags.push(("source-format", Some("qcow2"))),
        "compare" => flags.extend([("a-format", Some("qcow2")), ("b-format", Some("qcow2"))]),
        _ => flags.push(("format", Some("qcow2"))),
    }
    let call = format!("{verb} {flags:?} {operands:?}");
    let world = SimWorld::new(1, Options { max_turns: TURNS_MAX, ..Options::calm() });
    let disk = world.disk();
    disk.put("disk", image);
    let requests = Arc::new(AtomicU64::new(0));
    let counter = requests.clone();
    disk.set_policy(move |_| match counter.fetch_add(1, Ordering::Relaxed) {
        REQUESTS_END.. => Verdict::Fail(Errno(5)),
        _ => Verdict::Go,
    });
    let before = on_disk(&disk);
    let ((status, _), peak) = peak_here(|| {
        let (status, why) = world.run(Command { verb, flags, operands }.run_telling(&world, Rc::new(Deaf)));
        assert!(why.len() < WORDS_MAX, "{call}: {} bytes of words: {:.200}", why.len(), why);
        (status, why.len())
    });
    let grown = (on_disk(&disk) - before).max(0);
    Used { call, status, peak: peak - grown, requests: requests.load(Ordering::Relaxed) }
}

/// Whoever keeps nothing of what is told.
struct Deaf;

impl Listener for Deaf {
    fn say(&self, _: &str) {}

    fn warn(&self, _: &str) {}

    fn complain(&self, _: &str) {}

    fn progress(&self, _: f32) {}

    fn begin_progress(&self) {}

    fn end_progress(&self) {}
}

/// What files take: bytes as readers see them, and as they would survive.
fn on_disk(disk: &SimDisk) -> i64 {
    disk.names().iter().filter_map(|name| disk.allocated(name)).map(|bytes| 2 * bytes as i64).sum()
}
