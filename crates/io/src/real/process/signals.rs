//! Signals as a future.
//!
//! Invariants: the handler only writes a byte into a pipe that is never closed, whichever thread it
//! interrupts; signals that nobody watches do what they always did, but for the one of a file that grows too large
//! ([`outlive_file_size_limit`]).
#![allow(unsafe_code, reason = "signal handlers")]

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::real::watch::watch;

/// What a process is told from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM: end.
    Terminate,
    /// SIGINT: end (the terminal's Ctrl-C).
    Interrupt,
    /// SIGHUP: the terminal is gone, or "read your configuration again".
    HangUp,
    /// SIGUSR1: "how far are you?".
    User1,
}

const NUMBERS: [(Signal, i32); 4] = [
    (Signal::Terminate, libc::SIGTERM),
    (Signal::Interrupt, libc::SIGINT),
    (Signal::HangUp, libc::SIGHUP),
    (Signal::User1, libc::SIGUSR1),
];

impl Signal {
    /// Its number, of which shells make the exit status 128 + number.
    pub fn number(self) -> u8 {
        let number = NUMBERS.iter().find(|(signal, _)| *signal == self).map_or(0, |(_, number)| *number);
        // Those that are watched are small.
        number as u8
    }

    /// Whether the process ignores it. As long as it was never watched, that is the wish of whoever started the process
    /// (nohup, a shell's background).
    pub fn is_ignored(self) -> bool {
        // SAFETY: a struct of integers, for which zeros are a value.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: changes nothing; the answer goes to where there is room for it.
        let asked = unsafe { libc::sigaction(i32::from(self.number()), std::ptr::null(), &raw mut action) };
        asked == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// The signals that came, in order, one at a time. Several of a kind may count as one.
pub struct Signals {
    pipe: AsyncFd<OwnedFd>,
    watched: Vec<Signal>,
}

/// Read end and write end.
static PIPE: OnceLock<(OwnedFd, OwnedFd)> = OnceLock::new();
/// The write end for the handler, which may not wait for a lock.
static WRITE_END: AtomicI32 = AtomicI32::new(-1);
static WATCHING: AtomicBool = AtomicBool::new(false);

impl Signals {
    /// Watches `signals` from the calling I/O thread until dropped. One at a time per process, else
    /// `ResourceBusy`.
    pub fn watch(signals: &[Signal]) -> io::Result<Self> {
        if WATCHING.swap(true, Ordering::AcqRel) {
            return Err(ErrorKind::ResourceBusy.into());
        }
        let pipe = pipe().inspect_err(|_| WATCHING.store(false, Ordering::Release))?;
        // From here on dropping it gives back what was taken.
        let mut watch = Self { pipe, watched: Vec::new() };
        for signal in signals {
            handle(*signal, on_signal as *const () as libc::sighandler_t)?;
            watch.watched.push(*signal);
        }
        Ok(watch)
    }

    /// The next signal.
    pub async fn next(&mut self) -> io::Result<Signal> {
        loop {
            let mut ready = self.pipe.readable().await?;
            let mut byte = [0];
            match rustix::io::read(self.pipe.get_ref(), &mut byte) {
                Ok(1) => {
                    let number = i32::from(byte[0]);
                    if let Some((signal, _)) = NUMBERS.iter().find(|(_, n)| *n == number) {
                        return Ok(*signal);
                    }
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for signal in &self.watched {
            // It could be set, so it can be set back.
            let _ = handle(*signal, libc::SIG_DFL);
        }
        WATCHING.store(false, Ordering::Release);
    }
}

/// From now on a write beyond the limit that the process has on the size of files (RLIMIT_FSIZE) fails, as one to a
/// full disk does. Else it ends the process (SIGXFSZ).
pub fn outlive_file_size_limit() {
    // SAFETY: no handler, and nothing else in the process has to do with this signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

fn pipe() -> io::Result<AsyncFd<OwnedFd>> {
    if PIPE.get().is_none() {
        // Made anew by two at once, one of them is closed again unused.
        let _ = PIPE.set(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?);
    }
    let (read_end, write_end) = PIPE.get().ok_or(ErrorKind::Other)?;
    WRITE_END.store(write_end.as_raw_fd(), Ordering::Release);
    watch(read_end.as_fd().try_clone_to_owned()?, Interest::READABLE)
}

/// Nothing here but what is allowed in a handler: atomics and write(2).
extern "C" fn on_signal(number: libc::c_int) {
    let byte = number as u8;
    // SAFETY: no arguments. Its errno is put back below: the code that we interrupt may be about to read it.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: valid for the life of the thread.
    let before = unsafe { *errno };
    // SAFETY: one byte from the stack. A full pipe means that there is news enough already.
    unsafe { libc::write(WRITE_END.load(Ordering::Acquire), (&raw const byte).cast(), 1) };
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn handle(signal: Signal, handler: libc::sighandler_t) -> io::Result<()> {
    let number = NUMBERS.iter().find(|(s, _)| *s == signal).map_or(libc::SIGTERM, |(_, number)| *number);
    // SAFETY: a struct of integers, for which zeros are a value (an empty mask).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler is either the default or `on_signal`, which does only what a handler may.
    match unsafe { libc::sigaction(number, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
