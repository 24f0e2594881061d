//! What came out: a table for people, an object for programs, and the verdict.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde_json::{Value, json};

use super::full_copy::FullCopy;
use super::host::GRANULE;
use super::readers::{Compared, Sample};

/// Bytes that the connections' handshakes, requests and headers may need besides 1 % of the data.
const OVERHEAD: u64 = 64 << 10;

/// All figures of a demo.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) image: String,
    /// Virtual size in bytes.
    pub(super) size: u64,
    pub(super) allocated: u64,
    /// Bytes of the granules that hold data.
    pub(super) allocated_granules: u64,
    pub(super) round_trip: Duration,
    /// Bytes per second; `u64::MAX` for no limit.
    pub(super) rate: u64,
    pub(super) readers: usize,
    pub(super) first_byte: Duration,
    pub(super) full_copy: FullCopy,
    /// Bytes that left the repository for the host, headers included.
    pub(super) link_bytes: u64,
    /// Of these, bytes of the image.
    pub(super) payload: u64,
    pub(super) fill: Fill,
    pub(super) before: Latency,
    pub(super) during: Latency,
    /// Wrong bytes that were read before the cut.
    pub(super) wrong_before_cut: u64,
    /// What each reader compared after the repository was killed.
    pub(super) compared: Vec<Compared>,
    pub(super) took: Duration,
}

/// The fill, from the command to its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) took: Duration,
    /// Bytes that the link carried meanwhile.
    pub(super) link_bytes: u64,
}

/// How long cold reads took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    pub(super) reads: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

impl Latency {
    /// Of those reads that went over the link; nothing is faster than its round trip.
    pub(super) fn of(samples: &[Sample], round_trip: Duration) -> Self {
        let mut took: Vec<_> = samples.iter().map(|s| s.took).filter(|took| *took >= round_trip).collect();
        took.sort_unstable();
        let rank = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self { reads: took.len(), p50: rank(50).unwrap_or_default(), p99: rank(99).unwrap_or_default() }
    }

    fn to_json(self) -> Value {
        json!({ "reads": self.reads, "p50": millis(self.p50), "p99": millis(self.p99) })
    }
}

impl Report {
    /// What was wrong, one sentence each; none is a success.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut complain = |wrong: bool, what: String| problems.extend(wrong.then_some(what));
        let wrong = self.wrong();
        complain(self.wrong_before_cut > 0, format!("{} wrong bytes before the cut", self.wrong_before_cut));
        complain(wrong > 0, format!("{wrong} wrong bytes after the cut"));
        let whole = self.compared.iter().filter(|compared| compared.bytes == self.size).count();
        complain(
            whole < self.readers,
            format!("only {whole} of {} readers saw the whole image", self.readers),
        );
        let limit = self.allocated_granules + self.allocated_granules / 100 + OVERHEAD;
        let fetched = format!("{} bytes left the repository, more than {limit}", self.link_bytes);
        complain(self.link_bytes > limit, fetched);
        complain(self.holes() > 0, format!("{} bytes of holes were fetched", self.holes()));
        problems
    }

    fn wrong(&self) -> u64 {
        self.compared.iter().map(|compared| compared.wrong).sum()
    }

    /// Bytes of the image that were fetched beyond the granules that hold data: holes, or data a second time.
    fn holes(&self) -> u64 {
        self.payload.saturating_sub(self.allocated_granules)
    }

    /// Bytes per second while the fill ran.
    fn fill_rate(&self) -> f64 {
        self.fill.link_bytes as f64 / self.fill.took.as_secs_f64().max(1e-9)
    }

    /// Part of the link's rate that was used while the fill ran.
    fn link_share(&self) -> Option<f64> {
        (self.rate < u64::MAX).then(|| self.fill_rate() / self.rate as f64)
    }

    pub(super) fn to_json(&self) -> Value {
        let problems = self.problems();
        json!({
            "ok": problems.is_empty(),
            "problems": problems,
            "image": {
                "name": self.image, "size": self.size, "allocated-bytes": self.allocated,
                "allocated-granule-bytes": self.allocated_granules, "granule": GRANULE,
            },
            "link": {
                "round-trip-ms": millis(self.round_trip),
                "bytes-per-second": (self.rate < u64::MAX).then_some(self.rate),
            },
            "readers": self.readers,
            "first-byte-seconds": self.first_byte.as_secs_f64(),
            "full-copy": { "seconds": self.full_copy.took.as_secs_f64(), "measured": self.full_copy.measured },
            "fetched": { "link-bytes": self.link_bytes, "payload-bytes": self.payload, "hole-bytes": self.holes() },
            "fill": {
                "seconds": self.fill.took.as_secs_f64(), "bytes-per-second": self.fill_rate(),
                "link-share": self.link_share(),
            },
            "cold-read-ms": { "fill-off": self.before.to_json(), "fill-on": self.during.to_json() },
            "verified": {
                "bytes": self.compared.iter().map(|c| c.bytes).sum::<u64>(),
                "wrong-bytes": self.wrong() + self.wrong_before_cut,
            },
            "seconds": self.took.as_secs_f64(),
        })
    }
}

/// The table.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows =
            [self.first_byte_row(), self.left_row(), ("holes fetched", mib(self.holes())), self.fill_row()];
        for (name, value) in rows.into_iter().chain(self.read_rows()).chain(self.last_rows()) {
            writeln!(f, "  {name:<28}{value}")?;
        }
        Ok(())
    }
}

type Row = (&'static str, String);

impl Report {
    fn first_byte_row(&self) -> Row {
        let how = if self.full_copy.measured { "measured" } else { "computed" };
        let (first, full) = (self.first_byte.as_secs_f64(), self.full_copy.took.as_secs_f64());
        let sooner = full / first.max(1e-9);
        (
            "time to first byte",
            format!("{first:.3} s, after a full copy {full:.2} s ({how}): {sooner:.0} x sooner"),
        )
    }

    fn left_row(&self) -> Row {
        let ratio = self.link_bytes as f64 / self.allocated_granules.max(1) as f64;
        let (left, allocated) = (mib(self.link_bytes), mib(self.allocated));
        let granules = mib(self.allocated_granules);
        let value = format!(
            "{left} with headers; {allocated} are allocated, {granules} in granules of 64 KiB: {ratio:.3} x"
        );
        ("left the repository", value)
    }

    fn fill_row(&self) -> Row {
        let share = self
            .link_share()
            .map(|share| format!(", {:.0} % of the link", share * 100.0))
            .unwrap_or_default();
        let (took, rate) = (self.fill.took.as_secs_f64(), self.fill_rate() / 1e6);
        ("fill", format!("{took:.2} s, {rate:.1} MB/s{share}"))
    }

    fn read_rows(&self) -> [Row; 2] {
        let off_on = |off: Duration, on: Duration| {
            format!("{:.1} ms with the fill off, {:.1} ms on", millis(off), millis(on))
        };
        let (before, during) = (&self.before, &self.during);
        let p99 = format!("{} ({} and {} reads)", off_on(before.p99, during.p99), before.reads, during.reads);
        [("cold read p50", off_on(before.p50, during.p50)), ("cold read p99", p99)]
    }

    fn last_rows(&self) -> [Row; 2] {
        let bytes = mib(self.compared.iter().map(|c| c.bytes).sum());
        let verified = format!("{bytes} by {} readers, {} bytes wrong", self.compared.len(), self.wrong());
        let took = format!("{:.1} s", self.took.as_secs_f64());
        [("verified without repository", verified), ("all of it", took)]
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn good() -> Report {
        let all = Compared { bytes: 10 << 20, wrong: 0 };
        Report {
            image: "i".to_owned(),
            size: 10 << 20,
            allocated: 4 << 20,
            allocated_granules: 5 << 20,
            round_trip: Duration::from_millis(10),
            rate: 25_000_000,
            readers: 2,
            first_byte: Duration::from_millis(50),
            full_copy: FullCopy { took: Duration::from_secs(1), measured: true },
            link_bytes: 5 << 20,
            payload: 5 << 20,
            fill: Fill { took: Duration::from_secs(1), link_bytes: 5 << 20 },
            before: Latency::default(),
            during: Latency::default(),
            wrong_before_cut: 0,
            compared: vec![all; 2],
            took: Duration::from_secs(2),
        }
    }

    #[test]
    fn each_thing_that_can_go_wrong_is_told() {
        let told = |spoil: &dyn Fn(&mut Report), expected: &str| {
            let mut report = good();
            spoil(&mut report);
            let problems = report.problems();
            assert!(problems.len() == 1 && problems[0].contains(expected), "{expected}: {problems:?}");
            assert_eq!(report.to_json()["ok"], false);
        };
        assert_eq!(good().problems(), [""; 0]);
        assert_eq!(good().to_json()["ok"], true);
        told(&|r| r.wrong_before_cut = 1, "1 wrong bytes before the cut");
        told(&|r| r.compared[1].wrong = 7, "7 wrong bytes after the cut");
        told(&|r| r.compared[1].bytes -= 1, "only 1 of 2 readers");
        told(&|r| r.compared.truncate(1), "only 1 of 2 readers");
        told(&|r| r.link_bytes += r.link_bytes / 100 + OVERHEAD + 1, "left the repository");
        told(&|r| r.payload += 1, "1 bytes of holes");
    }

    #[test]
    fn only_reads_over_the_link_count() {
        let sample = |ms| Sample { took: Duration::from_millis(ms), ended: Instant::now(), wrong: 0 };
        let samples: Vec<_> = (1..=210).map(sample).collect();
        let latency = Latency::of(&samples, Duration::from_millis(11));
        assert_eq!((latency.reads, latency.p50.as_millis(), latency.p99.as_millis()), (200, 110, 208));
        assert_eq!(Latency::of(&[], Duration::ZERO).p99, Duration::ZERO);
    }
}
