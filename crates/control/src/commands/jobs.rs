//! Jobs: start, list, steer; and what is told of them.
//!
//! Invariant: a verb is answered when the job has done what it says, or after [`PATIENCE`]: a job whose source does not
//! answer holds nobody up.

use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, Event, Job, JobMilestone, JobOptions, JobState, StreamBase, StreamRequest};
use io::select::race;
use qmp::schema::{Nothing, Object};
use qmp::{Error, ErrorClass};

use crate::failure::Failure;
use crate::table::Table;
use crate::types::job_info::{
    BlockJobCancelled, BlockJobCompleted, BlockJobDescription, BlockJobError, BlockJobPending,
    JobDescription, JobStatusChange, job_type, milestone,
};
use crate::types::job_options::{BlockStream, Cancel, Device, Id, SetSpeed};

/// How long a verb is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is asked of a job.
type Verb = fn(&Job) -> Result<(), block::BlockError>;

pub(super) fn add(table: &mut Table, engine: &Arc<Engine>) {
    let of = engine.clone();
    table.command("block-stream", move |arguments: BlockStream| {
        let engine = of.clone();
        async move {
            engine.stream(request(arguments)?).await?;
            Ok(Nothing)
        }
    });
    let of = engine.clone();
    table.command("query-jobs", move |_: Nothing| {
        let jobs = of.jobs().list().into_iter().map(JobDescription::of).collect::<Vec<_>>();
        async move { Ok(jobs) }
    });
    let of = engine.clone();
    table.command("query-block-jobs", move |_: Nothing| {
        let jobs = of.jobs().list().into_iter().map(BlockJobDescription::of).collect::<Vec<_>>();
        async move { Ok(jobs) }
    });
    let of = engine.clone();
    table.command("block-job-set-speed", move |arguments: SetSpeed| {
        let set = block_job(&of, &arguments.device).and_then(|job| Ok(job.set_speed(arguments.speed)?));
        async move { set.map(|()| Nothing) }
    });
    add_verbs(table, engine);
    add_events(table);
}

/// Verbs, each under two names: the one for all jobs, and the older one for those of block devices.
fn add_verbs(table: &mut Table, engine: &Arc<Engine>) {
    let rests = |state| matches!(state, JobState::Paused | JobState::Standby) || state >= JobState::Waiting;
    let goes_on = |state| !matches!(state, JobState::Paused | JobState::Standby);
    let is_over = |state| state >= JobState::Concluded;
    let mut verbs = Verbs { table, engine };
    verbs.add::<Id>("job-cancel", job, Job::cancel, is_over);
    // With and without `force` alike: no job here has an outcome that it could keep.
    verbs.add::<Cancel>("block-job-cancel", block_job, Job::cancel, is_over);
    verbs.add::<Id>("job-pause", job, Job::pause, rests);
    verbs.add::<Device>("block-job-pause", block_job, Job::pause, rests);
    verbs.add::<Id>("job-resume", job, Job::resume, goes_on);
    verbs.add::<Device>("block-job-resume", block_job, Job::resume, goes_on);
    verbs.add::<Id>("job-complete", job, Job::complete, is_over);
    verbs.add::<Device>("block-job-complete", block_job, Job::complete, is_over);
    verbs.add::<Id>("job-finalize", job, Job::finalize, is_over);
    verbs.add::<Id>("block-job-finalize", block_job, Job::finalize, is_over);
    verbs.add::<Id>("job-dismiss", job, Job::dismiss, is_over);
    verbs.add::<Id>("block-job-dismiss", block_job, Job::dismiss, is_over);
}

struct Verbs<'t> {
    table: &'t mut Table,
    engine: &'t Arc<Engine>,
}

impl Verbs<'_> {
    /// A command that asks `verb` of the job that `find` finds, and is answered when the job has come to where `done`
    /// says.
    fn add<A: Object + Into<String>>(
        &mut self,
        name: &'static str,
        find: fn(&Engine, &str) -> Result<Arc<Job>, Failure>,
        verb: Verb,
        done: fn(JobState) -> bool,
    ) {
        let engine = self.engine.clone();
        self.table.command(name, move |arguments: A| {
            let id: String = arguments.into();
            steer(find(&engine, &id), verb, done)
        });
    }
}

/// Asks it of a job, and waits until it is done.
async fn steer(
    job: Result<Arc<Job>, Failure>,
    verb: Verb,
    done: fn(JobState) -> bool,
) -> Result<Nothing, Failure> {
    let job = job?;
    verb(&job)?;
    race(job.reached(done), io::sleep(PATIENCE)).await;
    Ok(Nothing)
}

fn job(engine: &Engine, id: &str) -> Result<Arc<Job>, Failure> {
    engine.jobs().find(id).ok_or_else(|| Failure::new("Job not found"))
}

fn block_job(engine: &Engine, id: &str) -> Result<Arc<Job>, Failure> {
    engine.jobs().find(id).ok_or_else(|| {
        Failure(Error::new(ErrorClass::DeviceNotActive, format!("Block job '{id}' not found")))
    })
}

fn request(arguments: BlockStream) -> Result<StreamRequest, Failure> {
    let BlockStream { base, base_node, bottom, .. } = arguments;
    let both = |a, b| Failure::new(format!("'{a}' and '{b}' cannot be specified at the same time"));
    let base = match (base, base_node, bottom) {
        (Some(_), Some(_), _) => return Err(both("base", "base-node")),
        (Some(_), _, Some(_)) => return Err(both("base", "bottom")),
        (_, Some(_), Some(_)) => return Err(both("bottom", "base-node")),
        (Some(name), ..) => StreamBase::File(name),
        (_, Some(name), _) => StreamBase::Node(name),
        (.., Some(name)) => StreamBase::Bottom(name),
        (None, None, None) => StreamBase::Nothing,
    };
    Ok(StreamRequest {
        id: arguments.job_id.unwrap_or_default(),
        node: arguments.device,
        base,
        backing_file: arguments.backing_file,
        mask_protocol: arguments.backing_mask_protocol.unwrap_or(false),
        filter_node_name: arguments.filter_node_name,
        speed: arguments.speed.unwrap_or(0),
        options: JobOptions {
            auto_finalize: arguments.auto_finalize.unwrap_or(true),
            auto_dismiss: arguments.auto_dismiss.unwrap_or(true),
            on_error: arguments.on_error.map(Into::into).unwrap_or_default(),
        },
    })
}

fn add_events(table: &mut Table) {
    table.event("JOB_STATUS_CHANGE", |event| match event {
        Event::JobState { id, state } => Some(JobStatusChange { id: id.clone(), status: (*state).into() }),
        _ => None,
    });
    table.event("BLOCK_JOB_COMPLETED", |event| match event {
        Event::JobMilestone { milestone: JobMilestone::Completed(error), .. } => {
            let base: BlockJobCancelled = milestone(event)?;
            let BlockJobCancelled { job_type, device, len, offset, speed } = base;
            Some(BlockJobCompleted { job_type, device, len, offset, speed, error: error.clone() })
        }
        _ => None,
    });
    for (name, which) in
        [("BLOCK_JOB_CANCELLED", JobMilestone::Cancelled), ("BLOCK_JOB_READY", JobMilestone::Ready)]
    {
        table.event(name, move |event| match event {
            Event::JobMilestone { milestone: its, .. } if *its == which => milestone(event),
            _ => None,
        });
    }
    table.event("BLOCK_JOB_PENDING", |event| match event {
        Event::JobMilestone { milestone: JobMilestone::Pending, id, kind, .. } => {
            Some(BlockJobPending { job_type: job_type(kind)?, id: id.clone() })
        }
        _ => None,
    });
    table.event("BLOCK_JOB_ERROR", |event| match event {
        Event::JobError { id, action, .. } => Some(BlockJobError::of(id, *action)),
        _ => None,
    });
}
