//! How long one client may keep its thread, so that a greedy one does not hold up the others.

use io::Moment;

/// Requests of one turn.
pub(super) const REQUESTS_MAX: usize = 128;
/// After this time nothing more is begun, nor finished.
const NANOSECONDS_MAX: u64 = 500_000;

/// Whether the time of a turn that began at `begun` is over. Looking at the clock costs as much as a small read.
pub(super) fn is_spent(begun: Moment) -> bool {
    io::now().since(begun).as_nanos() as u64 > NANOSECONDS_MAX
}
