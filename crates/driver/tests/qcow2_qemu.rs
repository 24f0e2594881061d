//! Images that QEMU made and we write, images that we made and QEMU writes, and both in turns: `qemu-img check` finds
//! them clean, and the bytes are those of a plain model.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::{Command, Output};

use flow::{Request, Role, seam};
use io::Lease;
use io::real::RealWorld;
use lab::model::Model;
use lab::{Lab, Tree, qcow2 as images};
use qcow2::NewImage;
use serde_json::json;
use sim::Rng;
use tempfile::TempDir;

const SIZE: u64 = (3 << 20) + 1536;

/// A directory for QEMU's tools.
struct Bench {
    dir: TempDir,
    rng: Rng,
}

impl Bench {
    /// `None`, said on standard error and in the skip log, where QEMU's tools are missing.
    fn new(test: &str) -> Option<Self> {
        for tool in ["qemu-img", "qemu-io"] {
            if Command::new(tool).arg("--version").output().is_err() {
                skip(test, tool);
                return None;
            }
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Some(Self { dir, rng: Rng::new(3) })
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
                Some((format, name)) => Some(self.node(&lab, format, name, None, json!({}), true).await),
                None => None,
            };
            let tree = self.node(&lab, "qcow2", image, below.as_ref(), options, false).await;
            let mut model = Model::new(first, seed);
            model.run(&lab.root(&tree), 150).await;
            // What was dropped before the first is free by the second, and written by the third.
            for _ in 0..3 {
                seam::execute(&tree.view(), Request::flush(), Lease::empty()).await.0.unwrap();
            }
            model.bytes
        })
    }

    async fn node(
        &self,
        lab: &Lab<RealWorld>,
        format: &str,
        name: &str,
        below: Option<&Tree>,
        options: serde_json::Value,
        read_only: bool,
    ) -> Tree {
        self.open(lab, format, name, below, options, read_only).await.unwrap()
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
        let mut children = vec![(Role::File, &file)];
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
    ] {
        let create = ["create", "-q", "-f", "qcow2", "-o", options, "image.qcow2"];
        bench.img(&[&create[..], &[&SIZE.to_string()]].concat());
        bench.scribble("image.qcow2", 10);
        bench.in_turns("image.qcow2", None, json!({}));
    }
}

#[test]
fn overlays_that_qemu_made() {
    let Some(mut bench) = Bench::new("overlays_that_qemu_made") else { return };
    bench.raw("base.raw", SIZE);
    bench.img(&["convert", "-f", "raw", "-O", "qcow2", "base.raw", "base.qcow2"]);
    bench.raw("short.raw", SIZE / 2 - 100);
    for (format, base) in [("raw", "base.raw"), ("qcow2", "base.qcow2"), ("raw", "short.raw")] {
        for cluster in ["1k", "64k"] {
            let options = format!("cluster_size={cluster}");
            let create =
                ["create", "-q", "-f", "qcow2", "-b", base, "-F", format, "-o", &options, "top.qcow2"];
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
    make("v2.qcow2", "compat=0.10");
    make("subclusters.qcow2", "extended_l2=on");
    make("apart.qcow2", &format!("data_file={}", bench.path("data.raw")));
    make("snapshot.qcow2", "compat=1.1");
    bench.img(&["snapshot", "-c", "one", "snapshot.qcow2"]);
    make("bitmap.qcow2", "compat=1.1");
    bench.img(&["bitmap", "--add", "bitmap.qcow2", "b"]);
    for (name, bit) in [("dirty.qcow2", 1), ("corrupt.qcow2", 2)] {
        make(name, "compat=1.1");
        let mut bytes = std::fs::read(bench.path(name)).unwrap();
        bytes[79] |= bit;
        std::fs::write(bench.path(name), bytes).unwrap();
    }
    let world = RealWorld::new();
    world.block_on(async {
        let lab = Lab::new(&world);
        for (name, words) in [
            ("v2.qcow2", "version 2"),
            ("subclusters.qcow2", "subclusters"),
            ("apart.qcow2", "data file"),
            ("snapshot.qcow2", "snapshot -d"),
            ("bitmap.qcow2", "bitmap --remove"),
            ("dirty.qcow2", "dirty"),
            ("corrupt.qcow2", "corrupt"),
        ] {
            let before = std::fs::read(bench.path(name)).unwrap();
            let Err(error) = bench.open(&lab, "qcow2", name, None, json!({}), false).await else {
                panic!("{name} was opened for writing")
            };
            assert!(error.to_string().contains(words), "'{error}' does not say '{words}'");
            if name != "apart.qcow2" {
                bench.node(&lab, "qcow2", name, None, json!({}), true).await;
            }
            assert!(std::fs::read(bench.path(name)).unwrap() == before, "{name} was changed");
        }
    });
}

/// Says past the test harness that `test` did not run.
fn skip(test: &str, tool: &str) {
    let line = format!("driver {test}: no {tool}");
    let _ = writeln!(std::io::stderr(), "skipped: {line}");
    if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        log.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
