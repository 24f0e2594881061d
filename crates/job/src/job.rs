//! A job as people and programs see it: where it stands, how far it is, and the verbs that it takes.
//!
//! Invariants: states change only as the table says, each one told before the next; a verb is only a wish, which the
//! work takes note of when it next may ([`crate::Task`]), so none waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use block::{BlockError, ErrorKind, JobAction, JobMilestone, JobState, Result};
use flow::copy::Progress;
use flow::events::{Event, Events};
use io::sync::Notify;

use crate::errors::OnError;
use crate::lifecycle::{self, Verb};
use crate::pace::Pace;

/// How a job is to be treated.
#[derive(Clone, Copy, Debug)]
pub struct JobOptions {
    /// Its outcome is made lasting without being asked for.
    pub auto_finalize: bool,
    /// It is gone as soon as it is concluded.
    pub auto_dismiss: bool,
    /// What errors do to it.
    pub on_error: OnError,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self { auto_finalize: true, auto_dismiss: true, on_error: OnError::default() }
    }
}

/// Whether a job has been stopped by an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoStatus {
    /// No.
    #[default]
    Ok,
    /// By one that is not for lack of room.
    Failed,
    /// For lack of room.
    NoSpace,
}

/// What is known about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: &'static str,
    /// Where it stands.
    pub state: JobState,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes that there are to do.
    pub total: u64,
    /// Bytes per second at most; 0 for no limit.
    pub speed: u64,
    /// It is working just now: it neither rests nor waits for its speed.
    pub busy: bool,
    /// It is to rest, whether it does so already or not.
    pub paused: bool,
    /// Whether an error has stopped it.
    pub io_status: IoStatus,
    /// Its outcome is made lasting without being asked for.
    pub auto_finalize: bool,
    /// It is gone as soon as it is concluded.
    pub auto_dismiss: bool,
    /// What it failed with.
    pub error: Option<String>,
}

/// A job.
pub struct Job {
    id: String,
    kind: &'static str,
    options: JobOptions,
    events: Events,
    pub(crate) progress: Progress,
    /// It waits for a moment or a word, not for its work.
    pub(crate) idle: AtomicBool,
    control: Mutex<Control>,
    changed: Notify,
}

/// What the verbs have brought about.
pub(crate) struct Control {
    state: JobState,
    pub(crate) paused: bool,
    pub(crate) cancelled: bool,
    finalized: bool,
    /// Its outcome is being made lasting: nothing stops that.
    decided: bool,
    pub(crate) pace: Pace,
    pub(crate) io_status: IoStatus,
    /// It has told the error that ends it.
    pub(crate) failed: bool,
    /// The first error that was ignored.
    pub(crate) ignored: Option<BlockError>,
    error: Option<String>,
}

impl Control {
    pub(crate) fn state(&self) -> JobState {
        self.state
    }

    /// Whether it is to do nothing new.
    pub(crate) fn is_held(&self) -> bool {
        self.paused || self.cancelled
    }
}

impl Job {
    pub(crate) fn new(id: &str, kind: &'static str, options: JobOptions, events: Events) -> Self {
        let control = Control {
            state: JobState::Created,
            paused: false,
            cancelled: false,
            finalized: false,
            decided: false,
            pace: Pace::default(),
            io_status: IoStatus::Ok,
            failed: false,
            ignored: None,
            error: None,
        };
        let job = Self {
            id: id.to_owned(),
            kind,
            options,
            events,
            progress: Progress::default(),
            idle: AtomicBool::new(false),
            control: Mutex::new(control),
            changed: Notify::new(),
        };
        job.events.tell(Event::JobState { id: job.id.clone(), state: JobState::Created });
        job
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it stands.
    pub fn state(&self) -> JobState {
        self.control().state
    }

    /// What is known about it.
    pub fn info(&self) -> JobInfo {
        let control = self.control();
        let works = matches!(control.state, JobState::Running | JobState::Ready);
        JobInfo {
            id: self.id.clone(),
            kind: self.kind,
            state: control.state,
            done: self.progress.done.load(Ordering::Relaxed),
            total: self.progress.total.load(Ordering::Relaxed),
            speed: control.pace.speed(),
            busy: works && !self.idle.load(Ordering::Relaxed),
            paused: control.paused,
            io_status: control.io_status,
            auto_finalize: self.options.auto_finalize,
            auto_dismiss: self.options.auto_dismiss,
            error: control.error.clone(),
        }
    }

    /// Its work begins.
    pub fn begin(&self) {
        self.step(JobState::Running);
    }

    /// It comes to nothing, before it has begun.
    pub fn discard(&self) {
        self.step(JobState::Null);
    }

    /// Makes it rest.
    pub fn pause(&self) -> Result<()> {
        let mut control = self.take(Verb::Pause)?;
        if control.paused {
            return Err(BlockError::new(ErrorKind::Busy, "Job is already paused"));
        }
        control.paused = true;
        drop(control);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Lets it go on; what failed is tried again.
    pub fn resume(&self) -> Result<()> {
        let mut control = self.take(Verb::Resume)?;
        if !control.paused {
            return Err(BlockError::new(ErrorKind::Invalid, "Can't resume a job that was not paused"));
        }
        (control.paused, control.io_status) = (false, IoStatus::Ok);
        drop(control);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Ends it without an outcome; what it has done so far stays done.
    pub fn cancel(&self) -> Result<()> {
        let mut control = self.take(Verb::Cancel)?;
        if control.decided {
            // Its outcome is being made lasting: it is as good as concluded.
            return lifecycle::check(&self.id, JobState::Concluded, Verb::Cancel);
        }
        (control.cancelled, control.paused, control.io_status) = (true, false, IoStatus::Ok);
        drop(control);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Ends it with its outcome, where it runs until it is told so.
    pub fn complete(&self) -> Result<()> {
        drop(self.take(Verb::Complete)?);
        let context = format!("The active block job '{}' cannot be completed", self.id);
        Err(BlockError::new(ErrorKind::Unsupported, context))
    }

    /// Makes its outcome lasting.
    pub fn finalize(&self) -> Result<()> {
        self.take(Verb::Finalize)?.finalized = true;
        self.changed.notify_waiters();
        Ok(())
    }

    /// Lets it be gone.
    pub fn dismiss(&self) -> Result<()> {
        drop(self.take(Verb::Dismiss)?);
        self.step(JobState::Null);
        Ok(())
    }

    /// Lets it go at so many bytes per second; 0 for no limit.
    pub fn set_speed(&self, speed: i64) -> Result<()> {
        let mut control = self.take(Verb::SetSpeed)?;
        let speed = u64::try_from(speed).map_err(|_| {
            BlockError::new(ErrorKind::Invalid, "Parameter 'speed' expects a non-negative value")
        })?;
        control.pace.set(speed, io::now());
        drop(control);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Ready when `there` is true of the state.
    pub async fn reached(&self, there: impl Fn(JobState) -> bool) {
        loop {
            let changed = self.changed();
            if there(self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// What the verbs have brought about, where `verb` is taken now.
    fn take(&self, verb: Verb) -> Result<MutexGuard<'_, Control>> {
        let control = self.control();
        lifecycle::check(&self.id, control.state, verb)?;
        Ok(control)
    }

    pub(crate) fn options(&self) -> &JobOptions {
        &self.options
    }

    pub(crate) fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when something changes after this was called.
    pub(crate) fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }

    /// Goes on to another state, and tells so.
    pub(crate) fn step(&self, to: JobState) {
        self.steps(&[to]);
    }

    /// The same through several states: nobody finds it in one between.
    fn steps(&self, way: &[JobState]) {
        {
            let mut control = self.control();
            for &to in way {
                debug_assert!(lifecycle::may_follow(control.state, to), "{:?} to {to:?}", control.state);
                control.state = to;
                // Under the lock: states are told in the order in which they come.
                self.events.tell(Event::JobState { id: self.id.clone(), state: to });
            }
        }
        self.changed.notify_waiters();
    }

    /// Tells a point that it has come to.
    pub(crate) fn tell(&self, milestone: JobMilestone) {
        let JobInfo { id, kind, total, done, speed, .. } = self.info();
        self.events.tell(Event::JobMilestone { id, kind, milestone, total, done, speed });
    }

    /// Tells an error, and what is done about it.
    pub(crate) fn tell_error(&self, error: &BlockError, action: JobAction) {
        self.events.tell(Event::JobError { id: self.id.clone(), action, error: error.to_string() });
    }

    /// Its outcome may be made lasting: by itself, or because somebody says so. From then on nothing stops it.
    pub(crate) async fn word(&self) -> Result<()> {
        loop {
            let changed = self.changed();
            {
                let mut control = self.control();
                if control.cancelled {
                    return Err(cancelled());
                }
                if self.options.auto_finalize || control.finalized {
                    control.decided = true;
                    return Ok(());
                }
            }
            changed.await;
        }
    }

    /// It is over, and holds nothing any more.
    pub(crate) fn conclude(&self, outcome: Result<()>) {
        let (was_cancelled, error) = {
            let mut control = self.control();
            control.error = outcome.as_ref().err().map(ToString::to_string);
            let stopped = outcome.is_err_and(|error| error.kind() == ErrorKind::Cancelled);
            (control.cancelled && stopped, control.error.clone())
        };
        self.tell(if was_cancelled { JobMilestone::Cancelled } else { JobMilestone::Completed(error) });
        self.steps(match self.options.auto_dismiss {
            true => &[JobState::Concluded, JobState::Null],
            false => &[JobState::Concluded],
        });
    }
}

/// What a job that was cancelled ends with.
pub(crate) fn cancelled() -> BlockError {
    BlockError::new(ErrorKind::Cancelled, "Operation canceled")
}
