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

/// Scripts rely on it where nothing may be started twice.
#[test]
fn no_two_processes_have_one_pid_file() {
    let test = "no_two_processes_have_one_pid_file";
    let Some(lab) = Lab::new(test, &["qemu-storage-daemon"]) else { return };
    let holds = |program: &str, more: &[&str]| {
        let node = ["--blockdev", "null-co,node-name=n", "--daemonize", "--pidfile", "pid"];
        lab.ok(program, &[more, &node].concat());
        std::fs::read_to_string(lab.path("pid")).unwrap().trim().parse().unwrap()
    };
    let programs: [(&str, &[&str]); 2] = [("millpond", &["daemon"]), ("qemu-storage-daemon", &[])];
    for (program, more) in programs {
        let pid: u32 = holds(program, more);
        let told = lab.fails("millpond", &["daemon", "--pidfile", "pid"]);
        assert!(told.contains("'pid' (--pidfile): another process holds it: stop that one"), "{told}");
        assert!(lab.fails("qemu-storage-daemon", &["--pidfile", "pid"]).contains("Cannot lock pid file"));
        assert_eq!(std::fs::read_to_string(lab.path("pid")).unwrap().trim(), pid.to_string());
        crate::lab::signal(pid, "TERM");
        crate::lab::wait_for("it removes it", || !lab.path("pid").exists());
    }
    std::fs::write(lab.path("pid"), "1").unwrap();
    lab.fails("millpond", &["daemon", "--blockdev", "nonsense", "--pidfile", "pid"]);
    assert_eq!(std::fs::read_to_string(lab.path("pid")).unwrap(), "1", "one that was not written");
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

/// A client that connects as soon as there is a socket finds all nodes, although the monitor comes first.
#[test]
fn clients_are_served_when_all_options_are_carried_out() {
    use std::io::{BufRead as _, BufReader, Write as _};

    let lab = Lab::on(std::path::Path::new("/tmp"));
    let mut command = lab.command(crate::lab::MILLPOND);
    command.args(["daemon", "--chardev", "socket,id=c,path=qmp,server=on,wait=off", "--monitor", "c"]);
    for number in 0..200 {
        command.args(["--blockdev", &format!("null-co,node-name=n{number}")]);
    }
    let mut daemon = command.spawn().unwrap();
    crate::lab::wait_for("the socket is there", || lab.path("qmp").exists());
    let mut stream = std::os::unix::net::UnixStream::connect(lab.path("qmp")).unwrap();
    stream
        .write_all(b"{'execute':'qmp_capabilities'} {'execute':'query-named-block-nodes'} {'execute':'quit'}")
        .unwrap();
    let lines: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).collect();
    assert_eq!(lines[2].matches("\"node-name\"").count(), 200, "{}", lines[2].len());
    assert!(daemon.wait().unwrap().success());
}
