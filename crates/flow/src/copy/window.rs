//! How many bytes to keep in flight: enough to fill the link, no more than that, so that queues stay short.
//!
//! | phase | window | until |
//! |---|---|---|
//! | growing | doubled each round (the time in which one window is delivered) | two rounds without a higher rate |
//! | draining | the smallest | a window sent in this phase has been delivered: what it took is the latency |
//! | cruising | best rate of the last rounds x latency, and a little more | many rounds, then the latency is measured again |
//!
//! Latency is measured with short queues only, and by the slowest of a few requests: a request that somebody else had
//! under way already is answered early, and would make the link look shorter than it is.

use std::collections::VecDeque;
use std::time::Duration;

use io::Moment;

/// Bounds of a window in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowLimits {
    /// To begin with.
    pub initial: u64,
    /// Never below.
    pub min: u64,
    /// Never above.
    pub max: u64,
}

impl Default for WindowLimits {
    fn default() -> Self {
        Self { initial: 1 << 20, min: 512 << 10, max: 32 << 20 }
    }
}

/// Rounds whose best rate counts.
const ROUNDS: usize = 8;
/// Rounds without growth that end the growing.
const FLAT_MAX: u32 = 2;
/// Rounds after which the latency is measured again.
const CRUISE: u32 = 64;
/// The window over rate x latency, in percent: what is over probes for more bandwidth.
const GAIN_PERCENT: u64 = 150;

/// A delay-based window.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    bytes: u64,
    phase: Phase,
    /// Bytes per second of the last rounds.
    rates: VecDeque<u64>,
    /// When the round began, and what has been delivered in it.
    round: Option<(Moment, u64)>,
}

#[derive(Debug)]
enum Phase {
    Growing {
        /// Rounds without growth.
        flat: u32,
    },
    Draining {
        since: Moment,
        /// Bytes delivered of what was sent since then.
        delivered: u64,
        slowest: Duration,
    },
    Cruising {
        latency: Duration,
        rounds: u32,
    },
}

impl Window {
    /// A window at its beginning.
    pub fn new(limits: WindowLimits) -> Self {
        let phase = Phase::Growing { flat: 0 };
        Self { limits, bytes: limits.initial, phase, rates: VecDeque::new(), round: None }
    }

    /// Bytes that may be in flight, at least 1.
    pub fn bytes(&self) -> u64 {
        // With nothing in flight, nothing would ever land.
        self.bytes.max(1)
    }

    /// A request of `bytes` that was sent at `begun` has been answered.
    pub fn landed(&mut self, now: Moment, begun: Moment, bytes: u64) {
        if let Phase::Draining { since, delivered, slowest } = &mut self.phase
            && begun >= *since
        {
            *delivered += bytes;
            *slowest = (*slowest).max(now.since(begun));
        }
        let (since, delivered) = self.round.get_or_insert((begun, 0));
        *delivered += bytes;
        if *delivered < self.bytes {
            return;
        }
        let nanoseconds = now.since(*since).as_nanos().max(1);
        let rate = (u128::from(*delivered) * 1_000_000_000 / nanoseconds) as u64;
        self.round = Some((now, 0));
        self.turn(now, rate);
    }

    /// A round has ended.
    fn turn(&mut self, now: Moment, rate: u64) {
        let best = self.best();
        self.rates.push_back(rate);
        if self.rates.len() > ROUNDS {
            self.rates.pop_front();
        }
        let drain = Phase::Draining { since: now, delivered: 0, slowest: Duration::ZERO };
        match &mut self.phase {
            Phase::Growing { flat } => {
                *flat = if rate > best + best / 4 { 0 } else { *flat + 1 };
                if *flat == FLAT_MAX {
                    self.phase = drain;
                }
            }
            Phase::Draining { delivered, slowest, .. } if *delivered >= self.limits.min => {
                self.phase = Phase::Cruising { latency: *slowest, rounds: 0 };
            }
            Phase::Draining { .. } => {}
            Phase::Cruising { rounds, .. } => {
                *rounds += 1;
                if *rounds == CRUISE {
                    self.phase = drain;
                }
            }
        }
        self.bytes = self.fitting().clamp(self.limits.min, self.limits.max);
    }

    fn fitting(&self) -> u64 {
        match self.phase {
            Phase::Growing { .. } => self.bytes.saturating_mul(2),
            Phase::Draining { .. } => self.limits.min,
            Phase::Cruising { latency, .. } => {
                let product = u128::from(self.best()) * latency.as_nanos() / 1_000_000_000;
                u64::try_from(product * u128::from(GAIN_PERCENT) / 100).unwrap_or(u64::MAX)
            }
        }
    }

    fn best(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 256 << 10;

    /// A link of `rate` bytes/s and `rtt` ns with an endless queue, on which each request whose number `early` picks
    /// is answered at once: answers how many bytes were delivered in `until` ns and the largest window after the
    /// first half of that time.
    fn run(rate: u64, rtt: u64, until: u64, early: impl Fn(u64) -> bool) -> (u64, u64) {
        let mut window = Window::new(WindowLimits::default());
        let mut flying: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut now, mut link_free, mut delivered, mut number, mut largest) = (0, 0, 0, 0, 0);
        while now < until {
            while (flying.len() as u64) * CHUNK < window.bytes() {
                number += 1;
                if early(number) {
                    window.landed(Moment(now + 20_000), Moment(now), CHUNK);
                    continue;
                }
                link_free = link_free.max(now + rtt / 2) + CHUNK * 1_000_000_000 / rate;
                flying.push_back((now, link_free + rtt / 2));
            }
            let Some((begun, lands)) = flying.pop_front() else { break };
            now = lands;
            delivered += CHUNK;
            window.landed(Moment(now), Moment(begun), CHUNK);
            largest = if now > until / 2 { largest.max(window.bytes()) } else { 0 };
        }
        (delivered, largest)
    }

    const LINKS: [(u64, u64); 4] = [
        (125_000_000, 1_000_000),
        (25_000_000, 10_000_000),
        (125_000_000, 20_000_000),
        (2_000_000, 50_000_000),
    ];

    #[test]
    fn fills_links_of_all_kinds_without_long_queues() {
        for (rate, rtt) in LINKS {
            let seconds = 10;
            let (delivered, window) = run(rate, rtt, seconds * 1_000_000_000, |_| false);
            assert!(delivered * 100 >= rate * seconds * 95, "{rate} B/s, {rtt} ns: only {delivered} bytes");
            let product = rate * rtt / 1_000_000_000;
            assert!(window <= product * 2 + (1 << 20), "{rate} B/s, {rtt} ns: window {window} for {product}");
        }
    }

    #[test]
    fn early_answers_do_not_shrink_it() {
        for (rate, rtt) in LINKS {
            let seconds = 10;
            let (delivered, _) = run(rate, rtt, seconds * 1_000_000_000, |number| number % 9 == 1);
            assert!(delivered * 100 >= rate * seconds * 90, "{rate} B/s, {rtt} ns: only {delivered} bytes");
        }
    }
}
