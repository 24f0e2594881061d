//! Bitmaps that QEMU and we change, record in and store in turns: after each turn both read them as a plain record of
//! what was done says, and `qemu-img check` finds the image clean.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};

use crate::lab::Lab;
use block::{ByteRange, DirtyBitmap, RangeSet};
use flow::{BitmapChange, Bitmaps, Flags, Op, Request, Role, View, seam};
use io::Lease;
use io::real::RealWorld;
use serde_json::{Value, json};
use sim::Rng;
use tempfile::TempDir;

const SIZE: u64 = (6 << 20) + 3 * 512;
const NAMES: [&str; 3] = ["a", "b", "with space"];

struct Bench {
    dir: TempDir,
    rng: Rng,
    /// What each bitmap is to hold, and whether it records.
    known: BTreeMap<&'static str, (DirtyBitmap, bool)>,
}

/// A turn of somebody.
enum Step {
    Add {
        name: &'static str,
        granularity: u64,
        recording: bool,
    },
    Remove(&'static str),
    Clear(&'static str),
    Record(&'static str, bool),
    Merge {
        name: &'static str,
        from: &'static str,
    },
    /// Bytes from there on, so many: written, zeroed, or discarded.
    Change(u8, ByteRange),
}

#[test]
fn qemu_and_we_take_turns() {
    for tool in ["qemu-img", "qemu-io", "qemu-nbd"] {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("skipped: qemu_and_we_take_turns: no {tool}");
            if let Some(log) = std::env::var_os("MILLPOND_SKIP_LOG") {
                let line = format!("qemu_and_we_take_turns: no {tool}\n");
                std::io::Write::write_all(
                    &mut std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap(),
                    line.as_bytes(),
                )
                .unwrap();
            }
            return;
        }
    }
    let options =
        ["cluster_size=64k", "cluster_size=512", "cluster_size=4k,extended_l2=off,lazy_refcounts=on"];
    for (seed, options) in options.into_iter().enumerate() {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut bench = Bench { dir, rng: Rng::new(seed as u64), known: BTreeMap::new() };
        bench.img(&["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", &SIZE.to_string()]);
        for turn in 0..10 {
            let steps: Vec<_> = (0..6).map(|_| bench.next()).collect();
            match turn % 2 {
                0 => bench.ours(&steps),
                _ => bench.theirs(&steps),
            }
            bench.img(&["check", "-q", "-f", "qcow2", "disk.qcow2"]);
            bench.compare(turn);
        }
    }
}

impl Bench {
    fn run(&self, tool: &str, args: &[&str]) -> Output {
        Command::new(tool).args(args).current_dir(self.dir.path()).output().unwrap()
    }

    fn img(&self, args: &[&str]) -> Vec<u8> {
        let output = self.run("qemu-img", args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        output.stdout
    }

    /// Draws a step, and notes what comes of it.
    fn next(&mut self) -> Step {
        let name = NAMES[self.rng.index(NAMES.len())];
        let from = NAMES[self.rng.index(NAMES.len())];
        if !self.known.contains_key(name) {
            let (granularity, recording) = (512 << self.rng.below(9), self.rng.chance(0.8));
            self.known.insert(name, (DirtyBitmap::new(SIZE, granularity).unwrap(), recording));
            return Step::Add { name, granularity, recording };
        }
        let other = self.known.get(from).map(|(bits, _)| bits.clone());
        let (bits, recording) = self.known.get_mut(name).unwrap();
        match (self.rng.below(14), other) {
            (0, _) => {
                self.known.remove(name);
                Step::Remove(name)
            }
            (1, _) => {
                bits.clear();
                Step::Clear(name)
            }
            (2, _) => {
                *recording = !*recording;
                Step::Record(name, *recording)
            }
            (3 | 4, Some(other)) => {
                bits.merge(&other);
                Step::Merge { name, from }
            }
            (kind, _) => {
                let start = self.rng.below(SIZE / 512) * 512;
                let len = (1 + self.rng.below(400)) * 512;
                // All of it now and then: whole clusters of bits are set.
                let whole = ByteRange::new(0, SIZE);
                let range = if kind == 7 { whole } else { ByteRange::new(start, len.min(SIZE - start)) };
                self.known.values_mut().filter(|known| known.1).for_each(|known| known.0.set(range));
                Step::Change(kind as u8, range)
            }
        }
    }

    fn theirs(&self, steps: &[Step]) {
        for step in steps {
            let bitmap = |args: &[&str], name: &str| {
                self.img(&[&["bitmap"], args, &["-f", "qcow2", "disk.qcow2", name]].concat());
            };
            match step {
                Step::Add { name, granularity, recording } => {
                    let record = if *recording { "--enable" } else { "--disable" };
                    bitmap(&["--add", "-g", &granularity.to_string(), record], name);
                }
                Step::Remove(name) => bitmap(&["--remove"], name),
                Step::Clear(name) => bitmap(&["--clear"], name),
                Step::Record(name, true) => bitmap(&["--enable"], name),
                Step::Record(name, false) => bitmap(&["--disable"], name),
                Step::Merge { name, from } => bitmap(&["--merge", from], name),
                Step::Change(kind, range) => {
                    let verb = match kind {
                        5 => "write -q -z",
                        6 => "discard -q",
                        _ => "write -q -P 7",
                    };
                    let command = format!("{verb} {} {}", range.start(), range.len());
                    let output =
                        self.run("qemu-io", &["-f", "qcow2", "-d", "unmap", "-c", &command, "disk.qcow2"]);
                    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
                }
            }
        }
    }

    fn ours(&self, steps: &[Step]) {
        self.open(async |view| {
            for step in steps {
                // What is recorded is shown by views that are built later.
                carry_out(&view(), step).await;
            }
            seam::rest(&view()).await.unwrap();
        });
    }

    fn open<T>(&self, work: impl AsyncFnOnce(&dyn Fn() -> std::sync::Arc<View>) -> T) -> T {
        let world = RealWorld::new();
        world.block_on(async {
            let lab = Lab::new(&world);
            let (file, _) = lab.file(self.dir.path().join("disk.qcow2").to_str().unwrap()).await;
            let tree = lab.open("qcow2", json!({}), &[(Role::File, &file)]).await;
            work(&|| tree.view()).await
        })
    }

    /// All read them as they are known.
    fn compare(&self, turn: usize) {
        let info: Value =
            serde_json::from_slice(&self.img(&["info", "--output=json", "disk.qcow2"])).unwrap();
        let none = Vec::new();
        let stated = info["format-specific"]["data"]["bitmaps"].as_array().unwrap_or(&none);
        assert_eq!(stated.len(), self.known.len(), "turn {turn}: {info}");
        for (name, (bits, recording)) in &self.known {
            let stated = stated.iter().find(|bitmap| bitmap["name"] == *name).unwrap();
            let flags = if *recording { json!(["auto"]) } else { json!([]) };
            assert_eq!(stated["flags"], flags, "turn {turn}, {name}");
            assert_eq!(stated["granularity"], bits.granularity(), "turn {turn}, {name}");
            let wanted: Vec<_> = bits.dirty().collect();
            let found = self.open(async |view| {
                let view = view();
                power(&view).content(name, view.next()).await.unwrap()
            });
            assert_eq!(found.dirty().collect::<Vec<_>>(), wanted, "turn {turn}, {name}, as we read it");
            assert_eq!(self.read_by_qemu(name), wanted, "turn {turn}, {name}, as QEMU reads it");
        }
    }

    /// The dirty runs of a bitmap, as `qemu-nbd` exports it and `qemu-img map` shows it.
    fn read_by_qemu(&self, name: &str) -> Vec<ByteRange> {
        let socket = self.dir.path().join("nbd.sock");
        let mut server = Command::new("qemu-nbd")
            .args(["-r", "-f", "qcow2", "-t", "-B", name, "-k"])
            .arg(&socket)
            .arg(self.dir.path().join("disk.qcow2"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(server.try_wait().unwrap().is_none(), "qemu-nbd has ended");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let image = format!(
            "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{name}",
            socket.display()
        );
        let said = self.img(&["map", "--output=json", "--image-opts", &image]);
        server.kill().unwrap();
        server.wait().unwrap();
        std::fs::remove_file(&socket).unwrap();
        let runs: Vec<Value> = serde_json::from_slice(&said).unwrap();
        let mut dirty = RangeSet::new();
        // Dirty is told as a hole.
        for run in runs.iter().filter(|run| run["data"] == false) {
            let range = ByteRange::new(run["start"].as_u64().unwrap(), run["length"].as_u64().unwrap());
            dirty.insert(range);
        }
        dirty.iter().collect()
    }
}

fn power(view: &View) -> &dyn Bitmaps {
    view.root().powers().bitmaps.unwrap()
}

async fn carry_out(view: &View, step: &Step) {
    let (name, change) = match step {
        Step::Add { name, granularity, recording } => {
            (name, BitmapChange::Add { granularity: *granularity, recording: *recording, persistent: true })
        }
        Step::Remove(name) => (name, BitmapChange::Remove),
        Step::Clear(name) => (name, BitmapChange::Clear),
        Step::Record(name, recording) => (name, BitmapChange::Record(*recording)),
        Step::Merge { name, from } => {
            (name, BitmapChange::Merge(power(view).content(from, view.next()).await.unwrap()))
        }
        Step::Change(kind, range) => {
            let (op, lease) = match kind {
                5 => (Op::WriteZeroes, Lease::empty()),
                6 => (Op::Discard, Lease::empty()),
                _ => (Op::Write, Lease::copy_of(&vec![9; range.len() as usize])),
            };
            let rq = Request::new(op, *range).with_flags(if op == Op::Write {
                Flags::NONE
            } else {
                Flags::MAY_UNMAP
            });
            return seam::execute(view, rq, lease).await.0.unwrap();
        }
    };
    power(view).change(name, change, view.next()).await.unwrap();
}
