//! A snapshot with a guest's own state, as `savevm` of a virtual machine makes it: it stays what it is, byte for byte,
//! whatever we do to the image and to other snapshots, and the machine goes on from it.

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::lab::{Lab, MILLPOND, said};

const MACHINE: &str = "qemu-system-x86_64";
const IMAGE: &str = "vm.qcow2";

/// Starts a machine on the image, stopped, and has it do what `commands` of its monitor say.
fn machine(lab: &Lab, more: &[&str], commands: &str) -> Output {
    let mut command = lab.command("timeout");
    command.args(["-k", "5", "60", MACHINE, "-S", "-M", "q35", "-accel", "tcg", "-m", "16"]);
    command.args(["-nodefaults", "-display", "none", "-monitor", "stdio"]);
    command.args(["-drive", &format!("file={IMAGE},if=virtio,format=qcow2")]).args(more);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{commands}quit\n").as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What `info` says of the snapshot `running`.
fn stated(lab: &Lab) -> Value {
    let info = lab.ok("qemu-img", &["info", "--output=json", IMAGE]);
    let info: Value = serde_json::from_str(&info).unwrap();
    let listed = info["snapshots"].as_array().unwrap();
    listed.iter().find(|snapshot| snapshot["name"] == "running").unwrap().clone()
}

/// The state of the guest that was gone back to.
fn guest(lab: &Lab, size: u64) -> String {
    let whole = size.next_multiple_of(512);
    lab.ok("qemu-io", &["-r", "-f", "qcow2", "-c", &format!("read -v -b 0 {whole}"), IMAGE])
        .lines()
        .filter(|line| line.contains(':') && !line.contains("ops"))
        .collect()
}

#[test]
fn a_guest_that_was_saved_stays_what_it_is() {
    let test = "a_guest_that_was_saved_stays_what_it_is";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io", MACHINE]) else { return };
    let img = |args: &[&str]| lab.ok(MILLPOND, &[&["img"], args, &[IMAGE]].concat());
    let write = |byte: &str| lab.ok("qemu-io", &["-c", &format!("write -q -P {byte} 64k 1M"), IMAGE]);
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", IMAGE, "4M"]);
    write("5");
    machine(&lab, &[], "savevm running\n");
    let before = stated(&lab);
    let size = before["vm-state-size"].as_u64().unwrap();
    assert!(size > 0, "{before}");
    lab.ok("qemu-img", &["snapshot", "-a", "running", IMAGE]);
    let state = guest(&lab, size);
    assert!(state.len() as u64 > size, "it can be read");
    // Others come and go, from a present state that has the guest's, too, and from one that has not.
    img(&["snapshot", "-c", "second"]);
    write("6");
    img(&["snapshot", "-c", "third"]);
    img(&["snapshot", "-d", "second"]);
    lab.ok(MILLPOND, &["img", "resize", "-q", IMAGE, "12M"]);
    lab.ok(MILLPOND, &["img", "resize", "-q", "--shrink", IMAGE, "1M"]);
    img(&["snapshot", "-a", "third"]);
    write("7");
    assert_eq!(stated(&lab), before);
    img(&["snapshot", "-a", "running"]);
    assert!(guest(&lab, size) == state, "the guest has changed");
    img(&["snapshot", "-d", "third"]);
    assert_eq!(stated(&lab), before);
    lab.ok("qemu-io", &["-r", "-c", "read -q -P 5 64k 1M", IMAGE]);
    lab.ok("qemu-img", &["check", "-q", IMAGE]);
    let output = machine(&lab, &["-loadvm", "running"], "");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", said(&output));
    img(&["snapshot", "-d", "running"]);
    lab.ok("qemu-img", &["check", "-q", IMAGE]);
}
