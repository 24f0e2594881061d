//! What is spoiled on purpose, so that tests see that it is noticed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use block::{BlockError, ErrorKind, Result};

use super::repository::Shelved;

/// Changes a byte in the middle of a file.
pub(super) fn spoil(path: &Path) -> Result<()> {
    change(path, |file| {
        let (at, mut byte) = (file.metadata()?.len() / 2, [0]);
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1], at)
    })
}

/// Makes a qcow2 forget all that it holds: clears its L1 table.
pub(super) fn forget(path: &Path) -> Result<()> {
    change(path, |file| {
        let (mut entries, mut table) = ([0; 4], [0; 8]);
        file.read_exact_at(&mut entries, 36)?;
        file.read_exact_at(&mut table, 40)?;
        let bytes = vec![0; u32::from_be_bytes(entries) as usize * 8];
        file.write_all_at(&bytes, u64::from_be_bytes(table))
    })
}

/// Makes the image another one, by what its repository says.
pub(super) fn touch(shelved: &Shelved) -> Result<()> {
    match shelved {
        Shelved::File { folder, name, .. } => {
            change(&folder.join(name), |file| file.set_modified(SystemTime::UNIX_EPOCH))
        }
        Shelved::Elsewhere(_) => {
            Err(BlockError::new(ErrorKind::Unsupported, "the image lies with another server"))
        }
    }
}

fn change(path: &Path, how: impl Fn(&File) -> std::io::Result<()>) -> Result<()> {
    let changed = File::options().read(true).write(true).open(path).and_then(|file| how(&file));
    changed.map_err(|e| BlockError::system(format!("cannot spoil '{}'", path.display()), e))
}
