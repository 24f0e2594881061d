//! What is done to an image, and to the model of it.

use block::ByteRange;

use crate::bitmaps;
use crate::case::{Case, DataFile};
use crate::lab::said;
use crate::ours;
use crate::snapshots;
use crate::stage::{Known, Stage, Who};

/// QEMU takes minutes for other refcounts in clusters of more bits: it looks at each counter that a block could have.
const QUICKLY_WALKED: u64 = 12;

/// A change of bytes, or a flush.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Write { at: u64, len: u64, byte: u8, compressed: bool },
    Zero { at: u64, len: u64, unmap: bool },
    Discard { at: u64, len: u64 },
    Flush,
}

impl Change {
    /// What it changes.
    pub(crate) fn range(&self) -> ByteRange {
        match self {
            Self::Write { at, len, .. } | Self::Zero { at, len, .. } | Self::Discard { at, len } => {
                ByteRange::new(*at, *len)
            }
            Self::Flush => ByteRange::new(0, 0),
        }
    }

    /// In the words of qemu-io.
    fn words(&self) -> String {
        match self {
            Self::Write { at, len, byte, compressed } => {
                format!("write -q {}-P {byte} {at} {len}", if *compressed { "-c " } else { "" })
            }
            Self::Zero { at, len, unmap } => {
                format!("write -q -z {}{at} {len}", if *unmap { "-u " } else { "" })
            }
            Self::Discard { at, len } => format!("discard -q {at} {len}"),
            Self::Flush => "flush".to_owned(),
        }
    }
}

/// One step by one of both.
pub(crate) fn take_one(stage: &mut Stage<'_>) {
    let who = stage.who();
    match stage.rng.below(20) {
        0 if stage.based => commit(stage, who),
        1 if stage.based => rebase(stage, who),
        2 => resize(stage, who),
        3 => convert(stage, who),
        4 => amend(stage, who),
        5 if who == Who::Qemu && stage.case.data_file == DataFile::Within => compress(stage),
        6..10 => snapshots::step(stage, who),
        10..13 => bitmaps::step(stage, who),
        _ => change(stage, who),
    }
}

/// What snapshots read of their base has changed with it.
fn change_base(stage: &mut Stage<'_>) {
    stage.snapshots.iter_mut().for_each(|snapshot| snapshot.bytes = None);
}

fn commit(stage: &mut Stage<'_>, who: Who) {
    stage.img(who, &["commit", "-q", "-f", "qcow2", &stage.image.clone()]);
    change_base(stage);
}

fn change(stage: &mut Stage<'_>, who: Who) {
    let changes: Vec<_> = (0..1 + stage.rng.below(8)).map(|_| any_change(stage, who)).collect();
    println!("{who:?}: {changes:?}");
    for change in &changes {
        note(stage, change);
    }
    match who {
        Who::We => ours::change(&stage.lab.path(&stage.image), &changes),
        Who::Qemu => {
            let words: Vec<_> = changes.iter().map(Change::words).collect();
            let mut args = vec!["-f", "qcow2", "-d", "unmap"];
            words.iter().for_each(|word| args.extend(["-c", word]));
            args.push(&stage.image);
            let output = stage.lab.run("qemu-io", &args);
            assert!(output.status.success() && output.stderr.is_empty(), "qemu-io: {}", said(&output));
        }
    }
}

/// What a change makes of the model.
fn note(stage: &mut Stage<'_>, change: &Change) {
    bitmaps::record(&mut stage.bitmaps, change.range());
    let range = change.range().start() as usize..change.range().end() as usize;
    match change {
        Change::Write { byte, compressed, .. } => {
            stage.bytes[range.clone()].fill(*byte);
            stage.packed |= compressed;
        }
        Change::Zero { .. } => stage.bytes[range.clone()].fill(0),
        Change::Discard { .. } | Change::Flush => {}
    }
    let discarded = matches!(change, Change::Discard { .. });
    stage.known[range].fill(if discarded { Known::Discarded } else { Known::Surely });
}

/// A cluster by QEMU, which refuses where one has its place already.
fn compress(stage: &mut Stage<'_>) {
    let cluster = 1 << stage.case.cluster_bits;
    let size = stage.bytes.len() as u64;
    let at = stage.rng.below(size.div_ceil(cluster)) * cluster;
    let range = at as usize..(at + cluster).min(size) as usize;
    let [discard, write] =
        [format!("discard -q {at} {}", range.len()), format!("write -q -c -P 7 {at} {}", range.len())];
    println!("Qemu: {discard}, {write}");
    stage.packed = true;
    bitmaps::record(&mut stage.bitmaps, ByteRange::new(at, range.len() as u64));
    let args = ["-f", "qcow2", "-d", "unmap", "-c", &discard, "-c", &write, &stage.image];
    let output = stage.lab.run("qemu-io", &args);
    match String::from_utf8_lossy(&output.stderr).trim() {
        "" => stage.bytes[range].fill(7),
        "write failed: Input/output error" => stage.known[range].fill(Known::Discarded),
        _ => panic!("qemu-io: {}", said(&output)),
    }
}

/// Sectors, short ones and long ones, or clusters where we compress them.
fn any_change(stage: &mut Stage<'_>, who: Who) -> Change {
    let (rng, size) = (&mut stage.rng, stage.bytes.len() as u64);
    let compressed = who == Who::We && stage.case.data_file == DataFile::Within && rng.chance(0.2);
    let unit = if compressed { 1 << stage.case.cluster_bits } else { 512 };
    let units = size.div_ceil(unit);
    let first = rng.below(units);
    let most = if rng.chance(0.2) { units } else { (200_000 / unit).max(2) };
    let at = first * unit;
    let len = ((1 + rng.below(most)) * unit).min(size - at);
    let byte = 1 + rng.below(255) as u8;
    match rng.below(8) {
        _ if compressed => Change::Write { at, len, byte, compressed },
        0 => Change::Zero { at, len, unmap: false },
        1 => Change::Zero { at, len, unmap: true },
        2 | 3 => Change::Discard { at, len },
        4 => Change::Flush,
        _ => Change::Write { at, len, byte, compressed },
    }
}

/// Onto another base, or none; it goes on reading as it does.
fn rebase(stage: &mut Stage<'_>, who: Who) {
    let image = stage.image.clone();
    change_base(stage);
    // What is copied is recorded.
    stage.bitmaps.values_mut().filter(|bitmap| bitmap.recording).for_each(|bitmap| bitmap.more = true);
    if stage.rng.chance(0.3) {
        stage.based = false;
        return stage.img(who, &["rebase", "-f", "qcow2", "-b", "", &image]);
    }
    let format = ["raw", "qcow2"][stage.rng.index(2)];
    let (name, size) = (format!("base{}", stage.rng.u64()), (1 + stage.rng.below(6000)) * 512);
    stage.make_base(&name, format, size);
    stage.img(who, &["rebase", "-f", "qcow2", "-F", format, "-b", &name, &image]);
}

/// What is new reads as zeros, what a base may have there notwithstanding.
fn resize(stage: &mut Stage<'_>, who: Who) {
    let size = (1 + stage.rng.below(8000)) * 512;
    let (image, text) = (stage.image.clone(), size.to_string());
    if !stage.either(who, &["resize", "-q", "-f", "qcow2", "--shrink", &image, &text]) {
        return;
    }
    stage.bitmaps.values_mut().for_each(|bitmap| bitmap.bits.resize(size));
    let (before, cluster) = (stage.bytes.len(), 1 << stage.case.cluster_bits);
    stage.bytes.resize(size as usize, 0);
    stage.known.resize(size as usize, Known::Surely);
    let end = before.next_multiple_of(cluster).min(size as usize);
    if who == Who::Qemu && before < end {
        stage.known[before..end].fill(Known::Uncovered);
    }
}

/// To an image of another version, width of refcounts, or laziness.
fn amend(stage: &mut Stage<'_>, who: Who) {
    let bits = 1 << stage.rng.below(7);
    // Where we refuse QEMU spoils bitmaps, or looks whether snapshots have compressed clusters.
    let refused = !stage.bitmaps.is_empty() || !stage.case.plain && !stage.snapshots.is_empty();
    let options = match stage.rng.below(5) {
        0 | 1 if !stage.case.old && !refused => "compat=0.10".to_owned(),
        2 => format!("compat=1.1,refcount_bits={bits}"),
        3 => format!("refcount_bits={bits}"),
        4 => format!("lazy_refcounts={}", ["on", "off"][stage.rng.index(2)]),
        _ => "compat=1.1".to_owned(),
    };
    let (image, widens) = (stage.image.clone(), options.contains("refcount_bits"));
    let args = ["amend", "-q", "-f", "qcow2", "-o", &options, &image];
    let done = match widens && stage.case.cluster_bits > QUICKLY_WALKED {
        true => {
            !(stage.case.old && options.starts_with("refcount")) && stage.we_try(&args, "Cannot decrease")
        }
        false => stage.either(who, &args),
    };
    if !done {
        return;
    }
    stage.case.old = (stage.case.old && !options.contains("compat=1.1")) || options.contains("compat=0.10");
    if widens {
        stage.case.refcount_bits = bits;
    }
}

/// To another image without a base, which takes its place: the present state, with its bitmaps or without, or a
/// snapshot.
fn convert(stage: &mut Stage<'_>, who: Who) {
    let case = Case::another(&mut stage.rng);
    stage.made += 1;
    let image = format!("image{}.qcow2", stage.made);
    // It is looked for from where the program runs, not from where the image lies.
    let options = case.options(&stage.lab.name(&format!("data{}", stage.made)));
    let packed =
        case.data_file == DataFile::Within && !options.contains("preallocation") && stage.rng.chance(0.5);
    let mut args = vec!["convert", "-f", "qcow2", "-O", "qcow2", "-o", &options];
    args.extend(packed.then_some("-c"));
    let with_bitmaps = !stage.case.old && !case.old && stage.rng.chance(0.7);
    args.extend(with_bitmaps.then_some("--bitmaps"));
    let snapshot = stage.snapshots.iter().rev().find(|snapshot| snapshot.size == stage.bytes.len());
    let from = snapshot.filter(|_| !with_bitmaps).map(|snapshot| snapshot.name.clone());
    if let Some(name) = &from {
        let bytes = stage.snapshots.iter().find(|snapshot| snapshot.name == *name).unwrap().bytes.clone();
        stage.bytes = bytes.unwrap();
        args.extend(["-l", name]);
    }
    args.extend([&*stage.image, &*image]);
    stage.img(who, &args);
    if !with_bitmaps {
        stage.bitmaps.clear();
    }
    stage.snapshots.clear();
    (stage.image, stage.case, stage.based, stage.packed) = (image, case, false, packed);
}
