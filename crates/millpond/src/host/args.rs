//! The command lines of the pond.
#![allow(rustdoc::broken_intra_doc_links, reason = "--help shows these texts: [] is what may be left out")]

use std::path::PathBuf;

use block::Result;
use clap::{Args, ValueEnum};
use io::folders::Owner;

use super::places::Places;
use super::pond::SOURCE_TIMEOUT;

/// Which pond.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// The folder of the pond [default: /var/lib/millpond for root, else millpond in $XDG_STATE_HOME].
    #[arg(long, value_name = "DIR")]
    pub(super) pond: Option<PathBuf>,
    /// The folder of its sockets [default: /run/millpond for root, else millpond in $XDG_RUNTIME_DIR].
    #[arg(long, value_name = "DIR")]
    pub(super) runtime: Option<PathBuf>,
}

impl Which {
    /// Where that is.
    pub(super) fn places(&self) -> Result<Places> {
        Places::of(self.pond.as_deref(), self.runtime.as_deref())
    }
}

/// Run the host daemon: it caches images, fills the caches in the background, and serves the disks of VMs from them.
///
/// It starts with nothing; `millpond clone` gives it work. When it is started again it finds its caches and clones by
/// itself, and VMs that were waiting go on. docs/manual/up.md has all of it.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Seconds that a read waits for a source that is lost; then it alone fails.
    #[arg(long, value_name = "SECONDS", default_value_t = SOURCE_TIMEOUT)]
    pub(super) source_timeout: u64,
    /// Local images may name files below this directory (may be repeated); without it they may name none.
    #[arg(long, value_name = "DIR")]
    pub(super) allow_dir: Vec<PathBuf>,
    /// Return once it is up, and go on in the background.
    #[arg(long)]
    pub(super) fork: bool,
    /// Write the daemon's process id to this file.
    #[arg(long, value_name = "PATH")]
    pub(super) pid_file: Option<PathBuf>,
}

/// Make a disk for a VM that can be used at once, while its image still lies far away.
///
/// SOURCE is nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH, or the path of an image (.qcow2, .raw, .img).
/// OVERLAY is the file to give to the VM, a qcow2. The first clone of a source makes the cache, others share it. With
/// no daemon running, one is started in the background. docs/manual/clone.md has all of it.
#[derive(Args, Debug)]
pub(crate) struct CloneArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// What to make a clone of.
    #[arg(value_name = "SOURCE")]
    pub(super) source: String,
    /// The file of the VM's disk; it must not exist.
    #[arg(value_name = "OVERLAY")]
    pub(super) overlay: PathBuf,
    /// Size of the disk, at least that of the image: bytes, or with K, M, G or T.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) size: Option<u64>,
    /// Whose OVERLAY shall be, by number: the user whose VM it is, where that is not the daemon's.
    #[arg(long, value_name = "USER:GROUP", value_parser = owner)]
    pub(super) owner: Option<Owner>,
    /// Overwrite OVERLAY if it exists.
    #[arg(long)]
    pub(super) force: bool,
    /// What the cache is to hold in the end.
    #[arg(long, value_enum, value_name = "MODE", default_value = "complete")]
    pub(super) mode: ModeArg,
    /// Most bytes that the cache's file shall take, with --mode working-set: what has no room is read from the source.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) quota: Option<u64>,
    /// Print what was made as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What a cache is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeArg {
    /// All of the image; then it needs its source no more.
    Complete,
    /// What was read, and no more.
    WorkingSet,
}

/// Show the images and clones of the pond.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Show how far the caches are, until interrupted.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// End when every image is complete.
    #[arg(long)]
    pub(super) until_complete: bool,
}

/// Make a VM's disk read the cache itself, so that it needs no daemon from now on. The VM must be off.
#[derive(Args, Debug)]
pub(crate) struct PivotArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// The disks.
    #[arg(value_name = "OVERLAY", required = true)]
    pub(super) overlays: Vec<PathBuf>,
}

/// Remove images that no clone uses, and their caches.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Names of images, as `millpond list` shows them.
    #[arg(value_name = "IMAGE", required = true)]
    pub(super) images: Vec<String>,
}

fn owner(text: &str) -> std::result::Result<Owner, String> {
    let parsed = text
        .split_once(':')
        .and_then(|(user, group)| Some(Owner { user: user.parse().ok()?, group: group.parse().ok()? }));
    let parsed = parsed.filter(|owner| owner.is_somebody());
    parsed.ok_or_else(|| {
        format!("'{text}' is no owner: two numbers, as in 1000:1000 ('id -u' and 'id -g' tell them)")
    })
}

fn size(text: &str) -> std::result::Result<u64, String> {
    let wrong = || format!("'{text}' is no size: a number, or one with K, M, G or T");
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match text[at..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_two_numbers() {
        assert_eq!(owner("1000:4294967294"), Ok(Owner { user: 1000, group: 4_294_967_294 }));
        for text in ["", "1000", "root:root", "1:", ":1", "1:2:3", "-1:0", "4294967296:0", "1000:4294967295"]
        {
            assert!(owner(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, bytes) in [("512", 512), ("1K", 1024), ("40G", 40 << 30), ("2t", 2 << 40)] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "G", "1.5G", "-1", "99999999T", "1X"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
