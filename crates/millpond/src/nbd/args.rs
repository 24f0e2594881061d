//! The options of `millpond nbd`: qemu-nbd's, letter by letter.

use std::path::PathBuf;

use block::{BlockError, ErrorKind, Result};
use clap::{Args as ClapArgs, ValueEnum};

/// Serve one image over NBD, with qemu-nbd's options.
///
/// The image FILE is exported under one name, on a unix socket (-k) or over TCP (-p, -b), until
/// the last client leaves (or for ever, with -t). docs/manual/millpond-nbd.md has all of it.
///
/// Examples:
///   millpond nbd -r -t -f qcow2 -k /run/disk.sock disk.qcow2
///   millpond nbd -t -e 8 -x data -f raw -p 10810 disk.img
///   millpond nbd -k /run/d.sock --image-opts driver=raw,size=1048576,file.filename=d
#[derive(ClapArgs, Debug)]
#[command(verbatim_doc_comment, args_override_self = true)]
pub(crate) struct Args {
    /// The image; with --image-opts, its options (driver=...,key=value,...).
    #[arg(value_name = "FILE")]
    pub(super) file: Option<String>,

    /// Port to listen on [default: 10809].
    #[arg(short, long, value_name = "PORT", allow_hyphen_values = true, help_heading = CONNECTION)]
    pub(super) port: Option<u16>,
    /// Interface to bind to [default: 0.0.0.0].
    #[arg(short, long, value_name = "IFACE", help_heading = CONNECTION)]
    pub(super) bind: Option<String>,
    /// Path of the unix socket to listen on, instead of TCP.
    #[arg(short = 'k', long, value_name = "PATH", help_heading = CONNECTION)]
    pub(super) socket: Option<PathBuf>,
    /// Clients at the same time; 0 for any number.
    #[arg(short = 'e', long, value_name = "NUM", value_parser = shared, allow_hyphen_values = true, default_value_t = 1, help_heading = CONNECTION)]
    pub(super) shared: usize,
    /// Don't exit when the last client leaves.
    #[arg(short = 't', long, help_heading = CONNECTION)]
    pub(super) persistent: bool,
    /// Tell of clients, of the engine in use, and of lost sources.
    #[arg(short, long, help_heading = CONNECTION)]
    pub(super) verbose: bool,
    /// Name of the export.
    #[arg(short = 'x', long, value_name = "NAME", default_value = "", hide_default_value = true, help_heading = CONNECTION)]
    pub(super) export_name: String,
    /// Description of the export, for people.
    #[arg(short = 'D', long, value_name = "TEXT", default_value = "", hide_default_value = true, help_heading = CONNECTION)]
    pub(super) description: String,
    /// Seconds that a client has for its handshake; 0 for any time.
    #[arg(long, value_name = "N", default_value_t = 10, allow_hyphen_values = true, help_heading = CONNECTION)]
    pub(super) handshake_limit: u64,
    /// I/O threads that share the clients; default: one per processor, at most 4.
    #[arg(long, value_name = "N", allow_hyphen_values = true, help_heading = CONNECTION)]
    pub(super) threads: Option<usize>,

    /// Serve all clients on the thread of this object (--object iothread,id=ID).
    #[arg(long, value_name = "ID", conflicts_with = "threads", help_heading = CONNECTION)]
    pub(super) iothread: Option<String>,
    /// MiB that each I/O thread may use to remember where the data of long backing chains lies.
    #[arg(long, value_name = "MIB", default_value_t = 8, help_heading = CONNECTION)]
    pub(super) mappings: usize,

    /// Offset into the image of the first byte that is exported.
    #[arg(short, long, value_name = "OFFSET", value_parser = offset, allow_hyphen_values = true, default_value_t = 0, help_heading = IMAGE)]
    pub(super) offset: u64,
    /// Format of the image. Never guessed from its content, which a guest may have written.
    #[arg(short, long, value_name = "FORMAT", help_heading = IMAGE)]
    pub(super) format: Option<String>,
    /// Treat FILE as a full set of options.
    #[arg(long, conflicts_with = "format", help_heading = IMAGE)]
    pub(super) image_opts: bool,
    /// Define an object: throttle-group,id=..., secret,id=..., iothread,id=...
    #[arg(long, value_name = "TYPE,id=ID,...", help_heading = IMAGE)]
    pub(super) object: Vec<String>,
    /// Refuse to follow names inside images to files outside of this directory (may be repeated).
    #[arg(long, value_name = "DIR", help_heading = IMAGE)]
    pub(super) allow_dir: Vec<PathBuf>,
    /// Export read-only.
    #[arg(short, long, help_heading = IMAGE)]
    pub(super) read_only: bool,
    /// Export an internal snapshot, read-only: its id or name, or snapshot.id=ID,snapshot.name=NAME.
    #[arg(short, long, value_name = "SNAPSHOT", help_heading = IMAGE)]
    pub(super) load_snapshot: Option<String>,
    /// Bypass the host's page cache: --cache=none.
    #[arg(short, long, conflicts_with = "cache", help_heading = IMAGE)]
    pub(super) nocache: bool,
    /// Cache mode.
    #[arg(long, value_enum, value_name = "MODE", default_value = "writeback", help_heading = IMAGE)]
    pub(super) cache: CacheMode,
    /// How requests that have to wait are carried out; default: io_uring where it is allowed, else threads.
    #[arg(long, value_enum, value_name = "MODE", help_heading = IMAGE)]
    pub(super) aio: Option<Aio>,
    /// What becomes of discards.
    #[arg(long, value_enum, value_name = "MODE", default_value = "ignore", help_heading = IMAGE)]
    pub(super) discard: Discard,
    /// What becomes of writes of zeros.
    #[arg(long, value_enum, value_name = "MODE", default_value = "off", help_heading = IMAGE)]
    pub(super) detect_zeroes: DetectZeroesMode,

    /// Return once the server is listening, and serve in the background.
    #[arg(long, help_heading = PROCESS)]
    pub(super) fork: bool,
    /// Write the server's process id to this file.
    #[arg(long, value_name = "PATH", help_heading = PROCESS)]
    pub(super) pid_file: Option<PathBuf>,

    #[command(flatten)]
    not_yet: NotYet,
}

const CONNECTION: &str = "Connection";
const IMAGE: &str = "Image";
const PROCESS: &str = "Process";

/// Options of qemu-nbd that are understood and refused.
#[derive(ClapArgs, Debug)]
struct NotYet {
    #[arg(short = 'A', long, hide = true)]
    allocation_depth: bool,
    #[arg(short = 'B', long, hide = true)]
    bitmap: Vec<String>,
    #[arg(short = 'L', long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    tls_creds: Option<String>,
    #[arg(long, hide = true)]
    tls_authz: Option<String>,
    #[arg(long, hide = true)]
    tls_hostname: Option<String>,
    #[arg(short = 'T', long, hide = true)]
    trace: Option<String>,
    #[arg(long, hide = true)]
    selinux_label: Option<String>,
    #[arg(short, long, hide = true)]
    connect: Option<String>,
    #[arg(short, long, hide = true)]
    disconnect: bool,
    #[arg(short, long, hide = true)]
    snapshot: bool,
}

impl Args {
    /// Refuses, by name, what is not done yet.
    pub(super) fn check(&self) -> Result<()> {
        let n = &self.not_yet;
        let given = [
            ("--allocation-depth", n.allocation_depth),
            ("--bitmap", !n.bitmap.is_empty()),
            ("--list", n.list),
            ("--tls-creds", n.tls_creds.is_some()),
            ("--tls-authz", n.tls_authz.is_some()),
            ("--tls-hostname", n.tls_hostname.is_some()),
            ("--trace", n.trace.is_some()),
            ("--selinux-label", n.selinux_label.is_some()),
            ("--connect", n.connect.is_some()),
            ("--disconnect", n.disconnect),
            ("--snapshot", n.snapshot),
        ];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            return Err(BlockError::new(ErrorKind::Unsupported, format!("'{name}' is not yet supported")));
        }
        for (option, text) in [("--export-name", &self.export_name), ("--description", &self.description)] {
            if text.len() > 4096 {
                let context = format!("option '{option}': the text is longer than 4096 bytes");
                return Err(BlockError::new(ErrorKind::Invalid, context));
            }
        }
        Ok(())
    }
}

/// qemu-nbd's cache modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum CacheMode {
    /// Bypass the page cache.
    None,
    /// Through the page cache; durable when the client flushes.
    Writeback,
    /// Through the page cache; durable when answered.
    Writethrough,
    /// Bypass the page cache; durable when answered.
    Directsync,
    /// Through the page cache; flushes are ignored.
    Unsafe,
}

/// qemu-nbd's AIO modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Aio {
    /// A pool of threads.
    Threads,
    /// Linux AIO: taken as io_uring where it is allowed, else threads.
    Native,
    /// io_uring, or an error.
    #[value(name = "io_uring")]
    IoUring,
}

/// What becomes of discards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Discard {
    /// They are dropped.
    #[value(alias = "off")]
    Ignore,
    /// They are passed on.
    #[value(alias = "on")]
    Unmap,
}

/// What becomes of writes of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum DetectZeroesMode {
    /// They are written.
    Off,
    /// They become zeroings.
    On,
    /// They become zeroings that may give storage back; needs --discard=unmap.
    Unmap,
}

fn offset(text: &str) -> std::result::Result<u64, String> {
    number(text).ok_or_else(|| format!("Invalid offset '{text}': give a number of bytes"))
}

fn shared(text: &str) -> std::result::Result<usize, String> {
    let number = number(text).and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| format!("Invalid shared device number '{text}': give 0 for any, or more"))
}

/// A number as QEMU's command lines have it: `0x` is hexadecimal, and a leading 0 octal.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let plain = digits.starts_with(|c: char| c.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_those_of_qemu() {
        let cases = [("0", 0), ("10", 10), ("010", 8), ("0x10", 16), ("0XfF", 255)];
        cases.iter().for_each(|(text, value)| assert_eq!(number(text), Some(*value), "{text}"));
        for text in ["", "-1", "+1", "08", "0x", "0x-1", "1k", " 1", "18446744073709551616"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
