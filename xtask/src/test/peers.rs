//! The programs and libraries that the interop tests talk to, and where Debian or PyPI has them.
//!
//! Invariant: a peer that cannot be had is named, and never makes the run fail; its tests skip by name.

use std::fmt;
use std::path::Path;

use super::step::Output;
use super::{apt, python};

/// What tests look for.
#[derive(PartialEq, Debug)]
pub(super) enum Peer {
    /// A program in PATH, and the Debian package that has it.
    Program { name: &'static str, package: &'static str },
    /// A module of Python, and the package of PyPI that has it.
    Module { name: &'static str, package: &'static str },
}

const fn peer(name: &'static str, package: &'static str) -> Peer {
    Peer::Program { name, package }
}

impl Peer {
    fn package(&self) -> &'static str {
        let (Self::Program { package, .. } | Self::Module { package, .. }) = self;
        package
    }

    fn is_here(&self, root: &Path) -> bool {
        match self {
            Self::Program { name, .. } => is_in_path(name),
            Self::Module { name, .. } => python::knows(root, name),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { name, package } => write!(f, "{name} (Debian package {package})"),
            Self::Module { name, package } => write!(f, "{name} (Python package {package})"),
        }
    }
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
    peer("filefrag", "e2fsprogs"),
    peer("mkfs.xfs", "xfsprogs"),
    peer("mkfs.btrfs", "btrfs-progs"),
    Peer::Module { name: "qemu.qmp", package: "qemu.qmp" },
];

/// Installs what is missing where it may, and says what is.
pub(super) fn prepare(root: &Path, may_install: bool) -> Output {
    let lacking = missing(root);
    if may_install {
        install("Debian's", &packages(&lacking, |peer| matches!(peer, Peer::Program { .. })), apt::install);
        let from_pypi = packages(&lacking, |peer| matches!(peer, Peer::Module { .. }));
        install("Python's", &from_pypi, |packages| python::install(root, packages));
    }
    let missing = missing(root);
    println!("{} of {} peers are here", PEERS.len() - missing.len(), PEERS.len());
    for peer in &missing {
        println!("missing peer: {peer}");
    }
    Output::of(true)
}

/// The packages of those peers that `which` names, once each.
fn packages(peers: &[&'static Peer], which: impl Fn(&Peer) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<_> = peers.iter().filter(|peer| which(peer)).map(|peer| peer.package()).collect();
    packages.dedup();
    packages
}

fn install(whose: &str, packages: &[&str], how: impl Fn(&[&str]) -> Result<(), String>) {
    if packages.is_empty() {
        return;
    }
    if let Err(error) = how(packages) {
        println!("cannot install {whose} {}: {error}", packages.join(", "));
    }
}

/// Peers that are not here.
pub(super) fn missing(root: &Path) -> Vec<&'static Peer> {
    PEERS.iter().filter(|peer| !peer.is_here(root)).collect()
}

/// Whether `program` can be run by its name; the system folders count, since root's PATH has them.
fn is_in_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.any(|folder| Path::new(folder).join(program).is_file())
}
