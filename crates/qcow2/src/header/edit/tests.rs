//! Every step of every change leaves a good header, the old or the new.

use block::ErrorKind;

use super::*;
use crate::{NewImage, UnknownExtension, cache};

pub(super) fn image(cluster_bits: u32, backing: Option<(&str, &str)>) -> Vec<u8> {
    let unknown = UnknownExtension { kind: 0x1234_5678, data: b"kept".to_vec() };
    let mut image = NewImage::new(1 << 20, cluster_bits);
    image.extensions.push(unknown);
    image.autoclear = 1 << 33 | cache::AUTOCLEAR;
    if let Some((name, format)) = backing {
        image = image.over(name, format);
    }
    let (_, bytes) = image.bytes().expect("fine").pieces.pop().expect("a header");
    padded(bytes, 1 << cluster_bits)
}

pub(super) fn backing_of(first: &[u8]) -> Option<Backing> {
    Header::parse(first).expect("good").backing
}

fn backing(name: &str, format: &str) -> Backing {
    Backing { name: name.to_owned(), format: Some(format.to_owned()) }
}

/// Carries the change out, and looks at the header after each sector that is written, in this order and the other.
fn carry_out(edit: &HeaderEdit, first: &[u8]) -> Header {
    let old = Header::parse(first).expect("good before");
    let writes = edit.writes(first).expect("possible");
    let mut end = first.to_vec();
    for write in &writes {
        end[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    let new = Header::parse(&end).expect("good afterwards");
    let mut now = first.to_vec();
    for write in &writes {
        let sectors: Vec<_> = write.bytes.chunks(SECTOR).enumerate().collect();
        for order in [sectors.clone(), sectors.into_iter().rev().collect()] {
            let mut torn = now.clone();
            for (at, sector) in order {
                torn[write.offset as usize + at * SECTOR..][..SECTOR].copy_from_slice(sector);
                let found = Header::parse(&torn).expect("good in between");
                assert!(found == old || found == new, "{found:?}");
            }
        }
        now[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    new
}

#[test]
fn the_backing_link_is_cut_by_one_sector() {
    for cluster_bits in [10, 12, 16] {
        let first = image(cluster_bits, Some(("base.raw", "raw")));
        let old = Header::parse(&first).expect("good");
        let writes = HeaderEdit::NoBacking.writes(&first).expect("possible");
        assert_eq!((writes.len(), writes[0].offset, writes[0].bytes.len()), (1, 0, SECTOR));
        let new = carry_out(&HeaderEdit::NoBacking, &first);
        assert_eq!(new, Header { backing: None, ..old });
    }
    let none = image(16, None);
    assert_eq!(HeaderEdit::NoBacking.writes(&none).expect("possible"), []);
}

/// Found by fuzzing: zeros at the end of a longer name, which was moved, were not written, and so were not there.
#[test]
fn a_file_that_ends_within_its_first_cluster_has_all_of_it_afterwards() {
    let name = "n".repeat(300);
    let mut first = image(14, Some((&name, "raw")));
    let at = first.windows(300).position(|bytes| bytes == name.as_bytes()).expect("it is there");
    first[at + 100..at + 300].fill(0);
    first.truncate(at + 300);
    let bitmaps = BitmapsExtension { count: 1, directory_len: 32, directory: HostOffset(1 << 21) };
    for edit in [HeaderEdit::Bitmaps(Some(bitmaps)), HeaderEdit::MarkCorrupt, HeaderEdit::NoBacking] {
        let mut now = first.clone();
        for HeaderWrite { offset, bytes } in edit.writes(&first).expect("possible") {
            let (offset, end) = (offset as usize, offset as usize + bytes.len());
            now.resize(now.len().max(end), 0);
            now[offset..end].copy_from_slice(&bytes);
            Header::parse(&now).expect("good after each write");
        }
        assert_eq!(now.len(), 1 << 14);
    }
}

#[test]
fn another_backing_image_comes_with_one_sector_too() {
    let mut first = image(16, Some(("base.raw", "raw")));
    for (name, format) in
        [("elsewhere/base.qcow2", "qcow2"), ("x", "raw"), ("/a/longer/name/than/before", "raw")]
    {
        let edit = HeaderEdit::Backing(backing(name, format));
        assert_eq!(carry_out(&edit, &first).backing, Some(backing(name, format)));
        for write in edit.writes(&first).expect("possible") {
            first[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
        }
    }
    // Where there was none there is a format to be added, which moves what follows.
    let first = image(16, None);
    let edit = HeaderEdit::Backing(backing("base.raw", "raw"));
    let writes = edit.writes(&first).expect("possible");
    let mut end = first.clone();
    for write in writes {
        end[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    let new = Header::parse(&end).expect("good");
    let old = Header::parse(&first).expect("good");
    assert_eq!(new, Header { backing: Some(backing("base.raw", "raw")), ..old });
}

#[test]
fn autoclear_bits_go_and_the_rest_stays() {
    let first = image(16, Some(("base.raw", "raw")));
    let mut old = Header::parse(&first).expect("good");
    let new = carry_out(&HeaderEdit::ClearAutoclear(1 << 33 | 1 << 5), &first);
    old.features.autoclear = cache::AUTOCLEAR;
    assert_eq!(new, old);
}

#[test]
fn extensions_come_and_are_replaced() {
    let mut first = image(16, Some(("base.raw", "raw")));
    for json in ["{}", r#"{"quota":5}"#, "[]"] {
        let writes = cache::edit(json).expect("short").writes(&first).expect("possible");
        for write in writes {
            first[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
        }
        let header = Header::parse(&first).expect("good");
        assert_eq!(cache::read(&header).expect("good"), Some(json));
        assert_eq!(header.backing, Some(backing("base.raw", "raw")));
        assert_eq!(header.unknown_extensions.len(), 2);
    }
}

#[test]
fn the_refcount_table_moves() {
    let first = image(16, None);
    let edit = HeaderEdit::RefcountTable { offset: HostOffset(9 << 16), clusters: 3 };
    let table = carry_out(&edit, &first).refcount_table;
    assert_eq!((table.offset, table.clusters), (HostOffset(9 << 16), 3));
}

#[test]
fn what_does_not_fit_is_refused() {
    let first = image(10, Some(("base.raw", "raw")));
    let long = HeaderEdit::Backing(backing(&"n".repeat(1023), "raw"));
    assert_eq!(long.writes(&first).expect_err("too long").kind(), ErrorKind::Invalid);
    let mut v2 = image(16, None);
    v2[7] = 2;
    let guarded = cache::edit("{}").expect("good");
    assert_eq!(guarded.writes(&v2).expect_err("version 2").kind(), ErrorKind::Unsupported);
}

#[test]
fn version_2_has_the_older_fields() {
    let mut first = image(16, None);
    first[7] = 2;
    assert_eq!(HeaderEdit::ClearAutoclear(u64::MAX).writes(&first).expect("nothing to do"), []);
    let edit = HeaderEdit::RefcountTable { offset: HostOffset(9 << 16), clusters: 3 };
    assert_eq!(carry_out(&edit, &first).refcount_table.offset, HostOffset(9 << 16));
    let over = HeaderEdit::Backing(backing("base.raw", "raw"));
    let mut over_base = first.clone();
    for write in over.writes(&first).expect("possible") {
        over_base[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    let found = Header::parse(&over_base).expect("good");
    assert_eq!((found.version, found.backing), (Version::V2, Some(backing("base.raw", "raw"))));
    assert_eq!(carry_out(&HeaderEdit::NoBacking, &over_base).backing, None);
}

#[test]
fn an_image_is_marked_dirty_and_clean_again() {
    let first = image(12, None);
    let edit = HeaderEdit::Dirty(true);
    let write = edit.writes(&first).expect("possible").remove(0);
    let mut dirty = first.clone();
    dirty[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    assert!(carry_out(&edit, &first).features.dirty());
    assert!(!carry_out(&HeaderEdit::Dirty(false), &dirty).features.dirty());
    let mut old = first;
    old[7] = 2;
    assert!(edit.writes(&old).is_err());
}
