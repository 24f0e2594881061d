//! What is done to an image, and to the model of it.

use block::ByteRange;

use crate::case::{Case, DataFile};
use crate::lab::said;
use crate::ours;
use crate::stage::{Known, Stage, Who};

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
    match stage.rng.below(12) {
        0 if stage.based => stage.img(who, &["commit", "-q", "-f", "qcow2", &stage.image.clone()]),
        1 | 2 if stage.based => rebase(stage, who),
        3 => resize(stage, who),
        4 => convert(stage, who),
        5 if who == Who::Qemu && stage.case.data_file == DataFile::Within => compress(stage),
        _ => change(stage, who),
    }
}

fn change(stage: &mut Stage<'_>, who: Who) {
    let changes: Vec<_> = (0..1 + stage.rng.below(8)).map(|_| any_change(stage, who)).collect();
    println!("{who:?}: {changes:?}");
    for change in &changes {
        let range = change.range();
        let range = range.start() as usize..range.end() as usize;
        match change {
            Change::Write { byte, .. } => stage.bytes[range.clone()].fill(*byte),
            Change::Zero { .. } => stage.bytes[range.clone()].fill(0),
            Change::Discard { .. } | Change::Flush => {}
        }
        let discarded = matches!(change, Change::Discard { .. });
        stage.known[range].fill(if discarded { Known::Discarded } else { Known::Surely });
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

/// A cluster by QEMU, which refuses where one has its place already.
fn compress(stage: &mut Stage<'_>) {
    let cluster = 1 << stage.case.cluster_bits;
    let size = stage.bytes.len() as u64;
    let at = stage.rng.below(size.div_ceil(cluster)) * cluster;
    let range = at as usize..(at + cluster).min(size) as usize;
    let [discard, write] =
        [format!("discard -q {at} {}", range.len()), format!("write -q -c -P 7 {at} {}", range.len())];
    println!("Qemu: {discard}, {write}");
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
    stage.img(who, &["resize", "-q", "-f", "qcow2", "--shrink", &image, &text]);
    let (before, cluster) = (stage.bytes.len(), 1 << stage.case.cluster_bits);
    stage.bytes.resize(size as usize, 0);
    stage.known.resize(size as usize, Known::Surely);
    let end = before.next_multiple_of(cluster).min(size as usize);
    if who == Who::Qemu && before < end {
        stage.known[before..end].fill(Known::Uncovered);
    }
}

/// To another image without a base, which takes its place.
fn convert(stage: &mut Stage<'_>, who: Who) {
    let case = Case::another(&mut stage.rng);
    stage.made += 1;
    let image = format!("image{}.qcow2", stage.made);
    // It is looked for from where the program runs, not from where the image lies.
    let options = case.options(&stage.lab.name(&format!("data{}", stage.made)));
    let packed =
        case.data_file == DataFile::Within && !options.contains("preallocation") && stage.rng.chance(0.5);
    let convert = ["convert", "-f", "qcow2", "-O", "qcow2", "-o", &options];
    let compress: &[&str] = if packed { &["-c"] } else { &[] };
    stage.img(who, &[&convert[..], compress, &[&stage.image, &image]].concat());
    (stage.image, stage.case, stage.based) = (image, case, false);
}
