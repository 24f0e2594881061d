//! `millpond daemon`: qemu-storage-daemon's command line.

use crate::lab::{Lab, said};

#[test]
fn options_are_carried_out_in_their_order() {
    let lab = Lab::on(std::path::Path::new("/tmp"));
    let early = lab.fails(
        "millpond",
        &["daemon", "--blockdev", "null-co,node-name=n", "--export", "nbd,id=e,node-name=n"],
    );
    assert_eq!(early, "millpond: --export nbd,id=e,node-name=n: NBD server not running\n");
    let late = lab.fails(
        "millpond",
        &["daemon", "--blockdev", "raw,node-name=r,file=n", "--blockdev", "null-co,node-name=n"],
    );
    assert!(late.contains("Cannot find device='n' nor node-name='n'"), "{late}");
}

#[test]
fn mistakes_are_one_line_that_names_them() {
    let lab = Lab::on(std::path::Path::new("/tmp"));
    for (args, told) in [
        (&["--nope", "x"][..], "'--nope' is no option of the daemon"),
        (&["--blockdev"], "'--blockdev' needs a value"),
        (&["--blockdev", "null-co"], "'node-name' must be specified for the root node"),
        (&["--blockdev", "nope,node-name=n"], "Unknown driver 'nope'"),
        (&["--blockdev", "{\"driver\": \"nope\", \"node-name\": \"n\"}"], "does not accept value 'nope'"),
        (&["--monitor", "chardev=c"], "chardev \"c\" not found"),
        (&["--chardev", "stdio,id=c"], "only a 'socket'"),
        (&["--nbd-server", "addr.type=unix"], "Parameter 'addr.data.path' is missing"),
        (&["--nbd-server", "addr.type=unix,addr.path=/nonexistent/s"], "/nonexistent/s"),
        (&["--object", "secret,id=s"], "--object: Either 'file' or 'data' must be provided"),
    ] {
        let error = lab.fails("millpond", &[&["daemon"], args].concat());
        assert!(error.contains(told) && error.lines().count() == 1, "{args:?}: {error}");
    }
}

#[test]
fn a_link_called_qemu_storage_daemon_is_the_daemon() {
    let lab = Lab::on(std::path::Path::new("/tmp"));
    std::os::unix::fs::symlink(crate::lab::MILLPOND, lab.path("qemu-storage-daemon")).unwrap();
    let output = lab.run(&lab.name("qemu-storage-daemon"), &["--help"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("--nbd-server addr.type=unix"), "{}", said(&output));
    let error = lab.fails(&lab.name("qemu-storage-daemon"), &["--nope", "x"]);
    assert!(error.starts_with("qemu-storage-daemon: '--nope'"), "{error}");
}
