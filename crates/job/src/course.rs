//! The course of a job: its work, then the word that its outcome may last, then the outcome; and what it gives back.

use std::sync::Arc;

use block::{JobMilestone, JobState, Result};
use io::LocalFut;

use crate::job::Job;
use crate::task::Task;

/// What a kind of job does.
pub trait Work {
    /// All but the last step. Asks `task` before each part of it whether it may go on.
    fn work<'a>(&'a mut self, task: &'a Task) -> LocalFut<'a, Result<()>>;

    /// The last step: makes the outcome lasting.
    fn finish(&mut self) -> LocalFut<'_, Result<()>>;

    /// Gives back all that it holds, however it ended.
    fn leave(&mut self) -> LocalFut<'_, ()>;
}

/// Takes a job that is running through the rest of its life.
pub async fn run(job: Arc<Job>, mut work: impl Work) {
    let outcome = live(&job, &mut work).await;
    if outcome.is_err() {
        job.step(JobState::Aborting);
    }
    work.leave().await;
    job.conclude(outcome);
}

async fn live(job: &Arc<Job>, work: &mut impl Work) -> Result<()> {
    let task = Task::new(job.clone());
    task.go_on().await?;
    work.work(&task).await?;
    task.outcome()?;
    task.go_on().await?;
    job.step(JobState::Waiting);
    job.step(JobState::Pending);
    if !job.options().auto_finalize {
        job.tell(JobMilestone::Pending);
    }
    job.word().await?;
    work.finish().await
}
