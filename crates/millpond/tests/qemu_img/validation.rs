//! An overlay remembers what its backing file was, and warns or refuses when that has changed.

use crate::lab::{self, Lab};

const WARNING: &str = "its backing file 'base.raw' has changed";

/// An overlay on a raw file.
fn overlay(test: &str) -> Option<Lab> {
    let lab = Lab::new(test, &["qemu-img", "qemu-io"])?;
    lab.image("base.raw", 1 << 20);
    lab.ok("millpond", &["img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2"]);
    Some(lab)
}

/// What is told when the overlay is read.
fn told(lab: &Lab, policy: &str) -> (Option<i32>, String) {
    let options = format!("driver=qcow2,file.filename=over.qcow2,backing-validation={policy}");
    let output = lab.run("millpond", &["img", "map", "--output", "json", "--image-opts", &options]);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn is_silent(lab: &Lab) -> bool {
    ["off", "warn", "refuse"].iter().all(|policy| told(lab, policy) == (Some(0), String::new()))
}

fn is_told(lab: &Lab) -> bool {
    let (warned, refused) = (told(lab, "warn"), told(lab, "refuse"));
    let default = lab.run("millpond", &["img", "map", "-f", "qcow2", "over.qcow2"]);
    told(lab, "off") == (Some(0), String::new())
        && warned.0 == Some(0)
        && warned.1.contains(WARNING)
        && refused.0 == Some(1)
        && refused.1.contains(WARNING)
        && default.status.success()
        && lab::said(&default).contains(WARNING)
}

fn change(lab: &Lab) {
    // A later time, whatever the clock of the file system is.
    lab.ok("qemu-io", &["-f", "raw", "-c", "write -q -P 3 0 64k", "base.raw"]);
    lab.ok("touch", &["-d", "+1 hour", "base.raw"]);
}

#[test]
fn a_backing_file_that_changes_is_told_of() {
    let Some(lab) = overlay("a_backing_file_that_changes_is_told_of") else { return };
    assert!(is_silent(&lab), "{:?}", told(&lab, "warn"));
    lab.ok("qemu-img", &["check", "-q", "over.qcow2"]);
    change(&lab);
    assert!(is_told(&lab), "{:?} {:?}", told(&lab, "warn"), told(&lab, "refuse"));
    // It was meant: what it is now is noted.
    lab.ok("millpond", &["img", "rebase", "-u", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2"]);
    assert!(is_silent(&lab), "{:?}", told(&lab, "refuse"));
    lab.ok("qemu-img", &["check", "-q", "over.qcow2"]);
    // Our own writes to the overlay leave the note as it is.
    lab.ok("millpond", &["img", "bench", "-q", "-w", "-c", "3", "-f", "qcow2", "over.qcow2"]);
    change(&lab);
    assert!(is_told(&lab));
}

#[test]
fn foreign_writers_disarm_it() {
    let Some(lab) = overlay("foreign_writers_disarm_it") else { return };
    lab.ok("qemu-io", &["-f", "qcow2", "-c", "write -q -P 7 0 64k", "over.qcow2"]);
    change(&lab);
    assert!(is_silent(&lab), "{:?}", told(&lab, "warn"));
}

#[test]
fn another_backing_file_has_a_note_of_its_own() {
    let Some(lab) = overlay("another_backing_file_has_a_note_of_its_own") else { return };
    lab.ok("cp", &["base.raw", "other.raw"]);
    lab.ok("qemu-img", &["rebase", "-u", "-f", "qcow2", "-b", "other.raw", "-F", "raw", "over.qcow2"]);
    change(&lab);
    assert!(is_silent(&lab), "a foreign name has no note: {:?}", told(&lab, "warn"));
}

#[test]
fn a_commit_is_no_change_for_its_overlay() {
    let Some(lab) = overlay("a_commit_is_no_change_for_its_overlay") else { return };
    lab.ok("millpond", &["img", "bench", "-q", "-w", "-c", "3", "-f", "qcow2", "over.qcow2"]);
    lab.ok("touch", &["-d", "-1 hour", "base.raw"]);
    lab.ok("millpond", &["img", "rebase", "-u", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "over.qcow2"]);
    lab.ok("millpond", &["img", "commit", "-q", "-d", "-f", "qcow2", "over.qcow2"]);
    assert!(is_silent(&lab), "{:?}", told(&lab, "warn"));
    change(&lab);
    assert!(is_told(&lab));
    // Whoever commits over a change that nobody meant goes on being told.
    lab.ok("millpond", &["img", "commit", "-q", "-d", "-f", "qcow2", "over.qcow2"]);
    assert!(told(&lab, "refuse").1.contains(WARNING));
}
