//! Runs a check over bytes in memory, and asks qemu-img about the same bytes.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use block::BlockError;
use qcow2::Header;
use qcow2::check::{Check, Found, Repair, Step};
use serde_json::Value;

/// What a check or a repair came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) found: Found,
    /// The first ones.
    pub(crate) lines: Vec<String>,
    /// All of them.
    pub(crate) all: Vec<String>,
    /// Whether something was not mended because it would have been written over something else.
    pub(crate) refused: bool,
}

/// Checks the image in `file`, writing to it what the repair writes.
pub(crate) fn check(file: &mut Vec<u8>, repair: Repair) -> Result<Outcome, BlockError> {
    let mut lines = Vec::new();
    let found = run(file, repair, &mut |line| lines.push(line))?;
    let refused = lines.iter().any(|line: &String| line.contains("cannot be repaired"));
    let all = lines.clone();
    lines.truncate(20);
    Ok(Outcome { found, lines, all, refused })
}

fn run(file: &mut Vec<u8>, repair: Repair, tell: &mut dyn FnMut(String)) -> Result<Found, BlockError> {
    let needed = Header::needed(file)?.min(file.len());
    let mut check = Check::new(&file[..needed], file.len() as u64, true, repair)?;
    loop {
        let writes = match check.step()? {
            Step::Read(ranges) => {
                let mut writes = Vec::new();
                for range in ranges {
                    check.take(&file[range.start() as usize..range.end() as usize])?;
                    writes.extend(check.drain_writes());
                }
                writes
            }
            Step::Write(writes) => writes,
            Step::Barrier | Step::Again => Vec::new(),
            Step::Done => break,
        };
        check.drain_lines().into_iter().for_each(&mut *tell);
        for (at, bytes) in writes {
            let end = at as usize + bytes.len();
            file.resize(file.len().max(end), 0);
            file[at as usize..end].copy_from_slice(&bytes);
        }
    }
    check.drain_lines().into_iter().for_each(&mut *tell);
    Ok(check.found())
}

/// What `qemu-img check` says of the image at `path`; `None` where it cannot check it. `args`: `-r all`, for example.
pub(crate) fn qemu(path: &Path, args: &[&str]) -> (Option<Found>, i32, String) {
    let mut command = Command::new("qemu-img");
    command.args(["check", "--output=json", "-f", "qcow2"]).args(args).arg(path);
    command.current_dir(path.parent().unwrap());
    let output = command.output().unwrap();
    let said: String =
        String::from_utf8_lossy(&output.stderr).lines().take(12).collect::<Vec<_>>().join("\n");
    let code = output.status.code().unwrap();
    let Ok(fields) = serde_json::from_slice::<HashMap<String, Value>>(&output.stdout) else {
        return (None, code, said);
    };
    let number = |name: &str| fields.get(name).and_then(Value::as_u64).unwrap_or(0);
    let found = Found {
        corruptions: number("corruptions"),
        leaks: number("leaks"),
        check_errors: number("check-errors"),
        corruptions_fixed: number("corruptions-fixed"),
        leaks_fixed: number("leaks-fixed"),
        total_clusters: number("total-clusters"),
        allocated_clusters: number("allocated-clusters"),
        fragmented_clusters: number("fragmented-clusters"),
        compressed_clusters: number("compressed-clusters"),
        image_end_offset: number("image-end-offset"),
    };
    (Some(found), code, said)
}
