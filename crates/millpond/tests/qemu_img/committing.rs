//! A commit where qemu-img is no example.

use crate::lab::{self, Lab};

/// qemu-img writes over what the image below holds: it opens it for reading, so that it is not repaired.
#[test]
fn an_image_whose_counts_are_late_is_repaired_before_it_is_written() {
    let test = "an_image_whose_counts_are_late_is_repaired_before_it_is_written";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "base", "4M"]);
    // It ends before the counts are written.
    let cut = lab.run("qemu-io", &["-c", "write -q -P 1 0 1M", "-c", "flush", "-c", "sigraise 9", "base"]);
    assert!(!cut.status.success());
    assert!(!lab.run("qemu-img", &["check", "-q", "base"]).status.success(), "the counts are late");
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "over"]);
    lab.ok("qemu-io", &["-c", "write -q -P 2 2M 1M", "over"]);
    lab.ok("millpond", &["img", "commit", "-q", "-f", "qcow2", "over"]);
    lab.ok("qemu-img", &["check", "-q", "base"]);
    for (byte, at) in [("1", "0"), ("2", "2M")] {
        let read = lab.ok("qemu-io", &["-r", "-c", &format!("read -P {byte} {at} 1M"), "base"]);
        assert!(!format!("{read:?}").contains("failed"), "{at}: {read:?}");
    }
}

#[test]
fn a_full_disk_leaves_both_images_whole() {
    let test = "a_full_disk_leaves_both_images_whole";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base", "64M"]);
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "over"]);
    lab.ok("qemu-io", &["-c", "write -q -P 7 0 8M", "over"]);
    // A limit on the length of files stands for a disk without room; who is told so by a signal ignores it.
    let commit = |program: &str| {
        let output = lab
            .run("bash", &["-c", &format!("trap '' XFSZ; ulimit -f 4096; {program} commit -f qcow2 over")]);
        assert_eq!(output.status.code(), Some(1));
        lab::said(&output)
    };
    let (theirs, ours) = (commit("qemu-img"), commit("millpond img"));
    let said = |program: &str, text: &str| text.starts_with(&format!("{program}: Block job failed: "));
    assert!(said("qemu-img", &theirs) && theirs.ends_with(": File too large\n"), "{theirs}");
    assert!(
        said("millpond img", &ours) && ours.contains("file 'base'") && ours.ends_with(": File too large\n"),
        "{ours}"
    );
    for image in ["base", "over"] {
        // 3 is of leaks.
        assert!(matches!(lab.run("qemu-img", &["check", "-q", image]).status.code(), Some(0 | 3)), "{image}");
    }
    let read = lab.ok("qemu-io", &["-r", "-c", "read -P 7 0 8M", "over"]);
    assert!(!format!("{read:?}").contains("failed"), "{read:?}");
}
