//! The programs that the interop tests talk to, and where Debian has them.
//!
//! Invariant: a peer that cannot be had is named, and never makes the run fail; its tests skip by name.

use super::apt;
use super::step::Output;
use std::path::Path;

/// A program that tests look for in PATH.
#[derive(PartialEq, Debug)]
pub(super) struct Peer {
    pub(super) program: &'static str,
    pub(super) package: &'static str,
}

const fn peer(program: &'static str, package: &'static str) -> Peer {
    Peer { program, package }
}

const PEERS: &[Peer] = &[
    peer("qemu-img", "qemu-utils"),
    peer("qemu-io", "qemu-utils"),
    peer("qemu-nbd", "qemu-utils"),
    peer("qemu-storage-daemon", "qemu-utils"),
    peer("qemu-system-x86_64", "qemu-system-x86"),
    peer("nbdkit", "nbdkit"),
    peer("nbdinfo", "libnbd-bin"),
    peer("nbdcopy", "libnbd-bin"),
    peer("nbdsh", "python3-libnbd"),
    peer("fio", "fio"),
    peer("nbd-server", "nbd-server"),
    peer("mke2fs", "e2fsprogs"),
];

/// Installs what is missing where it may, and says what is.
pub(super) fn prepare(may_install: bool) -> Output {
    let mut packages: Vec<&str> = missing().iter().map(|peer| peer.package).collect();
    packages.dedup();
    if !packages.is_empty() && may_install {
        match apt::install(&packages) {
            Ok(()) => {}
            Err(error) => println!("cannot install {}: {error}", packages.join(", ")),
        }
    }
    let missing = missing();
    println!("{} of {} peers are here", PEERS.len() - missing.len(), PEERS.len());
    for peer in &missing {
        println!("missing peer: {} (Debian package {})", peer.program, peer.package);
    }
    Output::of(true)
}

/// Peers that are not in PATH.
pub(super) fn missing() -> Vec<&'static Peer> {
    PEERS.iter().filter(|peer| !is_in_path(peer.program)).collect()
}

/// Whether `program` can be run by its name; the system folders count, since root's PATH has them.
fn is_in_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.any(|folder| Path::new(folder).join(program).is_file())
}
