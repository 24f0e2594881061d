//! How fast a job may go: so many bytes per second, counted from when it was told so.
//!
//! Invariant: what was let go before is paid for before anything else is; so a request longer than a second's worth
//! goes at once, and the next one waits for as long as it was worth.

use std::time::Duration;

use io::Moment;

/// A limit of speed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Bytes per second; 0 for no limit.
    speed: u64,
    /// When all that was let go is paid for.
    paid: Moment,
}

impl Pace {
    pub(crate) fn speed(&self) -> u64 {
        self.speed
    }

    /// From `now` on another speed counts; what was let go before counts no more.
    pub(crate) fn set(&mut self, speed: u64, now: Moment) {
        *self = Self { speed, paid: now };
    }

    /// When the next bytes may go.
    pub(crate) fn next(&self) -> Moment {
        self.paid
    }

    /// `bytes` go at `now`.
    pub(crate) fn go(&mut self, bytes: u64, now: Moment) {
        if self.speed > 0 {
            let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.speed);
            let worth = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            self.paid = self.paid.max(now).after(worth);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_the_long_run_it_is_the_speed() {
        let (mut pace, mut now) = (Pace::default(), Moment(5));
        pace.set(1 << 20, now);
        for _ in 0..40 {
            now = now.max(pace.next());
            pace.go(256 << 10, now);
        }
        assert_eq!(pace.next().since(Moment(5)), Duration::from_secs(10));
    }

    #[test]
    fn without_a_limit_nothing_waits_and_a_new_limit_starts_afresh() {
        let mut pace = Pace::default();
        pace.go(u64::MAX, Moment(7));
        assert_eq!(pace.next(), Moment(0));
        pace.set(1, Moment(8));
        pace.go(u64::MAX, Moment(8));
        assert_eq!(pace.next(), Moment(u64::MAX));
        pace.set(0, Moment(9));
        assert_eq!(pace.next(), Moment(9));
    }
}
