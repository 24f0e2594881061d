//! Rebases that qemu-img cannot be asked about: 10.0.2 ends with an assertion, or an image that reads differently.

use crate::lab::Lab;

/// The disk ends within a cluster, of which the overlay has but some subclusters.
#[test]
fn a_compressing_rebase_keeps_subclusters_of_the_last_cluster() {
    let test = "a_compressing_rebase_keeps_subclusters_of_the_last_cluster";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "base.raw", "256k"]);
    lab.ok("qemu-io", &["-f", "raw", "-c", "write -q -P 5 0 256k", "base.raw"]);
    let options = "extended_l2=on,backing_file=base.raw,backing_fmt=raw";
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", "229888"]);
    lab.ok("qemu-io", &["-c", "write -q -P 1 192k 4k", "-c", "write -q -P 2 64k 4k", "disk.qcow2"]);
    lab.ok("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "disk.qcow2", "before.raw"]);
    lab.ok("millpond", &["img", "rebase", "-c", "-f", "qcow2", "-b", "", "disk.qcow2"]);
    lab.ok("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", "disk.qcow2", "before.raw"]);
    lab.ok("qemu-img", &["check", "-q", "disk.qcow2"]);
}

/// What it does not have itself read as zeros, which version 2 cannot mark.
#[test]
fn zeros_of_version_2_hide_the_new_backing_image() {
    let test = "zeros_of_version_2_hide_the_new_backing_image";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "base.raw", "1M"]);
    lab.ok("qemu-io", &["-f", "raw", "-c", "write -q -P 5 0 1M", "base.raw"]);
    for (disk, options) in [("plain.qcow2", &[][..]), ("packed.qcow2", &["-c"])] {
        lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", disk, "1M"]);
        lab.ok("qemu-io", &["-c", "write -q -P 1 128k 4k", disk]);
        lab.ok("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", disk, "before.raw"]);
        let over = ["-f", "qcow2", "-b", "base.raw", "-F", "raw", disk];
        lab.ok("millpond", &[&["img", "rebase"], options, &over].concat());
        lab.ok("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", disk, "before.raw"]);
        lab.ok("qemu-img", &["check", "-q", disk]);
    }
}
