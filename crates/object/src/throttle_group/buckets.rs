//! Leaky buckets, in whole numbers: levels are counted in billionths of a unit, so that a rate times nanoseconds is
//! exact.

use std::time::Duration;

use io::Moment;

use super::Direction;
use super::limits::{Rate, ThrottleLimits};

const BILLION: u128 = 1_000_000_000;

/// What a request adds to the buckets that it goes through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) direction: Direction,
    bytes: u128,
    operations: u128,
}

impl Cost {
    /// With `iops-size`, a request counts as many operations as it has pieces of that size, fractions included, but
    /// never less than one.
    pub(super) fn new(direction: Direction, bytes: u64, limits: &ThrottleLimits) -> Self {
        let scaled = u128::from(bytes) * BILLION;
        let operations = match limits.iops_size {
            0 => BILLION,
            size => (scaled / u128::from(size)).max(BILLION),
        };
        Self { direction, bytes: scaled, operations }
    }
}

/// The buckets of a group: bytes and operations, each in total, for reads and for writes.
pub(super) struct Buckets {
    bytes: [Bucket; 3],
    operations: [Bucket; 3],
    /// When they leaked last; `None` before the first request.
    leaked: Option<Moment>,
}

impl Buckets {
    /// Empty ones.
    pub(super) fn new(limits: &ThrottleLimits) -> Self {
        Self { bytes: limits.bps.map(Bucket::new), operations: limits.iops.map(Bucket::new), leaked: None }
    }

    /// How long a request in this direction has to wait from `now` on.
    pub(super) fn wait(&mut self, now: Moment, direction: Direction) -> Duration {
        self.leak(now);
        self.of(direction).map(|bucket| bucket.wait()).max().unwrap_or_default()
    }

    pub(super) fn charge(&mut self, cost: Cost) {
        for at in through(cost.direction) {
            self.bytes[at].fill(cost.bytes);
            self.operations[at].fill(cost.operations);
        }
    }

    pub(super) fn refund(&mut self, cost: Cost) {
        for at in through(cost.direction) {
            self.bytes[at].drain(cost.bytes);
            self.operations[at].drain(cost.operations);
        }
    }

    fn of(&mut self, direction: Direction) -> impl Iterator<Item = &mut Bucket> {
        let [total, read, write] = &mut self.bytes;
        let [all, reads, writes] = &mut self.operations;
        match direction {
            Direction::Read => [total, read, all, reads],
            Direction::Write => [total, write, all, writes],
        }
        .into_iter()
    }

    fn leak(&mut self, now: Moment) {
        // Threads may read the clock in one order and come here in another: time stands still then.
        let span = now.since(self.leaked.unwrap_or(now)).as_nanos();
        self.leaked = Some(self.leaked.map_or(now, |last| last.max(now)));
        self.bytes.iter_mut().chain(&mut self.operations).for_each(|bucket| bucket.leak(span));
    }
}

/// Which buckets a request goes through.
fn through(direction: Direction) -> [usize; 2] {
    match direction {
        Direction::Read => [0, 1],
        Direction::Write => [0, 2],
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    rate: Rate,
    /// Leaks at the rate.
    level: u128,
    /// Leaks at the burst rate, where bursts last longer than a second.
    burst: u128,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, level: 0, burst: 0 }
    }

    fn leak(&mut self, nanoseconds: u128) {
        self.level = self.level.saturating_sub(u128::from(self.rate.average) * nanoseconds);
        self.burst = self.burst.saturating_sub(u128::from(self.rate.max) * nanoseconds);
    }

    fn fill(&mut self, amount: u128) {
        if self.rate.average > 0 {
            self.level += amount;
            self.burst += amount;
        }
    }

    fn drain(&mut self, amount: u128) {
        self.level = self.level.saturating_sub(amount);
        self.burst = self.burst.saturating_sub(amount);
    }

    fn wait(&self) -> Duration {
        let Rate { average, max, max_length } = self.rate;
        if average == 0 {
            return Duration::ZERO;
        }
        let tenth = |rate: u64| u128::from(rate) * BILLION / 10;
        if max == 0 {
            return over(self.level, tenth(average), average);
        }
        let size = u128::from(max) * u128::from(max_length) * BILLION;
        let steady = over(self.level, size, average);
        if steady.is_zero() && max_length > 1 {
            return over(self.burst, tenth(max), max);
        }
        steady
    }
}

/// How long `level` takes to leak to `size` at `rate`.
fn over(level: u128, size: u128, rate: u64) -> Duration {
    let nanoseconds = level.saturating_sub(size).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}
