//! When there is no connection: how long requests wait, and when to try again. Policy without I/O.

use std::time::Duration;

use io::Moment;

/// Between the first attempts.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Between later ones: a server that is back is found within a second.
const PAUSE_MAX: Duration = Duration::from_millis(800);
/// How long one attempt waits for the socket: at first, and when that was too short several times.
const CONNECT_MIN: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(4);
/// The same where there is one attempt only.
const CONNECT_ONCE: Duration = Duration::from_secs(30);

/// A time without a connection, or with one that has not shown yet that it is any good.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    /// Until when requests wait for a connection. Later ones have one attempt.
    pub(super) patient_until: Moment,
    /// When the next attempt may begin.
    pub(super) next: Moment,
    pause: Duration,
    connect_limit: Duration,
}

impl Outage {
    /// One that begins now, with this much patience.
    pub(super) fn new(now: Moment, patience: Duration) -> Self {
        let connect_limit = if patience.is_zero() { CONNECT_ONCE } else { CONNECT_MIN };
        Self { patient_until: now.after(patience), next: now, pause: PAUSE_MIN, connect_limit }
    }

    /// Whether requests that find no connection still wait for more than one attempt.
    pub(super) fn is_patient(&self, now: Moment) -> bool {
        now < self.patient_until
    }

    /// An attempt begins, which may wait this long for the socket. Pauses count from here, so that attempts that
    /// take long are not followed by a pause as well.
    pub(super) fn attempt(&mut self, now: Moment) -> Duration {
        self.next = now.after(self.pause);
        // Without patience somebody waits for just this attempt.
        self.pause = if self.is_patient(now) { (self.pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
        self.connect_limit
    }

    /// The attempt waited in vain for the socket: a slow network may need longer.
    pub(super) fn was_too_short(&mut self) {
        self.connect_limit = (self.connect_limit * 2).min(CONNECT_MAX.max(self.connect_limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_frequent_and_never_more_than_a_second_apart() {
        let mut outage = Outage::new(Moment(0), Duration::from_secs(5));
        let mut starts = Vec::new();
        while outage.is_patient(outage.next) {
            starts.push(outage.next.0 / 1_000_000);
            outage.attempt(outage.next);
        }
        assert_eq!(starts, [0, 100, 300, 700, 1500, 2300, 3100, 3900, 4700]);
    }

    #[test]
    fn slow_networks_get_more_time() {
        let mut outage = Outage::new(Moment(0), Duration::from_secs(5));
        assert_eq!(outage.attempt(Moment(0)), Duration::from_secs(1));
        for expected in [2, 4, 4] {
            outage.was_too_short();
            assert_eq!(outage.attempt(Moment(0)), Duration::from_secs(expected));
        }
        let mut hasty = Outage::new(Moment(0), Duration::ZERO);
        hasty.was_too_short();
        assert_eq!(hasty.attempt(Moment(0)), Duration::from_secs(30));
        assert!(!hasty.is_patient(Moment(0)));
    }
}
