//! The image that is brought here: data and holes as file systems leave them, the same in every run.
//!
//! Runs of data are 64 KiB to 16 MiB long, the short ones as many as the long ones, and begin and end at 4 KiB: so they
//! share their first and last granules of 64 KiB with holes.

use super::super::images::{Noise, naming};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const PAGE: u64 = 4 << 10;
/// What caches fetch at least.
const GRANULE: u64 = 64 << 10;
/// Octaves of lengths of runs above the shortest.
const OCTAVES: u64 = 8;

/// An image in a raw file.
pub(super) struct Image {
    pub(super) path: PathBuf,
    /// Bytes that it holds.
    pub(super) data: u64,
    /// Bytes of the granules that hold any.
    pub(super) granules: u64,
}

impl Image {
    /// Makes one of `size` bytes, of which `data` are data.
    pub(super) fn make(path: PathBuf, size: u64, data: u64) -> Result<Self, String> {
        let runs = runs(size, data);
        write(&path, size, &runs).map_err(|error| naming(&path, &error))?;
        Ok(Self { path, data: runs.iter().map(|(_, len)| len).sum(), granules: granules(&runs) })
    }
}

/// Start and length of each run of data.
fn runs(size: u64, data: u64) -> Vec<(u64, u64)> {
    let (mut noise, mut runs, mut at, mut left) = (Noise::new(), Vec::new(), 0, data);
    while left > 0 {
        let octave = GRANULE << (noise.number() % OCTAVES);
        let len = (octave + noise.number() % octave / PAGE * PAGE).min(left);
        runs.push((at, len));
        left -= len;
        at += len;
        // Half as long to half as long again as would be even.
        let even = len * (size - data) / data;
        let hole = (even / 2 + noise.number() % (even + 1)) / PAGE * PAGE;
        at += hole.min((size - at).saturating_sub(left));
    }
    runs
}

fn granules(runs: &[(u64, u64)]) -> u64 {
    let (mut bytes, mut end) = (0, 0);
    for (at, len) in runs {
        let from = (at / GRANULE * GRANULE).max(end);
        end = (at + len).next_multiple_of(GRANULE);
        bytes += end.saturating_sub(from);
    }
    bytes
}

fn write(path: &Path, size: u64, runs: &[(u64, u64)]) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(size)?;
    let (mut noise, mut block) = (Noise::new(), vec![0; 1 << 20]);
    for &(at, len) in runs {
        let mut written = 0;
        while written < len {
            let part = (len - written).min(block.len() as u64);
            noise.fill(&mut block);
            file.write_all_at(&block[..part as usize], at + written)?;
            written += part;
        }
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_the_data_and_stay_inside() {
        for (size, data) in
            [(512 << 20, 256 << 20), (64 << 20, 63 << 20), (8 << 20, 8 << 20), (1 << 30, 4096)]
        {
            let runs = runs(size, data);
            assert_eq!(runs.iter().map(|(_, len)| len).sum::<u64>(), data);
            assert!(runs.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            assert!(runs.iter().all(|(at, len)| at % PAGE == 0 && at + len <= size), "{runs:?}");
        }
        assert!(runs(512 << 20, 256 << 20).len() > 20);
    }

    #[test]
    fn a_granule_that_two_runs_share_counts_once() {
        assert_eq!(granules(&[(4096, 4096), (40960, 4096), (65536, 131_072), (262_140, 8)]), 5 * GRANULE);
    }
}
