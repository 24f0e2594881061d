//! CPU time of a server: its threads, those that have ended, and its children.
//!
//! Invariant: no thread is counted twice and none forgotten; the finer clock of the scheduler is used where the
//! same threads lived before and after, else the process' own, which counts in ticks of 10 ms.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::time::Duration;

/// Length of a clock tick in /proc/PID/stat, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// What a process had used at some moment.
pub(super) struct Sample {
    /// Including ended threads and children.
    total: Duration,
    /// By thread.
    threads: BTreeMap<u32, Duration>,
    has_children: bool,
}

impl Sample {
    /// What `pid` has used by now.
    pub(super) fn of(pid: u32) -> Self {
        let children = children(pid);
        let total = with_ended_children(pid) + children.iter().map(|&child| with_ended_children(child)).sum();
        let threads = numbers_in(&format!("/proc/{pid}/task"));
        let threads =
            threads.into_iter().filter_map(|thread| Some((thread, scheduled(pid, thread)?))).collect();
        Self { total, threads, has_children: !children.is_empty() }
    }

    /// What has been used since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Duration {
        let coarse = self.total.saturating_sub(earlier.total);
        let fine = self.scheduled().saturating_sub(earlier.scheduled());
        let same_threads = !self.threads.is_empty() && self.threads.keys().eq(earlier.threads.keys());
        let without_children = !self.has_children && !earlier.has_children;
        // Far more on the process' own clock: other threads, or children, came and went in between.
        let saw_all = coarse < fine + 3 * TICK;
        if same_threads && without_children && saw_all { fine } else { coarse }
    }

    fn scheduled(&self) -> Duration {
        self.threads.values().sum()
    }
}

/// What our children that have ended, and that we have waited for, have used altogether.
pub(super) fn of_ended_children() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    TICK * ticks(&text, 13..15).unwrap_or(0)
}

/// Living (or not yet reaped) children of all threads of `pid`.
fn children(pid: u32) -> Vec<u32> {
    let lists = numbers_in(&format!("/proc/{pid}/task"))
        .into_iter()
        .filter_map(|thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn numbers_in(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn scheduled(pid: u32, thread: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

fn with_ended_children(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    TICK * ticks(&text, 11..15).unwrap_or(0)
}

/// Sum of fields of a stat line, counted behind the name, which may hold anything: utime, stime, cutime and cstime are
/// 11 to 14.
fn ticks(stat: &str, wanted: Range<usize>) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields = after_name.split_whitespace().skip(wanted.start).take(wanted.len());
    fields.map(|field| field.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_past_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 30 5 2 1 20 0 3 0 99";
        assert_eq!((ticks(stat, 11..15), ticks(stat, 13..15)), (Some(38), Some(3)));
        assert_eq!(ticks("7 (a", 11..15), None);
    }

    fn sample(total_ms: u64, threads: &[(u32, u64)], has_children: bool) -> Sample {
        let threads = threads.iter().map(|&(thread, ms)| (thread, Duration::from_millis(ms))).collect();
        Sample { total: Duration::from_millis(total_ms), threads, has_children }
    }

    #[test]
    fn threads_that_ended_are_not_forgotten() {
        let ms = |later: Sample, earlier: Sample| later.since(&earlier).as_millis();
        assert_eq!(ms(sample(120, &[(1, 107), (2, 8)], false), sample(0, &[(1, 2), (2, 1)], false)), 112);
        assert_eq!(ms(sample(120, &[(1, 20)], false), sample(0, &[(1, 2), (2, 1)], false)), 120);
        assert_eq!(ms(sample(120, &[(1, 20)], false), sample(0, &[(1, 2)], false)), 120);
        assert_eq!(ms(sample(120, &[(1, 107)], true), sample(0, &[(1, 2)], false)), 120);
    }
}
