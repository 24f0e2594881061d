//! `cache_img_quota`: caches that a foreign writer disarms, and that are adopted again.

use crate::lab::{self, Lab};

const QUOTA: &str = "1048576";
const SIZE: u64 = 4 << 20;

/// Reads all of `image` through a copy-on-read filter, a piece at a time.
fn read_through(lab: &Lab, image: &str) {
    let node = format!(
        r#"json:{{"driver":"copy-on-read","file":{{"driver":"qcow2","file":{{"driver":"file","filename":"{image}"}}}}}}"#
    );
    let socket = lab.name("s");
    lab.ok("millpond", &["nbd", "-t", "--fork", "--pid-file", "pid", "-k", &socket, &node]);
    let reads: Vec<String> =
        (0..SIZE >> 16).flat_map(|at| ["-c".to_owned(), format!("read -q -P 9 {}k 64k", at * 64)]).collect();
    let reads: Vec<&str> = reads.iter().map(String::as_str).collect();
    let uri = format!("nbd+unix:///?socket={socket}");
    lab.ok("qemu-io", &[&["-r", "-f", "raw"], &reads[..], &[&uri]].concat());
    let pid = std::fs::read_to_string(lab.path("pid")).unwrap();
    lab::signal(pid.trim().parse().unwrap(), "TERM");
    lab::wait_for("the server has ended", || lab.processes().is_empty());
}

fn len(lab: &Lab) -> u64 {
    std::fs::metadata(lab.path("cache.qcow2")).unwrap().len()
}

fn is_armed(lab: &Lab) -> bool {
    lab.ok("millpond", &["img", "info", "cache.qcow2"]).contains(&format!("cache img quota: {QUOTA}\n"))
}

#[test]
fn a_cache_with_a_quota_lives_with_foreign_writers() {
    let test = "a_cache_with_a_quota_lives_with_foreign_writers";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    std::fs::write(lab.path("base.raw"), vec![9; SIZE as usize]).unwrap();
    let options = format!("cache_img_quota={QUOTA},backing_file=base.raw,backing_fmt=raw");
    lab.ok("millpond", &["img", "create", "-q", "-f", "qcow2", "-o", &options, "cache.qcow2"]);
    assert!(is_armed(&lab));
    read_through(&lab, "cache.qcow2");
    let full = len(&lab);
    assert!(full <= 1 << 20 && full > 1 << 19, "{full}: filled, and not beyond the quota");
    assert!(is_armed(&lab), "what we store keeps it");
    lab.ok("qemu-img", &["check", "-q", "cache.qcow2"]);

    // A writer that does not know the quota: nothing is lost, and it binds nobody any more.
    lab.ok("qemu-io", &["-c", "write -q -P 9 3M 64k", "cache.qcow2"]);
    assert!(!is_armed(&lab));
    read_through(&lab, "cache.qcow2");
    assert!(len(&lab) > SIZE, "an ordinary overlay: all of it is stored");
    lab.ok("qemu-img", &["check", "-q", "cache.qcow2"]);

    // Adopted again: the bound is in force, and what is there stays.
    let quota = format!("cache_img_quota={QUOTA}");
    lab.ok("millpond", &["img", "amend", "-f", "qcow2", "-o", &quota, "cache.qcow2"]);
    assert!(is_armed(&lab));
    lab.ok("qemu-img", &["check", "-q", "cache.qcow2"]);
    lab.ok("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "raw", "cache.qcow2", "base.raw"]);
    lab.ok("millpond", &["img", "amend", "-f", "qcow2", "-o", "cache_img_quota=0", "cache.qcow2"]);
    assert!(!is_armed(&lab));
}
