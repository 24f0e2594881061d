//! `convert` between files of one file system: storage is shared where it can be, and the images are what they should
//! be.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::lab::{self, Lab};

/// A file system in a file, mounted; gone when dropped.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(lab: &Lab, make: &str) -> Option<Self> {
        let (image, at) = (lab.path("disk"), lab.path("mounted"));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
        lab.ok(make, &["-q", lab.name("disk").as_str()]);
        let mounted =
            lab.run("mount", &["-o", "loop", lab.name("disk").as_str(), lab.name("mounted").as_str()]);
        mounted.status.success().then_some(Self { at })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

/// Bytes of `file` in extents that others share, and in all extents.
fn shared(lab: &Lab, file: &Path) -> (u64, u64) {
    let told = lab.ok("filefrag", &["-v", "-b1", file.to_str().unwrap()]);
    let mut sums = (0, 0);
    for line in told.lines() {
        // "   0:        0..  131071:  110592..  241663:  131072:             last,shared,eof"
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        let [_, _, _, len, rest @ ..] = &fields[..] else { continue };
        let Ok(len) = len.parse::<u64>() else { continue };
        let is_shared = rest.iter().any(|flags| flags.split(',').any(|flag| flag == "shared"));
        sums = (sums.0 + if is_shared { len } else { 0 }, sums.1 + len);
    }
    sums
}

const MIB: u64 = 1 << 20;
/// Data of the source: half of 16 MiB.
const DATA: u64 = 8 * MIB;

#[test]
fn convert_shares_storage_on_xfs() {
    shares("convert_shares_storage_on_xfs", "mkfs.xfs");
}

#[test]
fn convert_shares_storage_on_btrfs() {
    shares("convert_shares_storage_on_btrfs", "mkfs.btrfs");
}

fn shares(test: &str, make: &str) {
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io", "filefrag", make]) else { return };
    let Some(mounted) = Mounted::new(&lab, make) else {
        lab::skip(test, "file system in a loop device (needs root)");
        return;
    };
    let run = |script: &str| super::shell(&format!("set -e; {script}"), &mounted.at);
    run(
        "truncate -s 16M a.raw; for i in 0 2 4 6 8 10 12 14; do qemu-io -f raw -c \"write -q -P $((i + 1)) ${i}M 1M\" a.raw; done; sync",
    );
    let millpond = lab.name("bin/millpond");
    let convert = |arguments: &str, from: &str, to: &str| {
        run(&format!("{millpond} img convert {arguments} {from} {to}; sync {to}"));
        shared(&lab, &mounted.at.join(to)).0
    };
    for (arguments, from, to) in [
        ("-f raw -O raw", "a.raw", "b.raw"),
        ("-f raw -O qcow2", "a.raw", "c.qcow2"),
        ("-f qcow2 -O qcow2", "c.qcow2", "d.qcow2"),
        ("-f qcow2 -O raw", "d.qcow2", "e.raw"),
        ("-C -f raw -O qcow2", "a.raw", "f.qcow2"),
        ("-f raw -O qcow2 -o cluster_size=4k,extended_l2=off", "a.raw", "g.qcow2"),
    ] {
        assert_eq!(convert(arguments, from, to), DATA, "{arguments} {from} {to}");
        run(&format!("qemu-img compare -q a.raw {to}"));
    }
    for (arguments, to) in
        [("-S 4k -O raw", "h.raw"), ("-c -O qcow2", "i.qcow2"), ("-O qcow2 -o cluster_size=2k", "j.qcow2")]
    {
        assert_eq!(convert(&format!("-f raw {arguments}"), "a.raw", to), 0, "{arguments}");
        run(&format!("qemu-img compare -q a.raw {to}"));
    }
    run("for i in c d f g i j; do qemu-img check -q $i.qcow2; done; cp --reflink=never a.raw before");
    // Whoever writes to the one leaves the others alone.
    run(
        "qemu-io -f raw -c 'write -q -P 99 0 16M' a.raw; for i in b.raw c.qcow2 d.qcow2 e.raw f.qcow2; do qemu-img compare -q before $i; done",
    );
    run("qemu-io -c 'write -q -P 98 3M 9M' c.qcow2; qemu-img compare -q before d.qcow2");
}

#[test]
fn what_the_kernel_copies_is_the_same() {
    let test = "what_the_kernel_copies_is_the_same";
    let Some(lab) = Lab::new(test, &["qemu-img"]) else { return };
    lab.image("a.raw", 4 << 20);
    lab.qcow2("a.raw", "a.qcow2");
    let run = |script: &str| super::shell(&format!("set -e; {script}"), &lab.path("."));
    for (arguments, to) in
        [("-f raw -O raw", "b.raw"), ("-f raw -O qcow2", "b.qcow2"), ("-t auto -f raw -O qcow2", "c.qcow2")]
    {
        run(&format!("bin/millpond img convert -C {arguments} a.raw {to}; qemu-img compare -q a.raw {to}"));
    }
    run("bin/millpond img convert -C -f qcow2 -O qcow2 a.qcow2 d.qcow2; qemu-img compare -q a.raw d.qcow2");
    run("for i in b c d; do qemu-img check -q $i.qcow2; done");
}
