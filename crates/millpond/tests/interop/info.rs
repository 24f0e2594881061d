//! What clients are told before they read: as qemu-nbd tells it.

use crate::lab::{Lab, Server};

const NEEDS: &[&str] = &["nbdinfo", "qemu-nbd", "qemu-img"];

/// Lines of `nbdinfo --json` in which we differ from qemu-nbd, and why.
const EXPLAINED: &[(&str, &str)] = &[("\"uri\":", "the two servers have different sockets")];

/// Options that change what clients see.
const CASES: &[&[&str]] = &[
    &["-f", "raw", "raw.img"],
    &["-f", "raw", "-e", "4", "raw.img"],
    &["-f", "raw", "-e", "0", "raw.img"],
    &["-f", "raw", "-r", "raw.img"],
    &["-f", "raw", "-r", "-e", "4", "raw.img"],
    &["-f", "raw", "-o", "65536", "-x", "part", "-D", "without its beginning", "raw.img"],
    &["-f", "raw", "--cache=writethrough", "raw.img"],
    &["-f", "raw", "--cache=none", "raw.img"],
    &["-f", "raw", "--discard=unmap", "--detect-zeroes=unmap", "raw.img"],
    &["-f", "qcow2", "-r", "image.qcow2"],
    &["-f", "qcow2", "-r", "-e", "4", "top.qcow2"],
    &["-r", "--image-opts", "driver=qcow2,file.driver=file,file.filename=top.qcow2"],
    &["-r", "--image-opts", "driver=qcow2,file.filename=top.qcow2,read-only"],
    &["-r", "json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"top.qcow2\"}}"],
];

fn images(lab: &Lab) {
    lab.image("raw.img", 4 << 20);
    lab.qcow2("raw.img", "image.qcow2");
    let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "image.qcow2", "top.qcow2"];
    lab.ok("qemu-img", &create);
    lab.ok("qemu-io", &["-c", "write -P 5 100k 300k", "-c", "write -z 1M 1M", "top.qcow2"]);
}

fn export(options: &[&str]) -> &'static str {
    if options.contains(&"-x") { "part" } else { "" }
}

/// What `nbdinfo` with this option prints of both servers, line by line.
fn both(lab: &Lab, options: &[&str], option: &str) -> [Vec<String>; 2] {
    [Server::start, Server::qemu].map(|start| {
        let server = start(lab, options);
        let text = lab.ok("nbdinfo", &[option, &server.uri_of(export(options))]);
        text.lines().map(|line| line.trim().to_owned()).collect()
    })
}

fn is_explained(line: &str) -> bool {
    EXPLAINED.iter().any(|(start, _)| line.starts_with(start))
}

#[test]
fn flags_sizes_and_contexts_are_those_of_qemu_nbd() {
    let Some(lab) = Lab::new("flags_sizes_and_contexts_are_those_of_qemu_nbd", NEEDS) else { return };
    images(&lab);
    for options in CASES {
        let [ours, theirs] = both(&lab, options, "--json");
        assert_eq!(ours.len(), theirs.len(), "{options:?}: {ours:#?} {theirs:#?}");
        assert!(ours.iter().any(|line| line.contains("\"base:allocation\"")), "{ours:#?}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(ours == theirs || is_explained(ours), "{options:?}:\n ours   {ours}\n theirs {theirs}");
        }
    }
}

#[test]
fn maps_are_those_of_qemu_nbd() {
    let Some(lab) = Lab::new("maps_are_those_of_qemu_nbd", NEEDS) else { return };
    images(&lab);
    for options in CASES {
        let [ours, theirs] = both(&lab, options, "--map");
        assert!(ours.len() > 4, "{options:?}: {ours:#?}");
        assert_eq!(ours, theirs, "{options:?}");
    }
}

#[test]
fn a_list_shows_the_export_with_its_description() {
    let Some(lab) = Lab::new("a_list_shows_the_export_with_its_description", &["nbdinfo"]) else { return };
    lab.image("raw.img", 1 << 20);
    let server = Server::start(&lab, &["-f", "raw", "-x", "data", "-D", "a disk", "-e", "2", "raw.img"]);
    let list = lab.ok("nbdinfo", &["--list", "--json", &server.uri()]);
    assert!(list.contains("\"export-name\": \"data\"") && list.contains("\"a disk\""), "{list}");
    let refused = lab.run("nbdinfo", &[&server.uri_of("other")]);
    assert!(!refused.status.success());
}

/// The one difference in size: qemu-nbd rounds a raw file up to 512 bytes and shows zeros that are not there.
#[test]
fn a_file_of_odd_length_has_its_own_length() {
    let Some(lab) = Lab::new("a_file_of_odd_length_has_its_own_length", NEEDS) else { return };
    let bytes = lab.image("raw.img", 100_001);
    let ours = Server::start(&lab, &["-f", "raw", "-r", "-e", "2", "raw.img"]);
    assert_eq!(lab.ok("nbdinfo", &["--size", &ours.uri()]).trim(), "100001");
    lab.ok("nbdcopy", &[&ours.uri(), "copy.img"]);
    assert!(std::fs::read(lab.path("copy.img")).unwrap() == bytes);
    let theirs = Server::qemu(&lab, &["-f", "raw", "-r", "raw.img"]);
    assert_eq!(lab.ok("nbdinfo", &["--size", &theirs.uri()]).trim(), "100352");
}
