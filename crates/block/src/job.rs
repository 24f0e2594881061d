//! Words of jobs: where one stands, and what is told of one.

/// Where a job stands, in the order in which a job without trouble goes through it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum JobState {
    /// It has an id, and does nothing yet.
    Created,
    /// It works.
    Running,
    /// It rests: somebody asked for it, or an error did.
    Paused,
    /// It could end now, and goes on until it is told to.
    Ready,
    /// It rests while it could end.
    Standby,
    /// Its work is done; it waits for others of its transaction.
    Waiting,
    /// It waits for the word to make its outcome lasting.
    Pending,
    /// It has failed or was cancelled, and gives back what it holds.
    Aborting,
    /// It is over; what became of it can still be asked.
    Concluded,
    /// It is gone.
    Null,
}

impl JobState {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Ready,
        Self::Standby,
        Self::Waiting,
        Self::Pending,
        Self::Aborting,
        Self::Concluded,
        Self::Null,
    ];

    /// QMP's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ready => "ready",
            Self::Standby => "standby",
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Aborting => "aborting",
            Self::Concluded => "concluded",
            Self::Null => "null",
        }
    }
}

/// What a job does about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobAction {
    /// It goes on without what failed, and fails in the end.
    Ignore,
    /// It fails.
    Report,
    /// It pauses; resumed, it tries again.
    Stop,
}

/// A point that a job has come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobMilestone {
    /// It could end now.
    Ready,
    /// It waits for the word to make its outcome lasting.
    Pending,
    /// It has ended, with this error if with one.
    Completed(Option<String>),
    /// It was cancelled.
    Cancelled,
}
