//! Images that QEMU made and we write, images that we made and QEMU writes, and both in turns: `qemu-img check` finds
//! them clean, and the bytes are those of a plain model.

use std::process::{Command, Output};

use crate::lab::model::Model;
use crate::lab::{Lab, Tree, qcow2 as images};
use flow::{Request, Role, seam};
use io::Lease;
use io::real::RealWorld;
use qcow2::NewImage;
use serde_json::json;
use sim::Rng;
use tempfile::TempDir;

const SIZE: u64 = (3 << 20) + 1536;

/// A directory for QEMU's tools.
struct Bench {
    dir: TempDir,
    rng: Rng,
    /// The data file of the image, if it has one.
    data: Option<&'static str>,
}

impl Bench {
    /// `None`, said on standard error and in the skip log, where QEMU's tools are missing.
    fn new(test: &str) -> Option<Self> {
        for tool in ["qemu-img", "qemu-io"] {
            if Command::new(tool).arg("--version").output().is_err() {
                sim::skip(&format!("driver qcow2_node {test}"), tool);
                return None;
            }
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Some(Self { dir, rng: Rng::new(3), data: None })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn run(&self, tool: &str, args: &[&str]) -> Output {
        Command::new(tool).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    fn img(&self, args: &[&str]) {
        let output = self.run("qemu-img", args);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "qemu-img {args:?}: {said}");
    }

    /// Random writes, zeroing and discards by QEMU.
    fn scribble(&mut self, image: &str, count: usize) {
        let mut args = vec!["-f".to_owned(), "qcow2".to_owned(), "-d".to_owned(), "unmap".to_owned()];
        for _ in 0..count {
            let at = self.rng.below(SIZE / 512);
            let len = (1 + self.rng.below(300)).min(SIZE / 512 - at);
            let verb = match self.rng.below(6) {
                0 => "write -q -z".to_owned(),
                1 => "write -q -z -u".to_owned(),
                2 => "discard -q".to_owned(),
                _ => format!("write -q -P {}", 1 + self.rng.below(255)),
            };
            args.extend(["-c".to_owned(), format!("{verb} {} {}", at * 512, len * 512)]);
        }
        args.push(image.to_owned());
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = self.run("qemu-io", &args);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }

    /// The bytes of a disk, as QEMU reads them.
    fn bytes(&self, image: &str) -> Vec<u8> {
        self.img(&["convert", "-f", "qcow2", "-O", "raw", image, "bytes.raw"]);
        std::fs::read(self.dir.path().join("bytes.raw")).unwrap()
    }

    /// A raw file with bytes of every kind.
    fn raw(&mut self, name: &str, len: u64) {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let run = 1000 + self.rng.below(50_000) as usize;
            let byte = self.rng.below(256) as u8;
            match self.rng.below(3) {
                0 => bytes.resize(bytes.len() + run, 0),
                1 => bytes.resize(bytes.len() + run, byte),
                _ => bytes.extend((0..run).map(|_| self.rng.u64() as u8)),
            }
        }
        bytes.truncate(len as usize);
        std::fs::write(self.dir.path().join(name), bytes).unwrap();
    }

    /// What an internal snapshot reads as through the driver.
    fn snapshot(&self, image: &str, name: &str) -> block::Result<Vec<u8>> {
        let world = RealWorld::new();
        world.block_on(async {
            let lab = Lab::new(&world);
            let options = json!({"snapshot": name});
            let writable = self.open(&lab, "qcow2", image, None, options.clone(), false).await;
            assert!(writable.is_err_and(|error| error.to_string().contains("can only be read")));
            let view = self.open(&lab, "qcow2", image, None, options, true).await?.view();
            seam::read(&view, block::ByteRange::new(0, view.size())).await.map(|bytes| bytes.to_vec())
        })
    }

    /// Writes all of a raw file to an image, compressed.
    fn compress(&self, source: &str, image: &str) {
        let bytes = std::fs::read(self.path(source)).unwrap();
        let world = RealWorld::new();
        world.block_on(async {
            let lab = Lab::new(&world);
            let view = self.open(&lab, "qcow2", image, None, json!({}), false).await.unwrap().view();
            let mut at = 0;
            while at < bytes.len() {
                // Whole clusters of any image.
                let len = (2 << 20).min(bytes.len() - at);
                let part = Lease::copy_of(&bytes[at..at + len]);
                seam::write_compressed(&view, at as u64, part).await.unwrap();
                at += len;
            }
            let unaligned = seam::write_compressed(&view, 100, Lease::zeroed(100)).await.unwrap_err();
            assert!(unaligned.to_string().contains("whole clusters"), "{unaligned}");
            for _ in 0..3 {
                seam::execute(&view, Request::flush(), Lease::empty()).await.0.unwrap();
            }
        });
    }

    /// QEMU makes an image with these options; then we and it write in turns.
    fn made_by_qemu(&mut self, options: &str) {
        println!("{options}");
        let create = ["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2"];
        self.img(&[&create[..], &[&SIZE.to_string()]].concat());
        self.scribble("image.qcow2", 10);
        self.in_turns("image.qcow2", None, json!({}));
    }

    /// We and QEMU write to `image` in turns.
    fn in_turns(&mut self, image: &str, backing: Option<(&str, &str)>, options: serde_json::Value) {
        for round in 0..2 {
            let first = self.bytes(image);
            let seed = self.rng.u64();
            let model = self.ours(image, backing, options.clone(), first, seed);
            self.img(&["check", "-q", "-f", "qcow2", image]);
            let found = self.bytes(image);
            let differs = |(found, wanted): (&u8, &Option<u8>)| wanted.is_some_and(|wanted| wanted != *found);
            let wrong = found.iter().zip(&model).position(differs);
            assert_eq!(wrong, None, "{image}, round {round}: first wrong byte");
            self.scribble(image, 20);
            self.img(&["check", "-q", "-f", "qcow2", image]);
        }
    }

    /// Random requests through the driver; answers what must be there.
    fn ours(
        &self,
        image: &str,
        backing: Option<(&str, &str)>,
        options: serde_json::Value,
        first: Vec<u8>,
        seed: u64,
    ) -> Vec<Option<u8>> {
        let world = RealWorld::new();
        world.block_on(async {
            let lab = Lab::new(&world);
            let below = match backing {
                Some((format, name)) => {
                    Some(self.open(&lab, format, name, None, json!({}), true).await.unwrap())
                }
                None => None,
            };
            let tree = self.open(&lab, "qcow2", image, below.as_ref(), options, false).await.unwrap();
            let mut model = Model::new(first, seed);
            model.run(&lab.root(&tree), 150).await;
            // What was dropped before the first is free by the second, and written by the third.
            for _ in 0..3 {
                seam::execute(&tree.view(), Request::flush(), Lease::empty()).await.0.unwrap();
            }
            model.bytes
        })
    }

    async fn open(
        &self,
        lab: &Lab<RealWorld>,
        format: &str,
        name: &str,
        below: Option<&Tree>,
        options: serde_json::Value,
        read_only: bool,
    ) -> block::Result<Tree> {
        let file = json!({"filename": self.path(name)});
        let file = lab.open_with("file", file, &[], |context| context.read_only = read_only).await?;
        let role = if format == "raw" { Role::Filtered } else { Role::File };
        let mut children = vec![(role, &file)];
        let data = match self.data.filter(|_| format == "qcow2") {
            Some(name) => Some(lab.open("file", json!({"filename": self.path(name)}), &[]).await),
            None => None,
        };
        children.extend(data.as_ref().map(|data| (Role::DataFile, data)));
        children.extend(below.map(|below| (Role::Backing, below)));
        lab.open_with(format, options, &children, |context| {
            context.read_only = read_only;
            context.no_backing = below.is_none();
        })
        .await
    }
}

#[test]
fn images_that_qemu_made() {
    let Some(mut bench) = Bench::new("images_that_qemu_made") else { return };
    for options in [
        "cluster_size=512",
        "cluster_size=1k",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=8k,refcount_bits=64",
        "cluster_size=16k,refcount_bits=8",
        "cluster_size=32k,preallocation=metadata",
        "preallocation=falloc",
        "lazy_refcounts=on",
        "cluster_size=512k",
        "cluster_size=2M",
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "compat=0.10,cluster_size=4k,preallocation=metadata",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=64k,preallocation=metadata",
        "extended_l2=on,cluster_size=2M,refcount_bits=1",
    ] {
        bench.made_by_qemu(options);
    }
}

#[test]
fn refcounts_of_all_widths_and_clusters_of_all_sizes() {
    let name = "refcounts_of_all_widths_and_clusters_of_all_sizes";
    let Some(mut bench) = Bench::new(name) else { return };
    let full = std::env::var_os("MILLPOND_TEST_FULL").is_some();
    for order in 0..7 {
        // Each width with one or two sizes, and each size at least once.
        for cluster in (9..22).filter(|cluster| full || cluster % 7 == order % 7) {
            let options = format!("refcount_bits={},cluster_size={}", 1 << order, 1u32 << cluster);
            bench.made_by_qemu(&options);
        }
    }
}

#[test]
fn discards_that_keep_their_clusters() {
    let Some(mut bench) = Bench::new("discards_that_keep_their_clusters") else { return };
    for options in ["cluster_size=4k", "extended_l2=on"] {
        bench.img(&["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2", &SIZE.to_string()]);
        bench.scribble("image.qcow2", 10);
        bench.in_turns("image.qcow2", None, json!({"discard-no-unref": true, "pass-discard-other": true}));
    }
}

#[test]
fn data_files() {
    let Some(mut bench) = Bench::new("data_files") else { return };
    for options in ["data_file=apart.raw", "data_file=apart.raw,data_file_raw=on,cluster_size=4k"] {
        let _ = std::fs::remove_file(bench.path("apart.raw"));
        bench.data = Some("apart.raw");
        bench.made_by_qemu(options);
        if options.contains("raw=on") {
            let apart = std::fs::read(bench.path("apart.raw")).unwrap();
            assert!(apart[..SIZE as usize] == bench.bytes("image.qcow2"), "it reads as the disk by itself");
        }
    }
}

#[test]
fn snapshots_stay_what_they_are() {
    let Some(mut bench) = Bench::new("snapshots_stay_what_they_are") else { return };
    for options in ["cluster_size=4k", "compat=0.10", "extended_l2=on", "cluster_size=512,refcount_bits=2"] {
        let create = ["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2"];
        bench.img(&[&create[..], &[&SIZE.to_string()]].concat());
        bench.scribble("image.qcow2", 20);
        let mut snapshots = Vec::new();
        for name in ["one", "two"] {
            snapshots.push((name, bench.bytes("image.qcow2")));
            bench.img(&["snapshot", "-c", name, "image.qcow2"]);
            bench.in_turns("image.qcow2", None, json!({}));
            for (name, bytes) in &snapshots {
                bench.img(&["convert", "-l", name, "-f", "qcow2", "-O", "raw", "image.qcow2", "then.raw"]);
                assert!(std::fs::read(bench.path("then.raw")).unwrap() == *bytes, "{options}: {name}");
                assert!(bench.snapshot("image.qcow2", name).unwrap() == *bytes, "{options}: our {name}");
            }
        }
        bench.img(&["snapshot", "-d", "one", "image.qcow2"]);
        let gone = bench.snapshot("image.qcow2", "one").unwrap_err().to_string();
        assert!(gone.contains("no internal snapshot 'one' (those that it has: two)"), "{gone}");
        bench.in_turns("image.qcow2", None, json!({}));
        bench.img(&["snapshot", "-a", "two", "image.qcow2"]);
        bench.in_turns("image.qcow2", None, json!({}));
    }
}

/// Whoever goes without having stored bitmaps leaves them marked as in use: QEMU believes none of those, and removes
/// them.
#[test]
fn bitmaps_that_were_not_stored_are_in_use() {
    let Some(bench) = Bench::new("bitmaps_that_were_not_stored_are_in_use") else { return };
    bench.img(&["create", "-q", "-f", "qcow2", "image.qcow2", &SIZE.to_string()]);
    bench.img(&["bitmap", "--add", "image.qcow2", "b"]);
    bench.img(&["bitmap", "--add", "--disable", "image.qcow2", "old"]);
    bench.ours("image.qcow2", None, json!({}), vec![0; SIZE as usize], 1);
    let info = bench.run("qemu-img", &["info", "--output=json", "image.qcow2"]);
    let said: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    let bitmaps = &said["format-specific"]["data"]["bitmaps"];
    assert_eq!(bitmaps[0]["flags"], json!(["in-use", "auto"]), "{said}");
    assert_eq!(bitmaps[1]["flags"], json!([]), "one that records nothing stays true: {said}");
    bench.img(&["check", "-q", "image.qcow2"]);
    bench.img(&["bitmap", "--remove", "image.qcow2", "b"]);
    bench.img(&["bitmap", "--enable", "image.qcow2", "old"]);
    bench.img(&["check", "-q", "image.qcow2"]);
}

#[test]
fn overlays_that_qemu_made() {
    let Some(mut bench) = Bench::new("overlays_that_qemu_made") else { return };
    bench.raw("base.raw", SIZE);
    bench.img(&["convert", "-f", "raw", "-O", "qcow2", "base.raw", "base.qcow2"]);
    bench.raw("short.raw", SIZE / 2 - 100);
    for (format, base) in [("raw", "base.raw"), ("qcow2", "base.qcow2"), ("raw", "short.raw")] {
        for options in ["cluster_size=1k", "cluster_size=64k", "compat=0.10", "extended_l2=on"] {
            let create =
                ["create", "-q", "-f", "qcow2", "-b", base, "-F", format, "-o", options, "top.qcow2"];
            bench.img(&[&create[..], &[&SIZE.to_string()]].concat());
            bench.scribble("top.qcow2", 5);
            bench.in_turns("top.qcow2", Some((format, base)), images::tiny());
        }
    }
}

#[test]
fn compressed_clusters_are_replaced() {
    let Some(mut bench) = Bench::new("compressed_clusters_are_replaced") else { return };
    bench.raw("source.raw", SIZE);
    for options in
        ["cluster_size=4k", "cluster_size=64k,compression_type=zstd", "cluster_size=1k,refcount_bits=64"]
    {
        bench.img(&[
            "convert",
            "-c",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            options,
            "source.raw",
            "packed.qcow2",
        ]);
        bench.in_turns("packed.qcow2", None, json!({}));
    }
}

/// Compressed writes of all clusters, twice; some cannot be made shorter. QEMU reads them, and then both write.
#[test]
fn clusters_that_we_compressed() {
    let Some(mut bench) = Bench::new("clusters_that_we_compressed") else { return };
    for options in [
        "cluster_size=4k",
        "cluster_size=64k,compression_type=zstd",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=2M",
        "compat=0.10",
        "extended_l2=on,compression_type=zstd",
    ] {
        println!("{options}");
        bench.img(&["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2", &SIZE.to_string()]);
        for round in 0..2 {
            bench.raw("source.raw", SIZE);
            bench.compress("source.raw", "image.qcow2");
            let report = bench.run("qemu-img", &["check", "-f", "qcow2", "image.qcow2"]);
            assert!(report.status.success(), "{options}, round {round}: {report:?}");
            assert!(bench.bytes("image.qcow2") == std::fs::read(bench.path("source.raw")).unwrap());
            let said = String::from_utf8_lossy(&report.stdout).into_owned();
            assert!(!said.contains(" 0.00% compressed"), "{said}");
        }
        bench.in_turns("image.qcow2", None, json!({}));
    }
}

#[test]
fn what_snapshots_have_left_behind() {
    let Some(mut bench) = Bench::new("what_snapshots_have_left_behind") else { return };
    bench.img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "image.qcow2", &SIZE.to_string()]);
    bench.scribble("image.qcow2", 20);
    bench.img(&["snapshot", "-c", "one", "image.qcow2"]);
    bench.scribble("image.qcow2", 20);
    bench.img(&["snapshot", "-d", "one", "image.qcow2"]);
    bench.in_turns("image.qcow2", None, json!({}));
}

#[test]
fn images_that_we_made() {
    let Some(mut bench) = Bench::new("images_that_we_made") else { return };
    bench.raw("base.raw", SIZE);
    for bits in [9, 12, 16, 21] {
        for over in [false, true] {
            let mut image = NewImage::new(SIZE, bits);
            if over {
                image = image.over("base.raw", "raw");
            }
            std::fs::write(bench.path("ours.qcow2"), images::file_of(&image)).unwrap();
            bench.in_turns("ours.qcow2", over.then_some(("raw", "base.raw")), json!({}));
        }
    }
}

#[test]
fn a_refcount_table_that_grew() {
    let Some(mut bench) = Bench::new("a_refcount_table_that_grew") else { return };
    std::fs::write(bench.path("crowded.qcow2"), images::crowded(&NewImage::new(SIZE, 9))).unwrap();
    let first = vec![0; SIZE as usize];
    bench.ours("crowded.qcow2", None, json!({}), first, 5);
    // It has leaks since it was made, and nothing else.
    let output = bench.run("qemu-img", &["check", "-q", "-f", "qcow2", "crowded.qcow2"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    bench.img(&["check", "-q", "-r", "leaks", "-f", "qcow2", "crowded.qcow2"]);
    bench.scribble("crowded.qcow2", 5);
    bench.in_turns("crowded.qcow2", None, json!({}));
}

#[test]
fn what_is_not_written_is_refused_by_name() {
    let Some(bench) = Bench::new("what_is_not_written_is_refused_by_name") else { return };
    let size = SIZE.to_string();
    let make = |name: &str, options: &str| {
        bench.img(&["create", "-q", "-f", "qcow2", "-o", options, name, &size]);
    };
    make("corrupt.qcow2", "compat=1.1");
    let mut bytes = std::fs::read(bench.path("corrupt.qcow2")).unwrap();
    bytes[79] |= 2;
    std::fs::write(bench.path("corrupt.qcow2"), bytes).unwrap();
    let world = RealWorld::new();
    world.block_on(async {
        let lab = Lab::new(&world);
        for (name, words) in [("corrupt.qcow2", "corrupt")] {
            let before = std::fs::read(bench.path(name)).unwrap();
            let Err(error) = bench.open(&lab, "qcow2", name, None, json!({}), false).await else {
                panic!("{name} was opened for writing")
            };
            assert!(error.to_string().contains(words), "'{error}' does not say '{words}'");
            bench.open(&lab, "qcow2", name, None, json!({}), true).await.unwrap();
            assert!(std::fs::read(bench.path(name)).unwrap() == before, "{name} was changed");
        }
    });
}
