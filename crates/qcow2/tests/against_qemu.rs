//! Images made by QEMU's tools read as `qemu-img convert` reads them, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its images fails")]

mod lab;
mod reader;

use block::{ByteRange, ErrorKind, Place};
use lab::Lab;
use qcow2::{Compression, Version};
use reader::Disk;

/// A disk of some dozens of clusters, its size no multiple of the cluster size.
fn size_for(cluster: u64) -> u64 {
    (cluster * 40).clamp(1 << 20, 24 << 20) + 1536
}

/// The sets of creation options that exist for a cluster size.
fn variants(bits: u32) -> Vec<String> {
    let mut variants = vec![
        "compat=0.10".to_owned(),
        "compat=1.1".to_owned(),
        "compat=1.1,compression_type=zstd".to_owned(),
    ];
    if bits >= 14 {
        variants.push("compat=1.1,extended_l2=on".to_owned());
        variants.push("compat=1.1,extended_l2=on,compression_type=zstd".to_owned());
    }
    for variant in &mut variants {
        variant.push_str(&format!(",cluster_size={}", 1u64 << bits));
    }
    variants
}

fn every_cluster_size(test: &str, bits: std::ops::RangeInclusive<u32>) {
    let Some(mut lab) = Lab::new(test) else { return };
    for bits in bits {
        let (cluster, size) = (1 << bits, size_for(1 << bits));
        lab.raw("source.raw", size);
        for options in variants(bits) {
            lab.img(&["create", "-q", "-f", "qcow2", "-o", &options, "plain.qcow2", &size.to_string()]);
            lab.scribble("plain.qcow2", size, cluster, 30);
            let plain = lab.compare("plain.qcow2").image().runs().unwrap();
            lab.compare_map("plain.qcow2");
            let in_clusters = plain.iter().all(|(range, _)| range.start() % cluster == 0);
            assert_eq!(in_clusters, !options.contains("extended_l2"), "runs begin where subclusters do");
            let convert = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", &options];
            lab.img(&[&convert[..], &["source.raw", "compressed.qcow2"]].concat());
            let disk = lab.compare("compressed.qcow2");
            assert!(disk.image().runs().unwrap().iter().any(|(_, place)| *place == Place::Special));
            lab.scribble("compressed.qcow2", size, cluster, 12);
            lab.compare("compressed.qcow2");
            lab.compare_map("compressed.qcow2");
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
fn chains_with_every_kind_of_name() {
    let Some(mut lab) = Lab::new("chains_with_every_kind_of_name") else { return };
    std::fs::create_dir(lab.path("sub")).unwrap();
    let size = 3 << 20;
    lab.raw("base.raw", 1 << 20 | 512);
    let absolute = format!("file:{}", lab.path("sub/two.qcow2").display());
    let chain = [
        // The image, the name it stores for the one below, that one's format.
        ("sub/one.qcow2", "../base.raw", "raw"),
        ("sub/two.qcow2", "one.qcow2", "qcow2"),
        ("three.qcow2", absolute.as_str(), "qcow2"),
        (
            "four.qcow2",
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"three.qcow2"}}"#,
            "qcow2",
        ),
        ("five.qcow2", "json:{'driver':'qcow2','file.driver':'file','file.filename':'four.qcow2'}", "qcow2"),
    ];
    for (i, (image, backing, format)) in chain.into_iter().enumerate() {
        let options = ["cluster_size=64k", "cluster_size=512", "extended_l2=on,cluster_size=32k"][i % 3];
        let create = ["create", "-q", "-f", "qcow2", "-o", options, "-b", backing, "-F", format];
        lab.img(&[&create[..], &[image, &(size + i * 51_200).to_string()]].concat());
        lab.scribble(image, size as u64, 64 << 10, 6);
        let disk = lab.compare(image);
        let stored = disk.image().header.backing.as_ref().unwrap();
        assert_eq!((stored.name.as_str(), stored.format.as_deref()), (backing, Some(format)));
    }
}

#[test]
fn a_backing_image_shorter_or_longer_than_the_overlay() {
    let Some(mut lab) = Lab::new("a_backing_image_shorter_or_longer_than_the_overlay") else { return };
    lab.raw("base.raw", 300_032);
    for size in [1_000_448u64, 100_352] {
        for options in ["compat=0.10", "extended_l2=on"] {
            let create = ["create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", "-o", options];
            lab.img(&[&create[..], &["top.qcow2", &size.to_string()]].concat());
            lab.compare("top.qcow2");
            lab.scribble("top.qcow2", size, 65536, 3);
            lab.compare("top.qcow2");
        }
    }
}

#[test]
fn preallocated_images() {
    let Some(mut lab) = Lab::new("preallocated_images") else { return };
    for mode in ["metadata", "falloc", "full"] {
        for more in ["cluster_size=4k", "cluster_size=64k", "cluster_size=2M", "extended_l2=on"] {
            let options = format!("preallocation={mode},{more}");
            lab.img(&["create", "-q", "-f", "qcow2", "-o", &options, "pre.qcow2", "5M"]);
            lab.compare("pre.qcow2");
            lab.scribble("pre.qcow2", 5 << 20, 65536, 20);
            lab.compare("pre.qcow2");
        }
    }
}

#[test]
fn data_files_raw_and_not() {
    let Some(mut lab) = Lab::new("data_files_raw_and_not") else { return };
    for raw in [false, true] {
        for more in ["cluster_size=64k", "cluster_size=4k", "extended_l2=on", "preallocation=metadata"] {
            let options =
                format!("data_file=disk.raw,data_file_raw={},{more}", if raw { "on" } else { "off" });
            lab.img(&["create", "-q", "-f", "qcow2", "-o", &options, "top.qcow2", "5000192"]);
            lab.scribble("top.qcow2", 5_000_192, 65536, 20);
            let disk = lab.compare("top.qcow2");
            let data = disk.image().header.data_file.clone().unwrap();
            assert_eq!((data.name.as_deref(), data.raw), (Some("disk.raw"), raw));
            std::fs::remove_file(lab.path("disk.raw")).unwrap();
        }
    }
}

#[test]
fn a_file_cut_in_its_last_cluster() {
    let Some(lab) = Lab::new("a_file_cut_in_its_last_cluster") else { return };
    for options in ["cluster_size=64k", "cluster_size=64k,extended_l2=on"] {
        lab.img(&["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2", "1M"]);
        lab.io("image.qcow2", &["write -q -P 3 128k 128k".to_owned()]);
        let file = std::fs::File::options().write(true).open(lab.path("image.qcow2")).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1000).unwrap();
        lab.compare("image.qcow2");
        // QEMU reads a cluster that is missing altogether as zeros. Here that is an error: the data is lost.
        file.set_len(file.metadata().unwrap().len() - 65536).unwrap();
        let error = Disk::open(lab.dir(), "image.qcow2", "qcow2").unwrap().read_all(1 << 20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn large_disks() {
    let Some(lab) = Lab::new("large_disks") else { return };
    // L1 tables of 4 and 16 MiB; QEMU takes long to write larger ones.
    for (options, size) in [("cluster_size=512", 16u64 << 30), ("cluster_size=2M", 1 << 60)] {
        lab.img(&["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2", &size.to_string()]);
        let last = size - 4096;
        lab.io("image.qcow2", &[format!("write -q -P 9 {last} 4096")]);
        let disk = Disk::open(lab.dir(), "image.qcow2", "qcow2").unwrap();
        let mut end = [0; 8192];
        disk.read(last - 4096, &mut end).unwrap();
        assert_eq!((&end[..4096], &end[4096..]), (&[0; 4096][..], &[9; 4096][..]));
        let runs = disk.image().runs().unwrap().len();
        assert!(runs < 2000, "holes are long runs, not {runs}");
    }
}

#[test]
fn every_refcount_width() {
    let Some(mut lab) = Lab::new("every_refcount_width") else { return };
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        let options = format!("refcount_bits={bits}");
        lab.img(&["create", "-q", "-f", "qcow2", "-o", &options, "image.qcow2", "1M"]);
        lab.scribble("image.qcow2", 1 << 20, 65536, 5);
        assert_eq!(lab.compare("image.qcow2").image().header.refcount_table.bits, bits);
    }
}

#[test]
fn internal_snapshots_leave_the_active_disk() {
    let Some(mut lab) = Lab::new("internal_snapshots_leave_the_active_disk") else { return };
    lab.img(&["create", "-q", "-f", "qcow2", "image.qcow2", "2M"]);
    lab.io("image.qcow2", &["write -q -P 1 0 1M".to_owned()]);
    let exclusive = |disk: &Disk, at| match disk.image().map(ByteRange::new(at, 512)).unwrap().place {
        Place::Data { exclusive, .. } => exclusive,
        other => panic!("{other:?}"),
    };
    assert!(exclusive(&lab.compare("image.qcow2"), 0));
    lab.img(&["snapshot", "-c", "first", "image.qcow2"]);
    lab.io("image.qcow2", &["write -q -P 2 64k 64k".to_owned(), "discard -q 512k 128k".to_owned()]);
    let disk = lab.compare("image.qcow2");
    assert!(!exclusive(&disk, 0) && exclusive(&disk, 65536));
    assert_eq!(disk.image().header.snapshots.count, 1);
    lab.scribble("image.qcow2", 2 << 20, 65536, 10);
    lab.compare("image.qcow2");
}

#[test]
fn dirty_images_and_images_with_bitmaps_are_read() {
    let Some(lab) = Lab::new("dirty_images_and_images_with_bitmaps_are_read") else { return };
    lab.img(&["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "dirty.qcow2", "1M"]);
    // The abort leaves the dirty bit.
    let crash = ["-f", "qcow2", "-c", "write -q -P 7 0 300k", "-c", "flush", "-c", "abort", "dirty.qcow2"];
    lab.run("qemu-io", &crash);
    let disk = lab.compare("dirty.qcow2");
    assert!(disk.image().header.features.dirty() && disk.image().header.features.lazy_refcounts());
    assert_eq!(disk.image().header.writable().unwrap_err().kind(), ErrorKind::NotPermitted);
    lab.img(&["create", "-q", "-f", "qcow2", "image.qcow2", "1M"]);
    lab.img(&["bitmap", "--add", "image.qcow2", "changes"]);
    let disk = lab.compare("image.qcow2");
    assert_eq!(disk.image().header.bitmaps.unwrap().count, 1);
}

#[test]
fn headers_say_what_qemu_put_there() {
    let Some(lab) = Lab::new("headers_say_what_qemu_put_there") else { return };
    for (options, version, compression) in [
        ("compat=0.10", Version::V2, Compression::Deflate),
        ("compat=1.1", Version::V3, Compression::Deflate),
        ("compression_type=zstd", Version::V3, Compression::Zstd),
    ] {
        lab.img(&["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2", "1234432"]);
        let disk = lab.compare("image.qcow2");
        let header = &disk.image().header;
        assert_eq!((header.version, header.compression), (version, compression));
        assert_eq!((header.virtual_size, header.unknown_extensions.len()), (1_234_432, 0));
        header.writable().unwrap();
    }
}

#[test]
fn encrypted_images_are_refused_by_name() {
    let Some(lab) = Lab::new("encrypted_images_are_refused_by_name") else { return };
    for (format, name) in [("luks", "LUKS"), ("aes", "AES-CBC")] {
        let options = format!("encrypt.format={format},encrypt.key-secret=s");
        let mut args = vec!["create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", &options];
        if format == "luks" {
            args.extend(["-o", "encrypt.iter-time=10"]);
        }
        args.extend(["image.qcow2", "1M"]);
        lab.img(&args);
        let Err(error) = Disk::open(lab.dir(), "image.qcow2", "qcow2") else { panic!("{format} opened") };
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
    }
}
