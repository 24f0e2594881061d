//! Internal snapshots: made, gone back to and deleted by either.

use crate::case::DataFile;
use crate::stage::{Known, Stage, Who};

/// Most of them at a time.
const MOST: usize = 4;
/// What is said where refcounts are too narrow.
const OVERFLOW: &str = "Invalid argument";

/// A state that is kept.
pub(crate) struct Snapshot {
    pub(crate) name: String,
    /// Bytes of the disk.
    pub(crate) size: usize,
    /// What it reads as; `None` where that hangs on a base which has changed since both have read it.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// One of the three by one of both.
pub(crate) fn step(stage: &mut Stage<'_>, who: Who) {
    if stage.case.data_file != DataFile::Within {
        return refuse(stage);
    }
    let count = stage.snapshots.len();
    match stage.rng.below(4) {
        0 if count > 0 => delete(stage, who),
        1 if count > 0 => apply(stage, who),
        _ if count < MOST => create(stage, who),
        _ => delete(stage, who),
    }
}

/// Data that lies apart has no snapshots.
fn refuse(stage: &mut Stage<'_>) {
    let image = stage.image.clone();
    stage.refused(&["snapshot", "-f", "qcow2", "-c", "none", &image]);
}

/// Whether clusters may be referred to `more` times beyond one by each snapshot and the disk. QEMU leaves an image with
/// wrong counts where they may not, so that only we try then; compressed clusters share theirs.
fn fits(stage: &Stage<'_>, more: u64) -> bool {
    let wide = !stage.packed || stage.case.refcount_bits > 8;
    wide && stage.snapshots.len() as u64 + more <= stage.case.references_max()
}

fn create(stage: &mut Stage<'_>, who: Who) {
    stage.taken += 1;
    let (name, image) = (format!("s{}", stage.taken), stage.image.clone());
    let args = ["snapshot", "-f", "qcow2", "-c", &name, &image];
    if fits(stage, 2) {
        stage.img(who, &args);
    } else if !stage.we_try(&args, OVERFLOW) {
        return;
    }
    let (size, bytes) = (stage.bytes.len(), Some(stage.bytes.clone()));
    stage.snapshots.push(Snapshot { name, size, bytes });
}

/// Bitmaps would not say what has changed: both refuse while there are any.
fn apply(stage: &mut Stage<'_>, who: Who) {
    let at = stage.rng.index(stage.snapshots.len());
    let (name, image) = (stage.snapshots[at].name.clone(), stage.image.clone());
    let args = ["snapshot", "-f", "qcow2", "-a", &name, &image];
    if !stage.bitmaps.is_empty() {
        return stage.refused(&args);
    }
    // It is referred to once more before the present state is given up.
    if fits(stage, 2) {
        stage.img(who, &args);
    } else if !stage.we_try(&args, OVERFLOW) {
        return;
    }
    let Snapshot { size, bytes, .. } = &stage.snapshots[at];
    let known = if bytes.is_some() { Known::Surely } else { Known::Uncovered };
    stage.bytes = bytes.clone().unwrap_or_else(|| vec![0; *size]);
    stage.known = vec![known; *size];
}

fn delete(stage: &mut Stage<'_>, who: Who) {
    let at = stage.rng.index(stage.snapshots.len());
    let (Snapshot { name, .. }, image) = (stage.snapshots.remove(at), stage.image.clone());
    stage.img(who, &["snapshot", "-f", "qcow2", "-d", &name, &image]);
}

/// Both read them the same, and as they were taken. QEMU reads as much of one as the disk is long now.
pub(crate) fn compare(stage: &mut Stage<'_>, ours: Vec<Vec<u8>>) {
    let asked = stage.rng.index(stage.snapshots.len().max(1));
    for (at, ours) in ours.into_iter().enumerate() {
        let Snapshot { name, size, bytes } = &stage.snapshots[at];
        assert_eq!(ours.len(), *size, "bytes of snapshot {name}");
        let differs = |other: &[u8]| ours.iter().zip(other).position(|(a, b)| a != b);
        if let Some(bytes) = bytes {
            assert_eq!(differs(bytes), None, "the first byte of snapshot {name} that has changed");
        }
        if at == asked || bytes.is_none() {
            let only = format!("snapshot.name={name}");
            let convert = ["convert", "-f", "qcow2", "-O", "raw", "-l", &only, &stage.image, "read"];
            stage.img(Who::Qemu, &convert);
            let theirs = std::fs::read(stage.lab.path("read")).unwrap();
            assert_eq!(differs(&theirs), None, "the first byte of snapshot {name} that we read differently");
        }
        stage.snapshots[at].bytes = Some(ours);
    }
}
