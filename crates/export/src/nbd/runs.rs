//! Runs of zeros in what was read, to be sent as holes.

use flow::seam;

/// Zeros are looked for, and sent as holes, in units of this many bytes of the export.
pub(super) const HOLE_UNIT: usize = 4096;
/// More runs than this in one read are sent as data.
pub(super) const RUNS_MAX: usize = 64;

/// A run of bytes or zeros of one read, relative to its first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) zero: bool,
}

/// The runs of one read: in order, without gaps, data and zeros in turn.
pub(super) struct Runs {
    list: [Run; RUNS_MAX],
    count: usize,
}

impl Runs {
    /// Cuts `data`, which begins at `offset` of the export. `None` when one data chunk is as good: no whole unit
    /// of zeros, or too many runs.
    pub(super) fn of(data: &[u8], offset: u64) -> Option<Self> {
        if data.len() < HOLE_UNIT || !may_hold_zeroes(data) {
            return None;
        }
        let mut runs = Self { list: [Run { start: 0, end: 0, zero: false }; RUNS_MAX], count: 0 };
        let (mut start, mut zeroes) = (0, false);
        while start < data.len() {
            let to_boundary = HOLE_UNIT - (offset as usize).wrapping_add(start) % HOLE_UNIT;
            let end = data.len().min(start + to_boundary);
            // A hole shorter than a unit would save nothing, and its chunk could not stand in its place.
            let zero = end - start == HOLE_UNIT && seam::is_zero(&data[start..end]);
            if !runs.add(Run { start, end, zero }) {
                return None;
            }
            zeroes |= zero;
            start = end;
        }
        zeroes.then_some(runs)
    }

    /// The runs, first to last.
    pub(super) fn list(&self) -> &[Run] {
        &self.list[..self.count]
    }

    /// Adds a run, joined with the one before if it is of its kind; false when there is no room.
    fn add(&mut self, run: Run) -> bool {
        if let Some(last) = self.list[..self.count].last_mut()
            && last.zero == run.zero
        {
            last.end = run.end;
            return true;
        }
        let Some(slot) = self.list.get_mut(self.count) else { return false };
        *slot = run;
        self.count += 1;
        true
    }
}

/// A cheap look before the real one: most data has no zero unit at all.
fn may_hold_zeroes(data: &[u8]) -> bool {
    data.chunks(HOLE_UNIT).any(|unit| unit[0] == 0 && seam::is_zero(&unit[..unit.len().min(64)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data: &[u8], offset: u64) -> Option<Vec<(usize, usize, bool)>> {
        let runs = Runs::of(data, offset)?;
        Some(runs.list().iter().map(|r| (r.start, r.end, r.zero)).collect())
    }

    #[test]
    fn runs_cover_the_data_and_zeros_come_in_units() {
        const U: usize = HOLE_UNIT;
        let mut data = vec![0u8; 10 * U];
        data[3 * U + 5] = 1;
        data[9 * U] = 1;
        let whole = [(0, 3 * U, true), (3 * U, 4 * U, false), (4 * U, 9 * U, true), (9 * U, 10 * U, false)];
        assert_eq!(of(&data, 0).unwrap(), whole);
        // Off the boundaries of the export only whole units in between count.
        let off = [(0, U - 512, false), (U - 512, 2 * U - 512, true), (2 * U - 512, 2 * U, false)];
        assert_eq!(of(&data[..2 * U], 512).unwrap(), off);
        data.fill(1);
        assert_eq!(of(&data, 0), None);
        assert_eq!(of(&[0; U - 1], 0), None);
    }

    #[test]
    fn too_many_runs_are_none() {
        let data: Vec<u8> = (0..(RUNS_MAX + 1) * HOLE_UNIT).map(|i| (i / HOLE_UNIT % 2) as u8).collect();
        assert_eq!(of(&data[..RUNS_MAX * HOLE_UNIT], 0).unwrap().len(), RUNS_MAX);
        assert_eq!(of(&data, 0), None);
    }
}
