//! A commit where qemu-img is no example.

use crate::lab::Lab;

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
