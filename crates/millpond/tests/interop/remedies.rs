//! What cannot be served says so in one line, with its name and what to do about it, and exit status 1.

use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;

use crate::lab::{Lab, MILLPOND, Server, said};

/// Options, and what the line must hold: the name, and a word of the remedy.
type Mistake = (&'static [&'static str], &'static [&'static str]);

const IMAGES: &[Mistake] = &[
    (&["-f", "qcow2", "locked.qcow2"], &["Failed to get", "[locked.qcow2]?", "Stop the program"]),
    (
        &["-f", "qcow2", "-r", "locked.qcow2"],
        &["Failed to get shared", "[locked.qcow2]?", "Stop the program"],
    ),
    (&["-f", "bochs2", "disk.img"], &["'disk.img'", "Unknown driver 'bochs2'", "use one of", "qcow2", "raw"]),
    (&["-f", "raw", "fifo"], &["'fifo'", "neither a regular file nor a block device", "name a disk image"]),
    (&["-f", "raw", "/dev/null"], &["'/dev/null'", "name a disk image"]),
    (&["-f", "raw", "-r", "/proc/version"], &["'/proc/version'", "name a disk image"]),
    (&["-f", "raw", "-o", "99999999", "disk.img"], &["'disk.img'", "99999999", "smaller offset"]),
    (&["-f", "qcow2", "-r", "luks.qcow2"], &["'luks.qcow2'", "encrypted", "qemu-img convert"]),
    (&["-f", "qcow2", "-r", "feature.qcow2"], &["'feature.qcow2'", "feature(s)", "qemu-img convert"]),
    (&["-f", "qcow2", "-r", "disk.img"], &["'disk.img'", "not a qcow2 image", "-f"]),
    (&["-f", "qcow2", "-r", "orphan.qcow2"], &["'orphan.qcow2'", "'gone.qcow2'", "check the name"]),
    (
        &["-f", "raw", "--aio=native", "disk.img"],
        &[
            "'disk.img'",
            "aio=native was specified, but it requires cache.direct=on, which was not specified.",
            "--cache=none",
        ],
    ),
    (&["-f", "raw", "new\nline.img"], &["'new\\nline.img'", "check the name"]),
    (&["-f", "raw", "\u{1b}[2Jdisk.img"], &["'\\u{1b}[2Jdisk.img'", "check the name"]),
    (&["-f", "raw\nraw", "disk.img"], &["'raw\\nraw'", "use one of"]),
];

const OPTIONS: &[Mistake] = &[
    (
        &["--pid-file", "no/pid", "-k", "socket", "disk.img"],
        &["'no/pid'", "--pid-file", "make its directory"],
    ),
    (&["-k", "/no/such/socket", "disk.img"], &["bind socket to /no/such/socket:", "make its directory"]),
    (&["-k", "/no\nsuch/socket", "disk.img"], &["bind socket to /no\\nsuch/socket:", "make its directory"]),
    (
        &["-b", "192.0.2.1", "-p", "0", "disk.img"],
        &["bind socket to 192.0.2.1:0:", "address of this machine"],
    ),
    (
        &["-b", "no.such.host.invalid", "disk.img"],
        &["bind socket to no.such.host.invalid:10809:", "check the name"],
    ),
    (&["-k", "busy.sock", "disk.img"], &["bind socket to busy.sock:", "stop it or use another path"]),
    (&["-e", "-1", "disk.img"], &["'-1'", "--shared", "give 0"]),
    (&["--shared=-1", "disk.img"], &["'-1'", "--shared", "give 0"]),
    (&["-o", "-1", "disk.img"], &["'-1'", "--offset", "give a number"]),
    (&["-o", "-1k", "disk.img"], &["'-1k'", "--offset", "give a number"]),
    (&["-p", "-1", "disk.img"], &["'-1'", "--port", "0..=65535"]),
    (&["--object", "rng,id=r", "disk.img"], &["--object rng,id=r", "use one of", "throttle-group"]),
    (&["--object", "secret,data=w", "disk.img"], &["--object secret:", "add id=NAME"]),
    (&["--object", "secret,id=0,data=w", "disk.img"], &["--object secret,id=0", "use a letter"]),
    (
        &["--object", "secret,id=s,file=/no/word", "disk.img"],
        &["--object secret,id=s", "/no/word", "check the name"],
    ),
    (
        &["--object", "throttle-group,id=t,x-iops-total=few", "disk.img"],
        &["id=t", "x-iops-total", "give a number"],
    ),
    (&["--object", "throttle-group,id=t,few=1", "disk.img"], &["id=t", "'few'", "leave it out"]),
    (
        &["--object", "secret,id=s,data=w", "--object", "secret,id=s,data=v", "disk.img"],
        &["id=s", "of its own"],
    ),
];

fn one_line(told: &str, options: &[&str], parts: &[&str]) {
    assert!(told.starts_with("millpond: ") && told.ends_with('\n'), "{options:?}: {told}");
    assert_eq!(told.lines().count(), 1, "{options:?}: {told}");
    assert!(!told.trim_end().contains(char::is_control), "{options:?}: {told:?}");
    parts.iter().for_each(|part| assert!(told.contains(part), "{options:?}: no '{part}' in: {told}"));
    assert!(!told.contains("tip:"), "{options:?}: {told}");
    // Once is enough.
    assert!(
        parts[0].len() < 6 || told.matches(parts[0].trim_matches('\'')).count() == 1,
        "{options:?}: {told}"
    );
}

fn check(lab: &Lab, options: &[&str], parts: &[&str]) {
    for first in [&["nbd"][..], &["nbd", "--fork"]] {
        one_line(&lab.fails(MILLPOND, &[first, options].concat()), options, parts);
    }
}

fn images(lab: &Lab) {
    lab.image("disk.img", 1 << 20);
    lab.ok("mkfifo", &["fifo"]);
    let secret = ["--object", "secret,id=s,data=word", "-o", "encrypt.format=luks,encrypt.key-secret=s"];
    let fast = ["-o", "encrypt.iter-time=10"];
    lab.ok(
        "qemu-img",
        &[&["create", "-q", "-f", "qcow2"], &secret[..], &fast, &["luks.qcow2", "1M"]].concat(),
    );
    lab.qcow2("disk.img", "locked.qcow2");
    lab.qcow2("disk.img", "feature.qcow2");
    let file = std::fs::File::options().write(true).open(lab.path("feature.qcow2")).unwrap();
    file.write_all_at(&[0x40], 72).unwrap();
    let backed =
        ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "gone.qcow2", "orphan.qcow2", "1M"];
    lab.ok("qemu-img", &backed);
}

#[test]
fn images_that_cannot_be_served_say_what_to_do() {
    let Some(lab) = Lab::new("images_that_cannot_be_served_say_what_to_do", &["qemu-img", "qemu-nbd"]) else {
        return;
    };
    images(&lab);
    let _theirs = Server::qemu(&lab, &["-f", "qcow2", "locked.qcow2"]);
    let socket = lab.name("socket");
    IMAGES.iter().for_each(|(options, parts)| check(&lab, &[&["-k", &socket], *options].concat(), parts));
}

#[test]
fn options_that_make_no_sense_say_what_to_do() {
    let lab = Lab::new("options_that_make_no_sense_say_what_to_do", &[]).unwrap();
    lab.image("disk.img", 1 << 20);
    let _busy = std::os::unix::net::UnixListener::bind(lab.path("busy.sock")).unwrap();
    OPTIONS.iter().for_each(|(options, parts)| check(&lab, &[&["-f", "raw"], *options].concat(), parts));
}

#[test]
fn names_that_are_not_utf8_say_what_to_do() {
    let lab = Lab::new("names_that_are_not_utf8_say_what_to_do", &[]).unwrap();
    let name = std::ffi::OsString::from_vec(b"caf\xe9.img".to_vec());
    std::fs::write(lab.path("").join(&name), [0; 512]).unwrap();
    let output =
        lab.command(MILLPOND).args(["nbd", "-f", "raw", "-k", "socket"]).arg(&name).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    one_line(&said(&output), &["caf"], &["'caf\\xe9.img'", "rename it"]);
}

/// With -r already given there is no sense in naming it.
#[test]
fn a_backing_file_that_may_not_be_read_is_named() {
    let test = "a_backing_file_that_may_not_be_read_is_named";
    if !crate::lab::is_there("qemu-img") {
        return crate::lab::skip(test, "qemu-img");
    }
    let lab = Lab::on(std::path::Path::new("/tmp")).open_to_all();
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base.qcow2", "top.qcow2"]);
    lab.ok("chmod", &["644", "top.qcow2"]);
    lab.ok("chmod", &["0", "base.qcow2"]);
    // A place where anybody can run it.
    std::fs::copy(MILLPOND, lab.path("program")).unwrap();
    let program = lab.name("program");
    let serve = [&*program, "nbd", "-f", "qcow2", "-r", "-k", "socket", "top.qcow2"];
    let output = match lab.ok("id", &["-u"]).trim() == "0" {
        true => {
            lab.run("setpriv", &[&["--reuid=65534", "--regid=65534", "--clear-groups"], &serve[..]].concat())
        }
        false => lab.run(serve[0], &serve[1..]),
    };
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = said(&output);
    one_line(&told, &serve, &["'base.qcow2'", "'top.qcow2'", "Permission denied", "allow this user"]);
    assert!(!told.contains("-r"), "{told}");
}
