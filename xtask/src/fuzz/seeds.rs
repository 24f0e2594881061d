//! What the fuzzer starts from, where it would take long to find it by itself: small images made by qemu-img.
//!
//! Invariant: seeds only help; without qemu-img the fuzzer starts from nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Targets whose input is an image.
const IMAGE_TARGETS: &[&str] = &["qcow2_check", "qcow2_header", "qcow2_tables"];
/// Options of the images, all with a small disk.
const IMAGES: &[&str] = &[
    "compat=0.10,cluster_size=512",
    "compat=1.1,cluster_size=512",
    "compat=1.1,cluster_size=4k,compression_type=zstd",
    "compat=1.1,cluster_size=16k,extended_l2=on",
];
/// The disk: a few clusters of bytes that compress, between holes.
const DISK_BYTES: usize = 64 << 10;

/// Puts images for `target` into `corpus`, unless they are there.
pub(super) fn plant(target: &str, corpus: &Path) -> Result<(), String> {
    if !IMAGE_TARGETS.contains(&target) {
        return Ok(());
    }
    let disk = corpus.join("seed-disk");
    let mut bytes = vec![0; DISK_BYTES];
    bytes.chunks_mut(6 << 10).step_by(3).for_each(|run| run.fill(b'x'));
    fs::write(&disk, bytes).map_err(|error| format!("{}: {error}", disk.display()))?;
    for (index, options) in IMAGES.iter().enumerate() {
        for (kind, compress) in [("plain", None), ("compressed", Some("-c"))] {
            let seed = corpus.join(format!("seed-{index}-{kind}"));
            if !seed.exists() {
                convert(options, compress, &disk, &seed);
            }
        }
    }
    fs::remove_file(&disk).map_err(|error| format!("{}: {error}", disk.display()))
}

fn convert(options: &str, compress: Option<&str>, disk: &Path, seed: &Path) {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", "qcow2", "-o", options]).args(compress).args([disk, seed]);
    // Without qemu-img, or with one that lacks an option, there is one seed less.
    if !command.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("no seed with {options}: qemu-img cannot make it");
    }
}
