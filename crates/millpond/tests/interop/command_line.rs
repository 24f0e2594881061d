//! The command line is qemu-nbd's.

use crate::lab::{Lab, MILLPOND, Server};

/// Ways to say the same thing; all of them make the same export.
const SAME: &[&[&[&str]]] = &[
    &[
        &["-f", "raw", "disk.img"],
        &["--format=raw", "disk.img"],
        &["-fraw", "disk.img"],
        &["disk.img"],
        &["--image-opts", "driver=raw,file.driver=file,file.filename=disk.img"],
    ],
    &[&["-f", "raw", "-r", "disk.img"], &["-f", "raw", "--read-only", "disk.img"], &["disk.img", "-r"]],
    &[
        &["-o", "4096", "disk.img"],
        &["--offset=0x1000", "disk.img"],
        &["-o", "010000", "disk.img"],
        &["-o0X1000", "disk.img"],
        &["-o", "4096", "--image-opts", "driver=raw,file.driver=file,file.filename=disk.img"],
        &["--image-opts", "driver=raw,offset=4096,file.driver=file,file.filename=disk.img"],
    ],
    &[
        &["-e", "8", "disk.img"],
        &["--shared=8", "disk.img"],
        &["-e", "0x8", "disk.img"],
        &["-e", "0", "disk.img"],
    ],
    &[&["-x", "n", "-D", "d", "disk.img"], &["--export-name=n", "--description=d", "disk.img"]],
    &[
        &["-n", "disk.img"],
        &["--nocache", "disk.img"],
        &["--cache=none", "disk.img"],
        &["--cache", "none", "disk.img"],
    ],
    &[&["-x", "old", "-x", "n", "disk.img"], &["-x", "n", "disk.img"]],
];

#[test]
fn the_same_thing_in_other_words() {
    let Some(lab) = Lab::new("the_same_thing_in_other_words", &["nbdinfo"]) else { return };
    lab.image("disk.img", 1 << 20);
    for ways in SAME {
        let shown = ways.iter().map(|options| {
            let server = Server::start(&lab, options);
            let export = if options.iter().any(|o| *o == "n" || o.ends_with("=n")) { "n" } else { "" };
            let shown = lab.ok("nbdinfo", &["--json", &server.uri_of(export)]);
            shown.lines().filter(|line| !line.contains("\"uri\"")).collect::<String>()
        });
        let shown: Vec<_> = shown.collect();
        for (other, options) in shown.iter().zip(*ways).skip(1) {
            assert_eq!(&shown[0], other, "{:?} and {options:?}", ways[0]);
        }
    }
}

/// Options of qemu-nbd that we do not have yet, as they are given.
const NOT_YET: &[(&str, &[&str])] = &[
    ("--allocation-depth", &["-A", "disk.img"]),
    ("--bitmap", &["-B", "b0", "disk.img"]),
    ("--connect", &["-c", "/dev/nbd0", "disk.img"]),
    ("--disconnect", &["-d", "/dev/nbd0"]),
    ("--list", &["-L"]),
    ("--selinux-label", &["--selinux-label=l", "disk.img"]),
    ("--snapshot", &["-s", "disk.img"]),
    ("--tls-authz", &["--tls-authz=a", "disk.img"]),
    ("--tls-creds", &["--tls-creds=t", "disk.img"]),
    ("--tls-hostname", &["--tls-hostname=h", "disk.img"]),
    ("--trace", &["-T", "enable=*", "disk.img"]),
];

#[test]
fn what_is_not_there_yet_says_so_by_name() {
    let lab = Lab::new("what_is_not_there_yet_says_so_by_name", &[]).unwrap();
    lab.image("disk.img", 1 << 20);
    for (name, options) in NOT_YET {
        let told = lab.fails(MILLPOND, &[&["nbd"], *options].concat());
        assert_eq!(told, format!("millpond: '{name}' is not yet supported\n"));
    }
}

#[test]
fn every_option_of_qemu_nbd_is_known() {
    let Some(lab) = Lab::new("every_option_of_qemu_nbd_is_known", &["qemu-nbd"]) else { return };
    let help = lab.ok(MILLPOND, &["nbd", "--help"]);
    let theirs = lab.ok("qemu-nbd", &["--help"]);
    let words = |text: &str| {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').map(str::to_owned);
        words.filter(|word| word.starts_with("--") && word.len() > 2).collect::<Vec<_>>()
    };
    let (ours, theirs) = (words(&help), words(&theirs));
    assert!(theirs.len() > 30, "{theirs:?}");
    for option in theirs {
        let known = ours.contains(&option) || NOT_YET.iter().any(|(name, _)| *name == option);
        assert!(known, "{option} of qemu-nbd is neither in our help nor refused by name");
    }
    for part in ["Examples:", "-f qcow2", "docs/manual/millpond-nbd.md"] {
        assert!(help.contains(part), "{part}");
    }
}

#[test]
fn objects_are_there_for_options_to_name() {
    let Some(lab) = Lab::new("objects_are_there_for_options_to_name", &["qemu-io"]) else { return };
    lab.image("disk.img", 1 << 20);
    let group = "throttle-group,id=tg0,x-iops-total=10000";
    let node = "driver=throttle,throttle-group=tg0,file.driver=file,file.filename=disk.img";
    let objects = ["--object", group, "--object", "secret,id=s0,data=word", "--object", "iothread,id=t0"];
    let server = Server::start(&lab, &[&objects[..], &["--image-opts", node]].concat());
    lab.ok("qemu-io", &["-f", "raw", "-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k", &server.uri()]);
    let socket = lab.name("socket");
    let told = lab.fails(MILLPOND, &["nbd", "-k", &socket, "--image-opts", node]);
    assert!(told.contains("tg0") && told.lines().count() == 1, "{told}");
}
