//! How many bytes to keep in flight: enough to fill the link, no more than that, so that queues stay short.
//!
//! Measured per round (the time in which one window is delivered): the rate, and the shortest latency seen. At
//! first the window doubles while the rate grows; from then on it is rate x latency and a little more.

use std::collections::VecDeque;

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
/// Rounds without growth that end the beginning.
const FLAT_MAX: u32 = 2;
/// The window over rate x latency, in percent: what is over probes for more bandwidth.
const GAIN_PERCENT: u64 = 150;

/// A delay-based window.
#[derive(Debug)]
pub struct Window {
    limits: WindowLimits,
    bytes: u64,
    /// Shortest latency seen, in nanoseconds.
    latency: u64,
    /// Bytes per second of the last rounds.
    rates: VecDeque<u64>,
    round: Option<Round>,
    /// Rounds without growth; `None` when the beginning is over.
    flat: Option<u32>,
}

#[derive(Debug)]
struct Round {
    begun: Moment,
    delivered: u64,
}

impl Window {
    /// A window at its beginning.
    pub fn new(limits: WindowLimits) -> Self {
        Self {
            limits,
            bytes: limits.initial,
            latency: u64::MAX,
            rates: VecDeque::new(),
            round: None,
            flat: Some(0),
        }
    }

    /// Bytes that may be in flight.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A request of `bytes` that was sent at `begun` has been answered.
    pub fn landed(&mut self, now: Moment, begun: Moment, bytes: u64) {
        self.latency = self.latency.min(now.since(begun).as_nanos() as u64).max(1);
        let round = self.round.get_or_insert(Round { begun, delivered: 0 });
        round.delivered += bytes;
        if round.delivered < self.bytes {
            return;
        }
        let nanoseconds = now.since(round.begun).as_nanos().max(1);
        let rate = (u128::from(round.delivered) * 1_000_000_000 / nanoseconds) as u64;
        self.round = Some(Round { begun: now, delivered: 0 });
        self.turn(rate);
    }

    fn turn(&mut self, rate: u64) {
        let best = self.best();
        self.rates.push_back(rate);
        if self.rates.len() > ROUNDS {
            self.rates.pop_front();
        }
        self.bytes = match self.flat {
            Some(flat) => self.begin(flat, rate > best + best / 4),
            None => self.fitting(),
        }
        .clamp(self.limits.min, self.limits.max);
    }

    /// Doubles while that pays.
    fn begin(&mut self, flat: u32, grew: bool) -> u64 {
        let flat = if grew { 0 } else { flat + 1 };
        self.flat = (flat < FLAT_MAX).then_some(flat);
        if self.flat.is_some() { self.bytes.saturating_mul(2) } else { self.fitting() }
    }

    fn fitting(&self) -> u64 {
        let product = u128::from(self.best()) * u128::from(self.latency) / 1_000_000_000;
        let fitting = product * u128::from(GAIN_PERCENT) / 100;
        u64::try_from(fitting).unwrap_or(u64::MAX).max(self.limits.initial)
    }

    fn best(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 256 << 10;

    /// A link of `rate` bytes/s and `rtt` ns with an endless queue: answers how many bytes were delivered in
    /// `until` ns and the window at the end.
    fn run(rate: u64, rtt: u64, until: u64) -> (u64, u64) {
        let mut window = Window::new(WindowLimits::default());
        let mut flying: VecDeque<(u64, u64)> = VecDeque::new();
        let (mut now, mut link_free, mut delivered) = (0, 0, 0);
        while now < until {
            while (flying.len() as u64) * CHUNK < window.bytes() {
                link_free = link_free.max(now + rtt / 2) + CHUNK * 1_000_000_000 / rate;
                flying.push_back((now, link_free + rtt / 2));
            }
            let Some((begun, lands)) = flying.pop_front() else { break };
            now = lands;
            delivered += CHUNK;
            window.landed(Moment(now), Moment(begun), CHUNK);
        }
        (delivered, window.bytes())
    }

    #[test]
    fn fills_links_of_all_kinds_without_long_queues() {
        for (rate, rtt) in [(125_000_000, 1_000_000), (25_000_000, 10_000_000), (125_000_000, 20_000_000)] {
            let seconds = 5;
            let (delivered, window) = run(rate, rtt, seconds * 1_000_000_000);
            assert!(delivered * 100 >= rate * seconds * 95, "{rate} B/s, {rtt} ns: only {delivered} bytes");
            let product = rate * rtt / 1_000_000_000;
            assert!(window <= product * 4 + (2 << 20), "{rate} B/s, {rtt} ns: window {window} for {product}");
        }
    }
}
