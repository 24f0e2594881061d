//! What cannot be served: one line with the name and the remedy, and exit status 1.

use crate::lab::{Lab, MILLPOND, Server, said};

/// Runs `millpond nbd`, which must refuse in one line; returns the line.
fn refused(lab: &Lab, options: &[&str]) -> String {
    let told = lab.fails(MILLPOND, &[&["nbd", "-k", &lab.name("socket")], options].concat());
    assert_eq!(told.lines().count(), 1, "{options:?}: {told}");
    assert!(told.starts_with("millpond: "), "{options:?}: {told}");
    assert!(!lab.path("socket").exists(), "{options:?}: it leaves its socket behind");
    told
}

fn check(lab: &Lab, options: &[&str], parts: &[&str]) {
    let told = refused(lab, options);
    for part in parts {
        assert!(told.contains(part), "{options:?}: no '{part}' in: {told}");
    }
}

/// Options, and what the line must name: the thing and the remedy.
const MISTAKES: &[(&[&str], &[&str])] = &[
    (&["-f", "raw", "missing.img"], &["'missing.img'", "No such file", "check the name"]),
    (&["missing.img"], &["'missing.img'", "No such file", "check the name"]),
    (&["-f", "raw", "/"], &["'/'", "directory", "name a file in it"]),
    (&["-f", "raw"], &["no image given", "--help"]),
    (&["-f", "bochs2", "disk.img"], &["'disk.img'", "Unknown driver 'bochs2'"]),
    (&["-f", "raw", "disk.img", "other.img"], &["'other.img'", "--help"]),
    (&["--no-such-option", "disk.img"], &["'--no-such-option'", "--help"]),
    (&["--cach=none", "disk.img"], &["'--cach'", "'--cache'"]),
    (&["--cache=bogus", "disk.img"], &["'bogus'", "writeback"]),
    (&["--aio=bogus", "disk.img"], &["'bogus'", "threads"]),
    (&["--discard=bogus", "disk.img"], &["'bogus'", "unmap"]),
    (&["-n", "--cache=none", "disk.img"], &["--nocache", "--cache"]),
    (&["-p", "70000", "disk.img"], &["'70000'", "--port"]),
    (&["-e", "many", "disk.img"], &["'many'", "--shared"]),
    (&["-o", "1k", "disk.img"], &["'1k'", "--offset"]),
    (&["-f", "raw", "-o", "99999999", "disk.img"], &["99999999", "size", "'disk.img'"]),
    (&["-f", "raw", "--detect-zeroes=unmap", "disk.img"], &["detect-zeroes", "discard"]),
    (&["--image-opts", "-f", "raw", "driver=raw"], &["--image-opts", "--format"]),
    (&["--image-opts", "driver=raw"], &["driver=raw", "\"file\""]),
    (&["--image-opts", "driver=file,filename=disk.img,bogus=1"], &["disk.img", "bogus"]),
    (&["--image-opts", "driver=file,=x"], &["Invalid parameter"]),
    (&["json:{\"driver\": "], &["JSON"]),
    (&["--object", "throttle-group", "disk.img"], &["'id'"]),
    (&["--object", "no-such-kind,id=a", "disk.img"], &["no-such-kind"]),
    (&["-f", "raw", "--pid-file", "/no/such/file", "disk.img"], &["'/no/such/file'", "--pid-file"]),
    (&["-f", "qcow2", "-r", "disk.img"], &["'disk.img'", "qcow2"]),
    (&["image.qcow2"], &["'image.qcow2'", "-f qcow2"]),
    (&["-f", "raw", "-k", "/no/such/directory/socket", "disk.img"], &["/no/such/directory/socket"]),
    (&["-f", "raw", "--threads", "x", "disk.img"], &["'x'", "--threads"]),
    (&["--allow-dir", "relative", "-f", "raw", "disk.img"], &["'relative'", "absolute"]),
];

#[test]
fn mistakes_are_named_in_one_line() {
    let Some(lab) = Lab::new("mistakes_are_named_in_one_line", &["qemu-img"]) else { return };
    lab.image("disk.img", 1 << 20);
    lab.qcow2("disk.img", "image.qcow2");
    for (options, parts) in MISTAKES {
        check(&lab, options, parts);
        // In the background the parent must tell and fail just so.
        check(&lab, &[&["--fork"], *options].concat(), parts);
    }
}

#[test]
fn files_that_may_not_be_read_are_named() {
    let lab = Lab::on(std::path::Path::new("/tmp")).open_to_all();
    lab.image("disk.img", 1 << 20);
    // A place where anybody can run it.
    std::fs::copy(MILLPOND, lab.path("program")).unwrap();
    lab.ok("chmod", &["0", "disk.img"]);
    let program = lab.name("program");
    let serve = [&*program, "nbd", "-f", "raw", "-k", "socket", "disk.img"];
    let output = match lab.ok("id", &["-u"]).trim() == "0" {
        true => {
            lab.run("setpriv", &[&["--reuid=65534", "--regid=65534", "--clear-groups"], &serve[..]].concat())
        }
        false => lab.run(serve[0], &serve[1..]),
    };
    let told = said(&output);
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(
        told.contains("'disk.img'") && told.contains("Permission denied") && told.contains("allow"),
        "{told}"
    );
}

#[test]
fn sockets_that_are_busy_are_named_and_left_alone() {
    let Some(lab) = Lab::new("sockets_that_are_busy_are_named_and_left_alone", &["nbdinfo"]) else { return };
    lab.image("disk.img", 1 << 20);
    let options = ["-f", "raw", "-r", "-e", "2", "disk.img"];
    let unix = Server::start(&lab, &options);
    check(
        &lab,
        &[&["-k", unix.socket()], &options[..]].concat(),
        &[unix.socket(), "stop it", "another path"],
    );
    lab.ok("nbdinfo", &[&unix.uri()]);
    let tcp = Server::tcp(&lab, &options);
    let port = tcp.uri().trim_end_matches('/').rsplit(':').next().unwrap().to_owned();
    let again = ["nbd", "-f", "raw", "-r", "-b", "127.0.0.1", "-p", &port, "disk.img"];
    let told = lab.fails(MILLPOND, &again);
    assert!(told.lines().count() == 1 && told.contains(&port) && told.contains("another port"), "{told}");
    std::fs::write(lab.path("file"), "no socket").unwrap();
    check(&lab, &["-f", "raw", "-r", "-k", &lab.name("file"), "disk.img"], &["is no socket", "remove it"]);
    assert_eq!(std::fs::read(lab.path("file")).unwrap(), b"no socket");
}

/// Locks are QEMU's, in both directions.
#[test]
fn one_writer_or_many_readers() {
    let Some(lab) = Lab::new("one_writer_or_many_readers", &["qemu-nbd", "qemu-img", "qemu-io"]) else {
        return;
    };
    lab.image("disk.img", 1 << 20);
    lab.qcow2("disk.img", "image.qcow2");
    let (writes, reads) = (["-f", "qcow2", "image.qcow2"], ["-f", "qcow2", "-r", "image.qcow2"]);
    {
        let _theirs = Server::qemu(&lab, &writes);
        check(&lab, &writes, &["image.qcow2", "lock"]);
        check(&lab, &reads, &["image.qcow2", "lock"]);
    }
    {
        let _ours = Server::start(&lab, &writes);
        check(&lab, &writes, &["image.qcow2", "lock"]);
        locked(&lab, "qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "image.qcow2", "copy.img"]);
        locked(&lab, "qemu-io", &["-f", "qcow2", "-c", "write 0 512", "image.qcow2"]);
    }
    let _ours = Server::start(&lab, &reads);
    let _theirs = Server::qemu(&lab, &reads);
    let _more = Server::start(&lab, &reads);
    locked(&lab, "qemu-io", &["-f", "qcow2", "-c", "write 0 512", "image.qcow2"]);
}

/// Raw images have no tables: QEMU lets several servers write to one. What is only served for reading, we keep still.
#[test]
fn raw_images_have_many_writers_or_none() {
    let Some(lab) = Lab::new("raw_images_have_many_writers_or_none", &["qemu-nbd", "qemu-img", "qemu-io"])
    else {
        return;
    };
    lab.image("disk.img", 1 << 20);
    let (writes, reads) = (["-f", "raw", "disk.img"], ["-f", "raw", "-r", "disk.img"]);
    {
        let _theirs = Server::qemu(&lab, &writes);
        let _ours = Server::start(&lab, &writes);
        let _theirs_again = Server::qemu(&lab, &writes);
        let _reader = Server::start(&lab, &reads);
        lab.ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", "disk.img", "disk.img"]);
        lab.ok("qemu-io", &["-f", "raw", "-c", "write 0 512", "disk.img"]);
        // Exports need its size to stay as it is, and copies all of it.
        locked(&lab, "qemu-img", &["resize", "-f", "raw", "disk.img", "2M"]);
        locked(&lab, "qemu-img", &["convert", "-f", "raw", "-O", "raw", "disk.img", "copy.img"]);
    }
    let _ours = Server::start(&lab, &reads);
    let _theirs = Server::qemu(&lab, &reads);
    check(&lab, &writes, &["disk.img", "\"write\" lock"]);
}

/// A program of QEMU's is refused what others exclude.
fn locked(lab: &Lab, program: &str, arguments: &[&str]) {
    let output = lab.run(program, arguments);
    assert!(!output.status.success() && said(&output).contains("lock"), "{program}: {}", said(&output));
}

/// What is done to a good qcow2 image: a place and the bytes put there, or a length to cut it to.
enum Harm {
    Put(u64, &'static [u8]),
    Cut(u64),
}

const HARMED: &[(&str, Harm)] = &[
    ("no magic", Harm::Put(0, b"QQQQ")),
    ("version 9", Harm::Put(4, &[0, 0, 0, 9])),
    ("clusters of 2^63 bytes", Harm::Put(20, &[0, 0, 0, 63])),
    ("a size of 2^63", Harm::Put(24, &[0x80, 0, 0, 0, 0, 0, 0, 0])),
    ("an L1 table of 4 Gi entries", Harm::Put(36, &[0xff; 4])),
    ("an L1 table beyond the end", Harm::Put(40, &[0x7f, 0, 0, 0, 0, 0, 0, 0])),
    ("an L1 table between clusters", Harm::Put(40, &[0, 0, 0, 0, 0, 3, 0, 9])),
    ("an unknown incompatible feature", Harm::Put(72, &[0x40, 0, 0, 0, 0, 0, 0, 0])),
    ("encryption", Harm::Put(32, &[0, 0, 0, 1])),
    ("a header of 4 GiB", Harm::Put(100, &[0xff; 4])),
    ("nothing in it", Harm::Cut(0)),
    ("half of a header", Harm::Cut(50)),
    ("no tables", Harm::Cut(65536)),
];

#[test]
fn broken_qcow2_images_are_named() {
    use std::os::unix::fs::FileExt as _;
    let Some(lab) = Lab::new("broken_qcow2_images_are_named", &["qemu-img"]) else { return };
    lab.image("disk.img", 1 << 20);
    for (what, harm) in HARMED {
        lab.qcow2("disk.img", "image.qcow2");
        let file = std::fs::File::options().write(true).open(lab.path("image.qcow2")).unwrap();
        match harm {
            Harm::Put(at, bytes) => file.write_all_at(bytes, *at).unwrap(),
            Harm::Cut(len) => file.set_len(*len).unwrap(),
        }
        println!("{what}");
        check(&lab, &["-f", "qcow2", "-r", "image.qcow2"], &["image.qcow2"]);
    }
}

#[test]
fn chains_that_lead_nowhere_are_named() {
    let Some(lab) = Lab::new("chains_that_lead_nowhere_are_named", &["qemu-img"]) else { return };
    std::fs::create_dir(lab.path("inside")).unwrap();
    let overlay = |name: &str, base: &str| {
        lab.ok("qemu-img", &["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", base, name, "1M"]);
    };
    overlay("a.qcow2", "b.qcow2");
    overlay("b.qcow2", "a.qcow2");
    check(&lab, &["-f", "qcow2", "-r", "a.qcow2"], &["a.qcow2"]);
    overlay("self.qcow2", "a.qcow2");
    lab.ok("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "self.qcow2", "self.qcow2"]);
    check(&lab, &["-f", "qcow2", "-r", "self.qcow2"], &["self.qcow2"]);
    overlay("orphan.qcow2", "missing.qcow2");
    check(&lab, &["-f", "qcow2", "-r", "orphan.qcow2"], &["missing.qcow2", "No such file"]);
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base.qcow2", "1M"]);
    overlay("inside/top.qcow2", "../base.qcow2");
    let (inside, top) = (lab.name("inside"), ["-f", "qcow2", "-r", "inside/top.qcow2"]);
    check(&lab, &[&["--allow-dir", &inside], &top[..]].concat(), &["base.qcow2", "allow", &inside]);
    let mut allowed = Server::start(&lab, &[&["--allow-dir", &lab.name("")], &top[..]].concat());
    assert!(allowed.stop().success());
}
