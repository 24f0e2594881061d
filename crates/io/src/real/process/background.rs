//! Going to the background, with a parent that ends only when the server is up.
//!
//! Invariants: forks only while a single thread runs, since no other would exist in the child; until it is
//! up, the child has the terminal's output, so that what goes wrong is seen where the command was typed.
#![allow(unsafe_code, reason = "fork")]

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use rustix::io::{retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, setsid, waitpid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Which of the two processes goes on here.
pub enum Forked {
    /// The one that was started. It has waited for the server: end with `status` now.
    Parent {
        /// 0 when the server is up; else what the child ended with, or 1 when it was killed.
        status: i32,
    },
    /// The server to be, in a session of its own.
    Child(Readiness),
}

/// Tells the waiting parent that the server is up. Dropping it says nothing: the parent waits until this
/// process ends, and ends like it.
pub struct Readiness {
    parent: OwnedFd,
}

/// Splits the process in two; both return from here. Must be called before any thread is started: fails with
/// `Unsupported` afterwards.
pub fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        let message = format!("cannot go to the background: {threads} threads run already");
        return Err(io::Error::new(ErrorKind::Unsupported, message));
    }
    let (told, parent) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: no other thread runs, so the child's copy of every lock and allocator is whole.
    match unsafe { libc::fork() } {
        0 => {
            drop(told);
            // Fails only for the leader of a group, which a new child is not.
            setsid()?;
            Ok(Forked::Child(Readiness { parent }))
        }
        child => {
            drop(parent);
            let child = Pid::from_raw(child).ok_or_else(io::Error::last_os_error)?;
            Ok(Forked::Parent { status: wait(told, child)? })
        }
    }
}

fn wait(told: OwnedFd, child: Pid) -> io::Result<i32> {
    let mut byte = [0];
    if retry_on_intr(|| rustix::io::read(&told, &mut byte))? == 1 {
        return Ok(0);
    }
    let ended = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    let status = ended.and_then(|(_, status)| status.exit_status()).unwrap_or(1);
    // It ended well, but no server is there.
    Ok(if status == 0 { 1 } else { status })
}

impl Readiness {
    /// The server is up: lets go of the terminal, then the parent ends with success.
    pub fn up(self) -> io::Result<()> {
        let nowhere = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&nowhere)?;
        dup2_stdout(&nowhere)?;
        dup2_stderr(&nowhere)?;
        match retry_on_intr(|| write(&self.parent, &[1])) {
            // Killed meanwhile: the server is up all the same.
            Ok(_) | Err(rustix::io::Errno::PIPE) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
