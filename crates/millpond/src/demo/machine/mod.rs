//! A real machine as a reader: QEMU boots from its disk, and the guest there reads and writes through the BIOS what it
//! is told over its serial port.
//!
//! Invariants: what the guest read is judged by its checksum alone, against that of the image; a machine ends with the
//! thread that started it; one that is closed was switched off in good order.

mod boot;
mod qemu;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin};
use std::sync::{Arc, Mutex, PoisonError};

use block::{BlockError, ErrorKind, Result};
use io::sync::mpsc;

use super::host::GRANULE;
use super::source::Reference;

use boot::{GREETING, SECTOR};
pub(super) use boot::{checksum, install};
pub(super) use qemu::Qemu;

/// Functions of the BIOS's INT 13h; none switches the machine off.
const READ: u8 = 0x42;
const WRITE: u8 = 0x43;
const OFF: u8 = 0;
/// Where the guest's buffer is: a segment with nothing else in it.
const BUFFER: u16 = 0x1000;
/// Most chunks that one command is for.
const TIMES_MAX: u64 = 255;

/// A machine that runs.
pub(super) struct Machine {
    child: Child,
    serial: ChildStdin,
    said: mpsc::UnboundedReceiver<Said>,
    complaint: Arc<Mutex<String>>,
}

/// What a guest says at its serial port.
enum Said {
    /// When it has booted.
    Greeting(String),
    /// What came of a command: the BIOS's status, and the checksum of the buffer.
    Done { status: u8, sum: u32 },
}

impl Machine {
    /// Starts one. Ready when its guest is there.
    pub(super) async fn boot(qemu: &Qemu, disk: &Path, format: &str, read_only: bool) -> Result<Self> {
        let mut command = qemu.command(disk, format, read_only);
        // In a group of its own: the terminal's Ctrl-C is for the demo, which then ends it.
        let mut child = command.process_group(0).spawn().map_err(qemu::cannot_start)?;
        let (Some(serial), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(BlockError::new(ErrorKind::Io, "a machine has no pipes"));
        };
        let (tell, said) = mpsc::unbounded_channel();
        let complaint = Arc::new(Mutex::new(String::new()));
        let heard = complaint.clone();
        let mut machine = Self { child, serial, said, complaint };
        on_thread("serial", move || listen(output, &tell))?;
        on_thread("errors", move || hear(errors, &heard))?;
        match machine.hear().await? {
            Said::Greeting(line) if line == GREETING => Ok(machine),
            Said::Greeting(line) => Err(odd(&format!("said '{line}'"))),
            Said::Done { .. } => Err(odd("answered before it was asked")),
        }
    }

    /// The checksum of so many bytes, at most a granule; both in whole sectors.
    pub(super) async fn sum(&mut self, start: u64, len: u64) -> Result<u32> {
        self.command(READ, start, len, 1)?;
        self.done().await
    }

    /// The checksums of so many granules, one behind the other from `start` bytes on.
    pub(super) async fn sums(&mut self, start: u64, granules: u64) -> Result<Vec<u32>> {
        let mut sums = Vec::new();
        while (sums.len() as u64) < granules {
            let done = sums.len() as u64;
            let times = (granules - done).min(TIMES_MAX);
            self.command(READ, start + done * GRANULE, GRANULE, times)?;
            for _ in 0..times {
                sums.push(self.done().await?);
            }
        }
        Ok(sums)
    }

    /// Copies a granule to another place of the disk.
    pub(super) async fn copy(&mut self, from: u64, to: u64) -> Result<()> {
        self.sum(from, GRANULE).await?;
        // The buffer still holds it.
        self.command(WRITE, to, GRANULE, 1)?;
        self.done().await.map(drop)
    }

    /// Switches it off. Ready when it is gone, and what it wrote is in its disk.
    pub(super) async fn off(mut self) -> Result<()> {
        self.command(OFF, 0, GRANULE, 1)?;
        if self.said.recv().await.is_some() {
            return Err(odd("went on when it was switched off"));
        }
        // Its output ended because it did.
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(odd(&format!("ended with {status}: {}", self.complaint()))),
            Err(error) => Err(BlockError::system("cannot wait for a machine", error)),
        }
    }

    fn command(&mut self, function: u8, start: u64, len: u64, times: u64) -> Result<()> {
        let mut packet = vec![function, 16, 0];
        packet.extend(((len / SECTOR) as u16).to_le_bytes());
        packet.extend(0_u16.to_le_bytes());
        packet.extend(BUFFER.to_le_bytes());
        packet.extend((start / SECTOR).to_le_bytes());
        packet.push(times as u8);
        let sent = self.serial.write_all(&packet).and_then(|()| self.serial.flush());
        sent.map_err(|error| BlockError::system(format!("a machine is gone: {}", self.complaint()), error))
    }

    async fn done(&mut self) -> Result<u32> {
        match self.hear().await? {
            Said::Done { status: 0, sum } => Ok(sum),
            Said::Done { status, .. } => {
                let context = format!("the guest's BIOS could not do it: status {status:#04x} of INT 13h");
                Err(BlockError::new(ErrorKind::Io, context))
            }
            Said::Greeting(line) => Err(odd(&format!("said '{line}'"))),
        }
    }

    async fn hear(&mut self) -> Result<Said> {
        let said = self.said.recv().await;
        said.ok_or_else(|| {
            BlockError::new(ErrorKind::Disconnected, format!("a machine has ended: {}", self.complaint()))
        })
    }

    /// What QEMU said last.
    fn complaint(&self) -> String {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Ended already is just as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many bytes of granules from `start` on have another checksum than the image's.
pub(super) fn wrong(reference: &Reference, start: u64, sums: &[u32]) -> Result<u64> {
    let mut wrong = 0;
    for (number, sum) in sums.iter().enumerate() {
        let right = checksum(&reference.read(start + number as u64 * GRANULE, GRANULE)?);
        wrong += if right == *sum { 0 } else { GRANULE };
    }
    Ok(wrong)
}

fn odd(what: &str) -> BlockError {
    BlockError::new(ErrorKind::Protocol, format!("a machine {what}"))
}

fn on_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(|e| BlockError::system(format!("cannot start the thread '{name}'"), e))
}

/// Passes on what the guest says, until its machine or its listener is gone.
fn listen(output: impl Read, tell: &mpsc::UnboundedSender<Said>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    // An end in the middle is an end.
    if output.read_until(b'\n', &mut line).is_err() || line.pop() != Some(b'\n') {
        return;
    }
    let mut said = Said::Greeting(String::from_utf8_lossy(&line).into_owned());
    while tell.send(said).is_ok() {
        let mut answer = [0; 5];
        if output.read_exact(&mut answer).is_err() {
            return;
        }
        let [status, sum @ ..] = answer;
        said = Said::Done { status, sum: u32::from_le_bytes(sum) };
    }
}

/// Keeps the last line of what QEMU complains of.
fn hear(errors: impl Read, heard: &Mutex<String>) {
    for line in BufReader::new(errors).lines().map_while(|line| line.ok()) {
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_is_a_line_and_then_answers() {
        let (tell, mut said) = mpsc::unbounded_channel();
        listen(&b"hello\n\0\x01\0\0\0\x0c\xff\xff\xff\xff\0\x01"[..], &tell);
        drop(tell);
        assert!(matches!(said.try_recv(), Ok(Said::Greeting(line)) if line == "hello"));
        assert!(matches!(said.try_recv(), Ok(Said::Done { status: 0, sum: 1 })));
        assert!(matches!(said.try_recv(), Ok(Said::Done { status: 0x0c, sum: u32::MAX })));
        assert!(said.try_recv().is_err());
    }
}
