//! What each sector may hold, and what each bitmap on disk may say.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use block::{ByteRange, DirtyBitmap};

/// Bytes of a sector: what is stored whole or not at all, and what the finest bitmap tells apart.
pub const SECTOR: u64 = 512;

/// What is true at a moment.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Sectors of which a change has ended, and those of which one has begun.
    pub must: BTreeSet<u64>,
    pub may: BTreeSet<u64>,
    /// Writes that are recorded: sectors, and when they began.
    pub writes: BTreeSet<(u64, u64)>,
    pub recording: bool,
}

/// What a bitmap that is not in use may say.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub least: Truth,
    /// `None` while it is still being stored: the present truth.
    pub most: Option<BTreeSet<u64>>,
    /// When it was stored.
    pub ended: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Bitmap {
    pub granularity: u64,
    pub now: Truth,
    pub candidates: Vec<Candidate>,
    /// It is in the image, whatever happens.
    pub is_stored: bool,
    /// It is being removed.
    pub goes: bool,
    /// It was found marked as in use when the image was opened: its content is lost.
    pub lost: bool,
}

/// A disk with bitmaps.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub bitmaps: BTreeMap<String, Bitmap>,
    /// Bitmaps that are gone for good.
    pub removed: BTreeSet<String>,
    /// Of each sector: when writes began, and their numbers.
    pub writes: BTreeMap<u64, Vec<(u64, u64)>>,
    /// How long the disk may be, in sectors: the last one while it is being made so long.
    pub sizes: Vec<u64>,
    /// All is stored, and nothing has begun since.
    pub at_rest: bool,
    /// It comes to rest, and nothing has begun since that did.
    resting: bool,
    /// Changes that have begun and not ended.
    pending: u64,
    clock: u64,
}

impl Model {
    /// A disk of so many sectors.
    pub fn of(sectors: u64) -> Self {
        Self { sizes: vec![sectors], ..Self::default() }
    }

    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn add(&mut self, name: &str, granularity: u64, recording: bool) {
        let now = Truth { recording, ..Truth::default() };
        let candidates = vec![];
        let bitmap = Bitmap { granularity, now, candidates, is_stored: false, goes: false, lost: false };
        self.at_rest = false;
        self.removed.remove(name);
        self.bitmaps.insert(name.to_owned(), bitmap);
    }

    /// A change begins; answers when.
    pub fn begin(&mut self, sectors: Range<u64>, write: Option<u64>) -> u64 {
        let at = self.tick();
        (self.at_rest, self.resting) = (false, false);
        self.pending += 1;
        for bitmap in self.bitmaps.values_mut().filter(|bitmap| bitmap.now.recording) {
            bitmap.now.may.extend(sectors.clone());
            bitmap.now.writes.extend(sectors.clone().map(|sector| (sector, at)));
        }
        if let Some(number) = write {
            sectors.for_each(|sector| self.writes.entry(sector).or_default().push((at, number)));
        }
        at
    }

    /// A change has failed: it may have been made, or a part of it.
    pub fn fail(&mut self) {
        self.pending -= 1;
    }

    /// A change has ended that began then: what was stored before is marked as in use.
    pub fn end(&mut self, began: u64, sectors: Range<u64>) {
        self.pending -= 1;
        for bitmap in self.bitmaps.values_mut().filter(|bitmap| bitmap.now.recording) {
            bitmap.now.must.extend(sectors.clone());
            bitmap.candidates.retain(|candidate| candidate.ended.is_none_or(|ended| ended > began));
        }
    }

    /// A bitmap is being changed by a verb.
    pub fn begin_change(&mut self) {
        self.at_rest = false;
    }

    /// It has been.
    pub fn changed(&mut self, name: &str, change: impl FnOnce(&mut Truth)) {
        let bitmap = self.bitmaps.get_mut(name).unwrap();
        change(&mut bitmap.now);
        bitmap.candidates.clear();
    }

    pub fn begin_rest(&mut self) {
        self.resting = self.pending == 0;
        for bitmap in self.bitmaps.values_mut().filter(|bitmap| !bitmap.lost) {
            bitmap.candidates.push(Candidate { least: bitmap.now.clone(), most: None, ended: None });
        }
    }

    pub fn end_rest(&mut self) {
        let at = self.tick();
        self.at_rest = self.resting;
        for bitmap in self.bitmaps.values_mut().filter(|bitmap| !bitmap.lost) {
            let last = bitmap.candidates.pop().unwrap();
            let most = Some(bitmap.now.may.clone());
            bitmap.candidates = vec![Candidate { most, ended: Some(at), ..last }];
            (bitmap.is_stored, bitmap.goes) = (true, false);
        }
    }

    /// It may be stored or not: what begins from now on must mark it as in use.
    pub fn fail_rest(&mut self) {
        let at = self.tick();
        self.at_rest = false;
        for bitmap in self.bitmaps.values_mut() {
            let most = bitmap.now.may.clone();
            for candidate in bitmap.candidates.iter_mut().filter(|candidate| candidate.ended.is_none()) {
                (candidate.most, candidate.ended) = (Some(most.clone()), Some(at));
            }
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.bitmaps.remove(name);
        self.removed.insert(name.to_owned());
    }

    /// The disk is to be so long: a bitmap that is not in use covers it.
    pub fn begin_resize(&mut self, sectors: u64) {
        self.at_rest = false;
        self.sizes.push(sectors);
    }

    /// It is, and all bitmaps are marked as in use.
    pub fn end_resize(&mut self, sectors: u64) {
        self.sizes = vec![sectors];
        self.writes.retain(|sector, _| *sector < sectors);
        for bitmap in self.bitmaps.values_mut() {
            bitmap.candidates.clear();
            bitmap.now.writes.retain(|(sector, _)| *sector < sectors);
            for set in [&mut bitmap.now.must, &mut bitmap.now.may] {
                // What is left of the last unit stays dirty.
                let end = sectors.next_multiple_of(bitmap.granularity / SECTOR);
                let is_dirty = set.range(sectors..end).next().is_some();
                set.retain(|sector| *sector < sectors);
                set.extend(is_dirty.then_some(sectors - 1));
            }
        }
    }

    /// The image was opened again, and this is what it has of a bitmap, and whether it records; `None`: it is in use.
    pub fn found(&mut self, name: &str, stored: Option<(&DirtyBitmap, bool)>) {
        let at_rest = self.at_rest;
        let bitmap = self.bitmaps.get_mut(name).unwrap();
        let Some((content, recording)) = stored else {
            assert!(!at_rest || bitmap.lost, "bitmap {name} was stored, and is lost");
            (bitmap.lost, bitmap.now.recording) = (true, false);
            bitmap.candidates.clear();
            return;
        };
        let runs = content.dirty().flat_map(|run| run.start() / SECTOR..run.end().div_ceil(SECTOR));
        let dirty: BTreeSet<_> = runs.collect();
        if at_rest {
            let is_it = recording == bitmap.now.recording && bitmap.now.must.is_subset(&dirty);
            assert!(is_it, "bitmap {name} was stored, and is not what it was");
        }
        // Whether it is there durably is as it was.
        (bitmap.now.must, bitmap.now.may, bitmap.now.recording) = (dirty.clone(), dirty, recording);
    }
}

impl Bitmap {
    /// What is wrong with what is stored of it, on a disk of which `visible` answers when a sector's content was begun
    /// to be written.
    pub fn check(&self, found: &DirtyBitmap, auto: bool, visible: &dyn Fn(u64) -> u64) -> Result<(), String> {
        let mut why = "no candidate".to_owned();
        for candidate in &self.candidates {
            match self.check_against(candidate, found, auto, visible) {
                Ok(()) => return Ok(()),
                Err(wrong) => why = wrong,
            }
        }
        Err(why)
    }

    fn check_against(
        &self,
        candidate: &Candidate,
        found: &DirtyBitmap,
        auto: bool,
        visible: &dyn Fn(u64) -> u64,
    ) -> Result<(), String> {
        if auto != candidate.least.recording || found.granularity() != self.granularity {
            return Err("flags or granularity are others".to_owned());
        }
        let most = self.of(candidate.most.as_ref().unwrap_or(&self.now.may), found.size());
        let least = self.of(&candidate.least.must, found.size());
        let mut united = found.clone();
        united.merge(&least);
        if united != *found {
            return Err(format!("less is dirty than was changed: {found:?}, {least:?}"));
        }
        united.merge(&most);
        if united != most {
            return Err("more is dirty than was changed".to_owned());
        }
        let is_missed = |(sector, began): &&(u64, u64)| {
            visible(*sector) == *began && !found.is_dirty(ByteRange::new(sector * SECTOR, SECTOR))
        };
        match self.now.writes.iter().find(is_missed) {
            Some((sector, _)) if auto => {
                Err(format!("sector {sector} was changed, and that is not recorded"))
            }
            _ => Ok(()),
        }
    }

    fn of(&self, sectors: &BTreeSet<u64>, size: u64) -> DirtyBitmap {
        let mut bitmap = DirtyBitmap::new(size, self.granularity).unwrap();
        sectors.iter().for_each(|sector| bitmap.set(ByteRange::new(sector * SECTOR, SECTOR)));
        bitmap
    }
}
