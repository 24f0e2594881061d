//! Extended L2 entries have two words: nobody sees one of them changed without the other.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use qcow2::{Entry, Geometry, Header, HostOffset, L2Slice, NewEntry, NewImage, Parts, SliceAddress};

const CLUSTER: u64 = 64 << 10;

fn entry(host: Option<u64>, allocated: u32, zero: u32) -> NewEntry {
    NewEntry::Plain { host, parts: Parts { allocated, zero } }
}

/// Looks at the entry for the first cluster; half of it would be a lie.
fn look(geometry: &Geometry, slice: &L2Slice) {
    let entry = geometry.entry_of(slice, 0).unwrap();
    let Entry::Plain { host, parts, .. } = entry else { panic!("{entry:?}") };
    assert_eq!(host.is_some(), parts.allocated != 0);
    let mut bytes = [0; 4096];
    slice.store(&mut bytes);
    let stored = L2Slice::parse(geometry, slice.address(), &bytes).unwrap();
    geometry.entry_of(&stored, 0).unwrap();
}

#[test]
fn an_entry_of_two_words_is_never_seen_half_changed() {
    let mut first = NewImage::new(1 << 20, 16).bytes().unwrap().pieces.pop().unwrap().1;
    first.resize(CLUSTER as usize, 0);
    first[79] |= 1 << 4;
    let geometry = Geometry::new(&Header::parse(&first).unwrap());
    let address = SliceAddress { host: HostOffset(5 * CLUSTER), first_guest: 0 };
    let slice = L2Slice::parse(&geometry, address, &[0; 4096]).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            while !done.load(SeqCst) {
                look(&geometry, &slice);
            }
        };
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        for _ in 0..50_000 {
            for new in [entry(Some(9), u32::MAX, 0), entry(None, 0, u32::MAX)] {
                geometry.set_entry(&slice, 0, new).unwrap();
            }
        }
        done.store(true, SeqCst);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}
