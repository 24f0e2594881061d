//! What the fuzzer starts from, where it would take long to find it by itself: small images made by qemu-img, and
//! words.
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
/// Other inputs, by target.
const WORDS: &[(&str, &[&[u8]])] = &[
    ("nbd_uri", &[b"nbd://host:10810/a%20b", b"nbd+unix:///x?socket=/run/s", b"nbd://[::1]/"]),
    (
        "img_name",
        &[
            b"\0nbd://h/e",
            b"\x01json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"x\"}}",
            b"\x02driver=qcow2,file.filename=a,,b",
        ],
    ),
    ("img_options", &[b"size=1M,backing_file=a,,b,extended_l2,refcount_bits=0x10"]),
    ("img_size", &[b"1.5G", b"0x10", b"-1"]),
    ("qcow2_own_extensions", &[br#"{"quota":1048576,"source":"nbd://h/x"}"#, &[1; 32]]),
    ("qcow2_name", &[br#"json:{"driver":"nbd","server":{"type":"unix","path":"/s"}}"#, b"../base.raw"]),
    (
        "pond_records",
        &[
            br#"{"version":1,"source":"/s","identity":"i","stated":null,"mode":"complete","size":1}"#,
            br#"{"version":1,"overlay":"/o","image":"i","identity":"i","size":1,"pivoted":false}"#,
        ],
    ),
    // An entry that owns its cluster, one of zeros, and a compressed one.
    ("qcow2_entries", &[b"\0\x80\0\0\0\0\0\x0e\0\0\0\0\0\0\0\0\x01\x40\0\0\0\0\0\x0e\0"]),
];
/// The disk: a few clusters of bytes that compress, between holes.
const DISK_BYTES: usize = 64 << 10;

/// Puts images for `target` into `corpus`, unless they are there.
pub(super) fn plant(target: &str, corpus: &Path) -> Result<(), String> {
    for (number, bytes) in WORDS.iter().filter(|(of, _)| *of == target).flat_map(|(_, all)| *all).enumerate()
    {
        let seed = corpus.join(format!("seed-{number}"));
        fs::write(&seed, bytes).map_err(|error| format!("{}: {error}", seed.display()))?;
    }
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
            let richer = corpus.join(format!("seed-{index}-{kind}-rich"));
            if seed.exists() && !richer.exists() {
                enrich(&seed, &richer)?;
            }
        }
    }
    fs::remove_file(&disk).map_err(|error| format!("{}: {error}", disk.display()))
}

/// A copy with a snapshot, and a bitmap where it can have one.
fn enrich(seed: &Path, richer: &Path) -> Result<(), String> {
    fs::copy(seed, richer).map_err(|error| format!("{}: {error}", richer.display()))?;
    for change in [["snapshot", "-c", "one"], ["bitmap", "--add", "one"]] {
        let mut command = Command::new("qemu-img");
        let name = change.last().filter(|_| change[0] == "bitmap");
        let options = if name.is_some() { &change[..2] } else { &change[..] };
        command.args(options).arg(richer).args(name);
        // Images of version 2 have no bitmaps.
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
    Ok(())
}

fn convert(options: &str, compress: Option<&str>, disk: &Path, seed: &Path) {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "raw", "-O", "qcow2", "-o", options]).args(compress).args([disk, seed]);
    // Without qemu-img, or with one that lacks an option, there is one seed less.
    if !command.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("no seed with {options}: qemu-img cannot make it");
    }
}
