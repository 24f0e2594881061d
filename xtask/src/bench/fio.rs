//! The client: fio's nbd engine, one connection.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// One way to load a server.
#[derive(Clone, Copy)]
pub(super) struct Test {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: u32,
    /// Client and server share one CPU, which takes the luck of placement out of wake-ups.
    pub(super) pinned: bool,
    /// The export is read-only, as a cache's is.
    pub(super) read_only: bool,
}

impl Test {
    /// Whether it reads.
    pub(super) fn is_read(&self) -> bool {
        self.pattern.ends_with("read")
    }
}

const RANDOM_READS: Test = Test {
    name: "rr4k-d16",
    title: "4 KiB random reads, depth 16",
    pattern: "randread",
    block: "4k",
    depth: 16,
    pinned: false,
    read_only: false,
};

/// All tests; the only list of them.
pub(super) const TESTS: &[Test] = &[
    Test {
        name: "rr4k-d1-pinned",
        title: "4 KiB random reads, depth 1, one CPU",
        depth: 1,
        pinned: true,
        ..RANDOM_READS
    },
    RANDOM_READS,
    Test { name: "rr4k-d64", title: "4 KiB random reads, depth 64", depth: 64, ..RANDOM_READS },
    Test {
        name: "sr128k-d4",
        title: "128 KiB sequential reads, depth 4, read-only",
        pattern: "read",
        block: "128k",
        depth: 4,
        read_only: true,
        ..RANDOM_READS
    },
    Test {
        name: "sr1m-d4",
        title: "1 MiB sequential reads, depth 4, read-only",
        pattern: "read",
        block: "1m",
        depth: 4,
        read_only: true,
        ..RANDOM_READS
    },
    Test { name: "rw4k-d16", title: "4 KiB random writes, depth 16", pattern: "randwrite", ..RANDOM_READS },
];

/// What one run of one test gave.
#[derive(Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) requests: f64,
    pub(super) iops: f64,
    /// 10^6 bytes per second.
    pub(super) mbps: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Of the server, per request.
    pub(super) cpu_us: f64,
}

/// Runs `test` against `uri`; the server's CPU time is left for the caller to fill in.
pub(super) fn run(uri: &str, test: &Test, seconds: u32, folder: &Path) -> Result<Figures, String> {
    let mut command = if test.pinned { on_one_cpu("fio") } else { Command::new("fio") };
    command.args(["--name=bench", "--ioengine=nbd", "--time_based", "--norandommap", "--randrepeat=0"]);
    command.args([
        "--output-format=json".to_owned(),
        format!("--uri={uri}"),
        format!("--rw={}", test.pattern),
    ]);
    command.args([
        format!("--bs={}", test.block),
        format!("--iodepth={}", test.depth),
        format!("--runtime={seconds}"),
    ]);
    let output = command.current_dir(folder).output().map_err(|error| format!("fio: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("fio: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    figures(&text, test.is_read()).ok_or_else(|| format!("fio: cannot read its answer: {text}"))
}

fn figures(text: &str, is_read: bool) -> Option<Figures> {
    // fio puts notes before its JSON.
    let json: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let side = &json["jobs"][0][if is_read { "read" } else { "write" }];
    let percentile_us = |name: &str| side["clat_ns"]["percentile"][name].as_f64().map(|ns| ns / 1e3);
    Some(Figures {
        requests: side["total_ios"].as_f64().filter(|&requests| requests > 0.0)?,
        iops: side["iops"].as_f64()?,
        mbps: side["bw_bytes"].as_f64()? / 1e6,
        p50_us: percentile_us("50.000000")?,
        p99_us: percentile_us("99.000000")?,
        cpu_us: 0.0,
    })
}

/// `program` on the last CPU that we may use.
pub(super) fn on_one_cpu(program: &str) -> Command {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or("0");
    let last = allowed.rsplit([',', '-']).next().unwrap_or("0").trim();
    let mut command = Command::new("taskset");
    command.args(["-c", last, program]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let side = r#"{"total_ios": 10, "iops": 5.5, "bw_bytes": 22528, "clat_ns": {"percentile": {"50.000000": 9000, "99.000000": 12500}}}"#;
        let text = format!("note\n{{\"jobs\": [{{\"read\": {side}, \"write\": {{\"total_ios\": 0}}}}]}}");
        let read = figures(&text, true).expect("a whole answer");
        assert_eq!((read.requests, read.iops, read.p50_us, read.p99_us), (10.0, 5.5, 9.0, 12.5));
        assert!(figures(&text, false).is_none());
        assert!(figures("fio: failed", true).is_none());
    }
}
