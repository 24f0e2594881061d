//! An image in a lab, what it must read as, and both hands' verdict on it.

use std::path::PathBuf;
use std::process::Output;

use sim::Rng;

use crate::case::{Case, DataFile, SIZE};
use crate::lab::{Lab, MILLPOND, said};
use crate::ours;

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
    /// Images made so far.
    pub(crate) made: usize,
    /// Both of us; or we alone, and a third one reads: this program.
    reader: Option<PathBuf>,
}

impl<'a> Stage<'a> {
    /// An image of the case, over its base.
    pub(crate) fn new(lab: &'a Lab, case: &Case, seed: u64, reader: Option<PathBuf>) -> Self {
        let rng = Rng::new(seed ^ 0xd1ff);
        let (image, case) = ("image0.qcow2".to_owned(), case.clone());
        let (based, bytes, known) = (case.base.is_some(), vec![], vec![]);
        let mut stage = Self { lab, rng, image, case, based, bytes, known, made: 0, reader };
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

    fn run(&self, who: Who, args: &[&str]) -> Output {
        match who {
            Who::Qemu => self.lab.run("qemu-img", args),
            Who::We => self.lab.run(MILLPOND, &[&["img"], args].concat()),
        }
    }

    /// Both read what it must read as, and both checks agree that it is whole.
    pub(crate) fn compare(&mut self) {
        let convert = ["convert", "-f", "qcow2", "-O", "raw", &self.image, "read"];
        let output = self.run(Who::Qemu, &convert);
        assert!(output.status.success(), "QEMU does not read it: {}", said(&output));
        let theirs = std::fs::read(self.lab.path("read")).unwrap();
        self.expect(&theirs);
        let ours = ours::read(&self.lab.path(&self.image));
        assert_eq!(ours.len(), theirs.len(), "sizes");
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(differs, None, "the first byte that we read differently");
        self.ask_reader(&theirs);
        if self.case.data_file == DataFile::Raw {
            let data = std::fs::read(self.lab.path(&format!("data{}", self.made))).unwrap();
            // QEMU preallocates whole clusters.
            assert!(data.starts_with(&theirs), "the data file does not read as the disk");
        }
        self.bytes = theirs;
        self.known = vec![Known::Surely; self.bytes.len()];
        let check = ["check", "-f", "qcow2", "--output=json", &self.image];
        let [theirs, ours] = [Who::Qemu, Who::We].map(|who| self.run(who, &check));
        assert_eq!(said(&ours), said(&theirs), "what the checks say");
        assert_eq!((ours.status.code(), theirs.status.code()), (Some(0), Some(0)), "{}", said(&theirs));
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
