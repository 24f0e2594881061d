//! What is answered and told about jobs.

use engine::{Event, IoStatus, JobAction, JobInfo, JobState};
use qmp::schema::{Form, Given, Nothing, Type};

use super::number::number;

qmp::enumeration! {
    /// Types of jobs. Those that are there are the engine's; the others are QEMU's.
    pub enum JobType {
        /// Into the image below.
        Commit = "commit",
        /// From the images below.
        Stream = "stream",
        /// To another node, and then on.
        Mirror = "mirror",
        /// To another node, as it was.
        Backup = "backup",
        /// A new image.
        Create = "create",
        /// An image's options.
        Amend = "amend",
        /// An internal snapshot, back.
        SnapshotLoad = "snapshot-load",
        /// An internal snapshot.
        SnapshotSave = "snapshot-save",
        /// An internal snapshot, away.
        SnapshotDelete = "snapshot-delete",
    }
}

qmp::enumeration! {
    /// Where a job stands.
    pub enum JobStatus {
        /// Never told.
        Undefined = "undefined",
        /// It does nothing yet.
        Created = "created",
        /// It works.
        Running = "running",
        /// It rests.
        Paused = "paused",
        /// It could end.
        Ready = "ready",
        /// It rests, and could end.
        Standby = "standby",
        /// Its work is done.
        Waiting = "waiting",
        /// It waits to be finalized.
        Pending = "pending",
        /// It gives up.
        Aborting = "aborting",
        /// It is over.
        Concluded = "concluded",
        /// It is gone.
        Null = "null",
    }
}

impl From<JobState> for JobStatus {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Created => Self::Created,
            JobState::Running => Self::Running,
            JobState::Paused => Self::Paused,
            JobState::Ready => Self::Ready,
            JobState::Standby => Self::Standby,
            JobState::Waiting => Self::Waiting,
            JobState::Pending => Self::Pending,
            JobState::Aborting => Self::Aborting,
            JobState::Concluded => Self::Concluded,
            JobState::Null => Self::Null,
        }
    }
}

qmp::enumeration! {
    /// Whether an error has stopped a job.
    pub enum IoStatusName {
        /// No.
        Ok = "ok",
        /// Yes.
        Failed = "failed",
        /// For lack of room.
        NoSpace = "nospace",
    }
}

qmp::enumeration! {
    /// What a request did that failed.
    pub enum Operation {
        /// It read.
        Read = "read",
        /// It wrote.
        Write = "write",
    }
}

qmp::enumeration! {
    /// What a job does about an error.
    pub enum Action {
        /// It goes on.
        Ignore = "ignore",
        /// It fails.
        Report = "report",
        /// It pauses.
        Stop = "stop",
    }
}

qmp::structure! {
    /// A job, as `query-jobs` lists it.
    pub struct JobDescription {
        /// Its id.
        "id" => id: String,
        /// Its type.
        "type" => job_type: JobType,
        /// Where it stands.
        "status" => status: JobStatus,
        /// Bytes that are done.
        "current-progress" => current: i64,
        /// Bytes that there are to do.
        "total-progress" => total: i64,
        /// What it failed with.
        "error" => error: Option<String>,
    }
}

qmp::structure! {
    /// What `query-block-jobs` says of jobs of any type.
    pub struct BlockJobBase {
        /// Its id.
        "device" => device: String,
        /// Bytes that there are to do.
        "len" => len: i64,
        /// Bytes that are done.
        "offset" => offset: i64,
        /// It is working just now.
        "busy" => busy: bool,
        /// It is to rest.
        "paused" => paused: bool,
        /// Bytes per second at most; 0 for no limit.
        "speed" => speed: i64,
        /// Whether an error has stopped it.
        "io-status" => io_status: IoStatusName,
        /// It could end.
        "ready" => ready: bool,
        /// Where it stands.
        "status" => status: JobStatus,
        /// Its outcome is made lasting without being asked for.
        "auto-finalize" => auto_finalize: bool,
        /// It is gone once it is concluded.
        "auto-dismiss" => auto_dismiss: bool,
        /// What it failed with.
        "error" => error: Option<String>,
    }
}

qmp::union! {
    /// A job, as `query-block-jobs` lists it.
    pub struct BlockJobDescription {
        base: BlockJobBase,
        /// Its type.
        pub enum BlockJobKind by "type" {
            /// See [`JobType`].
            Commit(Nothing) = "commit",
            /// See [`JobType`].
            Stream(Nothing) = "stream",
            /// See [`JobType`].
            Mirror(Nothing) = "mirror",
            /// See [`JobType`].
            Backup(Nothing) = "backup",
            /// See [`JobType`].
            Create(Nothing) = "create",
            /// See [`JobType`].
            Amend(Nothing) = "amend",
            /// See [`JobType`].
            SnapshotLoad(Nothing) = "snapshot-load",
            /// See [`JobType`].
            SnapshotSave(Nothing) = "snapshot-save",
            /// See [`JobType`].
            SnapshotDelete(Nothing) = "snapshot-delete",
        }
    }
}

qmp::structure! {
    /// Data of `JOB_STATUS_CHANGE`.
    pub struct JobStatusChange {
        /// Which job.
        "id" => id: String,
        /// Where it stands now.
        "status" => status: JobStatus,
    }
}

qmp::structure! {
    /// Data of `BLOCK_JOB_CANCELLED` and `BLOCK_JOB_READY`.
    pub struct BlockJobCancelled {
        /// Type of the job.
        "type" => job_type: JobType,
        /// Its id.
        "device" => device: String,
        /// Bytes that there are to do.
        "len" => len: i64,
        /// Bytes that are done.
        "offset" => offset: i64,
        /// Bytes per second at most; 0 for no limit.
        "speed" => speed: i64,
    }
}

qmp::structure! {
    /// Data of `BLOCK_JOB_COMPLETED`.
    pub struct BlockJobCompleted {
        /// Type of the job.
        "type" => job_type: JobType,
        /// Its id.
        "device" => device: String,
        /// Bytes that there were to do.
        "len" => len: i64,
        /// Bytes that are done.
        "offset" => offset: i64,
        /// Bytes per second at most; 0 for no limit.
        "speed" => speed: i64,
        /// What it failed with.
        "error" => error: Option<String>,
    }
}

qmp::structure! {
    /// Data of `BLOCK_JOB_PENDING`.
    pub struct BlockJobPending {
        /// Type of the job.
        "type" => job_type: JobType,
        /// Its id.
        "id" => id: String,
    }
}

qmp::structure! {
    /// Data of `BLOCK_JOB_ERROR`.
    pub struct BlockJobError {
        /// Id of the job.
        "device" => device: String,
        /// What failed.
        "operation" => operation: Operation,
        /// What the job does about it.
        "action" => action: Action,
    }
}

impl JobDescription {
    /// Of what the engine knows.
    pub(crate) fn of(info: JobInfo) -> Self {
        Self {
            // Each type that the engine has is QEMU's.
            job_type: job_type(info.kind).unwrap_or(JobType::Stream),
            id: info.id,
            status: info.state.into(),
            current: number(info.done),
            total: number(info.total),
            error: info.error,
        }
    }
}

impl BlockJobDescription {
    /// Of what the engine knows.
    pub(crate) fn of(info: JobInfo) -> Self {
        let io_status = match info.io_status {
            IoStatus::Ok => IoStatusName::Ok,
            IoStatus::Failed => IoStatusName::Failed,
            IoStatus::NoSpace => IoStatusName::NoSpace,
        };
        let base = BlockJobBase {
            device: info.id,
            len: number(info.total),
            offset: number(info.done),
            busy: info.busy,
            paused: info.paused,
            speed: number(info.speed),
            io_status,
            ready: matches!(info.state, JobState::Ready | JobState::Standby),
            status: info.state.into(),
            auto_finalize: info.auto_finalize,
            auto_dismiss: info.auto_dismiss,
            error: info.error,
        };
        let kind = match job_type(info.kind) {
            Some(JobType::Commit) => BlockJobKind::Commit(Nothing),
            Some(JobType::Mirror) => BlockJobKind::Mirror(Nothing),
            Some(JobType::Backup) => BlockJobKind::Backup(Nothing),
            _ => BlockJobKind::Stream(Nothing),
        };
        Self { base, kind }
    }
}

impl BlockJobError {
    /// Of what a job tells. QEMU's jobs call all that fails in a stream a read: its store is a part of it.
    pub(crate) fn of(id: &str, action: JobAction) -> Self {
        let action = match action {
            JobAction::Ignore => Action::Ignore,
            JobAction::Report => Action::Report,
            JobAction::Stop => Action::Stop,
        };
        Self { device: id.to_owned(), operation: Operation::Read, action }
    }
}

/// What every milestone says.
pub(crate) fn milestone(event: &Event) -> Option<BlockJobCancelled> {
    let Event::JobMilestone { id, kind, total, done, speed, .. } = event else { return None };
    Some(BlockJobCancelled {
        job_type: job_type(kind)?,
        device: id.clone(),
        len: number(*total),
        offset: number(*done),
        speed: number(*speed),
    })
}

/// The type of that name.
pub(crate) fn job_type(name: &str) -> Option<JobType> {
    JobType::parse(Given::root(name.into(), Form::Json)).ok()
}
