//! The ways that are compared: each brings the whole image here, and is done when that is durable.
//!
//! Invariant: all read the same server over the same line, write to the same file system, and begin with nothing.

use super::super::process::Process;
use super::super::rows::{self, OURS};
use super::image::Image;
use super::qmp::Qmp;
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The way that the others are compared with.
pub(super) const REFERENCE: &str = "nbdcopy";

/// Between looks at whether our fill is complete.
const LOOK: Duration = Duration::from_millis(5);
/// A fill that takes longer is stuck.
const FILL_MAX: Duration = Duration::from_secs(600);

/// What a way is given.
pub(super) struct Task<'a> {
    /// Holds millpond.
    pub(super) root: &'a Path,
    /// Empty, and nobody else's.
    pub(super) folder: &'a Path,
    /// The near end of the line.
    pub(super) socket: &'a Path,
    pub(super) uri: String,
    /// Bytes of the image, with holes.
    pub(super) size: u64,
}

/// What came of it.
pub(super) struct Brought {
    /// From the first request to durable.
    pub(super) took: Duration,
    pub(super) path: PathBuf,
    format: &'static str,
}

/// One way.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    programs: &'static [&'static str],
    bring: fn(&Task) -> Result<Brought, String>,
}

/// All ways; the only list of them.
pub(super) const WAYS: &[Way] = &[
    Way { name: OURS, title: "clone until its image is complete", programs: &[], bring: millpond },
    Way {
        name: REFERENCE,
        title: "to a raw file, 4 connections, 64 requests each",
        programs: &["nbdcopy"],
        bring: nbdcopy,
    },
    Way {
        name: "qsd",
        title: "block-stream into a qcow2 over the source",
        programs: &["qemu-storage-daemon", "qemu-img"],
        bring: storage_daemon,
    },
];

impl Way {
    /// Whether all that it needs is there, or what is missing.
    pub(super) fn is_here(&self, root: &Path) -> Result<PathBuf, String> {
        match self.name {
            OURS => rows::ours(root),
            _ => self.programs.iter().try_fold(PathBuf::new(), |_, program| rows::find(program)),
        }
    }

    /// Brings the image here.
    pub(super) fn bring(&self, task: &Task) -> Result<Brought, String> {
        (self.bring)(task)
    }
}

impl Brought {
    /// Whether it has the bytes of `image`.
    pub(super) fn is(&self, image: &Image) -> Result<(), String> {
        let arguments = ["compare", "-f", "raw", "-F", self.format].map(str::to_owned);
        let paths = [text(&image.path), text(&self.path)];
        run("qemu-img", &[&arguments[..], &paths].concat(), &folder_of(&self.path))
    }
}

fn nbdcopy(task: &Task) -> Result<Brought, String> {
    let path = task.folder.join("copy.raw");
    let begun = Instant::now();
    let arguments = words(&format!("--connections=4 --requests=64 {} {}", task.uri, text(&path)));
    run("nbdcopy", &arguments, task.folder)?;
    durable(&path)?;
    Ok(Brought { took: begun.elapsed(), path, format: "raw" })
}

fn millpond(task: &Task) -> Result<Brought, String> {
    let runtime = task.folder.join("run");
    let control = runtime.join("control.sock");
    let line = format!("up --pond {} --runtime {}", text(&task.folder.join("pond")), text(&runtime));
    let daemon =
        Process::start(&rows::ours(task.root)?, &words(&line), task.folder)?.until_it_listens(&control)?;
    let mut qmp = Qmp::connect(&control)?;
    let begun = Instant::now();
    let overlay = text(&task.folder.join("vm.qcow2"));
    qmp.execute("clone-create", json!({ "source": task.uri, "overlay": overlay }))?;
    let path = loop {
        let image = qmp.execute("query-images", json!({}))?[0].take();
        match image["state"].as_str() {
            Some("complete") => break image["cache"].as_str().unwrap_or_default().into(),
            Some("filling") if begun.elapsed() < FILL_MAX => thread::sleep(LOOK),
            _ => return Err(format!("it does not become complete: {image}")),
        }
    };
    let took = begun.elapsed();
    qmp.execute("quit", json!({}))?;
    daemon.finished()?;
    Ok(Brought { took, path, format: "qcow2" })
}

fn storage_daemon(task: &Task) -> Result<Brought, String> {
    let (path, monitor) = (task.folder.join("cache.qcow2"), task.folder.join("qmp.sock"));
    run("qemu-img", &words(&format!("create -q -f qcow2 {} {}", text(&path), task.size)), task.folder)?;
    let arguments = words(&format!(
        "--chardev socket,id=m,path={},server=on,wait=off --monitor chardev=m,mode=control
         --blockdev driver=nbd,node-name=remote,server.type=unix,server.path={},read-only=on
         --blockdev driver=file,node-name=f,filename={},aio=io_uring
         --blockdev driver=qcow2,node-name=c,file=f,backing=remote",
        text(&monitor),
        text(task.socket),
        text(&path),
    ));
    let daemon = Process::start(&rows::find("qemu-storage-daemon")?, &arguments, task.folder)?;
    let daemon = daemon.until_it_listens(&monitor)?;
    // The first connection was only to see whether it listens.
    let mut qmp = Qmp::connect(&monitor)?;
    let begun = Instant::now();
    qmp.execute("block-stream", json!({ "job-id": "s", "device": "c" }))?;
    let ended = qmp.event("BLOCK_JOB_COMPLETED")?;
    if let Some(error) = ended["error"].as_str() {
        return Err(error.to_owned());
    }
    // Its tables are in its memory until it ends.
    qmp.execute("quit", json!({}))?;
    daemon.finished()?;
    durable(&path)?;
    Ok(Brought { took: begun.elapsed(), path, format: "qcow2" })
}

fn run(program: &str, arguments: &[String], folder: &Path) -> Result<(), String> {
    let outcome = Process::start(&rows::find(program)?, arguments, folder)?.finished();
    outcome.map_err(|error| format!("{program}: {error}"))
}

fn durable(path: &Path) -> Result<(), String> {
    let synced = File::options().write(true).open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| super::naming(path, &error))
}

fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new(".")).to_owned()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}
