//! How the simulated network behaves.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::link::Link;

/// How the simulated network behaves. Probabilities are from 0.0 to 1.0.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// The line to an address for which no other was set.
    pub link: Link,
    /// What each sent piece takes longer than the line says.
    pub jitter: RangeInclusive<Duration>,
    /// Bytes that a direction of a connection holds besides those that a busy line holds.
    pub buffer: usize,
    /// Probability that a send or a receive handles fewer bytes than it could.
    pub short: f64,
    /// Probability that such a short one handles a single byte.
    pub single: f64,
    /// Probability that readiness is announced where there is none.
    pub spurious: f64,
    /// Probability, per send, that the connection is cut.
    pub cut: f64,
}

impl NetOptions {
    /// Nothing by chance: bytes arrive at once and whole.
    pub fn calm() -> Self {
        let jitter = Duration::ZERO..=Duration::ZERO;
        Self { jitter, short: 0.0, spurious: 0.0, ..Self::rough() }
    }

    /// All that a healthy network may do.
    pub fn rough() -> Self {
        Self {
            link: Link::INSTANT,
            jitter: Duration::ZERO..=Duration::from_micros(200),
            buffer: 256 << 10,
            short: 0.3,
            single: 0.2,
            spurious: 1.0 / 16.0,
            cut: 0.0,
        }
    }
}

impl Default for NetOptions {
    fn default() -> Self {
        Self::rough()
    }
}
