//! Images that qemu-img makes, and checks when the battle is over.

use std::path::Path;
use std::process::Command;

use super::scene::{Image, SIZE};

/// What overlays cover: every third piece of this length.
const PIECE: usize = 128 << 10;

/// Whether qemu-img and qemu-io are there; says so when they are not.
pub fn can_be_made() -> bool {
    let there = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    let all = there("qemu-img") && there("qemu-io");
    if !all {
        println!("SKIPPED: qemu-img and qemu-io are not here, so no qcow2 image is put under fire");
    }
    all
}

impl Image {
    /// Makes it in `folder`; what it is to show are `bytes`.
    pub fn make(self, folder: &Path, bytes: &[u8]) {
        match self {
            Self::Chain => qcow2_chain(folder, bytes),
            Self::Cache => {
                let (path, size) = (folder.join("cache.qcow2").display().to_string(), SIZE.to_string());
                let over = ["-b", "base", "-F", "raw", "-o", "cluster_size=4096"];
                qemu("qemu-img", &[&["create", "-q", "-f", "qcow2"], &over[..], &[&path, &size]].concat());
            }
        }
    }

    /// Looks at its files in `folder`.
    pub fn check(self, folder: &Path) {
        for name in self.files() {
            let file = format!(
                "driver=qcow2,backing=,file.driver=file,file.filename={}",
                folder.join(name).display()
            );
            qemu("qemu-img", &["check", "-q", "--image-opts", &file]);
        }
    }
}

/// Makes a compressed `base.qcow2` and an overlay on it, `top.qcow2`, which together are the bytes given. Where the
/// overlay has the bytes, the base has others.
fn qcow2_chain(folder: &Path, bytes: &[u8]) {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut below = bytes.to_vec();
    below.chunks_mut(PIECE).step_by(3).for_each(|piece| piece.fill(0xbb));
    std::fs::write(path("below.raw"), below).unwrap();
    let (base, top) = (path("base.qcow2"), path("top.qcow2"));
    qemu("qemu-img", &["convert", "-c", "-f", "raw", "-O", "qcow2", &path("below.raw"), &base]);
    qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", &top]);
    for (at, piece) in bytes.chunks(PIECE).enumerate().step_by(3) {
        std::fs::write(path("piece"), piece).unwrap();
        let write = format!("write -q -s {} {} {}", path("piece"), at * PIECE, piece.len());
        qemu("qemu-io", &["-f", "qcow2", "-c", &write, &top]);
    }
    for name in ["below.raw", "piece"] {
        std::fs::remove_file(path(name)).unwrap();
    }
}

fn qemu(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output().unwrap();
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
