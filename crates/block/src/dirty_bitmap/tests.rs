//! Against a plain list of bits.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{BitmapPart, CHUNKS_MAX, DirtyBitmap, GRANULARITY_MAX};
use crate::ByteRange;

#[derive(Clone, Debug)]
enum Op {
    Set(u64, u64),
    Reset(u64, u64),
    Clear,
}

/// Each unit by itself.
struct Plain {
    size: u64,
    granularity: u64,
    dirty: Vec<bool>,
}

impl Plain {
    fn new(size: u64, granularity: u64) -> Self {
        Self { size, granularity, dirty: vec![false; size.div_ceil(granularity) as usize] }
    }

    fn change(&mut self, start: u64, len: u64, dirty: bool) {
        for (number, unit) in self.dirty.iter_mut().enumerate() {
            let here = ByteRange::new(number as u64 * self.granularity, self.granularity);
            if here.intersection(ByteRange::new(0, self.size)).overlaps(ByteRange::new(start, len)) {
                *unit = dirty;
            }
        }
    }

    fn runs(&self) -> Vec<ByteRange> {
        let mut runs: Vec<ByteRange> = Vec::new();
        for number in (0..self.dirty.len()).filter(|number| self.dirty[*number]) {
            let start = number as u64 * self.granularity;
            let end = (start + self.granularity).min(self.size);
            match runs.last_mut().filter(|run| run.end() == start) {
                Some(run) => *run = ByteRange::between(run.start(), end),
                None => runs.push(ByteRange::between(start, end)),
            }
        }
        runs
    }

    fn check(&self, bitmap: &DirtyBitmap) {
        assert_eq!(bitmap.dirty().collect::<Vec<_>>(), self.runs());
        let count = self.dirty.iter().filter(|dirty| **dirty).count() as u64;
        assert_eq!(bitmap.count(), count * self.granularity);
        assert_eq!(bitmap.is_clean(), count == 0);
        for (number, dirty) in self.dirty.iter().enumerate() {
            let start = number as u64 * self.granularity;
            assert_eq!(bitmap.is_dirty(ByteRange::new(start, 1)), *dirty);
        }
    }
}

fn done(size: u64, granularity: u64, ops: &[Op]) -> (DirtyBitmap, Plain) {
    let (mut bitmap, mut plain) =
        (DirtyBitmap::new(size, granularity).expect("possible"), Plain::new(size, granularity));
    for op in ops {
        match *op {
            Op::Set(start, len) => {
                bitmap.set(ByteRange::new(start, len));
                plain.change(start, len, true);
            }
            Op::Reset(start, len) => {
                bitmap.reset(ByteRange::new(start, len));
                plain.change(start, len, false);
            }
            Op::Clear => {
                bitmap.clear();
                plain.dirty.fill(false);
            }
        }
    }
    (bitmap, plain)
}

/// Bytes of the largest disk here: more than two chunks of the finest bitmap.
const SIZE: u64 = 5 << 20;

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = || (0..SIZE + 1024, prop_oneof![0..4096u64, 0..SIZE]);
    let op = prop_oneof![
        4 => range().prop_map(|(start, len)| Op::Set(start, len)),
        3 => range().prop_map(|(start, len)| Op::Reset(start, len)),
        1 => Just(Op::Clear),
    ];
    vec(op, 0..12)
}

/// The same bits, stored in pieces and loaded again.
fn through_bytes(bitmap: &DirtyBitmap, piece: usize) -> DirtyBitmap {
    let mut again = DirtyBitmap::new(bitmap.size(), bitmap.granularity()).expect("possible");
    for start in (0..bitmap.stored_len()).step_by(piece) {
        match bitmap.stored(start, piece) {
            BitmapPart::Clean => {}
            BitmapPart::Dirty => again.load_dirty(start, piece as u64),
            BitmapPart::Bytes(bytes) => again.load(start, &bytes),
        }
    }
    again
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_as_a_plain_list(size in 1..SIZE, granularity in 9..14u32, ops in ops()) {
        let (bitmap, plain) = done(size, 1 << granularity, &ops);
        plain.check(&bitmap);
        for piece in [64, 512, 4096] {
            assert_eq!(through_bytes(&bitmap, piece), bitmap, "stored in pieces of {piece}");
        }
    }

    #[test]
    fn merging_takes_what_either_has(
        size in 1..SIZE, into in 9..14u32, from in 9..14u32, first in ops(), second in ops(),
    ) {
        let (mut bitmap, mut plain) = done(size, 1 << into, &first);
        let (other, more) = done(size, 1 << from, &second);
        bitmap.merge(&other);
        more.runs().iter().for_each(|run| plain.change(run.start(), run.len(), true));
        plain.check(&bitmap);
    }

    #[test]
    fn what_is_cut_off_is_clean_when_it_comes_back(size in 1..SIZE, less in 0..SIZE, ops in ops()) {
        let (mut bitmap, mut plain) = done(size, 4096, &ops);
        let less = less.min(size);
        bitmap.resize(less);
        bitmap.resize(size);
        for (number, unit) in plain.dirty.iter_mut().enumerate() {
            *unit &= (number as u64) * 4096 < less;
        }
        plain.check(&bitmap);
    }
}

#[test]
fn what_is_no_granularity_is_none() {
    for granularity in [0, 1, 256, 513, 65537, 4 << 30] {
        assert_eq!(DirtyBitmap::new(1 << 30, granularity), None, "{granularity}");
    }
}

#[test]
fn a_disk_of_any_size_takes_little_memory() {
    for size in [0, 1, 1 << 40, i64::MAX as u64, u64::MAX] {
        let mut bitmap = DirtyBitmap::new(size, 512).expect("possible");
        assert!(bitmap.chunks.len() as u64 <= CHUNKS_MAX);
        bitmap.set(ByteRange::new(0, size));
        assert_eq!(bitmap.next_dirty(0), (size > 0).then_some(ByteRange::new(0, size)));
        bitmap.reset(ByteRange::new(0, size));
        assert!(bitmap.is_clean());
    }
    let mut coarse = DirtyBitmap::new(u64::MAX, GRANULARITY_MAX).expect("possible");
    coarse.set(ByteRange::new(u64::MAX - 1, 1));
    assert_eq!(coarse.dirty().map(|run| run.end()).collect::<Vec<_>>(), [u64::MAX]);
}

#[test]
fn bits_are_stored_from_the_least_significant_on() {
    let mut bitmap = DirtyBitmap::new(1 << 20, 512).expect("possible");
    bitmap.set(ByteRange::new(512, 1));
    bitmap.set(ByteRange::new(9 * 512, 512));
    let BitmapPart::Bytes(bytes) = bitmap.stored(0, 256) else { panic!("something is dirty") };
    assert_eq!(bytes[..3], [2, 2, 0]);
    assert_eq!(bitmap.stored(64, 64), BitmapPart::Clean);
    bitmap.set(ByteRange::new(0, 1 << 20));
    assert_eq!(bitmap.stored(0, 256), BitmapPart::Dirty);
    assert!(matches!(bitmap.stored(0, 512), BitmapPart::Bytes(_)), "it ends before");
}
