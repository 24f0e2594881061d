//! What the death of the host did: how long nobody was served, and what had to be fetched again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::reader::Sample;
use super::report::mib;

/// A kill and the start after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Restart {
    /// How far the fill was.
    pub(super) percent: u64,
    /// Bytes that had left the repository for the host, headers included.
    pub(super) left: u64,
    /// Bytes of data that the dead host's cache holds.
    pub(super) kept: u64,
    /// Bytes of the image that had come in the second before.
    pub(super) last_second: u64,
    /// From the kill until a reader had a byte again.
    pub(super) served: Option<Duration>,
}

impl Restart {
    /// Bytes that had left the repository and are fetched again.
    pub(super) fn cost(&self) -> u64 {
        self.left.saturating_sub(self.kept)
    }

    pub(super) fn again(&self) -> String {
        match self.served {
            Some(after) => format!("{:.3} s, killed at {} %", after.as_secs_f64(), self.percent),
            None => "never".to_owned(),
        }
    }

    pub(super) fn price(&self) -> String {
        let (cost, second) = (mib(self.cost()), mib(self.last_second));
        format!(
            "{cost} fetched again; {second} had come in the second before, a window of 64 MiB may be lost"
        )
    }

    pub(super) fn to_json(self) -> Value {
        json!({
            "served-again-seconds": self.served.map(|after| after.as_secs_f64()), "percent": self.percent,
            "link-bytes-before": self.left, "kept-bytes": self.kept, "cost-bytes": self.cost(),
            "last-second-bytes": self.last_second,
        })
    }
}

/// From the start of a host until all readers have found it.
const CONNECTED: Duration = Duration::from_secs(1);

/// When the host was away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Away {
    /// When it was killed.
    pub(super) from: Instant,
    /// When the next one was started.
    pub(super) to: Instant,
}

impl Away {
    /// Until the first read that ended after the start.
    pub(super) fn served(&self, samples: &[Sample]) -> Option<Duration> {
        let ended = samples.iter().map(|sample| sample.ended).filter(|ended| *ended > self.to).min();
        ended.map(|ended| ended - self.from)
    }

    /// Whether a read may have waited for it: readers connect again within a second.
    pub(super) fn delayed(&self, sample: &Sample) -> bool {
        sample.ended > self.from && sample.ended - sample.took < self.to + CONNECTED
    }
}

/// What came lately.
#[derive(Default)]
pub(super) struct Lately(Vec<(Instant, u64)>);

impl Lately {
    /// Notes how much has come by now.
    pub(super) fn note(&mut self, bytes: u64) {
        self.0.push((Instant::now(), bytes));
    }

    /// How much came within the second before the last note.
    pub(super) fn second(&self) -> u64 {
        let Some((last, bytes)) = self.0.last() else { return 0 };
        let before = self.0.iter().rev().find(|(at, _)| *last - *at >= Duration::from_secs(1));
        bytes - before.map_or(0, |(_, bytes)| *bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reads_after_the_start_were_served_again() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let sample = |ended, took| Sample {
            took: Duration::from_millis(took),
            ended: at(ended),
            wrong: 0,
            again: false,
        };
        let away = Away { from: at(100), to: at(110) };
        let samples = [sample(90, 10), sample(101, 5), sample(300, 205), sample(200, 3), sample(1120, 9)];
        assert_eq!(away.served(&samples), Some(Duration::from_millis(100)));
        assert_eq!(away.served(&samples[..2]), None);
        assert_eq!(samples.map(|s| away.delayed(&s)), [false, true, true, true, false]);
    }

    #[test]
    fn the_last_second_is_what_came_since() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        assert_eq!(Lately::default().second(), 0);
        assert_eq!(Lately(vec![(at(0), 5), (at(900), 9)]).second(), 9);
        assert_eq!(Lately(vec![(at(0), 5), (at(100), 6), (at(500), 8), (at(1100), 9)]).second(), 3);
    }
}
