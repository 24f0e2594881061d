//! An ext4 image, by `mke2fs -d`.

use std::fs;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use block::{BlockError, ErrorKind, Result};

use super::super::worker::CallOff;
use super::files::Chosen;

/// It often lies where only root's PATH leads.
const PROGRAMS: [&str; 3] = ["mke2fs", "/usr/sbin/mke2fs", "/sbin/mke2fs"];

/// Makes the image; `None` when there is no mke2fs.
pub(super) fn make(
    files: &[Chosen],
    image: &Path,
    size: u64,
    staging: &Path,
    call_off: &CallOff,
) -> Result<Option<()>> {
    let Some(program) = PROGRAMS.into_iter().find(|program| is_there(program)) else { return Ok(None) };
    let failed = |what: &Path, error| BlockError::system(format!("cannot write '{}'", what.display()), error);
    for file in files {
        call_off.check()?;
        let copy = staging.join(&file.inside);
        if let Some(parent) = copy.parent() {
            fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
        }
        match fs::copy(&file.path, &copy) {
            // Gone or locked away since it was chosen.
            Err(e) if matches!(e.kind(), IoErrorKind::NotFound | IoErrorKind::PermissionDenied) => {}
            copied => drop(copied.map_err(|e| failed(&copy, e))?),
        }
    }
    run(program, image, size, staging, call_off)?;
    fs::remove_dir_all(staging).map_err(|e| failed(staging, e))?;
    Ok(Some(()))
}

fn is_there(program: &str) -> bool {
    Command::new(program)
        .arg("-V")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

fn run(program: &str, image: &Path, size: u64, staging: &Path, call_off: &CallOff) -> Result<()> {
    let failed = |error| BlockError::system(format!("cannot run '{program}'"), error);
    let mut command = Command::new(program);
    command.args(["-q", "-F", "-t", "ext4", "-L", "millpond", "-d"]).arg(staging).arg(image);
    command.arg(format!("{}k", size >> 10)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Killed(command.spawn().map_err(failed)?);
    let status = loop {
        call_off.check()?;
        match child.0.try_wait().map_err(failed)? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = &mut child.0.stderr {
        // What it said is better than nothing, and needs not be whole.
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let context = format!("'{program}' failed ({status}): {} (try --filesystem fat)", said.trim());
    Err(BlockError::new(ErrorKind::Io, context))
}

/// A child that is killed when nobody waits for it any more.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Ended already is just as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
