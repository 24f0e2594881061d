//! Our check beside `qemu-img check`: images made by QEMU's tools, then broken. Numbers agree in every class, before
//! and after a repair, and a repair changes nothing that a guest reads.

#![allow(unreachable_pub, reason = "modules of one test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each test uses a part of it")]
mod checking;
#[path = "lab/images.rs"]
#[allow(dead_code, reason = "each test uses a part of it")]
mod images;

use std::process::Command;

use images::Images;
use qcow2::Header;
use qcow2::check::{Found, Repair};

const SIZE: u64 = 3 << 20;

/// Kinds of images: how they are created, and what is done to them.
const KINDS: &[(&str, &[&str])] = &[
    ("cluster_size=4k", &[]),
    ("cluster_size=512,refcount_bits=64", &[]),
    ("cluster_size=1k,refcount_bits=1", &[]),
    ("cluster_size=4k,refcount_bits=2", &["snapshot"]),
    ("compat=0.10,cluster_size=2k", &["snapshot"]),
    ("cluster_size=16k,extended_l2=on", &["snapshot"]),
    // With both QEMU 10.0.2 loses the snapshots when it repairs anything.
    ("cluster_size=64k", &["bitmap"]),
    ("cluster_size=64k", &["snapshot"]),
    ("cluster_size=8k,compression_type=zstd", &["compressed", "snapshot"]),
    ("cluster_size=4k,data_file=data,data_file_raw=off", &[]),
    ("cluster_size=4k,refcount_bits=8,preallocation=metadata", &["snapshot"]),
];

/// An image of a kind.
fn make(lab: &mut Images, name: &str, (options, extras): (&str, &[&str])) {
    let options = options.replace("data_file=data", &format!("data_file={name}.data"));
    lab.img(&["create", "-q", "-f", "qcow2", "-o", &options, name, &SIZE.to_string()]);
    if extras.contains(&"compressed") {
        lab.raw("source.raw", SIZE);
        lab.img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, "source.raw", name]);
    }
    let cluster = 4096;
    lab.scribble(name, SIZE, cluster, 12);
    if extras.contains(&"bitmap") {
        lab.img(&["bitmap", "-f", "qcow2", "--add", name, "one"]);
        lab.img(&["bitmap", "-f", "qcow2", "--add", "-g", "4k", name, "two"]);
        lab.scribble(name, SIZE, cluster, 6);
    }
    if extras.contains(&"snapshot") {
        lab.img(&["snapshot", "-c", "first", name]);
        lab.scribble(name, SIZE, cluster, 6);
    }
}

/// A sector of metadata, by a look at where tables are.
fn break_somewhere(lab: &mut Images, file: &mut [u8], breaks: usize) -> Vec<String> {
    let header = Header::parse(&file[..Header::needed(file).unwrap()]).unwrap();
    let cluster = 1usize << header.cluster_bits;
    let l1 = qcow2::Geometry::new(&header).l1_offset().0 as usize;
    let mut tables = vec![(l1, header.l1_entries as usize * 8)];
    let word = |file: &[u8], at: usize| {
        file.get(at..at + 8).map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
    };
    let refcounts = header.refcount_table.offset.0 as usize;
    tables.push((refcounts, 64.min(cluster)));
    for entry in 0..64.min(cluster / 8) {
        let block = word(file, refcounts + entry * 8) as usize;
        if block != 0 {
            let used = (file.len() / cluster * header.refcount_table.bits as usize / 8).clamp(8, cluster);
            tables.push((block, used));
            tables.push((block, used));
        }
    }
    for entry in 0..header.l1_entries as usize {
        let table = (word(file, l1 + entry * 8) & 0x00ff_ffff_ffff_fe00) as usize;
        if table != 0 {
            tables.push((table, cluster));
        }
    }
    if header.snapshots.count > 0 {
        let table = header.snapshots.offset.0 as usize;
        tables.push((table, 12));
        let l1 = word(file, table) as usize;
        tables.push((l1, header.l1_entries as usize * 8));
    }
    (0..breaks).map(|_| break_one(lab, file, &tables, cluster)).collect()
}

fn break_one(lab: &mut Images, file: &mut [u8], tables: &[(usize, usize)], cluster: usize) -> String {
    let (table, len) = tables[lab.below(tables.len() as u64) as usize];
    let at = table + (lab.below(len as u64 / 8) as usize) * 8;
    let clusters = (file.len() / cluster) as u64;
    let Some(place) = file.get_mut(at..at + 8) else { return "nothing".to_owned() };
    let old = u64::from_be_bytes((&*place).try_into().unwrap());
    let new = match lab.below(8) {
        0 => old ^ 1 << lab.below(64),
        1 => old ^ 1 << 63,
        2 => 0,
        3 => (lab.below(clusters + 4) * cluster as u64) | 1 << 63,
        4 => lab.below(clusters + 2) * cluster as u64 + 512 * lab.below(4) + lab.below(2),
        5 => old ^ 1 << lab.below(24),
        6 => 1 << 62 | old,
        _ => old.wrapping_add(1 << (8 * lab.below(8))),
    };
    place.copy_from_slice(&new.to_be_bytes());
    format!("{old:#018x} at {at:#x} is {new:#018x}")
}

/// The numbers that say what is wrong.
fn verdict(found: &Found) -> [u64; 3] {
    [found.corruptions, found.leaks, found.check_errors]
}

/// What guests read, where QEMU reads it without an error.
fn content(lab: &Images, name: &str) -> Option<Vec<u8>> {
    let copy = lab.path("content.raw");
    let _ = std::fs::remove_file(&copy);
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-f", "qcow2", "-O", "raw", name, "content.raw"]).current_dir(lab.dir());
    let done = command.output().unwrap().status.success();
    done.then(|| std::fs::read(copy).unwrap())
}

struct Case<'a> {
    lab: &'a mut Images,
    name: String,
    file: Vec<u8>,
    how: String,
}

impl Case<'_> {
    fn put(&self, name: &str, file: &[u8]) {
        std::fs::write(self.lab.path(name), file).unwrap();
    }

    /// The same numbers as qemu-img finds, or neither can check it.
    fn check(&mut self) -> Option<Found> {
        let (theirs, code, said) = checking::qemu(&self.lab.path(&self.name), &[]);
        let ours = checking::check(&mut self.file.clone(), Repair::Nothing);
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) => {
                assert_eq!(ours.found, theirs, "{}\nQEMU: {said}\nwe: {:#?}", self.how, ours.lines);
                Some(ours.found)
            }
            (Err(_), None) => None,
            (Ok(ours), None) => panic!("{}\nonly QEMU cannot check it ({code}): {said}\n{ours:?}", self.how),
            (Err(error), Some(theirs)) => {
                // We are stricter about headers.
                panic!("{}\nonly we cannot check it: {error}\n{theirs:?}", self.how)
            }
        }
    }

    /// Repairs it, and has QEMU repair another; neither finds more wrong with ours than with QEMU's.
    fn repair(&mut self, before: Found, how: Repair) {
        let arg = if how == Repair::All { "all" } else { "leaks" };
        let content_before = content(self.lab, &self.name);
        self.put("theirs", &self.file);
        let (theirs, code, said) = checking::qemu(&self.lab.path("theirs"), &["-r", arg]);
        let mut file = self.file.clone();
        let ours = match checking::check(&mut file, how) {
            Ok(ours) => ours,
            Err(error) => {
                // Where something is wrong besides leaks we touch less.
                let refuses = how == Repair::Leaks && before.corruptions > 0
                    || error.to_string().contains("points to its header");
                assert!(
                    code == 1 || refuses,
                    "{}\n-r {arg}: only we cannot: {error}\nQEMU: {theirs:?} {said}",
                    self.how
                );
                return;
            }
        };
        self.put(&self.name, &file);
        let (after, _, said_after) = checking::qemu(&self.lab.path(&self.name), &[]);
        let context = || {
            format!(
                "{}\n-r {arg}\nbefore: {before:?}\nours: {:?}\nafter: {after:?} {said_after}\nQEMU: {theirs:?} {code} {said}",
                self.how, ours.found
            )
        };
        let after = after.unwrap_or_else(|| panic!("cannot be checked any more: {}", context()));
        assert_eq!(verdict(&ours.found), verdict(&after), "{}", context());
        // Refcounts that could not be read hid what disagrees with them.
        let hidden = before.check_errors > after.check_errors;
        // A leak that is mended may leave a flag that does not say that its cluster is nobody else's.
        let sum = |found: &Found| verdict(found).iter().sum::<u64>();
        let worse = sum(&after) > sum(&before) && !hidden;
        assert!(!worse, "worse: {}", context());
        // QEMU mends some by writing over what a guest reads.
        let kept = content_before.is_some() && content(self.lab, "theirs") == content_before;
        // A table that something else points to as well is left alone here.
        let shared = said.contains("overflow") || ours.refused;
        if let (Some(theirs), true) = (theirs, code != 1 && kept && !shared) {
            let worse = verdict(&theirs).iter().zip(verdict(&after)).any(|(theirs, ours)| ours > *theirs);
            assert!(!worse, "QEMU does it better: {}", context());
        }
        if let Some(content_before) = content_before {
            let now = content(self.lab, &self.name);
            assert!(now == Some(content_before), "reads otherwise: {}", context());
        }
        self.put(&self.name, &self.file);
    }
}

#[test]
fn broken_images_are_judged_and_repaired_as_qemu_does() {
    let tools = ["qemu-img", "qemu-io"];
    let Some(mut lab) = Images::with_tools("qcow2 check beside QEMU", &tools) else { return };
    let rounds = if std::env::var_os("MILLPOND_TEST_FULL").is_some() { 40 } else { 4 };
    let (mut broken, mut repaired) = (0, 0);
    for (number, kind) in KINDS.iter().enumerate() {
        let name = format!("image{number}");
        make(&mut lab, &name, *kind);
        let whole = std::fs::read(lab.path(&name)).unwrap();
        for round in 0..rounds {
            let mut file = whole.clone();
            let how = break_somewhere(&mut lab, &mut file, round.min(3));
            let how = format!("{}, round {round}: {how:?}", kind.0);
            std::fs::write(lab.path(&name), &file).unwrap();
            let mut case = Case { lab: &mut lab, name: name.clone(), file, how };
            let Some(found) = case.check() else { continue };
            if verdict(&found) != [0; 3] {
                broken += 1;
                case.repair(found, Repair::All);
                case.repair(found, Repair::Leaks);
                repaired += 1;
            }
        }
    }
    assert!(broken > 2 * KINDS.len() && repaired > 0, "{broken} broken, {repaired} repaired");
}

/// Where the entries of the snapshot table begin.
fn snapshot_entries(file: &[u8]) -> Vec<usize> {
    let number = |at: usize, len: usize| {
        file[at..at + len].iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let header = Header::parse(&file[..Header::needed(file).unwrap()]).unwrap();
    let (mut at, mut entries) = (header.snapshots.offset.0 as usize, Vec::new());
    for _ in 0..header.snapshots.count {
        entries.push(at);
        at += 40 + number(at + 36, 4) + number(at + 12, 2) + number(at + 14, 2);
        at = at.next_multiple_of(8);
    }
    entries
}

#[test]
fn snapshot_tables_that_are_too_long_are_cut_as_qemu_does() {
    let tools = ["qemu-img", "qemu-io"];
    let Some(mut lab) = Images::with_tools("snapshot tables beside QEMU", &tools) else { return };
    lab.img(&["create", "-q", "-f", "qcow2", "image", "3M"]);
    for name in ["first", "second", "third"] {
        lab.scribble("image", SIZE, 4096, 6);
        lab.img(&["snapshot", "-c", name, "image"]);
    }
    let whole = std::fs::read(lab.path("image")).unwrap();
    let entries = snapshot_entries(&whole);
    for (entry, extra) in [(2, 2000u32), (2, 3 << 30), (1, u32::MAX), (0, 1 << 31)] {
        let mut file = whole.clone();
        file[entries[entry] + 36..][..4].copy_from_slice(&extra.to_be_bytes());
        let how = format!("extra data of entry {entry}: {extra}");
        std::fs::write(lab.path("theirs"), &file).unwrap();
        let (theirs, code, said) = checking::qemu(&lab.path("theirs"), &["-r", "all"]);
        assert!(theirs.is_some() && code == 0, "{how}: QEMU: {code} {said}");
        assert!(checking::check(&mut file.clone(), Repair::Nothing).is_err(), "{how}: nothing is wrong");
        let content = content(&lab, "theirs");
        let ours = checking::check(&mut file, Repair::All).unwrap();
        assert_eq!(verdict(&ours.found), [0; 3], "{how}: {ours:?}");
        assert_eq!(ours.found.corruptions_fixed, theirs.unwrap().corruptions_fixed, "{how}: {ours:?} {said}");
        assert_eq!(ours.lines.first().map(String::as_str), said.lines().next(), "{how}");
        std::fs::write(lab.path("ours"), &file).unwrap();
        let (after, _, said) = checking::qemu(&lab.path("ours"), &[]);
        assert_eq!(after.map(|found| verdict(&found)), Some([0; 3]), "{how}: {said}");
        assert_eq!(lab.img(&["snapshot", "-l", "ours"]), lab.img(&["snapshot", "-l", "theirs"]), "{how}");
        std::fs::copy(lab.path("ours"), lab.path("theirs")).unwrap();
        assert!(content.is_some() && self::content(&lab, "theirs") == content, "{how}: reads otherwise");
    }
}
