//! Doing a task with one of the programs.
//!
//! Invariants: what a run has written is on disk before the next one begins; no run is the one that pays for memory
//! which a host had taken back.

use super::super::process::Process;
use super::super::rows::{FLOOR, OURS, program};
use super::super::{cpu, images::flush};
use super::images::{Images, Kind};
use super::report::Figures;
use super::tasks::{Task, Until, Work};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// One family of programs.
pub(super) struct Row {
    pub(super) name: &'static str,
    server: (&'static str, &'static str),
    tool: (&'static str, &'static str),
}

/// Whom ratios are taken against.
pub(super) const REFERENCE: &str = "qemu";

/// All rows: a program and its first arguments.
pub(super) const ROWS: &[Row] = &[
    Row { name: OURS, server: (OURS, "nbd"), tool: (OURS, "img") },
    Row { name: REFERENCE, server: ("qemu-nbd", "--cache=writeback --aio=io_uring"), tool: ("qemu-img", "") },
    // The same bytes with no format.
    Row { name: FLOOR, server: (FLOOR, "floor"), tool: (FLOOR, "floor-copy") },
];

impl Row {
    /// Whether it can do such a task: a floor has no format to pack or to check.
    pub(super) fn does(&self, task: &Task) -> bool {
        !self.is_floor() || !matches!(task.work, Work::Tool(..))
    }

    fn is_floor(&self) -> bool {
        self.name == FLOOR
    }

    /// The file that it works on.
    fn file(&self, images: &Images, kind: Kind) -> Result<PathBuf, String> {
        if self.is_floor() { images.bare(kind) } else { Ok(images.path(kind)) }
    }
}

/// Between looks at the memory of a program.
const LOOK: Duration = Duration::from_millis(5);
/// How long the CPU time of a client that has left may take to be accounted to its server.
const SETTLE: Duration = Duration::from_millis(50);

/// Measures `row` at `task`.
pub(super) fn measure(root: &Path, images: &Images, task: &Task, row: &Row) -> Result<Figures, String> {
    images.make(task.image)?;
    touch_memory(images);
    match task.work {
        Work::Served(options) => served(root, images, task.image, row, (None, options)),
        Work::ServedAfter(first, options) => served(root, images, task.image, row, (Some(first), options)),
        Work::Tool(arguments, until) | Work::Copy(arguments, until) => {
            tool(root, images, task.image, row, (arguments, until))
        }
    }
}

/// Takes as much memory as a run may fill, twice, and gives it back. The host of a virtual machine takes back what is
/// free (free page reporting), and the first who writes there again waits 15 us for each page: more than for all else.
fn touch_memory(images: &Images) {
    let bytes = usize::try_from(2 * images.size(Kind::Empty)).unwrap_or(0);
    std::hint::black_box(vec![1u8; bytes]);
}

fn words(line: &str) -> impl Iterator<Item = String> {
    line.split_whitespace().map(str::to_owned)
}

fn served(
    root: &Path,
    images: &Images,
    kind: Kind,
    row: &Row,
    (before, options): (Option<&str>, &str),
) -> Result<Figures, String> {
    let ((name, first), folder, image) = (row.server, images.folder(), row.file(images, kind)?);
    let more = if row.is_floor() { "" } else { "-f qcow2 -t -e 4 -k" };
    let socket = folder.join("served.sock");
    let mut arguments: Vec<String> = words(first).chain(words(more)).collect();
    arguments.extend([&socket, &image].map(|path| path.to_string_lossy().into_owned()));
    let server = Process::start(&program(root, name)?, &arguments, folder)?.until_it_listens(&socket)?;
    if let Some(before) = before {
        fio(&socket, folder, images.size(kind), before)?;
    }
    let before = cpu::Sample::of(server.pid());
    let seconds = fio(&socket, folder, images.size(kind), options)?;
    thread::sleep(SETTLE);
    let cpu = cpu::Sample::of(server.pid()).since(&before).as_secs_f64();
    let peak_mib = peak_mib(server.pid()).unwrap_or(0.0);
    drop(server);
    let _ = fs::remove_file(&socket);
    flush(&image).map_err(|error| error.to_string())?;
    Ok(Figures { seconds, cpu, peak_mib })
}

/// Seconds that fio takes, the same numbers in every run.
fn fio(socket: &Path, folder: &Path, size: u64, options: &str) -> Result<f64, String> {
    let output = Command::new("fio")
        .args(["--name=bench", "--ioengine=nbd", "--randrepeat=1", "--output-format=json"])
        .args([format!("--uri=nbd+unix:///?socket={}", socket.display()), format!("--size={size}")])
        .args(words(options))
        .current_dir(folder)
        .output()
        .map_err(|error| format!("fio: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.find('{').and_then(|at| serde_json::from_str::<Value>(&text[at..]).ok());
    let runtime = answer.and_then(|answer| answer["jobs"][0]["job_runtime"].as_f64());
    match runtime {
        Some(milliseconds) if output.status.success() && milliseconds > 0.0 => Ok(milliseconds / 1e3),
        _ => Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn tool(
    root: &Path,
    images: &Images,
    kind: Kind,
    row: &Row,
    (arguments, until): (&str, Until),
) -> Result<Figures, String> {
    let (name, first) = row.tool;
    let arguments = if row.is_floor() { "IMAGE OUT" } else { arguments };
    let out = images.folder().join("out");
    let _ = fs::remove_file(&out);
    let image = row.file(images, kind)?.to_string_lossy().into_owned();
    let put = |word: String| match &*word {
        "IMAGE" => image.clone(),
        "OUT" => out.to_string_lossy().into_owned(),
        _ => word,
    };
    let before = cpu::of_ended_children();
    let start = Instant::now();
    let mut child = Command::new(program(root, name)?)
        .args(words(first).chain(words(arguments)).map(put))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let peak_mib = watch(&mut child);
    let mut seconds = start.elapsed().as_secs_f64();
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("it failed").to_owned());
    }
    let cpu = cpu::of_ended_children().saturating_sub(before).as_secs_f64();
    if out.exists() {
        flush(&out).map_err(|error| error.to_string())?;
        if until == Until::OnDisk {
            seconds = start.elapsed().as_secs_f64();
        }
        let _ = fs::remove_file(&out);
    }
    Ok(Figures { seconds, cpu, peak_mib })
}

/// Waits until a program ends; the most memory that it was seen to have had.
fn watch(child: &mut Child) -> f64 {
    let mut peak = 0.0f64;
    while matches!(child.try_wait(), Ok(None)) {
        peak = peak.max(peak_mib(child.id()).unwrap_or(0.0));
        thread::sleep(LOOK);
    }
    peak
}

/// The most memory that a process has had so far.
fn peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}
