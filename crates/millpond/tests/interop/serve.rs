//! `millpond serve`: a folder of images, seen by other people's clients.

use std::os::unix::fs::symlink;

use crate::lab::{Lab, Server, said, wait_for};

fn create(lab: &Lab, name: &str, backing: Option<(&str, &str)>) {
    let mut arguments = vec!["create", "-q", "-f", "qcow2"];
    if let Some((file, format)) = backing {
        arguments.extend(["-u", "-b", file, "-F", format]);
    }
    arguments.extend([name, "1M"]);
    lab.ok("qemu-img", &arguments);
}

#[test]
fn images_are_exports_by_their_names() {
    let Some(lab) =
        Lab::new("images_are_exports_by_their_names", &["qemu-img", "qemu-io", "nbdinfo", "nbdcopy"])
    else {
        return;
    };
    std::fs::create_dir_all(lab.path("images/os/.hidden")).unwrap();
    lab.image("images/disk.raw", 2 << 20);
    lab.image("images/notes.txt", 100);
    lab.image("images/os/.hidden/x.raw", 100);
    lab.qcow2("images/disk.raw", "images/os/base.qcow2");
    create(&lab, "images/os/over.qcow2", Some(("base.qcow2", "qcow2")));
    lab.ok("qemu-io", &["-f", "qcow2", "-c", "write -P 7 64k 64k", "images/os/over.qcow2"]);
    let mut server = Server::folder(&lab, "images", &[]);
    let listed = lab.ok("nbdinfo", &["--list", "--json", &server.uri()]);
    let exports: Vec<_> =
        listed.lines().filter_map(|line| line.trim().strip_prefix("\"export-name\": ")).collect();
    assert_eq!(exports, ["\"disk.raw\",", "\"os/base.qcow2\",", "\"os/over.qcow2\","]);
    for (name, format) in [("disk.raw", "raw"), ("os/base.qcow2", "qcow2"), ("os/over.qcow2", "qcow2")] {
        let image = format!("images/{name}");
        lab.ok("qemu-img", &["compare", "-f", format, "-F", "raw", &image, &server.uri_of(name)]);
        assert!(lab.ok("nbdinfo", &["--json", &server.uri_of(name)]).contains("millpond-id:mtime="));
    }
    // It notices what comes, goes and changes.
    lab.image("images/late.img", 4096);
    assert_eq!(lab.ok("nbdinfo", &["--size", &server.uri_of("late.img")]).trim(), "4096");
    lab.image("images/late.img", 8192);
    assert_eq!(lab.ok("nbdinfo", &["--size", &server.uri_of("late.img")]).trim(), "8192");
    std::fs::remove_file(lab.path("images/late.img")).unwrap();
    assert!(!lab.run("nbdinfo", &[&server.uri_of("late.img")]).status.success());
    // Writers are told that it is read-only.
    assert_eq!(lab.ok("nbdinfo", &["--is", "read-only", &server.uri_of("disk.raw")]), "");
    assert!(server.stop().success());
}

#[test]
fn what_somebody_writes_to_is_not_served() {
    let Some(lab) = Lab::new("what_somebody_writes_to_is_not_served", &["nbdinfo"]) else { return };
    std::fs::create_dir(lab.path("images")).unwrap();
    lab.image("images/disk.raw", 4096);
    let mut writer = Server::start(&lab, &["-f", "raw", "images/disk.raw"]);
    let mut server = Server::folder(&lab, "images", &[]);
    assert!(!lab.run("nbdinfo", &[&server.uri_of("disk.raw")]).status.success());
    wait_for("the operator is told", || server.told().contains("Failed to get shared \"write\" lock"));
    assert!(writer.stop().success());
    assert_eq!(lab.ok("nbdinfo", &["--size", &server.uri_of("disk.raw")]).trim(), "4096");
    assert!(server.stop().success());
}

#[test]
fn nothing_outside_of_the_folder_is_served() {
    let Some(lab) = Lab::new("nothing_outside_of_the_folder_is_served", &["qemu-img", "nbdinfo"]) else {
        return;
    };
    std::fs::create_dir(lab.path("images")).unwrap();
    lab.image("secret.raw", 4096);
    symlink(lab.path("secret.raw"), lab.path("images/link.raw")).unwrap();
    symlink(lab.path(""), lab.path("images/up")).unwrap();
    for (name, backing) in
        [("rel", "../secret.raw"), ("abs", &lab.name("secret.raw")), ("through", "up/secret.raw")]
    {
        create(&lab, &format!("images/{name}.qcow2"), Some((backing, "raw")));
    }
    create(&lab, "images/remote.qcow2", Some(("nbd://localhost/x", "raw")));
    let mut server = Server::folder(&lab, "images", &[]);
    for name in [
        "link.raw",
        "up/secret.raw",
        "../secret.raw",
        "/etc/passwd",
        "rel.qcow2",
        "abs.qcow2",
        "through.qcow2",
        "remote.qcow2",
        "absent.raw",
        "images",
        "",
    ] {
        let output = lab.run("nbdinfo", &[&server.uri_of(&name.replace("..", "%2e%2e"))]);
        assert!(!output.status.success(), "'{name}' is served: {}", said(&output));
    }
    wait_for("the operator is told", || server.told().matches("a request has failed").count() >= 6);
    assert!(server.told().contains("'link.raw' leads out of"), "{}", server.told());
    assert!(server.stop().success());
}

#[test]
fn a_mistake_is_one_line() {
    let lab = Lab::new("a_mistake_is_one_line", &[]).unwrap();
    lab.image("file.raw", 100);
    for (arguments, words) in [
        (&["none"][..], &["'none'", "check the name"][..]),
        (&["file.raw"], &["'file.raw'", "no folder", "millpond nbd"]),
        (&[".", "--listen", "nonsense"], &["tcp://HOST:PORT"]),
        (&[".", "--format", "vmdk"], &["raw and qcow2", "leave out --format"]),
        (
            &[".", "--listen", "unix:/nowhere/at/all"],
            &["bind socket to /nowhere/at/all:", "make its directory"],
        ),
        (&[".", "--listen", "tcp://192.0.2.1:0"], &["bind socket to 192.0.2.1:0:", "with --listen"]),
        (&[".", "--listen", "unix:s", "--pid-file", "none/pid"], &["'none/pid'", "make its directory"]),
        (
            &[".", "--listen", "unix:s", "--listen", "unix:none/s"],
            &["bind socket to none/s:", "make its directory"],
        ),
    ] {
        let told = lab.fails("millpond", &[&["serve"], arguments].concat());
        assert_eq!(told.lines().count(), 1, "{told}");
        words.iter().for_each(|word| assert!(told.contains(word), "{arguments:?}: no '{word}' in: {told}"));
        // Once is enough.
        assert_eq!(told.matches(words[0]).count(), 1, "{told}");
        assert!(!lab.path("s").exists());
    }
}
