//! What clients may see of a disk that many of them use at once, byte by byte.
//!
//! A read may answer, for each byte, any write that had begun before the read ended, unless another write began
//! after that one was answered and was itself answered before the read began. Writes of data differ in all their
//! bytes (a hash of number and offset), so that an old value cannot pass for a new one but by chance, and then only
//! in a byte.
//!
//! A discard may have taken place or not. A write that was given up may land at any later time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use block::ByteRange;

/// What a change leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Bytes of its own.
    Data,
    Zeroes,
    Discard,
}

/// A change that has begun.
#[derive(Debug)]
pub struct Change {
    pub id: u64,
    kind: Kind,
    range: ByteRange,
    begun: u64,
}

impl Change {
    /// The bytes that a write of data writes.
    pub fn bytes(&self) -> Vec<u8> {
        (self.range.start()..self.range.end()).map(|at| byte_of(self.id, at)).collect()
    }
}

/// What may lie on a disk before anything is changed.
pub fn initial(len: u64) -> Vec<u8> {
    (0..len).map(|at| byte_of(0, at)).collect()
}

/// A candidate for the bytes of a segment.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u64,
    kind: Kind,
    begun: u64,
    /// `u64::MAX` while it is under way, or when it was given up.
    ended: u64,
}

impl Candidate {
    fn byte(&self, at: u64) -> u8 {
        match self.kind {
            Kind::Data => byte_of(self.id, at),
            Kind::Zeroes | Kind::Discard => 0,
        }
    }

    /// Whether no read that begins at `moment` or later can see it any more, since `other` replaced it.
    fn is_replaced(&self, other: &Self, moment: u64) -> bool {
        other.kind != Kind::Discard && self.ended < other.begun && other.ended < moment
    }
}

/// All changes and reads of one disk.
#[derive(Clone)]
pub struct Oracle(Arc<Mutex<History>>);

struct History {
    now: u64,
    next_id: u64,
    /// Candidates by the first byte of their segment, up to the next segment.
    segments: BTreeMap<u64, Vec<Candidate>>,
    reading: Vec<u64>,
    pub checked: u64,
}

impl Oracle {
    /// A disk whose first `len` bytes are [`initial`], the rest zeros.
    pub fn new(len: u64) -> Self {
        let first = |kind| vec![Candidate { id: 0, kind, begun: 0, ended: 0 }];
        let segments = BTreeMap::from([(0, first(Kind::Data)), (len, first(Kind::Zeroes))]);
        Self(Arc::new(Mutex::new(History { now: 1, next_id: 1, segments, reading: Vec::new(), checked: 0 })))
    }

    pub fn begin(&self, kind: Kind, range: ByteRange) -> Change {
        let mut history = self.0.lock().unwrap();
        let (id, begun) = (history.next_id, history.tick());
        history.next_id += 1;
        for candidates in history.segments_of(range) {
            candidates.push(Candidate { id, kind, begun, ended: u64::MAX });
        }
        Change { id, kind, range, begun }
    }

    /// It was answered.
    pub fn end(&self, change: &Change) {
        let mut history = self.0.lock().unwrap();
        let now = history.tick();
        let oldest_read = history.reading.iter().copied().min().unwrap_or(now);
        for candidates in history.segments_of(change.range) {
            for candidate in candidates.iter_mut().filter(|c| c.id == change.id) {
                debug_assert_eq!((candidate.begun, candidate.kind), (change.begun, change.kind));
                candidate.ended = now;
            }
            let all = candidates.clone();
            candidates.retain(|c| !all.iter().any(|other| c.is_replaced(other, oldest_read)));
        }
    }

    /// A read begins; answers when.
    pub fn begin_read(&self) -> u64 {
        let mut history = self.0.lock().unwrap();
        let begun = history.tick();
        history.reading.push(begun);
        begun
    }

    /// The read that began then has ended with `bytes` of `range`; answers what is wrong with them.
    pub fn end_read(&self, begun: u64, range: ByteRange, bytes: &[u8]) -> Result<(), String> {
        let mut history = self.0.lock().unwrap();
        let at = history.reading.iter().position(|b| *b == begun).unwrap();
        history.reading.swap_remove(at);
        history.checked += bytes.len() as u64;
        let bounds: Vec<u64> = history.bounds(range);
        for pair in bounds.windows(2) {
            let candidates = history.at(pair[0]);
            let seen: Vec<_> =
                candidates.iter().filter(|c| !candidates.iter().any(|o| c.is_replaced(o, begun))).collect();
            for at in pair[0]..pair[1] {
                let byte = bytes[(at - range.start()) as usize];
                if !seen.iter().any(|c| c.byte(at) == byte) {
                    return Err(format!(
                        "byte {at} of a read of {range} is {byte}, not of {seen:?} (all: {candidates:?})"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Bytes that were compared.
    pub fn checked(&self) -> u64 {
        self.0.lock().unwrap().checked
    }
}

impl History {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn at(&self, at: u64) -> &Vec<Candidate> {
        self.segments.range(..=at).next_back().unwrap().1
    }

    fn cut(&mut self, at: u64) {
        if !self.segments.contains_key(&at) {
            let candidates = self.at(at).clone();
            self.segments.insert(at, candidates);
        }
    }

    fn segments_of(&mut self, range: ByteRange) -> impl Iterator<Item = &mut Vec<Candidate>> {
        self.cut(range.start());
        self.cut(range.end());
        self.segments.range_mut(range.start()..range.end()).map(|(_, candidates)| candidates)
    }

    /// Where candidates may change within `range`, both ends included.
    fn bounds(&self, range: ByteRange) -> Vec<u64> {
        let inner = self.segments.range(range.start() + 1..range.end()).map(|(at, _)| *at);
        [range.start()].into_iter().chain(inner).chain([range.end()]).collect()
    }
}

fn byte_of(id: u64, at: u64) -> u8 {
    let mut x = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (x >> 40) as u8
}
