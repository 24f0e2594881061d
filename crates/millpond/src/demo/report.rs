//! What came out: a table for people, an object for programs, and the verdict.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde_json::{Value, json};

use super::filling::Figures;
use super::full_copy::FullCopy;
use super::host::GRANULE;
use super::latency::{Latency, millis};
use super::link::Shape;
use super::reader::Compared;

/// Bytes that the connections' handshakes, requests and headers may need besides 1 % of the data.
const OVERHEAD: u64 = 64 << 10;
/// What a kill may cost at most: what is fetched and not yet durable.
const WINDOW: u64 = 64 << 20;
/// Connections that a host may have to its source.
const CONNECTIONS: u64 = 4;

/// All figures of a demo.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) image: String,
    /// Virtual size in bytes.
    pub(super) size: u64,
    pub(super) allocated: u64,
    /// Bytes of the granules that hold data.
    pub(super) allocated_granules: u64,
    pub(super) shape: Shape,
    pub(super) readers: usize,
    /// How the readers' machines were run, if they were machines.
    pub(super) machines: Option<&'static str>,
    pub(super) full_copy: FullCopy,
    pub(super) figures: Figures,
    pub(super) verified: Verified,
    pub(super) took: Duration,
}

/// What each reader compared.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    /// After the repository was killed.
    pub(super) cached: Vec<Compared>,
    /// After the disks were pivoted and the host had ended.
    pub(super) pivoted: Vec<Compared>,
}

/// The fill, from the start of the host until the image was complete, its death and restart included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) took: Duration,
    /// Bytes that the link carried meanwhile.
    pub(super) link_bytes: u64,
}

impl Report {
    /// What was wrong, one sentence each; none is a success.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut complain = |wrong: bool, what: String| problems.extend(wrong.then_some(what));
        let meanwhile = self.figures.wrong;
        complain(meanwhile > 0, format!("{meanwhile} wrong bytes while the cache was filled"));
        for (list, when) in
            [(&self.verified.cached, "without the repository"), (&self.verified.pivoted, "without the host")]
        {
            let wrong = wrong(list);
            complain(wrong > 0, format!("{wrong} wrong bytes {when}"));
            let whole = list.iter().filter(|compared| compared.bytes == self.size).count();
            let lost =
                list.iter().filter(|compared| self.machines.is_some() && compared.written == 0).count();
            complain(lost > 0, format!("{lost} guests did not find what they had written {when}"));
            let saw = format!("only {whole} of {} readers saw the whole image {when}", self.readers);
            complain(whole < self.readers, saw);
        }
        let limit = with_headers(self.allocated_granules + self.figures.restart.cost()) + self.flying();
        let fetched = format!("{} bytes left the repository, more than {limit}", self.figures.link_bytes);
        complain(self.figures.link_bytes > limit, fetched);
        let cost = self.figures.restart.cost();
        let lost = format!("the kill of the host cost {cost} bytes, more than {WINDOW} that may be lost");
        complain(cost > with_headers(WINDOW) + self.flying(), lost);
        complain(self.figures.holes > 0, format!("{} bytes of holes were fetched", self.figures.holes));
        complain(
            self.figures.restart.served.is_none(),
            "no reader was served again after the kill".to_owned(),
        );
        problems
    }

    /// Bytes that may have been on the line when the host was killed.
    fn flying(&self) -> u64 {
        CONNECTIONS * self.shape.held_max() as u64
    }

    /// Bytes per second while the fill ran.
    fn fill_rate(&self) -> f64 {
        self.figures.fill.link_bytes as f64 / self.figures.fill.took.as_secs_f64().max(1e-9)
    }

    /// Part of the link's rate that was used while the fill ran.
    fn link_share(&self) -> Option<f64> {
        let rate = self.shape.rate;
        (rate < u64::MAX).then(|| self.fill_rate() / rate as f64)
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
                "round-trip-ms": millis(self.shape.round_trip),
                "bytes-per-second": (self.shape.rate < u64::MAX).then_some(self.shape.rate),
            },
            "readers": self.readers,
            "machines": self.machines.map(|accelerator| json!({
                "accelerator": accelerator, "written-bytes": written(&self.verified.pivoted),
            })),
            "first-byte-seconds": self.figures.first_byte.as_secs_f64(),
            "full-copy": { "seconds": self.full_copy.took.as_secs_f64(), "measured": self.full_copy.measured },
            "fetched": { "link-bytes": self.figures.link_bytes, "hole-bytes": self.figures.holes },
            "fill": {
                "seconds": self.figures.fill.took.as_secs_f64(), "bytes-per-second": self.fill_rate(),
                "link-share": self.link_share(),
            },
            "cold-read-ms": self.figures.cold.to_json(),
            "restart": self.figures.restart.to_json(),
            "verified": {
                "bytes": bytes(&self.verified.cached), "pivoted-bytes": bytes(&self.verified.pivoted),
                "wrong-bytes": self.wrong(),
            },
            "seconds": self.took.as_secs_f64(),
        })
    }
}

/// The table.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let restart = ("served again after kill -9", self.figures.restart.again());
        let cost = ("the kill cost", self.figures.restart.price());
        let rows = [self.first_byte_row(), self.left_row(), ("holes fetched", mib(self.figures.holes))];
        let rows = rows.into_iter().chain([self.fill_row(), self.read_row(), restart, cost]);
        for (name, value) in rows.chain(self.last_rows()) {
            writeln!(f, "  {name:<28}{value}")?;
        }
        Ok(())
    }
}

type Row = (&'static str, String);

impl Report {
    fn first_byte_row(&self) -> Row {
        let how = if self.full_copy.measured { "measured" } else { "computed" };
        let (first, full) = (self.figures.first_byte.as_secs_f64(), self.full_copy.took.as_secs_f64());
        let sooner = full / first.max(1e-9);
        (
            "time until usable",
            format!("{first:.3} s; with a full copy first {full:.2} s ({how}), {sooner:.0} x later"),
        )
    }

    fn left_row(&self) -> Row {
        let ratio = self.figures.link_bytes as f64 / self.allocated_granules.max(1) as f64;
        let (left, allocated) = (mib(self.figures.link_bytes), mib(self.allocated));
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
        let (took, rate) = (self.figures.fill.took.as_secs_f64(), self.fill_rate() / 1e6);
        ("fill", format!("{took:.2} s, {rate:.1} MB/s{share}"))
    }

    fn read_row(&self) -> Row {
        let Latency { reads, p50, p99 } = self.figures.cold;
        let value = format!("p50 {:.1} ms, p99 {:.1} ms ({reads} reads)", millis(p50), millis(p99));
        ("cold reads while filling", value)
    }

    fn last_rows(&self) -> Vec<Row> {
        let who = if self.machines.is_some() { "guests" } else { "readers" };
        let verified = |list: &[Compared]| {
            format!("{} by {} {who}, {} bytes wrong", mib(bytes(list)), list.len(), wrong(list))
        };
        let mut rows = vec![
            ("verified, no repository", verified(&self.verified.cached)),
            ("verified, no host either", verified(&self.verified.pivoted)),
        ];
        if let Some(accelerator) = self.machines {
            let value =
                format!("{} machines of QEMU (-accel {accelerator}), booted from their disks", self.readers);
            rows.push(("the readers were guests", value));
            let found = mib(written(&self.verified.pivoted));
            rows.push((
                "written by guests",
                format!("{found} to their own disks, found there after the pivot"),
            ));
        }
        rows.push(("all of it", format!("{:.1} s", self.took.as_secs_f64())));
        rows
    }

    fn wrong(&self) -> u64 {
        wrong(&self.verified.cached) + wrong(&self.verified.pivoted) + self.figures.wrong
    }
}

fn wrong(list: &[Compared]) -> u64 {
    list.iter().map(|compared| compared.wrong).sum()
}

fn bytes(list: &[Compared]) -> u64 {
    list.iter().map(|compared| compared.bytes).sum()
}

fn written(list: &[Compared]) -> u64 {
    list.iter().map(|compared| compared.written).sum()
}

fn with_headers(bytes: u64) -> u64 {
    bytes + bytes / 100 + OVERHEAD
}

pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::super::restart::Restart;
    use super::*;

    const RESTART: Restart = Restart {
        percent: 40,
        left: 3 << 20,
        kept: 2 << 20,
        last_second: 1 << 20,
        served: Some(Duration::ZERO),
    };

    fn good() -> Report {
        let all = Compared { bytes: 10 << 20, wrong: 0, written: 0 };
        Report {
            image: "i".to_owned(),
            size: 10 << 20,
            allocated: 4 << 20,
            allocated_granules: 5 << 20,
            shape: Shape { round_trip: Duration::from_millis(10), rate: 25_000_000 },
            readers: 2,
            machines: None,
            full_copy: FullCopy { took: Duration::from_secs(1), measured: true },
            figures: Figures {
                first_byte: Duration::from_millis(50),
                link_bytes: 6 << 20,
                holes: 0,
                fill: Fill { took: Duration::from_secs(1), link_bytes: 5 << 20 },
                cold: Latency::default(),
                restart: RESTART,
                wrong: 0,
            },
            verified: Verified { cached: vec![all; 2], pivoted: vec![all; 2] },
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
        told(&|r| r.figures.wrong = 1, "1 wrong bytes while");
        told(&|r| r.verified.cached[1].wrong = 7, "7 wrong bytes without the repository");
        told(&|r| r.verified.pivoted[0].wrong = 8, "8 wrong bytes without the host");
        told(&|r| r.verified.cached[1].bytes -= 1, "only 1 of 2 readers");
        told(&|r| r.verified.pivoted.truncate(1), "only 1 of 2 readers");
        told(&|r| r.figures.link_bytes = with_headers(6 << 20) + r.flying() + 1, "left the repository");
        told(&|r| r.figures.restart.left += with_headers(WINDOW) + r.flying(), "the kill of the host cost");
        told(&|r| r.figures.holes = 1, "1 bytes of holes");
        told(&|r| r.figures.restart.served = None, "served again");
        let guests = |r: &mut Report| {
            r.machines = Some("tcg");
            r.verified.cached.iter_mut().chain(&mut r.verified.pivoted).for_each(|c| c.written = GRANULE);
        };
        told(
            &|r| {
                guests(r);
                r.verified.pivoted[1].written = 0;
            },
            "1 guests did not find what they had written without the host",
        );
    }
}
