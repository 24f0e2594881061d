//! The jobs that there are.
//!
//! Invariants: ids are well-formed and unique; a job that is gone is found no more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block::{BlockError, ErrorKind, JobState, Result};
use flow::events::Events;

use crate::job::{Job, JobInfo, JobOptions};

/// The jobs of an engine.
#[derive(Default)]
pub struct Jobs {
    /// Newest first.
    list: Mutex<Vec<Arc<Job>>>,
}

impl Jobs {
    /// A new job of type `kind`.
    pub fn create(
        &self,
        id: &str,
        kind: &'static str,
        options: JobOptions,
        events: &Events,
    ) -> Result<Arc<Job>> {
        if !is_identifier(id) {
            return Err(BlockError::new(ErrorKind::Invalid, format!("Invalid job ID '{id}'")));
        }
        let mut list = self.present();
        if list.iter().any(|job| job.id() == id) {
            return Err(BlockError::new(ErrorKind::Exists, format!("Job ID '{id}' already in use")));
        }
        let job = Arc::new(Job::new(id, kind, options, events.clone()));
        list.insert(0, job.clone());
        Ok(job)
    }

    /// The job `id`.
    pub fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.present().iter().find(|job| job.id() == id).cloned()
    }

    /// What is known of each, the newest first.
    pub fn list(&self) -> Vec<JobInfo> {
        self.present().iter().map(|job| job.info()).collect()
    }

    /// Ends all: what runs is cancelled, what is concluded is dismissed. Ready when all are gone.
    pub async fn end(&self) {
        let all: Vec<_> = self.present().clone();
        for job in all {
            // One whose outcome is being made lasting, or that is concluded, ends by itself.
            let _ = job.cancel();
            job.reached(|state| state >= JobState::Concluded).await;
            // It may be gone by itself.
            let _ = job.dismiss();
        }
    }

    /// Those that are not gone.
    fn present(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|job| job.state() != JobState::Null);
        list
    }
}

/// A letter, then letters, digits, `-`, `.` and `_`.
fn is_identifier(id: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.chars().all(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_well_formed_and_unique_while_they_last() {
        let (jobs, events) = (Jobs::default(), Events::default());
        let create = |id| jobs.create(id, "stream", JobOptions::default(), &events);
        for id in ["", "1a", "a b", "ä"] {
            assert_eq!(create(id).err().map(|e| e.to_string()), Some(format!("Invalid job ID '{id}'")));
        }
        let job = create("a-1._").unwrap();
        assert_eq!(create("a-1._").err().unwrap().to_string(), "Job ID 'a-1._' already in use");
        create("b").unwrap();
        let ids: Vec<_> = jobs.list().into_iter().map(|info| info.id).collect();
        assert_eq!(ids, ["b", "a-1._"], "the newest first");
        job.step(JobState::Null);
        assert!(jobs.find("a-1._").is_none() && create("a-1._").is_ok());
    }
}
