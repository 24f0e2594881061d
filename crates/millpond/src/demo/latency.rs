//! How long cold reads took.

use std::time::Duration;

use serde_json::{Value, json};

use super::reader::Sample;

/// Percentiles of reads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    pub(super) reads: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Latency {
    /// Of those reads that went over the link; nothing is faster than its round trip.
    pub(super) fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>, round_trip: Duration) -> Self {
        let cold = samples.into_iter().filter(|sample| !sample.again && sample.took >= round_trip);
        let mut took: Vec<_> = cold.map(|sample| sample.took).collect();
        took.sort_unstable();
        let rank = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self { reads: took.len(), p50: rank(50).unwrap_or_default(), p99: rank(99).unwrap_or_default() }
    }

    pub(super) fn to_json(self) -> Value {
        json!({ "reads": self.reads, "p50": millis(self.p50), "p99": millis(self.p99) })
    }
}

pub(super) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn only_first_reads_over_the_link_count() {
        let sample = |ms, again| {
            let took = Duration::from_millis(ms);
            Sample { took, ended: Instant::now(), wrong: 0, again }
        };
        let mut samples: Vec<_> = (1..=210).map(|ms| sample(ms, false)).collect();
        samples.extend((100..500).map(|ms| sample(ms, true)));
        let latency = Latency::of(&samples, Duration::from_millis(11));
        assert_eq!((latency.reads, latency.p50.as_millis(), latency.p99.as_millis()), (200, 110, 208));
        assert_eq!(Latency::of(&[], Duration::ZERO).p99, Duration::ZERO);
    }
}
