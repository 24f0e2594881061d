//! QEMU's own library of QMP (`qemu.qmp`, by which its tests and other people's tools drive it) drives a daemon.

use std::path::Path;
use std::process::Command;

use crate::lab::{Lab, MILLPOND, Server, skip};

const SCRIPT: &str = include_str!("library.py");
const NAME: &str = "qemus_library_drives_a_daemon";

/// The interpreter that `cargo xtask test` gave the library to, else the machine's.
fn python() -> Option<String> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python").join("bin/python3");
    let knows = |python: &String| {
        let import = Command::new(python).args(["-c", "import qemu.qmp"]).output();
        import.is_ok_and(|output| output.status.success())
    };
    [own.to_str()?.to_owned(), "python3".to_owned()].into_iter().find(knows)
}

#[test]
fn qemus_library_drives_a_daemon() {
    let Some(python) = python() else { return skip(NAME, "qemu.qmp") };
    let lab = Lab::new(NAME, &[]).unwrap();
    std::fs::write(lab.path("library.py"), SCRIPT).unwrap();
    let (monitor, socket) = (lab.name("qmp.sock"), lab.name("nbd.sock"));
    let chardev = format!("socket,id=c,path={monitor},server=on,wait=off");
    let mut command = lab.command(MILLPOND);
    command.args(["daemon", "--pidfile", "d.pid", "--chardev", &chardev, "--monitor", "chardev=c"]);
    let mut daemon = Server::announced(command, &lab.path("d.pid"), String::new());
    assert_eq!(lab.ok(&python, &["library.py", &monitor, &socket]), "all of it went well\n");
    // It was told to quit.
    assert!(daemon.ends().success(), "{}", daemon.told());
}
