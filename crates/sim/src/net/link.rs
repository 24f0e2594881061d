//! The line between a client and a server: how long bytes take.

use std::time::Duration;

use io::Moment;

/// What a line is like. All connections to one address share it; its two directions do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// From sending a byte to getting one back that answers it, when the line is empty.
    pub round_trip: Duration,
    /// Bytes per second in each direction; `u64::MAX` for no limit.
    pub rate: u64,
}

impl Link {
    /// A line without delay or limit.
    pub const INSTANT: Self = Self { round_trip: Duration::ZERO, rate: u64::MAX };

    /// Bytes that are under way on a busy line; 0 without a limit.
    pub(crate) fn bandwidth_delay(&self) -> u64 {
        if self.rate == u64::MAX {
            return 0;
        }
        let bytes = self.round_trip.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// How long the line is busy with `len` bytes.
    fn occupancy(&self, len: u64) -> Duration {
        if self.rate == u64::MAX {
            return Duration::ZERO;
        }
        let nanos = (u128::from(len) * 1_000_000_000).div_ceil(u128::from(self.rate.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// A line in use: what was sent first arrives first, whichever connection sent it.
pub(crate) struct Line {
    pub(crate) link: Link,
    /// Until when each direction is busy.
    busy: [Moment; 2],
}

impl Line {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, busy: [Moment(0); 2] }
    }

    /// When `len` bytes arrive that are sent at `now`.
    pub(crate) fn carry(&mut self, direction: usize, now: Moment, len: u64) -> Moment {
        let start = self.busy[direction].max(now);
        self.busy[direction] = start.after(self.link.occupancy(len));
        self.busy[direction].after(self.link.round_trip / 2)
    }
}
