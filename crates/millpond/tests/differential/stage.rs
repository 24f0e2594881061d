//! An image in a lab, what it must read as, and both hands' verdict on it.

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;
use sim::Rng;

use crate::bitmaps::{self, Bitmaps};
use crate::case::{Case, DataFile, SIZE};
use crate::lab::{Lab, MILLPOND, said};
use crate::ours;
use crate::snapshots::{self, Snapshot};

/// Whose hands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    We,
    Qemu,
}

/// What is known of a byte since both have read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known {
    /// It is what the model has.
    Surely,
    /// It may have become zero.
    Discarded,
    /// It is what lay there when the disk was longer, or zero: QEMU uncovers it when it grows into a cluster.
    Uncovered,
}

pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) rng: Rng,
    /// The file of the image, and how it is made.
    pub(crate) image: String,
    pub(crate) case: Case,
    /// Whether it has a base.
    pub(crate) based: bool,
    /// What it reads as.
    pub(crate) bytes: Vec<u8>,
    /// How well each of them is known.
    pub(crate) known: Vec<Known>,
    /// Oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) bitmaps: Bitmaps,
    /// Images made so far, and snapshots taken.
    pub(crate) made: usize,
    pub(crate) taken: usize,
    /// Whether it may have compressed clusters.
    pub(crate) packed: bool,
    /// Both of us; or we alone, and a third one reads: this program.
    reader: Option<PathBuf>,
}

impl<'a> Stage<'a> {
    /// An image of the case, over its base.
    pub(crate) fn new(lab: &'a Lab, case: &Case, seed: u64, reader: Option<PathBuf>) -> Self {
        let rng = Rng::new(seed ^ 0xd1ff);
        let (image, case) = ("image0.qcow2".to_owned(), case.clone());
        let based = case.base.is_some();
        let mut stage = Self {
            lab,
            rng,
            image,
            case,
            based,
            bytes: vec![],
            known: vec![],
            snapshots: vec![],
            bitmaps: Bitmaps::new(),
            made: 0,
            taken: 0,
            packed: false,
            reader,
        };
        let mut create = vec!["create".to_owned(), "-q".to_owned(), "-f".to_owned(), "qcow2".to_owned()];
        if let Some(base) = stage.case.base.clone() {
            let content = stage.make_base("base0", base.format, base.size);
            stage.bytes = content;
            create.extend(["-b", "base0", "-F", base.format].map(str::to_owned));
        }
        stage.bytes.resize(SIZE as usize, 0);
        stage.known = vec![Known::Surely; SIZE as usize];
        create.extend([
            "-o".to_owned(),
            stage.case.options(&lab.name("data0")),
            stage.image.clone(),
            SIZE.to_string(),
        ]);
        let who = stage.who();
        stage.img(who, &create.iter().map(String::as_str).collect::<Vec<_>>());
        stage
    }

    /// A base with bytes of every kind; answers them.
    pub(crate) fn make_base(&mut self, name: &str, format: &str, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < size {
            let run = 1000 + self.rng.index(100_000);
            let byte = if self.rng.chance(0.4) { 0 } else { 1 + self.rng.below(255) as u8 };
            bytes.resize(bytes.len() + run, byte);
        }
        bytes.truncate(size as usize);
        std::fs::write(self.lab.path("plain"), &bytes).unwrap();
        self.img(Who::Qemu, &["convert", "-f", "raw", "-O", format, "plain", name]);
        bytes
    }

    pub(crate) fn who(&mut self) -> Who {
        if self.reader.is_some() || self.rng.chance(0.5) { Who::We } else { Who::Qemu }
    }

    /// Runs `qemu-img` with these arguments, or what we have in its place.
    pub(crate) fn img(&self, who: Who, args: &[&str]) {
        println!("{who:?}: img {}", args.join(" "));
        let output = self.run(who, args);
        assert!(output.status.success(), "{who:?}, {args:?}: {}", said(&output));
    }

    /// The same, unless it is refused: then by both, in the same words. Answers whether it was done.
    pub(crate) fn either(&self, who: Who, args: &[&str]) -> bool {
        println!("{who:?}, if it can be: img {}", args.join(" "));
        let first = self.run(who, args);
        if first.status.success() {
            return true;
        }
        let other = if who == Who::We { Who::Qemu } else { Who::We };
        let words = |output: &Output| said(output).replace("millpond img: ", "").replace("qemu-img: ", "");
        let second = self.run(other, args);
        assert_eq!((words(&second), second.status.code()), (words(&first), first.status.code()), "{args:?}");
        println!("{}", words(&first));
        false
    }

    /// Both refuse it, and leave the image as it is.
    pub(crate) fn refused(&self, args: &[&str]) {
        for who in [Who::We, Who::Qemu] {
            println!("{who:?} refuse: img {}", args.join(" "));
            let output = self.run(who, args);
            assert_eq!(output.status.code(), Some(1), "{who:?}, {args:?}: {}", said(&output));
        }
    }

    /// We do it, or say that this is why we cannot. Answers whether it was done.
    pub(crate) fn we_try(&self, args: &[&str], why: &str) -> bool {
        println!("We, if it can be: img {}", args.join(" "));
        let output = self.run(Who::We, args);
        let done = output.status.success();
        assert!(done || said(&output).contains(why), "{args:?}: {}", said(&output));
        done
    }

    fn run(&self, who: Who, args: &[&str]) -> Output {
        match who {
            Who::Qemu => self.lab.run("qemu-img", args),
            Who::We => self.lab.run(MILLPOND, &[&["img"], args].concat()),
        }
    }

    /// Both read what it must read as, say the same of it, and both checks agree that it is whole.
    pub(crate) fn compare(&mut self) {
        let convert = ["convert", "-f", "qcow2", "-O", "raw", &self.image, "read"];
        let output = self.run(Who::Qemu, &convert);
        assert!(output.status.success(), "QEMU does not read it: {}", said(&output));
        let theirs = std::fs::read(self.lab.path("read")).unwrap();
        self.expect(&theirs);
        let ours = {
            let states: Vec<_> = self.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
            let bitmaps: Vec<_> = self.bitmaps.keys().copied().collect();
            ours::read(&self.lab.path(&self.image), &states, &bitmaps)
        };
        assert_eq!(ours.bytes.len(), theirs.len(), "sizes");
        let differs = ours.bytes.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that we read differently");
        self.ask_reader(&theirs);
        if self.case.data_file == DataFile::Raw {
            let data = std::fs::read(self.lab.path(&format!("data{}", self.made))).unwrap();
            // QEMU preallocates whole clusters.
            assert!(data.starts_with(&theirs), "the data file does not read as the disk");
        }
        self.bytes = theirs;
        self.known = vec![Known::Surely; self.bytes.len()];
        snapshots::compare(self, ours.snapshots);
        bitmaps::compare(self, ours.bitmaps);
        self.compare_said();
    }

    /// Both say the same of it: what it is and has, and that it is whole.
    fn compare_said(&self) {
        let both = |args: &[&str]| {
            let [theirs, ours] = [Who::Qemu, Who::We].map(|who| self.run(who, args));
            assert_eq!(said(&ours), said(&theirs), "{args:?}");
            assert_eq!((ours.status.code(), theirs.status.code()), (Some(0), Some(0)), "{}", said(&theirs));
            theirs.stdout
        };
        both(&["check", "-f", "qcow2", "--output=json", &self.image]);
        let info: Value =
            serde_json::from_slice(&both(&["info", "-f", "qcow2", "--output=json", &self.image])).unwrap();
        bitmaps::compare_stated(self, &info);
        let listed = info["snapshots"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> = listed.iter().filter_map(|snapshot| snapshot["name"].as_str()).collect();
        let wanted: Vec<_> = self.snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
        assert_eq!(names, wanted, "snapshots");
        if !self.snapshots.is_empty() {
            both(&["snapshot", "-f", "qcow2", "-l", &self.image]);
        }
    }

    /// The reader reads the same.
    fn ask_reader(&self, bytes: &[u8]) {
        let Some(reader) = self.reader.as_ref().filter(|_| self.case.plain) else { return };
        let output = self.lab.run(reader.to_str().unwrap(), &[&self.image]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the second reader does not read it: {said}");
        let differs = output.stdout.iter().zip(bytes).position(|(a, b)| a != b);
        assert_eq!((output.stdout.len(), differs), (bytes.len(), None), "what the second reader reads");
    }

    fn expect(&self, found: &[u8]) {
        assert_eq!(found.len(), self.bytes.len(), "sizes");
        let all = found.iter().zip(&self.bytes).zip(&self.known).enumerate();
        let wrong = all.map(|(at, ((found, wanted), known))| (at, *found, *wanted, *known));
        let is_wrong = |(_, found, wanted, known): &(usize, u8, u8, Known)| match known {
            Known::Surely => found != wanted,
            Known::Discarded => found != wanted && *found != 0,
            Known::Uncovered => false,
        };
        let wrong = wrong.into_iter().find(is_wrong);
        assert_eq!(wrong, None, "the first wrong byte: (place, found, wanted, known)");
    }
}
