//! `millpond daemon`: qemu-storage-daemon's command line.

use crate::lab::{Lab, said};

#[test]
fn options_are_carried_out_in_their_order() {
    let lab = Lab::on(std::path::Path::new("/tmp"));
    let early = lab.fails(
        "millpond",
        &["daemon", "--blockdev", "null-co,node-name=n", "--export", "nbd,id=e,node-name=n"],
    );
    let told = "NBD server not running: put --nbd-server before it";
    assert_eq!(early, format!("millpond: --export nbd,id=e,node-name=n: {told}\n"));
    let late = lab.fails(
        "millpond",
        &["daemon", "--blockdev", "raw,node-name=r,file=n", "--blockdev", "null-co,node-name=n"],
    );
    assert!(late.contains("Cannot find device='n' nor node-name='n'"), "{late}");
}

#[test]
fn mistakes_are_one_line_that_names_them() {
    let lab = Lab::on(std::path::Path::new("/tmp"));
    lab.image("disk.img", 1 << 20);
    std::fs::create_dir(lab.path("folder")).unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--nope", "x"], &["'--nope' is no option of the daemon", "--help"]),
        (&["--blockdev"], &["'--blockdev' needs a value"]),
        (&["--blockdev", "null-co"], &["'node-name' must be specified for the root node", "add node-name"]),
        (&["--blockdev", "nope,node-name=n"], &["Unknown driver 'nope'", "use one of", "qcow2"]),
        (
            &["--blockdev", "{\"driver\": \"nope\", \"node-name\": \"n\"}"],
            &["does not accept value 'nope'", "use one of", "qcow2"],
        ),
        (&["--blockdev", "{]"], &["the JSON cannot be read", "write keys and values"]),
        (&["--blockdev", "file,node-name=f,filename=none"], &["'none'", "check the name"]),
        (&["--blockdev", "file,node-name=f,filename=folder"], &["'folder'", "name a"]),
        (&["--blockdev", "file,node-name=f,filename=disk.img,few=1"], &["'few'", "leave it out"]),
        (&["--blockdev", "raw,node-name=r,file=none"], &["'none'", "an option before it"]),
        (&["--monitor", "chardev=c"], &["chardev \"c\" not found", "--chardev before it"]),
        (&["--chardev", "stdio,id=c"], &["only a 'socket'"]),
        (&["--nbd-server", "addr.type=unix"], &["Parameter 'addr.data.path' is missing"]),
        (
            &["--nbd-server", "addr.type=unix,addr.path=/none/s"],
            &["bind socket to /none/s:", "make its directory"],
        ),
        (
            &["--nbd-server", "addr.type=inet,addr.host=192.0.2.1,addr.port=0"],
            &["bind socket to 192.0.2.1:0:", "addr.host"],
        ),
        (
            &["--chardev", "socket,id=c,path=/none/s,server=on", "--monitor", "c"],
            &["--monitor c", "bind socket to /none/s:", "make its directory"],
        ),
        (&["--object", "secret,id=s"], &["--object secret,id=s: Either 'file' or 'data' must be provided"]),
        (&["--object", "rng,id=s"], &["--object rng,id=s", "use one of", "throttle-group"]),
        (&["--pidfile", "none/pid"], &["'none/pid'", "--pidfile", "make its directory"]),
        (&["--pond", "p,runtime=r,few=1"], &["--pond p,runtime=r,few=1", "'few'", "leave it out"]),
        (&["--pond", "disk.img/p,runtime=r"], &["disk.img/p", "check the path"]),
    ];
    for (args, parts) in cases {
        let error = lab.fails("millpond", &[&["daemon"], *args].concat());
        assert!(error.lines().count() == 1, "{args:?}: {error}");
        for part in *parts {
            assert!(error.contains(part), "{args:?}: no '{part}' in: {error}");
        }
    }
}

#[test]
fn a_link_called_qemu_storage_daemon_is_the_daemon() {
    let lab = Lab::on(std::path::Path::new("/tmp"));
    std::os::unix::fs::symlink(crate::lab::MILLPOND, lab.path("qemu-storage-daemon")).unwrap();
    let output = lab.run(&lab.name("qemu-storage-daemon"), &["--help"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("--nbd-server addr.type=unix"), "{}", said(&output));
    let version = lab.ok(&lab.name("qemu-storage-daemon"), &["--version"]);
    assert!(version.starts_with("qemu-storage-daemon version 10.0.2 (millpond "), "{version}");
    let error = lab.fails(&lab.name("qemu-storage-daemon"), &["--nope", "x"]);
    assert!(error.starts_with("qemu-storage-daemon: '--nope'"), "{error}");
}
