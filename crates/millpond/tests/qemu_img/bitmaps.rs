//! Persistent bitmaps bound how long a disk may become: one that is longer than the format allows nobody opens.

use crate::lab::{self, Lab};

const LONG: &str = "3T";
const WHY: &str = "bitmap 'fine' cannot cover 3298534883328 bytes";

/// An image with a bitmap whose granules are the smallest: 2 TiB are the most that it can cover.
fn marked(lab: &Lab, name: &str) {
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", name, "64M"]);
    lab.ok("qemu-io", &["-c", "write -q -P 7 1M 64k", name]);
    lab.ok("qemu-img", &["bitmap", "--add", "-g", "512", name, "fine"]);
}

/// That `arguments` are refused because of the bitmap, and leave every byte of the image as it is.
fn refused(lab: &Lab, name: &str, arguments: &[&str]) {
    let before = std::fs::read(lab.path(name)).unwrap();
    let said = lab.fails("millpond", &[&["img"], arguments].concat());
    assert!(said.contains(WHY) && said.contains("remove it first"), "{arguments:?}: {said}");
    assert!(before == std::fs::read(lab.path(name)).unwrap(), "{arguments:?} has changed the image");
    lab.ok("qemu-img", &["check", "-q", name]);
}

#[test]
fn a_disk_grows_no_longer_than_its_bitmaps_can_cover() {
    let test = "a_disk_grows_no_longer_than_its_bitmaps_can_cover";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    marked(&lab, "disk.qcow2");
    refused(&lab, "disk.qcow2", &["resize", "disk.qcow2", LONG]);
    refused(&lab, "disk.qcow2", &["amend", "-f", "qcow2", "-o", "size=3T", "disk.qcow2"]);
    lab.ok("millpond", &["img", "bitmap", "--remove", "disk.qcow2", "fine"]);
    lab.ok("millpond", &["img", "resize", "-q", "disk.qcow2", LONG]);
    lab.ok("qemu-img", &["check", "-q", "disk.qcow2"]);
}

#[test]
fn a_longer_overlay_is_not_committed_into_an_image_whose_bitmaps_end_before() {
    let test = "a_longer_overlay_is_not_committed_into_an_image_whose_bitmaps_end_before";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    marked(&lab, "base.qcow2");
    let over = ["-b", "base.qcow2", "-F", "qcow2"];
    lab.ok("qemu-img", &[&["create", "-q", "-f", "qcow2"], &over[..], &["top.qcow2", LONG]].concat());
    lab.ok("qemu-io", &["-c", "write -q -P 9 2M 64k", "top.qcow2"]);
    refused(&lab, "base.qcow2", &["commit", "-f", "qcow2", "top.qcow2"]);
    lab.ok("qemu-io", &["-c", "read -q -P 9 2M 64k", "-c", "read -q -P 7 1M 64k", "top.qcow2"]);
}

/// No QEMU tool opens such an image.
#[test]
fn a_table_that_is_too_long_is_told_and_can_be_removed() {
    let test = "a_table_that_is_too_long_is_told_and_can_be_removed";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    marked(&lab, "disk.qcow2");
    let mut bytes = std::fs::read(lab.path("disk.qcow2")).unwrap();
    // The entry's name follows 24 bytes, of which four at 8 are the length of its table.
    let name = bytes.windows(4).rposition(|found| found == b"fine").unwrap();
    bytes[name - 16..name - 12].copy_from_slice(&255_u32.to_be_bytes());
    std::fs::write(lab.path("disk.qcow2"), bytes).unwrap();
    assert!(lab.fails("qemu-img", &["check", "disk.qcow2"]).contains("Could not read bitmap 'fine'"));
    for check in [&["img", "check", "disk.qcow2"][..], &["img", "check", "-r", "all", "disk.qcow2"]] {
        let output = lab.run("millpond", check);
        assert_eq!(output.status.code(), Some(2), "{}", lab::said(&output));
        assert!(
            lab::said(&output).contains("bitmap 'fine': its table has 255 entries"),
            "{}",
            lab::said(&output)
        );
    }
    lab.ok("millpond", &["img", "bitmap", "--remove", "disk.qcow2", "fine"]);
    lab.ok("millpond", &["img", "check", "-q", "-r", "all", "disk.qcow2"]);
    lab.ok("qemu-img", &["check", "-q", "disk.qcow2"]);
}

/// A snapshot is deleted by one of the last flushes; what the close could not store after it is lost, and is told of.
#[test]
fn bitmaps_that_a_close_could_not_store_are_told_of() {
    let test = "bitmaps_that_a_close_could_not_store_are_told_of";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    marked(&lab, "before.qcow2");
    lab.ok("qemu-img", &["snapshot", "-c", "one", "before.qcow2"]);
    lab.ok("qemu-io", &["-c", "write -q -P 9 1M 64k", "before.qcow2"]);
    let mut lost = 0;
    for nth in 1.. {
        std::fs::copy(lab.path("before.qcow2"), lab.path("disk.qcow2")).unwrap();
        let image = format!(
            "driver=qcow2,file.driver=fault,file.rules.0.op=flush,file.rules.0.nth={nth},file.file.driver=file,file.file.filename=disk.qcow2"
        );
        let output = lab.run("millpond", &["img", "snapshot", "-d", "one", "--image-opts", &image]);
        let (well, told) = (output.status.success(), lab::said(&output));
        let shown = lab.ok("qemu-img", &["info", "disk.qcow2"]);
        assert!(!well || !shown.contains("one "), "{nth}: {told}{shown}");
        if told.is_empty() {
            assert!(well && !shown.contains("in-use"), "{nth}: {shown}");
            break;
        }
        lost += usize::from(well);
        lab.ok("qemu-img", &["check", "-q", "-r", "leaks", "disk.qcow2"]);
    }
    assert!(lost > 0, "no flush was of the close alone");
}
