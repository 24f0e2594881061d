//! What is stated of an image that lies in files, so that caches notice when it is another one: when each of its files
//! was last changed, and how long they are.

use std::path::PathBuf;

use block::{BlockError, Result};
use io::World;

/// Clients take a description that begins so for the version of an image.
const PREFIX: &str = "millpond-id:";
/// Clients and lists bound what is said; chains of more files are told by their front.
const FILES_MAX: usize = 64;

/// The description of an export whose image lies in these files.
pub(crate) async fn state(world: &dyn World, files: &[PathBuf]) -> Result<String> {
    let mut stated = String::from(PREFIX);
    for (number, path) in files.iter().take(FILES_MAX).enumerate() {
        let about = world.folders().about(path).await;
        let about =
            about.map_err(|e| BlockError::system(format!("cannot look at '{}'", path.display()), e))?;
        let (seconds, nanos) = (about.modified.as_secs(), about.modified.subsec_nanos());
        let comma = if number > 0 { "," } else { "" };
        stated.push_str(&format!("{comma}mtime={seconds}.{nanos:09}+size={}", about.len));
    }
    Ok(stated)
}
