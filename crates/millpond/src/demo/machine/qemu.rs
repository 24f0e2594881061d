//! How machines are run: QEMU, headless, with whatever accelerator is the faster one here.

use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::sync::Arc;

use block::{BlockError, ErrorKind, Result};
use io::real::process::end_with_thread;
use io::select::{Either, race};

use super::super::source::Reference;
use super::super::story::SILENCE_MAX;
use super::Machine;

const PROGRAM: &str = "qemu-system-x86_64";
/// Where the kernel's accelerator is reached.
const KVM: &str = "/dev/kvm";
/// Chunks that a machine reads to show that it works.
const PROBED: u64 = 64;

/// A way to run machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Qemu {
    accelerator: &'static str,
}

impl Qemu {
    /// Boots `image`, read-only: with KVM where that is there, else by translation; where both could, the one that has
    /// read the beginning of `image` first.
    pub(in super::super) async fn find(image: &Path, reference: &Arc<Reference>) -> Result<Self> {
        let [kvm, tcg] = ["kvm", "tcg"].map(|accelerator| Self { accelerator });
        let mut by_tcg = pin!(tcg.works(image, reference));
        if std::fs::File::options().read(true).write(true).open(KVM).is_ok() {
            match race(kvm.works(image, reference), by_tcg.as_mut()).await {
                Either::First(Ok(())) => return Ok(kvm),
                // It is there, and of no use.
                Either::First(Err(_)) => {}
                Either::Second(worked) => return worked.map(|()| tcg),
            }
        }
        by_tcg.await.map(|()| tcg)
    }

    /// Its name.
    pub(in super::super) fn accelerator(&self) -> &'static str {
        self.accelerator
    }

    async fn works(self, image: &Path, reference: &Reference) -> Result<()> {
        let working = async {
            let mut machine = Machine::boot(&self, image, "raw", true).await?;
            let sums = machine.sums(0, PROBED).await?;
            match super::wrong(reference, 0, &sums)? {
                0 => Ok(()),
                _ => Err(BlockError::new(ErrorKind::Io, format!("'{PROGRAM}' reads wrong bytes"))),
            }
        };
        let late = || {
            let context = format!(
                "'{PROGRAM}' did not boot within {} s (-accel {})",
                SILENCE_MAX.as_secs(),
                self.accelerator
            );
            BlockError::new(ErrorKind::TimedOut, context)
        };
        io::timeout_at(io::now().after(SILENCE_MAX), working).await.ok_or_else(late)?
    }

    /// The command that boots from a disk; its serial port is its standard input and output.
    pub(super) fn command(&self, disk: &Path, format: &str, read_only: bool) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "16"]);
        command.args(["-accel", self.accelerator]);
        command.args(["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
        // A comma in a name is written twice.
        let disk = disk.to_string_lossy().replace(',', ",,");
        let read_only = if read_only { ",readonly=on" } else { "" };
        command.arg("-drive").arg(format!("file={disk},format={format},if=virtio{read_only}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        end_with_thread(&mut command);
        command
    }
}

/// What it is that could not be started.
pub(super) fn cannot_start(error: std::io::Error) -> BlockError {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            let context = format!(
                "'{PROGRAM}' is not there: install it (Debian package qemu-system-x86), or leave out --boot"
            );
            BlockError::new(ErrorKind::NotFound, context)
        }
        _ => BlockError::system(format!("cannot start '{PROGRAM}'"), error),
    }
}
