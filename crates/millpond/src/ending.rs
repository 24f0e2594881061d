//! How a face that serves ends: what has begun is carried out, what waits is called off, and nobody waits for ever.
//!
//! | told to end | what happens |
//! |---|---|
//! | once | no new requests; what a filter holds back goes on, what waits for a lost source fails |
//! | once more, or [`GRACE`] later | the process ends, saying what was still under way, with status 1 if that was anything of clients |
//!
//! Invariants: what was acknowledged as flushed is on disk already, however it ends; what was written and could not be
//! made durable in the end is told, on standard error and by the exit status.

use std::process;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use engine::{Engine, UnderWay};
use io::real::process::Signals;
use io::select::{Either, race};

use crate::output;

/// How long requests may take that cannot be called off: those that a disk or a server was given.
const GRACE: Duration = Duration::from_secs(5);

/// Something that ends.
pub(crate) struct Ending<'e> {
    /// What is served, by the name that the user gave.
    pub(crate) what: &'e str,
    /// Whose requests are called off.
    pub(crate) engine: &'e Engine,
    /// Say that it ends.
    pub(crate) verbose: bool,
    /// Clients may write to it: to give up its last flush may lose something. Else only requests under way are lost.
    pub(crate) written: bool,
}

impl Ending<'_> {
    /// Carries out `closing`, which takes away all that clients use. `under_way` says what they still wait for. Ends
    /// the process itself where it takes too long.
    pub(crate) async fn carry_out(
        &self,
        signals: &mut Signals,
        under_way: impl Fn() -> UnderWay,
        closing: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let too_long = async {
            if self.verbose {
                output::tell_line("ending");
            }
            match race(signals.next(), io::sleep(GRACE)).await {
                Either::First(_) => "told to end once more".to_owned(),
                Either::Second(()) => format!("waited {} s to end", GRACE.as_secs()),
            }
        };
        // What closes begins first: those whose requests are called off send no more.
        match race(self.engine.called_off(closing), too_long).await {
            Either::First(closed) => closed,
            Either::Second(why) => self.give_up(&why, under_way()),
        }
    }

    /// Ends the process at once: what hangs would hang whoever waits for its thread.
    fn give_up(&self, why: &str, UnderWay { requests, clients }: UnderWay) -> ! {
        if requests == 0 && !self.written {
            // What hangs is of our own making, such as a fill from a slow source, and goes on another time.
            process::exit(0);
        }
        let context = format!(
            "{}: {why} while {requests} requests of {clients} clients were still under way: they were given up, see \
             what its storage or its server is doing",
            self.what
        );
        crate::complain(&BlockError::new(ErrorKind::Cancelled, context));
        process::exit(1)
    }
}
