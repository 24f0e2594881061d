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
}

/// A disk with bitmaps.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub bitmaps: BTreeMap<String, Bitmap>,
    /// Bitmaps that are gone for good.
    pub removed: BTreeSet<String>,
    /// Of each sector: when writes began, and their numbers.
    pub writes: BTreeMap<u64, Vec<(u64, u64)>>,
    clock: u64,
}

impl Model {
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn add(&mut self, name: &str, granularity: u64, recording: bool) {
        let now = Truth { recording, ..Truth::default() };
        let bitmap = Bitmap { granularity, now, candidates: vec![], is_stored: false, goes: false };
        self.removed.remove(name);
        self.bitmaps.insert(name.to_owned(), bitmap);
    }

    /// A change begins; answers when.
    pub fn begin(&mut self, sectors: Range<u64>, write: Option<u64>) -> u64 {
        let at = self.tick();
        for bitmap in self.bitmaps.values_mut().filter(|bitmap| bitmap.now.recording) {
            bitmap.now.may.extend(sectors.clone());
            bitmap.now.writes.extend(sectors.clone().map(|sector| (sector, at)));
        }
        if let Some(number) = write {
            sectors.for_each(|sector| self.writes.entry(sector).or_default().push((at, number)));
        }
        at
    }

    /// A change has ended that began then: what was stored before is marked as in use.
    pub fn end(&mut self, began: u64, sectors: Range<u64>) {
        for bitmap in self.bitmaps.values_mut().filter(|bitmap| bitmap.now.recording) {
            bitmap.now.must.extend(sectors.clone());
            bitmap.candidates.retain(|candidate| candidate.ended.is_none_or(|ended| ended > began));
        }
    }

    /// A bitmap has been changed by a verb.
    pub fn changed(&mut self, name: &str, change: impl FnOnce(&mut Truth)) {
        let bitmap = self.bitmaps.get_mut(name).unwrap();
        change(&mut bitmap.now);
        bitmap.candidates.clear();
    }

    pub fn begin_rest(&mut self) {
        for bitmap in self.bitmaps.values_mut() {
            bitmap.candidates.push(Candidate { least: bitmap.now.clone(), most: None, ended: None });
        }
    }

    pub fn end_rest(&mut self) {
        let at = self.tick();
        for bitmap in self.bitmaps.values_mut() {
            let last = bitmap.candidates.pop().unwrap();
            let most = Some(bitmap.now.may.clone());
            bitmap.candidates = vec![Candidate { most, ended: Some(at), ..last }];
            bitmap.is_stored = true;
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.bitmaps.remove(name);
        self.removed.insert(name.to_owned());
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
