//! The options of `millpond demo`.
#![allow(rustdoc::broken_intra_doc_links, reason = "--help shows these texts: [] is what may be left out")]

use std::path::PathBuf;
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};
use clap::{Args as ClapArgs, ValueEnum};

/// Show the main job: readers start at once from a far image while it is cached, and go on when its source is dead.
///
/// A repository process serves an image over a simulated link. A host process keeps a pond with a clone of it for each
/// of several readers, who read at once. In the middle of the fill the host is killed and started again. When the
/// image is complete the repository is killed, and every reader verifies every byte; then the clones are pivoted, the
/// host ends, and every byte is verified again without it. Ends with status 1 if anything was wrong.
///
/// Examples:
///   millpond demo
///   millpond demo --rtt 1ms --rate 1G --readers 8
///   millpond demo --boot
///   millpond demo --image nbd://repo.example/disk
#[derive(ClapArgs, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Round trip of the link to the repository: a number with us, ms or s.
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "10ms")]
    pub(super) rtt: Duration,
    /// Bits per second of the link in each direction: a number, with K, M or G. 0: no limit.
    #[arg(long, value_name = "RATE", value_parser = rate, default_value = "200M")]
    pub(super) rate: u64,
    /// Bring your own image: a file, or nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH.
    #[arg(long, value_name = "PATH|URI")]
    pub(super) image: Option<String>,
    /// Format of that image. Never guessed from its content.
    #[arg(short, long, value_name = "FORMAT", default_value = "raw", requires = "image")]
    pub(super) format: String,
    /// Readers at the same time.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) readers: u16,
    /// MiB of files of this machine to put into the image that is made [default: 192; with --boot 96].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub(super) data: Option<u64>,
    /// File system of the image that is made.
    #[arg(long, value_enum, value_name = "KIND", default_value = "auto")]
    pub(super) filesystem: FileSystem,
    /// Where to put the temporary directory (about three times --data is needed).
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// The readers are real guests: machines that boot from their clones (needs qemu-system-x86_64).
    #[arg(long, conflicts_with = "image")]
    pub(super) boot: bool,
    /// Print the results as JSON.
    #[arg(long)]
    pub(super) json: bool,

    /// Spoil something on purpose, to see that it is noticed.
    #[arg(long, value_enum, value_name = "WHAT", hide = true)]
    pub(super) sabotage: Option<Sabotage>,
    /// Be one of the processes of a demo; a JSON object says which one and how.
    #[arg(long, value_name = "JSON", hide = true)]
    pub(super) role: Option<String>,
}

/// What the image is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum FileSystem {
    /// ext4 where mke2fs is there, else FAT.
    Auto,
    /// ext4, by mke2fs -d.
    Ext4,
    /// FAT, by ourselves.
    Fat,
}

/// What is spoiled on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Sabotage {
    /// A byte of the finished cache.
    Cache,
    /// Some bytes of what the link carries to the host.
    Link,
    /// The disks are pivoted before the image is complete.
    Pivot,
    /// Everything leaves the repository once more.
    Twice,
    /// The cache loses what it held when the host is killed.
    Loss,
    /// The image is another one when the host is started again.
    Source,
}

impl Args {
    /// Bytes of files to put into the image that is made. Machines take their time to read what processes read at once.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data.unwrap_or(if self.boot { 96 } else { 192 }) << 20
    }

    /// Bytes per second of the link; `u64::MAX` for no limit.
    pub(super) fn bytes_per_second(&self) -> u64 {
        if self.rate == 0 { u64::MAX } else { (self.rate / 8).max(1) }
    }

    /// Refuses what is too long for any demo.
    pub(super) fn check(&self) -> Result<()> {
        if self.rtt > Duration::from_secs(5) {
            return Err(BlockError::new(ErrorKind::Invalid, "option '--rtt': at most 5s are possible"));
        }
        Ok(())
    }
}

/// A number with one of these units.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().ok()?;
    let (_, factor) = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    Some(number * factor)
}

fn span(text: &str) -> std::result::Result<Duration, String> {
    let micros = with_unit(text, &[("us", 1.0), ("ms", 1e3), ("s", 1e6), ("", 1e3)]);
    let micros = micros.filter(|micros| *micros < 1e9);
    let micros = micros.ok_or_else(|| format!("'{text}' is no time: give a number with us, ms or s"))?;
    Ok(Duration::from_micros(micros as u64))
}

fn rate(text: &str) -> std::result::Result<u64, String> {
    let bits = with_unit(text, &[("", 1.0), ("K", 1e3), ("M", 1e6), ("G", 1e9)]);
    let bits = bits.filter(|bits| *bits < 1e15);
    let bits = bits.ok_or_else(|| format!("'{text}' is no rate: give a number with K, M or G (bit/s)"))?;
    Ok(bits as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_have_units() {
        assert_eq!(span("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(span("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(span("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(span("20"), Ok(Duration::from_millis(20)));
        assert_eq!(rate("1G"), Ok(1_000_000_000));
        assert_eq!(rate("2.5m"), Ok(2_500_000));
        assert_eq!(rate("0"), Ok(0));
        for bad in ["", "ms", "-1ms", "1 ms", "1h", "1e99s", "NaN", "1.2.3s"] {
            assert!(span(bad).is_err(), "{bad}");
        }
        for bad in ["", "M", "-1", "1T", "9999999999999999", "1MB"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
