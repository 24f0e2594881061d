//! What each sector of a disk may hold after a power loss: what was flushed, or anything newer.

use std::ops::Range;

use block::ByteRange;

use crate::snapshotting::Kept;

/// Bytes of a sector: what is stored whole or not at all.
pub const SECTOR: usize = 512;

/// What a sector holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// What it held before anything was written.
    First,
    Zeros,
    /// Anything: what was to change it failed.
    Anything,
    /// The bytes of the write of that number.
    Write(u64),
}

/// What becomes of sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Write(u64),
    Zeros,
    Discard,
}

#[derive(Clone)]
struct Sector {
    /// All states in order, each with what it may look like (a discard may have done nothing).
    states: Vec<Vec<Content>>,
    /// The last state whose change was answered, and the last that a flush covers.
    ended: usize,
    flushed: usize,
}

/// A disk. Changes of one sector come one after the other.
pub struct Model {
    first: Vec<u8>,
    sectors: Vec<Sector>,
    writes: u64,
    /// How long the disk may be found to be, in sectors.
    sizes: Vec<u64>,
    /// The disk may fail: a write that is under way may have left a part of a sector.
    fails: bool,
    /// The internal snapshots.
    pub kept: Kept,
    /// All of the disk may be this instead.
    instead: Option<Vec<u8>>,
}

/// What a flush that begins now covers.
pub struct Covered(Vec<usize>);

impl Sector {
    /// One that the disk has lost, or not got yet.
    fn gone() -> Self {
        Self { states: vec![vec![Content::Zeros]], ended: 0, flushed: 0 }
    }
}

impl Model {
    /// A disk that holds `first`, whole sectors.
    pub fn new(first: Vec<u8>, fails: bool) -> Self {
        let sector = Sector { states: vec![vec![Content::First]], ended: 0, flushed: 0 };
        let sectors = vec![sector; first.len() / SECTOR];
        let (sizes, kept) = (vec![sectors.len() as u64], Kept::default());
        Self { sizes, sectors, first, writes: 0, fails, kept, instead: None }
    }

    /// The disk is to be that many sectors long.
    pub fn begin_resize(&mut self, sectors: u64) {
        self.sizes.push(sectors);
        let longest = self.sectors.len().max(sectors as usize);
        self.first.resize(longest * SECTOR, 0);
        self.sectors.resize(longest, Sector::gone());
    }

    /// It is, durably: what was behind is gone, and what comes there reads as zeros.
    pub fn end_resize(&mut self, sectors: u64) {
        self.sizes = vec![sectors];
        self.sectors[sectors as usize..].fill(Sector::gone());
    }

    /// All of the disk is to be these bytes, which it held before.
    pub fn begin_apply(&mut self, bytes: Vec<u8>) {
        self.instead = Some(bytes);
    }

    /// It is, durably.
    pub fn end_apply(&mut self) {
        let Some(first) = self.instead.take() else { return };
        let sector = Sector { states: vec![vec![Content::First]], ended: 0, flushed: 0 };
        (self.sectors, self.first) = (vec![sector; first.len() / SECTOR], first);
    }

    /// Number of a new write.
    pub fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes
    }

    pub fn begin(&mut self, sectors: Range<u64>, kind: Kind) {
        for sector in &mut self.sectors[sectors.start as usize..sectors.end as usize] {
            let before = sector.states.last().cloned().unwrap_or_default();
            sector.states.push(match kind {
                Kind::Write(number) => vec![Content::Write(number)],
                Kind::Zeros => vec![Content::Zeros],
                Kind::Discard => before.into_iter().chain([Content::Zeros]).collect(),
            });
        }
    }

    /// What was to change them failed: anything may be there.
    pub fn fail(&mut self, sectors: Range<u64>) {
        for sector in &mut self.sectors[sectors.start as usize..sectors.end as usize] {
            sector.states.push(vec![Content::Anything]);
        }
    }

    pub fn end(&mut self, sectors: Range<u64>) {
        for sector in &mut self.sectors[sectors.start as usize..sectors.end as usize] {
            sector.ended = sector.states.len() - 1;
        }
    }

    pub fn begin_flush(&self) -> Covered {
        Covered(self.sectors.iter().map(|sector| sector.ended).collect())
    }

    pub fn end_flush(&mut self, covered: &Covered) {
        for (sector, state) in self.sectors.iter_mut().zip(&covered.0) {
            // What a shorter disk has lost meanwhile is not there any more.
            sector.flushed = sector.flushed.max((*state).min(sector.ended));
        }
    }

    /// What is wrong with `bytes`, read while nothing of `sectors` was being changed.
    pub fn check_now(&self, sectors: Range<u64>, bytes: &[u8]) -> Result<(), String> {
        self.check(sectors, bytes, |sector| sector.ended)
    }

    /// What is wrong with a copy of the disk that was made since that flush began.
    pub fn check_since(&self, covered: &Covered, bytes: &[u8]) -> Result<(), String> {
        let mut from = covered.0.iter();
        self.check(0..covered.0.len() as u64, bytes, |_| from.next().copied().unwrap_or(0))
    }

    /// What is wrong with the whole disk after a power loss.
    pub fn check_after_crash(&self, bytes: &[u8]) -> Result<(), String> {
        if self.instead.as_ref().is_some_and(|instead| instead == bytes) {
            return Ok(());
        }
        let sectors = (bytes.len() / SECTOR) as u64;
        if !self.sizes.contains(&sectors) {
            return Err(format!("it is {sectors} sectors long, and not one of {:?}", self.sizes));
        }
        self.check(0..sectors, bytes, |sector| sector.flushed)
    }

    /// Whether any sector holds something else than at first.
    pub fn has_changed(&self, bytes: &[u8]) -> bool {
        !self.first.starts_with(bytes)
    }

    fn check(
        &self,
        sectors: Range<u64>,
        bytes: &[u8],
        mut from: impl FnMut(&Sector) -> usize,
    ) -> Result<(), String> {
        for (at, found) in sectors.zip(bytes.chunks(SECTOR)) {
            let sector = &self.sectors[at as usize];
            let allowed = &sector.states[from(sector)..];
            if self.fails && sector.ended + 1 < sector.states.len() {
                continue;
            }
            if !allowed.iter().flatten().any(|content| self.matches(at, *content, found)) {
                let found = &found[..16.min(found.len())];
                return Err(format!("sector {at} begins with {found:02x?}, which is none of {allowed:?}"));
            }
        }
        Ok(())
    }

    fn matches(&self, sector: u64, content: Content, found: &[u8]) -> bool {
        match content {
            Content::Anything => true,
            Content::First => found == &self.first[sector as usize * SECTOR..][..SECTOR],
            Content::Zeros => found.iter().all(|byte| *byte == 0),
            Content::Write(number) => {
                let word = word(number, sector);
                found.as_chunks().0.iter().all(|bytes| *bytes == word)
            }
        }
    }
}

/// Where sectors lie.
pub fn bytes(sectors: &Range<u64>) -> ByteRange {
    ByteRange::between(sectors.start * SECTOR as u64, sectors.end * SECTOR as u64)
}

/// The bytes of a write.
pub fn bytes_of(number: u64, sectors: Range<u64>) -> Vec<u8> {
    sectors.flat_map(|sector| word(number, sector).repeat(SECTOR / 8)).collect()
}

fn word(number: u64, sector: u64) -> [u8; 8] {
    (number << 40 | 0xa5 << 32 | sector).to_be_bytes()
}
