//! Jobs that wait for room on a connection, or for a connection.
//!
//! Invariant: within a priority they leave in the order they came; those put back leave first.

use std::collections::VecDeque;

use block::Priority;
use io::Moment;

use super::job::Job;

/// The highest priority first.
const ORDER: [Priority; 3] = [Priority::Demand, Priority::Prefetch, Priority::Fill];

#[derive(Default)]
pub(super) struct Backlog {
    queues: [VecDeque<Job>; 3],
}

impl Backlog {
    pub(super) fn push(&mut self, job: Job) {
        self.queue(job.priority).push_back(job);
    }

    /// Puts jobs back, which are in the order in which they left.
    pub(super) fn put_back(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().rev() {
            self.queue(job.priority).push_front(job);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Whether a job of this priority waits.
    pub(super) fn has(&self, priority: Priority) -> bool {
        !self.queues[priority as usize].is_empty()
    }

    /// Takes the next job of a priority that `serves`, if it `fits`; one that does not holds up all behind it, so
    /// that smaller ones cannot starve it. Jobs that nobody waits for any more are dropped.
    pub(super) fn take(
        &mut self,
        serves: impl Fn(Priority) -> bool,
        fits: impl Fn(&Job) -> bool,
    ) -> Option<Job> {
        for priority in ORDER.into_iter().filter(|priority| serves(*priority)) {
            let queue = self.queue(priority);
            while queue.front().is_some_and(|job| !job.is_wanted()) {
                queue.pop_front();
            }
            match queue.front() {
                Some(job) if fits(job) => return queue.pop_front(),
                Some(_) => return None,
                None => {}
            }
        }
        None
    }

    /// Takes out all jobs that `pick` picks.
    pub(super) fn take_all(&mut self, pick: impl Fn(&Job) -> bool) -> Vec<Job> {
        let mut taken = Vec::new();
        for queue in &mut self.queues {
            for job in std::mem::take(queue) {
                if pick(&job) { taken.push(job) } else { queue.push_back(job) }
            }
        }
        taken
    }

    pub(super) fn each(&mut self, change: impl Fn(&mut Job)) {
        self.queues.iter_mut().flatten().for_each(change);
    }

    /// The first moment at which one of them expires.
    pub(super) fn expiry(&self) -> Option<Moment> {
        let jobs = self.queues.iter().flatten();
        jobs.flat_map(|job| [job.deadline, job.give_up]).flatten().min()
    }

    fn queue(&mut self, priority: Priority) -> &mut VecDeque<Job> {
        &mut self.queues[priority as usize]
    }
}
