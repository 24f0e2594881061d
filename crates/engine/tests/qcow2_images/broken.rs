//! Images that lie: whoever reads where they do gets an error that names image and offset, everybody else the bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind};
use engine::Engine;
use serde_json::json;

use crate::disk::{Disk, Way, qcow2, read, run};
use crate::handmade::{CLUSTER, COMPRESSED, COPIED, DATA_FILE, EXTENDED_L2, Handmade};
use crate::lab::Lab;

/// A lie: how the entry of guest cluster 1 is spoilt, and what is said of it.
type Lie = (u64, u64, &'static str);

/// An image in which guest clusters 0 and 2 are data, 3 is compressed and 1 lies.
fn lying(version: u32, features: u64, (entry, bitmap, _): Lie) -> Handmade {
    let (mut image, table) = Handmade::with_table(version, 64 << 20, features);
    let all = u64::from(u32::MAX);
    for (index, byte) in [(0, 1), (2, 3)] {
        let at = image.fill(byte);
        image.l2(table, index, at | COPIED, all);
    }
    let compressed = image.store(4);
    image.l2(table, 3, compressed, 0);
    image.l2(table, 1, entry, bitmap);
    image
}

fn is_lie(error: &BlockError, words: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let said = error.to_string();
    assert!(words.iter().all(|word| said.contains(word)) && !said.contains('\n'), "{said} ({words:?})");
}

/// Reads where the lie is and where it is not, in all ways.
async fn expect_lie(disk: &Disk, words: &[&str]) {
    for way in [Way::Try, Way::Wait, Way::Try] {
        let read = |start, len| read(&disk.root, ByteRange::new(start, len), way);
        for (start, len) in [(CLUSTER, 1), (CLUSTER + 4095, 2), (2 * CLUSTER - 1, 1), (0, 3 * CLUSTER)] {
            is_lie(&read(start, len).await.unwrap_err(), words);
        }
        for (start, byte) in [(0, 1), (2 * CLUSTER, 3), (3 * CLUSTER, 4), (4 * CLUSTER, 0), (40 << 20, 0)] {
            let got = read(start + 5, 4096).await.unwrap();
            assert!(got.iter().all(|b| *b == byte), "cluster at {start} in {words:?}");
        }
    }
}

const BEYOND: u64 = 1 << 30;

const LIES: &[Lie] = &[
    ((CLUSTER * 3) | COPIED | 2, 0, "reserved bits"),
    ((CLUSTER * 3) | (1 << 56), 0, "reserved bits"),
    (CLUSTER * 3 + 512, 0, "multiple of the cluster size"),
    (BEYOND, 0, "beyond the end"),
    ((1 << 56) - CLUSTER, 0, "beyond the end"),
    (COMPRESSED | BEYOND, 0, "beyond the end"),
    (COMPRESSED | ((1 << 54) - 1), 0, "beyond the end"),
    // Header and L1 table are no compressed data.
    (COMPRESSED | 255 << 54 | 1, 0, "compressed cluster at host offset 0x1"),
];

#[test]
fn lying_l2_entries() {
    let lab = Lab::without_qemu();
    let path = lab.path("lying.qcow2");
    run(async |engine| {
        for (version, lie) in LIES.iter().flat_map(|lie| [(2, lie), (3, lie)]) {
            std::fs::write(&path, lying(version, 0, *lie).bytes).unwrap();
            let disk = Disk::image(engine, &path).await.unwrap();
            expect_lie(&disk, &["lying.qcow2", "guest offset 0x10000", lie.2]).await;
            disk.close().await;
        }
        std::fs::write(&path, lying(2, 0, (1, 0, "")).bytes).unwrap();
        let disk = Disk::image(engine, &path).await.unwrap();
        expect_lie(&disk, &["lying.qcow2", "reserved bits"]).await;
        disk.close().await;
    });
}

#[test]
fn lying_bitmaps() {
    let lab = Lab::without_qemu();
    let path = lab.path("lying.qcow2");
    run(async |engine| {
        for lie in [
            (3 * CLUSTER, 1 << 9 | 1 << 41, "both allocated and zero"),
            (0, 2, "it has no cluster"),
            ((3 * CLUSTER) | 1, 0, "reserved bits"),
            (BEYOND, u64::from(u32::MAX), "beyond the end"),
        ] {
            std::fs::write(&path, lying(3, EXTENDED_L2, lie).bytes).unwrap();
            let disk = Disk::image(engine, &path).await.unwrap();
            expect_lie(&disk, &["lying.qcow2", "guest offset 0x10000", lie.2]).await;
            disk.close().await;
        }
    });
}

#[test]
fn a_lie_below_a_long_chain_is_an_error_of_its_own_bytes_only() {
    let lab = Lab::without_qemu();
    std::fs::write(lab.path("0.qcow2"), lying(3, 0, LIES[0]).bytes).unwrap();
    for depth in 1..=10 {
        let overlay = Handmade::overlay(64 << 20, &format!("{}.qcow2", depth - 1));
        std::fs::write(lab.path(&format!("{depth}.qcow2")), overlay.bytes).unwrap();
    }
    run(async |engine| {
        let disk = Disk::image(engine, &lab.path("10.qcow2")).await.unwrap();
        expect_lie(&disk, &["0.qcow2", "guest offset 0x10000", "reserved bits"]).await;
        disk.close().await;
    });
}

#[test]
fn lying_l1_entries() {
    let lab = Lab::without_qemu();
    let path = lab.path("lying.qcow2");
    let span = 512 << 20;
    run(async |engine| {
        for (entry, words) in [
            ((2 * CLUSTER) | 1, "reserved bits"),
            ((2 * CLUSTER) | 512, "multiple of the cluster size"),
            (BEYOND, "leaves the file"),
            ((1 << 56) - CLUSTER, "leaves the file"),
        ] {
            let (mut image, table) = Handmade::with_table(3, 3 * span, 0);
            let at = image.fill(7);
            image.l2(table, 0, at | COPIED, 0);
            image.l1(1, entry);
            std::fs::write(&path, image.bytes).unwrap();
            let disk = Disk::image(engine, &path).await.unwrap();
            for (start, len) in [(span, 1), (2 * span - 1, 1), (span - 1, 2)] {
                is_lie(&disk.read(start, len).await.unwrap_err(), &["lying.qcow2", "L1 entry 1", words]);
            }
            let there = disk.read(0, CLUSTER).await.unwrap();
            assert!(there.iter().all(|b| *b == 7) && disk.read(2 * span, 1).await.unwrap() == [0]);
            assert!(disk.extents().await.is_err());
            disk.close().await;
        }
    });
}

#[test]
fn lies_about_a_data_file() {
    let lab = Lab::without_qemu();
    let (path, data) = (lab.path("lying.qcow2"), lab.path("data.raw"));
    let (mut image, table) = Handmade::with_table(3, 64 << 20, DATA_FILE);
    for (index, entry) in [
        (0, COPIED),
        (1, (3 * CLUSTER) | COPIED),
        (2, COMPRESSED),
        (3, (3 * CLUSTER) | COPIED),
        (9, (9 * CLUSTER) | COPIED),
    ] {
        image.l2(table, index, entry, 0);
    }
    std::fs::write(&path, image.bytes).unwrap();
    std::fs::write(&data, vec![6; 8 * CLUSTER as usize]).unwrap();
    let mut options = qcow2(&path);
    run(async |engine| {
        let unnamed = Disk::open(engine, options.clone()).await.err().unwrap().to_string();
        assert!(unnamed.contains("lying.qcow2") && unnamed.contains("'data-file'"), "{unnamed}");
        options["data-file"] = json!({"driver": "file", "filename": data});
        let disk = Disk::open(engine, options).await.unwrap();
        for (cluster, words) in [(1, "is not its guest offset"), (2, "compressed"), (9, "beyond the end")] {
            let error = disk.read(cluster * CLUSTER, 1).await.unwrap_err();
            is_lie(&error, &["lying.qcow2", words, &format!("{:#x}", cluster * CLUSTER)]);
        }
        for cluster in [0, 3] {
            assert!(disk.read(cluster * CLUSTER, CLUSTER).await.unwrap().iter().all(|b| *b == 6));
        }
        disk.close().await;
    });
}

#[test]
fn disks_end_where_the_header_says() {
    let lab = Lab::without_qemu();
    let path = lab.path("odd.qcow2");
    run(async |engine| {
        for size in [0, 1, 511, 1000, CLUSTER - 1, 3 * CLUSTER + 77] {
            let (mut image, table) = Handmade::with_table(3, size, 0);
            if size == 0 {
                image.put32(36, 0);
            }
            let mut expected = Vec::new();
            for index in 0..size.div_ceil(CLUSTER) {
                let byte = 1 + index as u8;
                let entry = if index % 2 == 0 { image.fill(byte) | COPIED } else { image.store(byte) };
                image.l2(table, index, entry, 0);
                expected.resize(size.min((index + 1) * CLUSTER) as usize, byte);
            }
            std::fs::write(&path, &image.bytes).unwrap();
            let disk = Disk::image(engine, &path).await.unwrap();
            disk.expect(&Arc::new(expected), "odd.qcow2").await;
            let beyond = disk.read(size, 1).await.unwrap_err();
            assert_eq!(beyond.kind(), ErrorKind::OutOfRange);
            disk.close().await;
        }
    });
}

/// Opens an image that may be anything and reads all that can be read of it.
async fn try_all(engine: &Arc<Engine>, lab: &Lab, image: &str) -> Option<usize> {
    let disk = match Disk::image(engine, &lab.path(image)).await {
        Ok(disk) => disk,
        Err(error) => {
            assert!(error.to_string().contains(image), "{error}");
            return None;
        }
    };
    let (mut errors, mut at) = (0, 0);
    // Disks may have become huge.
    let size = disk.size().min(8 << 20);
    while at < size {
        let len = 100_000.min(size - at);
        match disk.read(at, len).await {
            Ok(_) => {}
            Err(error) => {
                assert!(error.to_string().contains(image), "{error}");
                errors += 1;
            }
        }
        at += len;
    }
    // An error or an answer.
    let _ = disk.extents().await;
    disk.close().await;
    Some(errors)
}

/// The largest block that a lie may make us ask for.
const BLOCK_MAX: usize = 64 << 20;

#[test]
fn spoilt_tables_never_do_more_than_fail() {
    let Some(mut lab) = Lab::new("spoilt_tables_never_do_more_than_fail") else { return };
    let size = 3 << 20;
    lab.raw("source.raw", size);
    let (mut refused, mut failed, mut read) = (0, 0, 0);
    for options in ["cluster_size=4k", "compression_type=zstd", "extended_l2=on,cluster_size=16k"] {
        let convert =
            ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, "source.raw", "good.qcow2"];
        lab.img(&convert);
        lab.scribble("good.qcow2", size, 65536, 20);
        let good = std::fs::read(lab.path("good.qcow2")).unwrap();
        for _ in 0..150 {
            let mut bytes = good.clone();
            for _ in 0..1 + lab.below(4) {
                // Metadata is at the front, mostly; compressed data anywhere.
                let reach = [112, 80 << 10, good.len()][lab.below(3) as usize].min(good.len());
                let at = lab.below(reach as u64) as usize;
                bytes[at] ^= 1 << lab.below(8);
            }
            std::fs::write(lab.path("spoilt.qcow2"), bytes).unwrap();
            match run(async |engine| try_all(engine, &lab, "spoilt.qcow2").await) {
                None => refused += 1,
                Some(0) => read += 1,
                Some(_) => failed += 1,
            }
        }
    }
    assert!(refused > 10 && failed > 10 && read > 10, "{refused} refused, {failed} failed, {read} read");
}

/// The most memory that this process ever asked for, in bytes.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Alone in its process, which has one heap.
#[test]
fn lies_take_little_memory() {
    if std::env::var_os("MILLPOND_ALONE").is_none() {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "broken::lies_take_little_memory", "--nocapture"]);
        alone.env("MILLPOND_ALONE", "1").env("RUST_TEST_THREADS", "1").env("MALLOC_ARENA_MAX", "1");
        let output = alone.output().unwrap();
        let said = crate::lab::said(&output);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let lab = Lab::without_qemu();
    let good = lying(3, 0, LIES[0]);
    std::fs::write(lab.path("good.qcow2"), &good.bytes).unwrap();
    run(async |engine| {
        try_all(engine, &lab, "good.qcow2").await;
        let before = most_memory();
        for (cluster_bits, l1_entries, size) in
            [(9, 1 << 22, 1u64 << 37), (16, 1 << 22, 1 << 51), (21, 1 << 22, 1 << 61), (21, 1 << 19, 1 << 58)]
        {
            let mut image = Handmade::new(3, 1 << 20, 0);
            image.bytes = good.bytes.clone();
            for (at, value) in [(20, cluster_bits), (36, l1_entries), (60, 65_536)] {
                image.put32(at, value);
            }
            for (at, value) in [(24, size), (40, 4 << 20), (48, 2 << 20), (64, 2 << 20)] {
                image.put64(at, value);
            }
            let file = File::create(lab.path("huge.qcow2")).unwrap();
            file.write_all_at(&image.bytes, 0).unwrap();
            file.set_len(1 << 40).unwrap();
            // Every L2 table is the header itself, and somewhere a compressed cluster claims all it can.
            file.write_all_at(&(COPIED | 1 << 22).to_be_bytes(), 4 << 20).unwrap();
            file.write_all_at(&(COMPRESSED | ((1 << 62) - 1)).to_be_bytes(), (4 << 20) + 8).unwrap();
            try_all(engine, &lab, "huge.qcow2").await;
        }
        let more = most_memory() - before;
        // An L1 table of 32 MiB, read and parsed, and what is needed to read anything at all.
        assert!(more < 96 << 20, "{more} bytes more");
        assert!(io::counting::largest() <= BLOCK_MAX, "{} bytes at once", io::counting::largest());
    });
}
