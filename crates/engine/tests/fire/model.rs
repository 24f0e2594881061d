//! What a disk must hold: for each unit of 512 bytes the writes that a read may find there.
//!
//! Every write has bytes of its own, so a wrong byte says where it comes from and an old one is never taken for a new
//! one that looks alike. One writer at a time writes a unit; readers come and go as they like. A read finds the last
//! write that had ended before it began, or a later one; or, while there are such, a mixture of these (a write is not
//! atomic). Who has found what became of a write that may or may not have had an effect settles it for all later
//! readers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use block::{ByteRange, Extent};

/// Requests begin and end at multiples of this.
pub const UNIT: u64 = 512;
/// A write that is under way.
const OPEN: u64 = u64::MAX;

/// What a unit may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Zero,
    Tag(u64),
}

#[derive(Clone, Copy, Debug)]
struct Write {
    value: Value,
    begun: u64,
    ended: u64,
    /// It has taken place once it has ended; else (a discard, a failed write) it may have.
    sure: bool,
}

#[derive(Debug)]
struct Unit {
    /// In the order in which they were made; the first has ended.
    writes: Vec<Write>,
    busy: bool,
}

struct State {
    now: u64,
    tags: u64,
    units: Vec<Unit>,
    /// When reads under way began, and how many then.
    reading: BTreeMap<u64, usize>,
}

/// The oracle, shared by all clients.
pub struct Model(Mutex<State>);

/// A change under way. Its range is nobody else's to change.
#[must_use]
pub struct Change {
    pub range: ByteRange,
    /// What to write; empty of a change without data.
    pub bytes: Vec<u8>,
    number: u64,
}

/// A read under way.
#[must_use]
pub struct Read {
    range: ByteRange,
    begun: u64,
}

impl Value {
    fn fill(self, bytes: &mut [u8]) {
        let Self::Tag(tag) = self else { return bytes.fill(0) };
        for (at, word) in bytes.chunks_mut(8).enumerate() {
            let mut x = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at as u64);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word.copy_from_slice(&(x ^ (x >> 27)).to_le_bytes()[..word.len()]);
        }
    }

    fn bytes(self) -> [u8; UNIT as usize] {
        let mut bytes = [0; UNIT as usize];
        self.fill(&mut bytes);
        bytes
    }
}

impl Model {
    /// A disk of `size` bytes (a multiple of [`UNIT`]) whose first bytes, as many as in `base`, are as `base` says by
    /// `true` for something and `false` for zeros; answers what these bytes are.
    pub fn new(size: u64, base: &[bool]) -> (Self, Vec<u8>) {
        let mut bytes = vec![0; base.len() * UNIT as usize];
        let count = (size / UNIT) as usize;
        let value = |at: usize| match base.get(at) {
            Some(true) => Value::Tag(at as u64),
            _ => Value::Zero,
        };
        for (at, unit) in bytes.chunks_mut(UNIT as usize).enumerate() {
            value(at).fill(unit);
        }
        let first = |at| Write { value: value(at), begun: 0, ended: 0, sure: true };
        let units = (0..count).map(|at| Unit { writes: vec![first(at)], busy: false }).collect();
        let state = State { now: 1, tags: count as u64, units, reading: BTreeMap::new() };
        (Self(Mutex::new(state)), bytes)
    }

    pub fn size(&self) -> u64 {
        self.state().units.len() as u64 * UNIT
    }

    /// Claims the front of `range` up to the first unit that somebody else changes; `None` when that is its first.
    fn claim(&self, range: ByteRange, value: impl Fn(&mut u64) -> Value, sure: bool) -> Option<Change> {
        let mut state = self.state();
        let state = &mut *state;
        state.now += 1;
        let first = (range.start() / UNIT) as usize;
        let free = state.units[first..].iter().take((range.len() / UNIT) as usize);
        let count = free.take_while(|unit| !unit.busy).count();
        let oldest = state.reading.keys().next().copied().unwrap_or(state.now);
        let mut bytes = Vec::new();
        for unit in &mut state.units[first..first + count] {
            let value = value(&mut state.tags);
            if value != Value::Zero {
                bytes.extend(value.bytes());
            }
            unit.forget(oldest);
            unit.busy = true;
            unit.writes.push(Write { value, begun: state.now, ended: OPEN, sure });
        }
        let range = ByteRange::new(range.start(), count as u64 * UNIT);
        (count > 0).then_some(Change { range, bytes, number: state.now })
    }

    /// Bytes of memory that it takes itself, while nothing is under way.
    pub fn memory(&self) -> i64 {
        let state = self.state();
        let writes = state.units.iter().map(|unit| unit.writes.capacity() * size_of::<Write>());
        (state.units.capacity() * size_of::<Unit>() + writes.sum::<usize>()) as i64
    }

    /// Begins to write new bytes.
    pub fn write(&self, range: ByteRange) -> Option<Change> {
        let tag = |tags: &mut u64| {
            *tags += 1;
            Value::Tag(*tags)
        };
        self.claim(range, tag, true)
    }

    /// Begins to make a range zero.
    pub fn zero(&self, range: ByteRange) -> Option<Change> {
        self.claim(range, |_| Value::Zero, true)
    }

    /// Begins to give a range up: each of its units becomes zero or stays as it is.
    pub fn discard(&self, range: ByteRange) -> Option<Change> {
        self.claim(range, |_| Value::Zero, false)
    }

    /// A change was answered. One that failed may have taken place in part.
    pub fn changed(&self, change: &Change, done: bool) {
        let mut state = self.state();
        state.now += 1;
        let now = state.now;
        for unit in state.units_of(change.range) {
            unit.busy = false;
            let write = unit.writes.iter_mut().find(|write| write.begun == change.number);
            let write = write.expect("a write under way is never forgotten");
            write.ended = now;
            write.sure &= done;
        }
    }

    /// Begins to read.
    pub fn read(&self, range: ByteRange) -> Read {
        let mut state = self.state();
        state.now += 1;
        let begun = state.now;
        *state.reading.entry(begun).or_default() += 1;
        Read { range, begun }
    }

    /// A read was answered without bytes.
    pub fn unread(&self, read: &Read) {
        self.state().left(read);
    }

    /// Nobody reads or changes anything: what could only be found by those who went away unanswered is forgotten.
    pub fn rest(&self) {
        let mut state = self.state();
        let state = &mut *state;
        state.reading.clear();
        state.now += 1;
        state.units.iter_mut().for_each(|unit| unit.forget(state.now));
    }

    /// A read was answered: says what is wrong about it.
    pub fn found(&self, read: &Read, bytes: &[u8]) -> Result<(), String> {
        let mut state = self.state();
        state.left(read);
        if bytes.len() as u64 != read.range.len() {
            return Err(format!("{} bytes were read instead of {}", bytes.len(), read.range));
        }
        let wrong = state.units_of(read.range).zip(bytes.chunks(UNIT as usize)).enumerate();
        for (at, (unit, bytes)) in wrong {
            let offset = read.range.start() + at as u64 * UNIT;
            unit.found(read.begun, bytes).map_err(|e| format!("unit at {offset} of {}: {e}", read.range))?;
        }
        Ok(())
    }

    /// The states of a range were answered: what is said to read as zeros must be able to.
    pub fn told(&self, read: &Read, extents: &[Extent]) -> Result<(), String> {
        let mut state = self.state();
        state.left(read);
        for extent in extents.iter().filter(|extent| extent.state.reads_zero()) {
            let inside = extent.range.intersection(read.range);
            let first = inside.start().next_multiple_of(UNIT);
            let end = inside.end() / UNIT * UNIT;
            if first >= end {
                continue;
            }
            for (at, unit) in state.units_of(ByteRange::between(first, end)).enumerate() {
                let candidates = unit.candidates(read.begun);
                if candidates.iter().all(|write| write.value != Value::Zero) {
                    let offset = first + at as u64 * UNIT;
                    return Err(format!("{extent:?} is no zeros at {offset}: {candidates:?}"));
                }
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no client panics while it holds the model")
    }
}

impl State {
    fn units_of(&mut self, range: ByteRange) -> impl Iterator<Item = &mut Unit> {
        let (first, count) = ((range.start() / UNIT) as usize, (range.len() / UNIT) as usize);
        self.units[first..first + count].iter_mut()
    }

    fn left(&mut self, read: &Read) {
        if let Some(count) = self.reading.get_mut(&read.begun) {
            *count -= 1;
            if *count == 0 {
                self.reading.remove(&read.begun);
            }
        }
    }
}

impl Unit {
    /// Where the writes begin that a read which begins at `begun` may find.
    fn first(&self, begun: u64) -> usize {
        self.writes.iter().rposition(|write| write.sure && write.ended < begun).unwrap_or(0)
    }

    fn candidates(&self, begun: u64) -> &[Write] {
        &self.writes[self.first(begun)..]
    }

    /// Forgets what no read that began at `oldest` or later may find.
    fn forget(&mut self, oldest: u64) {
        let first = self.first(oldest);
        self.writes.drain(..first);
        self.writes.shrink_to(2);
    }

    fn found(&mut self, begun: u64, bytes: &[u8]) -> Result<(), String> {
        let candidates = self.candidates(begun);
        let values: Vec<_> = candidates.iter().map(|write| write.value.bytes()).collect();
        match values.iter().rposition(|value| *value == bytes) {
            Some(found) => self.settle(begun, found),
            None => {
                let fits = |at: usize| values.iter().any(|value| value[at] == bytes[at]);
                if let Some(at) = (0..bytes.len()).find(|at| !fits(*at)) {
                    let seen = &bytes[..16];
                    return Err(format!("byte {at} is wrong: {seen:02x?}... of {candidates:?} at {begun}"));
                }
            }
        }
        Ok(())
    }

    /// What had ended before a read began either shows in it or never will.
    fn settle(&mut self, begun: u64, found: usize) {
        let first = self.first(begun);
        if self.writes[first..].iter().any(|write| write.ended >= begun) {
            return;
        }
        let shown = self.writes[first + found].value;
        self.writes[first + found].sure = true;
        let mut at = 0;
        self.writes.retain(|write| {
            at += 1;
            at - 1 <= first + found || write.value == shown
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(start: u64, units: u64) -> ByteRange {
        ByteRange::new(start * UNIT, units * UNIT)
    }

    fn holds(model: &Model, range: ByteRange, bytes: &[u8]) -> bool {
        let read = model.read(range);
        model.found(&read, bytes).is_ok()
    }

    #[test]
    fn old_bytes_are_wrong_once_a_write_has_ended() {
        let (model, base) = Model::new(8 * UNIT, &[true; 4]);
        assert!(holds(&model, r(0, 4), &base) && holds(&model, r(4, 4), &[0; 4 * UNIT as usize]));
        let early = model.read(r(1, 1));
        let change = model.write(r(1, 1)).unwrap();
        let old = &base[UNIT as usize..][..UNIT as usize];
        assert!(holds(&model, r(1, 1), old) && holds(&model, r(1, 1), &change.bytes));
        let torn = [&change.bytes[..100], &old[100..]].concat();
        assert!(holds(&model, r(1, 1), &torn));
        model.changed(&change, true);
        assert!(holds(&model, r(1, 1), &change.bytes) && !holds(&model, r(1, 1), old));
        assert!(!holds(&model, r(1, 1), &torn));
        assert!(model.found(&early, old).is_ok(), "it began before");
    }

    #[test]
    fn what_a_discard_did_is_settled_by_the_first_look() {
        let (model, base) = Model::new(2 * UNIT, &[true; 2]);
        let zeros = [0; UNIT as usize];
        let change = model.discard(r(0, 2)).unwrap();
        model.changed(&change, true);
        assert!(holds(&model, r(0, 1), &zeros) && !holds(&model, r(0, 1), &base[..UNIT as usize]));
        assert!(holds(&model, r(1, 1), &base[UNIT as usize..]) && !holds(&model, r(1, 1), &zeros));
    }

    #[test]
    fn a_unit_has_one_writer() {
        let (model, _) = Model::new(8 * UNIT, &[]);
        let first = model.write(r(2, 2)).unwrap();
        assert_eq!(model.zero(r(0, 4)).map(|change| change.range), Some(r(0, 2)));
        assert!(model.write(r(2, 1)).is_none());
        model.changed(&first, false);
        assert!(holds(&model, r(2, 2), &[0; 2 * UNIT as usize]), "it failed");
    }
}
