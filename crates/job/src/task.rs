//! A job as its work sees it: when it may go on, how fast, and what becomes of errors.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block::{BlockError, ErrorKind, JobAction, JobState, Result};
use flow::copy::{Gate, Progress, Verdict};
use io::select::race;
use io::{LocalFut, Moment};

use crate::job::{IoStatus, Job, cancelled};

/// Longest single sleep: what is further away is looked at again.
const NAP: Duration = Duration::from_secs(3600);

/// The work's side of a job.
pub struct Task {
    job: Arc<Job>,
}

impl Task {
    pub(crate) fn new(job: Arc<Job>) -> Self {
        Self { job }
    }

    /// How far the work is.
    pub fn progress(&self) -> &Progress {
        &self.job.progress
    }

    /// The error that ends work which has gone on in spite of it.
    pub fn outcome(&self) -> Result<()> {
        self.job.control().ignored.take().map_or(Ok(()), Err)
    }

    /// Rests while the job is to rest. An error when it was cancelled.
    pub async fn go_on(&self) -> Result<()> {
        loop {
            let changed = self.job.changed();
            let (state, held, was_cancelled) = {
                let control = self.job.control();
                (control.state(), control.is_held(), control.cancelled)
            };
            match (held, state) {
                (true, JobState::Running) if !was_cancelled => self.job.step(JobState::Paused),
                (true, _) if !was_cancelled => {
                    let _idle = Idle::new(&self.job);
                    changed.await;
                }
                (_, JobState::Paused) => self.job.step(JobState::Running),
                _ if was_cancelled => return Err(cancelled()),
                _ => return Ok(()),
            }
        }
    }

    /// When so many bytes may go, which are then paid for; `None`: now.
    fn pay(&self, bytes: u64) -> Option<Moment> {
        let (mut control, now) = (self.job.control(), io::now());
        if control.pace.next() > now {
            return Some(control.pace.next().min(now.after(NAP)));
        }
        control.pace.go(bytes, now);
        None
    }
}

impl Gate for Task {
    fn admit(&self, bytes: u64) -> LocalFut<'_, bool> {
        Box::pin(async move {
            loop {
                let changed = self.job.changed();
                if self.is_shut() {
                    return false;
                }
                let Some(when) = self.pay(bytes) else { return true };
                let _idle = Idle::new(&self.job);
                race(io::sleep_until(when), changed).await;
            }
        })
    }

    fn is_shut(&self) -> bool {
        self.job.control().is_held()
    }

    fn opened(&self) -> LocalFut<'_, Result<()>> {
        Box::pin(self.go_on())
    }

    fn failed(&self, error: BlockError) -> Verdict {
        let action = {
            let mut control = self.job.control();
            if control.cancelled {
                return Verdict::End(cancelled());
            }
            if control.failed {
                return Verdict::End(error);
            }
            if control.io_status != IoStatus::Ok {
                // It has stopped already, for what failed at the same time.
                return Verdict::Again;
            }
            let action = self.job.options().on_error.action(error.kind());
            control.failed = action == JobAction::Report;
            if action == JobAction::Stop {
                let full = error.kind() == ErrorKind::NoSpace;
                control.io_status = if full { IoStatus::NoSpace } else { IoStatus::Failed };
                control.paused = true;
            }
            action
        };
        self.job.tell_error(&error, action);
        match action {
            JobAction::Stop => Verdict::Again,
            JobAction::Report => Verdict::End(error),
            JobAction::Ignore => {
                self.job.control().ignored.get_or_insert(error);
                Verdict::Skip
            }
        }
    }
}

/// While it lives, the job waits for a moment or a word.
struct Idle<'j>(&'j Job);

impl<'j> Idle<'j> {
    fn new(job: &'j Job) -> Self {
        job.idle.store(true, Ordering::Relaxed);
        Self(job)
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.idle.store(false, Ordering::Relaxed);
    }
}
