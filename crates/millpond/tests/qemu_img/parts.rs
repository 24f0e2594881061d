//! Sizes. Of parts of raw files qemu-img shows the options in an order of its own, so that only the sizes are compared.

use crate::lab::Lab;

#[test]
fn info_shows_the_size_of_the_part() {
    let Some(lab) = Lab::new("info_shows_the_size_of_the_part", &["qemu-img"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "whole.raw", "1M"]);
    for part in ["size=64k,offset=64k", "offset=64k", "size=4k"] {
        let image = format!("driver=raw,{part},file.driver=file,file.filename=whole.raw");
        let size =
            |text: String| text.lines().find(|line| line.starts_with("virtual size")).map(str::to_owned);
        let theirs = size(lab.ok("qemu-img", &["info", "--image-opts", &image]));
        let ours = size(lab.ok("millpond", &["img", "info", "--image-opts", &image]));
        assert!(theirs.is_some() && theirs == ours, "{part}: {theirs:?} and {ours:?}");
    }
}

/// Of the very same files, once all of them is where it stays.
#[test]
fn disk_sizes_are_what_files_take() {
    let Some(lab) = Lab::new("disk_sizes_are_what_files_take", &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "data_file=data", "apart.qcow2", "4M"]);
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "disk.qcow2", "4M"]);
    for disk in ["apart.qcow2", "disk.qcow2"] {
        lab.ok("qemu-io", &["-f", "qcow2", "-c", "write -q -P 1 1M 700k", "-c", "write -q -P 1 3M 4k", disk]);
    }
    lab.ok("sync", &["data", "apart.qcow2", "disk.qcow2"]);
    for image in ["driver=qcow2,file.filename=apart.qcow2", "driver=qcow2,file.filename=disk.qcow2"] {
        for output in ["human", "json"] {
            let arguments = ["info", "--output", output, "--image-opts", image];
            let ours = lab.ok("millpond", &[&["img"], &arguments[..]].concat());
            assert_eq!(lab.ok("qemu-img", &arguments), ours, "{image}");
            assert!(ours.contains("disk size: ") || ours.contains("\"actual-size\": "), "{ours}");
        }
    }
}
