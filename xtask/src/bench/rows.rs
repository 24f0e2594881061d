//! The servers that are compared: one row each, with the command that serves an image on a Unix socket.
//!
//! Invariant: rows get the same file, socket kind and cache mode, as far as the program has options for them.

use super::images::{Format, Kind};
use std::path::{Path, PathBuf};

/// The row that the project answers for.
pub(super) const OURS: &str = "millpond";
/// The rows that ratios are taken against.
pub(super) const REFERENCE: &str = "qemu-nbd";
pub(super) const FLOOR: &str = "floor";

/// What a server is to serve, and where.
pub(super) struct Task<'a> {
    pub(super) file: &'a str,
    pub(super) format: Format,
    pub(super) socket: &'a str,
    pub(super) read_only: bool,
    /// Where nbd-server finds its configuration.
    pub(super) configuration: &'a str,
}

/// One server.
pub(super) struct Row {
    pub(super) name: &'static str,
    program: &'static str,
    /// Name of the export it offers.
    pub(super) export: &'static str,
    formats: &'static [Format],
    in_chains: bool,
    /// It leaves for the background, and says where in a pid file (`-p`).
    pub(super) daemonises: bool,
    arguments: fn(&Task) -> Vec<String>,
}

const BOTH: &[Format] = &[Format::Raw, Format::Qcow2];
const RAW: &[Format] = &[Format::Raw];

const fn row(
    name: &'static str,
    program: &'static str,
    formats: &'static [Format],
    arguments: fn(&Task) -> Vec<String>,
) -> Row {
    Row { name, program, export: "", formats, in_chains: false, daemonises: false, arguments }
}

/// All rows; the only list of them.
pub(super) const ROWS: &[Row] = &[
    Row { in_chains: true, ..row(OURS, OURS, BOTH, millpond) },
    Row { in_chains: true, ..row(REFERENCE, "qemu-nbd", BOTH, qemu_nbd) },
    row("qsd", "qemu-storage-daemon", BOTH, |task| storage_daemon(task, false)),
    row("qsd-iothread", "qemu-storage-daemon", BOTH, |task| storage_daemon(task, true)),
    row("nbdkit", "nbdkit", RAW, nbdkit),
    Row { export: "d", daemonises: true, ..row("nbd-server", "nbd-server", RAW, nbd_server) },
    row(FLOOR, FLOOR, BOTH, |task| words(&format!("floor {} {}", task.socket, task.file))),
];

impl Row {
    /// Whether it can serve such an image.
    pub(super) fn serves(&self, image: &Kind) -> bool {
        self.formats.contains(&image.format) && (!image.is_chain() || self.in_chains)
    }

    /// Its program, or what is missing.
    pub(super) fn is_here(&self, root: &Path) -> Result<PathBuf, String> {
        program(root, self.program)
    }

    /// Its arguments for `task`.
    pub(super) fn arguments(&self, task: &Task) -> Vec<String> {
        (self.arguments)(task)
    }

    /// Whether it reads the raw bytes under an image of any format: a floor has no format.
    pub(super) fn wants_raw(&self) -> bool {
        self.name == FLOOR
    }
}

/// Where a program is: the millpond that is measured, ourselves for a floor, else one in PATH.
pub(super) fn program(root: &Path, name: &str) -> Result<PathBuf, String> {
    match name {
        OURS => ours(root),
        FLOOR => std::env::current_exe().map_err(|error| error.to_string()),
        name => find(name),
    }
}

/// The millpond that is measured.
pub(super) fn ours(root: &Path) -> Result<PathBuf, String> {
    let path = root.join("target/release").join(OURS);
    if path.is_file() { Ok(path) } else { Err(format!("{} is not built", path.display())) }
}

/// `program` in PATH.
pub(super) fn find(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').map(|folder| Path::new(folder).join(program));
    places.find(|place| place.is_file()).ok_or_else(|| format!("no {program} in PATH"))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn millpond(task: &Task) -> Vec<String> {
    let mut arguments = vec!["nbd".to_owned()];
    arguments.extend(nbd_options(task));
    arguments.push(task.file.to_owned());
    arguments
}

fn qemu_nbd(task: &Task) -> Vec<String> {
    let mut arguments = nbd_options(task);
    arguments.extend(words(&format!("--cache=writeback --aio=io_uring {}", task.file)));
    arguments
}

/// What qemu-nbd and `millpond nbd` share.
fn nbd_options(task: &Task) -> Vec<String> {
    let mut options = words(&format!("-f {} -e 8 -t -k {}", task.format.name(), task.socket));
    options.extend(["-x".to_owned(), String::new()]);
    options.extend(task.read_only.then(|| "-r".to_owned()));
    options
}

fn storage_daemon(task: &Task, iothread: bool) -> Vec<String> {
    let (read_only, writable) = if task.read_only { ("on", "off") } else { ("off", "on") };
    let (object, thread) = if iothread { ("--object iothread,id=t0", ",iothread=t0") } else { ("", "") };
    let (file, format, socket) = (task.file, task.format.name(), task.socket);
    words(&format!(
        "{object} --blockdev driver=file,node-name=f,filename={file},aio=io_uring,read-only={read_only}
         --blockdev driver={format},node-name=d,file=f,read-only={read_only}
         --nbd-server addr.type=unix,addr.path={socket},max-connections=0
         --export type=nbd,id=e,node-name=d,name=,writable={writable}{thread}"
    ))
}

fn nbdkit(task: &Task) -> Vec<String> {
    let read_only = if task.read_only { "-r" } else { "" };
    words(&format!("-f {read_only} -U {} file {}", task.socket, task.file))
}

fn nbd_server(task: &Task) -> Vec<String> {
    words(&format!("-C {}", task.configuration))
}

/// The configuration of nbd-server for `task`.
pub(super) fn nbd_server_configuration(task: &Task) -> String {
    let Task { file, socket, read_only, .. } = task;
    format!(
        "[generic]\nunixsock = {socket}\nallowlist = true\n[d]\nexportname = {file}\nreadonly = {read_only}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_rows_are_so_everywhere() {
        let socket = "/s";
        let of = |read_only| Task { file: "/i", format: Format::Raw, socket, read_only, configuration: "/c" };
        for row in ROWS.iter().filter(|row| !["nbd-server", FLOOR].contains(&row.name)) {
            assert_ne!(row.arguments(&of(true)), row.arguments(&of(false)), "{}", row.name);
        }
        assert!(nbd_server_configuration(&of(true)).contains("readonly = true"));
    }

    #[test]
    fn the_default_export_name_is_an_argument_of_its_own() {
        let task =
            Task { file: "/i", format: Format::Qcow2, socket: "/s", read_only: true, configuration: "/c" };
        let expected = ["nbd", "-f", "qcow2", "-e", "8", "-t", "-k", "/s", "-x", "", "-r", "/i"];
        assert_eq!(ROWS[0].arguments(&task), expected);
    }
}
