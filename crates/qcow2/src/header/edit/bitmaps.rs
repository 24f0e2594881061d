//! The bitmaps extension comes, changes and goes.
//!
//! Its autoclear bit, which is in the first sector, says whether it is believed. Invariants: at any moment there is the
//! old extension, the new one, or none that is believed; none only while there is no other way: where the extension
//! comes or goes, and where its data lies across the border of two sectors.

use block::BlockError;

use super::{SECTOR, padded};
use crate::BitmapsExtension;
use crate::big_endian::{be32, be64};
use crate::extension::{BITMAPS, END, PREFIX};
use crate::feature;
use crate::header::layout::{AUTOCLEAR_AT, BACKING_LEN_AT, BACKING_OFFSET_AT, Layout, put32, put64};

/// What the first cluster looks like after each step.
pub(super) fn states(first: &[u8], wanted: Option<&BitmapsExtension>) -> Result<Vec<Vec<u8>>, BlockError> {
    let mut steps = Steps { now: first.to_vec(), states: Vec::new() };
    let places = Places::find(first)?;
    match (wanted.map(BitmapsExtension::bytes), places.extension) {
        (None, None) => steps.believe(false),
        (None, Some((at, len))) => {
            steps.believe(false);
            steps.remove(at, len)?;
        }
        (Some(data), Some((at, len))) if len == data.len() => steps.replace(at + PREFIX, &data),
        (Some(data), found) => {
            steps.believe(false);
            match places.room(first, data.len()).filter(|_| found.is_none()) {
                Some(room) => steps.append(&room, &data),
                None => steps.rebuild(|layout| layout.set_extension(BITMAPS, &data))?,
            }
            steps.believe(true);
        }
    }
    Ok(steps.states)
}

/// Where extensions are.
struct Places {
    /// The tag of the bitmaps extension, and how long its data is.
    extension: Option<(usize, usize)>,
    /// The tag that ends them, if there is one.
    end: Option<usize>,
}

/// Room for another extension.
struct Room {
    /// Where the end is that it takes the place of.
    at: usize,
    /// Where the backing file name goes first, if it is in the way.
    name: Option<usize>,
}

impl Places {
    fn find(first: &[u8]) -> Result<Self, BlockError> {
        let layout = Layout::parse(first)?;
        let (mut at, mut extension) = (layout.fixed.len(), None);
        for (kind, data) in &layout.extensions {
            if *kind == BITMAPS {
                extension = Some((at, data.len()));
            }
            at += PREFIX + data.len().next_multiple_of(8);
        }
        let limit = be64(first, BACKING_OFFSET_AT).filter(|offset| *offset != 0).unwrap_or(u64::MAX);
        let ends = at as u64 + PREFIX as u64 <= limit && be32(first, at) == Some(END);
        Ok(Self { extension, end: ends.then_some(at) })
    }

    /// Room for `len` bytes of data behind all others.
    fn room(&self, first: &[u8], len: usize) -> Option<Room> {
        let at = self.end?;
        let needed = at + 2 * PREFIX + len;
        let old = be64(first, BACKING_OFFSET_AT)? as usize;
        let name_len = be32(first, BACKING_LEN_AT)? as usize;
        if needed > first.len() {
            return None;
        }
        if old == 0 || old >= needed {
            return Some(Room { at, name: None });
        }
        let name = needed.max(old + name_len).next_multiple_of(8);
        (name + name_len <= first.len()).then_some(Room { at, name: Some(name) })
    }
}

/// The steps so far.
struct Steps {
    now: Vec<u8>,
    states: Vec<Vec<u8>>,
}

impl Steps {
    fn step(&mut self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.now);
        self.states.push(self.now.clone());
    }

    /// Sets or clears the autoclear bit.
    fn believe(&mut self, believed: bool) {
        let old = be64(&self.now, AUTOCLEAR_AT).unwrap_or(0);
        let new = if believed { old | feature::BITMAPS } else { old & !feature::BITMAPS };
        self.step(|now| put64(now, AUTOCLEAR_AT, new));
    }

    /// Other data in the same place.
    fn replace(&mut self, at: usize, data: &[u8]) {
        let changed = (0..data.len()).filter(|byte| self.now[at + byte] != data[*byte]);
        let sectors: Vec<_> = changed.map(|byte| (at + byte) / SECTOR).collect();
        if sectors.first() != sectors.last() {
            self.believe(false);
        }
        self.step(|now| now[at..at + data.len()].copy_from_slice(data));
        self.believe(true);
    }

    /// One more: what nobody looks at yet comes first.
    fn append(&mut self, room: &Room, data: &[u8]) {
        if let Some(name) = room.name {
            let old = be64(&self.now, BACKING_OFFSET_AT).unwrap_or(0) as usize;
            let len = be32(&self.now, BACKING_LEN_AT).unwrap_or(0) as usize;
            self.step(|now| now.copy_within(old..old + len, name));
            self.step(|now| put64(now, BACKING_OFFSET_AT, name as u64));
        }
        let from = room.at + PREFIX;
        self.step(|now| {
            now[from..from + data.len()].copy_from_slice(data);
            now[from + data.len()..from + data.len() + PREFIX].fill(0);
        });
        self.step(|now| {
            put32(now, room.at, BITMAPS);
            put32(now, room.at + 4, data.len() as u32);
        });
    }

    /// Takes the extension away.
    fn remove(&mut self, at: usize, len: usize) -> Result<(), BlockError> {
        let behind = at + PREFIX + len.next_multiple_of(8);
        let limit = be64(&self.now, BACKING_OFFSET_AT).filter(|offset| *offset != 0);
        let is_last = limit.is_some_and(|limit| limit < (behind + PREFIX) as u64)
            || be32(&self.now, behind).is_none_or(|kind| kind == END);
        match is_last {
            true => self.step(|now| now[at..at + PREFIX].fill(0)),
            false => self.rebuild(|layout| layout.extensions.retain(|(kind, _)| *kind != BITMAPS))?,
        }
        Ok(())
    }

    /// Writes the header anew.
    fn rebuild(&mut self, change: impl FnOnce(&mut Layout)) -> Result<(), BlockError> {
        let mut layout = Layout::parse(&self.now)?;
        change(&mut layout);
        let bytes = padded(layout.bytes()?, self.now.len());
        self.step(|now| now.copy_from_slice(&bytes));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{backing_of, image};
    use super::*;
    use crate::{Header, HeaderEdit, HostOffset};

    fn extension(number: u32) -> BitmapsExtension {
        let directory = HostOffset(u64::from(number) << 16);
        BitmapsExtension { count: number, directory_len: 40 * u64::from(number), directory }
    }

    /// Carries it out; each sector may be written or not.
    fn carry_out(first: &[u8], wanted: Option<BitmapsExtension>) -> Vec<u8> {
        let old = Header::parse(first).expect("good before");
        let mut now = first.to_vec();
        let writes = HeaderEdit::Bitmaps(wanted).writes(first).expect("possible");
        for write in &writes {
            for tears in 0..1usize << (write.bytes.len() / SECTOR).min(6) {
                let mut torn = now.clone();
                for (at, sector) in
                    write.bytes.chunks(SECTOR).enumerate().filter(|(at, _)| tears >> at & 1 != 0)
                {
                    torn[write.offset as usize + at * SECTOR..][..SECTOR].copy_from_slice(sector);
                }
                let found = Header::parse(&torn).expect("good in between");
                assert!([old.bitmaps, wanted, None].contains(&found.bitmaps), "{found:?}");
                assert_eq!(
                    (found.backing, found.unknown_extensions),
                    (old.backing.clone(), old.unknown_extensions.clone())
                );
            }
            now[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
        }
        let new = Header::parse(&now).expect("good afterwards");
        assert_eq!((new.bitmaps, new.features.bitmaps()), (wanted, wanted.is_some()));
        now
    }

    #[test]
    fn it_comes_changes_and_goes_without_a_bad_header() {
        for cluster_bits in [10, 12, 16] {
            for backing in
                [None, Some(("base.raw", "raw")), Some(("a/rather/long/name/of/a/base.qcow2", "qcow2"))]
            {
                let first = image(cluster_bits, backing);
                let one = carry_out(&first, Some(extension(1)));
                let two = carry_out(&one, Some(extension(2)));
                let none = carry_out(&two, None);
                assert_eq!(backing_of(&none), backing_of(&first));
                carry_out(&none, Some(extension(3)));
            }
        }
    }

    #[test]
    fn what_lies_in_one_sector_is_believed_all_the_time() {
        let one = carry_out(&image(16, None), Some(extension(1)));
        let writes = HeaderEdit::Bitmaps(Some(extension(2))).writes(&one).expect("possible");
        assert_eq!(writes.len(), 1);
        assert_eq!(HeaderEdit::Bitmaps(Some(extension(1))).writes(&one).expect("possible"), []);
    }

    #[test]
    fn one_that_is_not_believed_is_replaced() {
        let mut stale = carry_out(&image(16, None), Some(extension(1)));
        stale[AUTOCLEAR_AT..AUTOCLEAR_AT + 8].fill(0);
        assert_eq!(Header::parse(&stale).expect("good").bitmaps, None);
        carry_out(&stale, Some(extension(2)));
        let gone = carry_out(&stale, None);
        assert!(Places::find(&gone).expect("good").extension.is_none());
    }
}
