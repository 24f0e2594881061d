//! All cluster sizes, versions, compression types and kinds of clusters, without a chain.

use std::ops::RangeInclusive;
use std::sync::Arc;

use block::ByteRange;
use serde_json::{Value, json};

use crate::disk::{Disk, run};
use crate::lab::Lab;

/// A disk of some dozens of clusters, its size no multiple of the cluster size.
fn size_for(cluster: u64) -> u64 {
    (cluster * 24).clamp(1 << 20, 16 << 20) + 1536
}

/// The sets of creation options that exist for a cluster size.
fn variants(bits: u32) -> Vec<String> {
    let mut variants = vec!["compat=0.10", "compat=1.1", "compat=1.1,compression_type=zstd"];
    if bits >= 14 {
        variants.push("compat=1.1,extended_l2=on");
        variants.push("compat=1.1,extended_l2=on,compression_type=zstd");
    }
    variants.iter().map(|variant| format!("{variant},cluster_size={}", 1u64 << bits)).collect()
}

/// Opens `image`, reads it in all ways, and compares bytes and extents with what QEMU's tools say.
pub(crate) fn compare(lab: &Lab, image: &str) {
    compare_as(lab, image, json!({}));
}

/// The same with more options.
pub(crate) fn compare_as(lab: &Lab, image: &str, more: Value) {
    let expected = Arc::new(lab.raw_copy(image));
    let map: Vec<Value> =
        serde_json::from_str(&lab.img(&["map", "-f", "qcow2", "--output=json", image])).unwrap();
    let mut options = crate::disk::qcow2(&lab.path(image));
    options.as_object_mut().unwrap().extend(crate::disk::map(more));
    run(async |engine| {
        let disk = Disk::open(engine, options).await.unwrap();
        disk.expect(&expected, image).await;
        compare_extents(&disk, &map, &expected, image).await;
        disk.close().await;
        assert!(engine.nodes().is_empty());
    });
}

/// What holds no data to QEMU (a hole, a zero cluster) reads as zeros here, and what holds data there holds data here
/// or is a hole of a file that QEMU did not look for: as NBD's base:allocation shows it.
async fn compare_extents(disk: &Disk, map: &[Value], bytes: &[u8], image: &str) {
    for extent in disk.extents().await.unwrap() {
        for theirs in map {
            let number = |key: &str| theirs[key].as_u64().unwrap();
            let flag = |key: &str| theirs[key].as_bool().unwrap();
            let common = extent.range.intersection(ByteRange::new(number("start"), number("length")));
            let bytes = &bytes[common.start() as usize..common.end() as usize];
            let agrees = match extent.state.reads_zero() {
                true => flag("zero") || flow::seam::is_zero(bytes),
                false => flag("data"),
            };
            assert!(common.is_empty() || agrees, "{image}: {extent:?}, but qemu-img says {theirs}");
        }
    }
}

fn every_cluster_size(test: &str, bits: RangeInclusive<u32>) {
    let Some(mut lab) = Lab::new(test) else { return };
    for bits in bits {
        let (cluster, size) = (1 << bits, size_for(1 << bits));
        lab.raw("source.raw", size);
        for options in variants(bits) {
            lab.create(&options, "plain.qcow2", size);
            lab.scribble("plain.qcow2", size, cluster, 30);
            compare(&lab, "plain.qcow2");
            let convert = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", &options];
            lab.img(&[&convert[..], &["source.raw", "compressed.qcow2"]].concat());
            compare(&lab, "compressed.qcow2");
            // Compressed and plain clusters, zeros and holes side by side.
            lab.scribble("compressed.qcow2", size, cluster, 12);
            compare(&lab, "compressed.qcow2");
        }
    }
}

#[test]
fn clusters_of_512_bytes_to_4_kib() {
    every_cluster_size("clusters_of_512_bytes_to_4_kib", 9..=12);
}

#[test]
fn clusters_of_8_to_64_kib() {
    every_cluster_size("clusters_of_8_to_64_kib", 13..=16);
}

#[test]
fn clusters_of_128_kib_to_2_mib() {
    every_cluster_size("clusters_of_128_kib_to_2_mib", 17..=21);
}

#[test]
fn caches_of_every_size() {
    let Some(mut lab) = Lab::new("caches_of_every_size") else { return };
    let size = 5 << 20;
    for options in ["cluster_size=512", "cluster_size=64k", "cluster_size=16k,extended_l2=on"] {
        lab.create(options, "image.qcow2", size);
        lab.scribble("image.qcow2", size, 65536, 60);
        for more in [
            json!({"l2-cache-size": 0}),
            json!({"cache-size": "16k"}),
            json!({"l2-cache-size": 1 << 20, "l2-cache-entry-size": 512}),
            json!({"cache-size": "64M", "l2-cache-size": "1k"}),
        ] {
            compare_as(&lab, "image.qcow2", more);
        }
    }
}

#[test]
fn preallocated_images() {
    let Some(mut lab) = Lab::new("preallocated_images") else { return };
    for mode in ["metadata", "falloc", "full"] {
        for more in ["cluster_size=4k", "cluster_size=64k", "extended_l2=on"] {
            lab.create(&format!("preallocation={mode},{more}"), "pre.qcow2", 3 << 20);
            lab.scribble("pre.qcow2", 3 << 20, 65536, 20);
            let expected = Arc::new(lab.raw_copy("pre.qcow2"));
            run(async |engine| {
                let disk = Disk::image(engine, &lab.path("pre.qcow2")).await.unwrap();
                disk.expect(&expected, more).await;
                disk.close().await;
            });
        }
    }
}

#[test]
fn data_files() {
    let Some(mut lab) = Lab::new("data_files") else { return };
    let size = 3_000_320;
    for raw in ["off", "on"] {
        for more in ["cluster_size=64k", "cluster_size=4k", "extended_l2=on", "preallocation=metadata"] {
            // As it stands it would be relative to the working directory.
            let data = lab.name("disk.raw");
            let options = format!("data_file={data},data_file_raw={raw},{more}");
            lab.create(&options, "top.qcow2", size);
            lab.scribble("top.qcow2", size, 65536, 20);
            let expected = Arc::new(lab.raw_copy("top.qcow2"));
            std::fs::rename(&data, lab.path("moved.raw")).unwrap();
            run(async |engine| {
                let missing = Disk::image(engine, &lab.path("top.qcow2")).await.err().unwrap().to_string();
                assert!(missing.contains("top.qcow2") && missing.contains("disk.raw"), "{missing}");
                // Another name for it, given by the user: opened before the image.
                let mut options = crate::disk::qcow2(&lab.path("top.qcow2"));
                options["data-file"] = json!({"driver": "file", "filename": lab.path("moved.raw")});
                let disk = Disk::open(engine, options).await.unwrap();
                disk.expect(&expected, more).await;
                disk.close().await;
            });
            std::fs::rename(lab.path("moved.raw"), &data).unwrap();
            compare(&lab, "top.qcow2");
            std::fs::remove_file(&data).unwrap();
        }
    }
}

#[test]
fn large_disks() {
    let Some(lab) = Lab::new("large_disks") else { return };
    for (options, size) in [("cluster_size=512", 16u64 << 30), ("cluster_size=2M", 1 << 60)] {
        lab.create(options, "image.qcow2", size);
        let last = size - 4096;
        lab.io("image.qcow2", &[format!("write -q -P 9 {last} 4096")]);
        run(async |engine| {
            let disk = Disk::image(engine, &lab.path("image.qcow2")).await.unwrap();
            let end = disk.read(last - 4096, 8192).await.unwrap();
            assert!(end[..4096] == [0; 4096] && end[4096..] == [9; 4096]);
            assert!(disk.extents().await.unwrap().len() < 1000);
            disk.close().await;
        });
    }
}

#[test]
fn a_file_cut_in_its_last_cluster() {
    let Some(lab) = Lab::new("a_file_cut_in_its_last_cluster") else { return };
    lab.create("cluster_size=64k", "image.qcow2", 1 << 20);
    lab.io("image.qcow2", &["write -q -P 3 128k 128k".to_owned()]);
    let file = std::fs::File::options().write(true).open(lab.path("image.qcow2")).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1000).unwrap();
    compare(&lab, "image.qcow2");
    // QEMU reads a cluster that is missing altogether as zeros. Here that is an error: the data is lost.
    file.set_len(file.metadata().unwrap().len() - 65536).unwrap();
    run(async |engine| {
        let disk = Disk::image(engine, &lab.path("image.qcow2")).await.unwrap();
        let error = disk.read(192 << 10, 1).await.unwrap_err().to_string();
        for word in ["image.qcow2", "0x30000", "beyond the end"] {
            assert!(error.contains(word), "{error}");
        }
        // The other one is cut within its last sectors.
        let there = disk.read(0, 192 << 10).await.unwrap();
        assert!(there[128 << 10..(192 << 10) - 1000].iter().all(|byte| *byte == 3));
        disk.close().await;
    });
}

#[test]
fn snapshots_dirty_bits_and_bitmaps_do_not_matter() {
    let Some(lab) = Lab::new("snapshots_dirty_bits_and_bitmaps_do_not_matter") else { return };
    lab.create("lazy_refcounts=on", "image.qcow2", 2 << 20);
    lab.io("image.qcow2", &["write -q -P 1 0 1M".to_owned()]);
    lab.img(&["snapshot", "-c", "first", "image.qcow2"]);
    lab.img(&["bitmap", "--add", "image.qcow2", "changes"]);
    lab.io("image.qcow2", &["write -q -P 2 64k 64k".to_owned(), "discard -q 512k 128k".to_owned()]);
    compare(&lab, "image.qcow2");
    let crash = ["-f", "qcow2", "-c", "write -q -P 7 0 300k", "-c", "flush", "-c", "abort", "image.qcow2"];
    lab.run("qemu-io", &crash);
    compare(&lab, "image.qcow2");
}
