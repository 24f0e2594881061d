//! How a simulated disk behaves.

use std::ops::RangeInclusive;
use std::time::Duration;

use block::Alignment;

/// How a simulated disk behaves, faults that come by chance included. Probabilities are from 0.0 to 1.0.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// How long an operation takes that waits.
    pub latency: RangeInclusive<Duration>,
    /// Probability that `try_read` and `try_write` answer at all rather than `WouldBlock`. 0.0 says in
    /// `FileInfo` that they never do.
    pub inline: f64,
    /// Probability that an answer of `try_read` or `try_write` is short.
    pub short: f64,
    /// Probability that `resident` says yes.
    pub resident: f64,
    /// Probability that a read or a write that waits happens in two parts with time between them.
    pub split: f64,
    /// What files opened with `direct` ask for.
    pub direct_alignment: Alignment,
    /// Blocks whose storage files can share, if they can at all.
    pub shares_blocks: Option<Alignment>,
    /// Whether zeroes can be written fast; without, `only_fast` is `Unsupported` and zeroes take storage.
    pub fast_zeroes: bool,
    /// Probability that a discard leaves rubbish (else zeros or what was there).
    pub discard_rubbish: f64,
    /// Probability that a read fails with EIO.
    pub read_errors: f64,
    /// Probability that a write, zeroing or resize fails with EIO, with any sectors of it done.
    pub write_errors: f64,
    /// Probability that a flush fails with EIO; some of what it should have covered is then lost for good.
    pub flush_errors: f64,
    /// Bytes of storage that all files may take together; beyond them writes fail with ENOSPC.
    pub quota: u64,
    /// Un-flushed bytes per file that the disk keeps at most; older ones become durable by themselves.
    pub unflushed_max: u64,
}

impl DiskOptions {
    /// Nothing by chance: everything that can be answered at once is, the rest takes 10 us.
    pub fn calm() -> Self {
        let latency = Duration::from_micros(10);
        Self {
            latency: latency..=latency,
            inline: 1.0,
            short: 0.0,
            resident: 1.0,
            split: 0.0,
            ..Self::rough()
        }
    }

    /// All that a healthy disk may do.
    pub fn rough() -> Self {
        Self {
            latency: Duration::from_micros(5)..=Duration::from_micros(500),
            inline: 0.75,
            short: 0.2,
            resident: 0.75,
            split: 0.25,
            direct_alignment: Alignment::SECTOR,
            shares_blocks: Some(Alignment::PAGE),
            fast_zeroes: true,
            discard_rubbish: 0.5,
            read_errors: 0.0,
            write_errors: 0.0,
            flush_errors: 0.0,
            quota: u64::MAX,
            unflushed_max: 64 << 20,
        }
    }
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self::rough()
    }
}
