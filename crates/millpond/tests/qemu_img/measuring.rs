//! What `measure` requires is enough: no image that `convert` makes with the same options is longer.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::lab::Lab;

/// Not `preallocation=metadata`: such a file is as long as it can become, with holes that need no room.
const OPTIONS: &[&str] = &[
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=1",
    "cluster_size=64k",
    "cluster_size=64k,refcount_bits=64",
    "cluster_size=64k,extended_l2=on",
    "cluster_size=2M",
    "compat=0.10",
    "preallocation=full",
    "cluster_size=4k,preallocation=falloc",
];

/// A disk of `size` bytes with data in a few odd places.
fn disk(lab: &Lab, name: &str, size: u64) {
    let file = File::create_new(lab.path(name)).unwrap();
    file.set_len(size).unwrap();
    for at in [0, 65_000, 1 << 20, (8 << 20) + 4096].into_iter().filter(|at| at + 1000 < size) {
        file.write_all_at(&[7; 1000], at).unwrap();
    }
}

fn required(lab: &Lab, arguments: &[&str]) -> u64 {
    let said =
        lab.ok("millpond", &[&["img", "measure", "--output", "json", "-O", "qcow2"], arguments].concat());
    serde_json::from_str::<serde_json::Value>(&said).unwrap()["required"].as_u64().unwrap()
}

#[test]
fn no_image_is_longer_than_measured() {
    let Some(lab) = Lab::new("no_image_is_longer_than_measured", &["qemu-img"]) else { return };
    for size in [0, 512, 1 << 20, 20 << 20] {
        let raw = format!("{size}.raw");
        disk(&lab, &raw, size);
        for (format, source) in [("raw", raw), ("qcow2", format!("{size}.qcow2"))] {
            for options in OPTIONS {
                let same = ["-f", format, "-o", options, &source];
                let required = required(&lab, &same);
                let _ = std::fs::remove_file(lab.path("made"));
                lab.ok("millpond", &[&["img", "convert", "-O", "qcow2"], &same[..], &["made"]].concat());
                let len = std::fs::metadata(lab.path("made")).unwrap().len();
                assert!(len <= required, "{size} bytes of {format} with {options}: {len} of {required}");
                lab.ok("qemu-img", &["check", "-q", "made"]);
                if *options == "cluster_size=64k" && format == "raw" {
                    std::fs::copy(lab.path("made"), lab.path(&format!("{size}.qcow2"))).unwrap();
                }
            }
        }
    }
}
