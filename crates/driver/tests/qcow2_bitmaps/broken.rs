//! Directories and tables that lie: an error that names what lies, and the rest goes on.

use block::{ByteRange, ErrorKind};
use flow::{BitmapChange, Bitmaps, Role, View, seam};
use qcow2::{BitmapEntry, Header, HostOffset, NewImage};
use serde_json::json;
use sim::{Options, SimWorld};

use crate::lab::{Lab, Tree, qcow2 as images};

const SIZE: u64 = 1 << 20;

/// An image with two bitmaps that hold something.
fn sound() -> Vec<u8> {
    let world = SimWorld::new(3, Options::calm());
    world.run(async {
        let tree = Lab::new(&world).qcow2("disk", &NewImage::new(SIZE, 12), json!({}), None).await;
        for name in ["a", "b"] {
            let add = BitmapChange::Add { granularity: 512, recording: true, persistent: true };
            let view = tree.view();
            power(&view).change(name, add, view.next()).await.unwrap();
        }
        seam::write(&tree.view(), 4096, &[1; 9000]).await.unwrap();
        seam::rest(&tree.view()).await.unwrap();
    });
    world.disk().bytes("disk").unwrap()
}

fn power(view: &View) -> &dyn Bitmaps {
    view.root().powers().bitmaps.unwrap()
}

/// The same file with another directory.
fn with_directory(file: &[u8], change: impl FnOnce(&mut Vec<BitmapEntry>)) -> Vec<u8> {
    let header = Header::parse(&file[..4096]).unwrap();
    let place = header.bitmaps.unwrap();
    let at = place.directory.0 as usize;
    let bytes = &file[at..at + place.directory_len as usize];
    let mut entries = BitmapEntry::parse_directory(bytes, place.count, 12, SIZE).unwrap();
    change(&mut entries);
    let bytes = BitmapEntry::directory_bytes(&entries);
    assert_eq!(bytes.len() as u64, place.directory_len);
    let mut changed = file.to_vec();
    changed[at..at + bytes.len()].copy_from_slice(&bytes);
    changed
}

/// The same file with another first entry in the table of the first bitmap.
fn with_cell(file: &[u8], cell: u64) -> Vec<u8> {
    let mut table = 0;
    with_directory(file, |entries| table = entries[0].table.0 as usize);
    let mut changed = file.to_vec();
    changed[table..table + 8].copy_from_slice(&cell.to_be_bytes());
    changed
}

/// Opens a file and works on it.
fn opened<T>(
    file: &[u8],
    read_only: bool,
    work: impl AsyncFnOnce(block::Result<Tree>) -> T,
) -> (T, SimWorld) {
    let world = SimWorld::new(5, Options::calm());
    world.disk().put("disk", file);
    let done = world.run(async {
        let lab = Lab::new(&world);
        let (below, _) = lab.file("disk").await;
        let options = |context: &mut driver::OpenContext| context.read_only = read_only;
        work(lab.open_with("qcow2", json!({}), &[(Role::File, &below)], options).await).await
    });
    (done, world)
}

#[test]
fn a_directory_that_lies_is_not_written_to() {
    let sound = sound();
    let twice = with_directory(&sound, |entries| entries[1].name = b"a".to_vec());
    let shared = with_directory(&sound, |entries| entries[1].table = entries[0].table);
    let beyond = with_directory(&sound, |entries| entries[1].table = HostOffset(1 << 40));
    let mut long = sound.clone();
    let place = long.windows(4).position(|tag| tag == [0x23, 0x85, 0x28, 0x75]).unwrap();
    long[place + 16..place + 24].copy_from_slice(&(60u64 << 20).to_be_bytes());
    let lies = [
        (twice, "two bitmaps 'a'"),
        (shared, "is another's"),
        (beyond, "leaves the file"),
        (long, "leaves the file"),
    ];
    for (file, why) in lies {
        opened(&file, false, async |tree| {
            let error = tree.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(
                error.to_string().contains(why) && error.to_string().contains("open it read-only"),
                "{error}"
            );
        });
        opened(&file, true, async |tree| {
            let view = tree.unwrap().view();
            assert_eq!(seam::read(&view, ByteRange::new(4096, 9000)).await.unwrap()[..], [1; 9000]);
            let error = power(&view).list(view.next()).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        });
    }
}

#[test]
fn a_table_that_lies_costs_its_own_bitmap() {
    let sound = sound();
    let mut other = 0;
    with_directory(&sound, |entries| other = entries[1].table.0);
    for cell in [1 << 56 | 4096, 1 << 40, other + 1, 2] {
        let file = with_cell(&sound, cell);
        let (outcome, world) = opened(&file, false, async |tree| {
            let tree = tree.unwrap();
            let view = tree.view();
            assert!(power(&view).content("a", view.next()).await.is_err());
            assert_eq!(power(&view).content("b", view.next()).await.unwrap().count(), 18 * 512);
            seam::write(&view, 0, &[2; 512]).await.unwrap();
            seam::rest(&view).await
        });
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt, "{cell:#x}");
        opened(&world.disk().bytes("disk").unwrap(), false, async |tree| {
            let view = tree.unwrap().view();
            let list = power(&view).list(view.next()).await.unwrap();
            assert!(list[0].inconsistent && !list[1].inconsistent, "{list:?}");
            assert_eq!(list[1].count, 19 * 512);
            power(&view).change("a", BitmapChange::Remove, view.next()).await.unwrap();
            seam::rest(&view).await.unwrap();
        });
    }
}

#[test]
fn a_table_that_is_longer_than_the_disk_needs_is_read_no_further() {
    // 512 MiB of bitmap in one cluster.
    let sound = sound();
    let mut cell = 0;
    with_directory(&sound, |entries| {
        let table = entries[0].table.0 as usize;
        cell = u64::from_be_bytes(sound[table..table + 8].try_into().unwrap());
    });
    let mut file = sound.clone();
    let table = file.len().next_multiple_of(4096);
    file.resize(table, 0);
    (0..131_072).for_each(|_| file.extend(cell.to_be_bytes()));
    let file = with_directory(&file, |entries| {
        (entries[1].table, entries[1].table_entries) = (HostOffset(table as u64), 131_072);
    });
    opened(&file, true, async |tree| {
        let view = tree.unwrap().view();
        // A disk of this size needs no more than the first entry.
        assert_eq!(power(&view).content("b", view.next()).await.unwrap().count(), 18 * 512);
    });
}

#[test]
fn extra_data_that_is_unknown_is_kept() {
    let sound = sound();
    // In place of a name of the same length, so that the directory keeps its own.
    let named = with_directory(&sound, |_| {});
    for (flags, usable) in [(2 | 4, true), (2, false)] {
        let file = with_directory(&named, |entries| {
            let entry = &mut entries[0];
            (entry.extra, entry.flags) = (vec![0xab; 7], flags);
        });
        let (_, world) = opened(&file, false, async |tree| {
            let view = tree.unwrap().view();
            let list = power(&view).list(view.next()).await.unwrap();
            assert_eq!((list[0].inconsistent, list[1].inconsistent), (!usable, false));
            seam::write(&view, 0, &[2; 512]).await.unwrap();
            seam::rest(&view).await.unwrap();
        });
        let left = world.disk().bytes("disk").unwrap();
        let header = Header::parse(&left[..4096]).unwrap();
        let entries = crate::left::directory(&left, &header).unwrap();
        assert_eq!(entries[0].extra, [0xab; 7]);
        assert_eq!((entries[0].is_usable(), entries[0].is_in_use()), (usable, !usable));
        assert!(images::check(&left).is_ok());
    }
}

#[test]
fn a_size_that_cannot_be_changed_for_a_bitmap_leaves_it_alone() {
    let sleeping = with_directory(&sound(), |entries| entries[0] = entries[0].clone().with_auto(false));
    let file = with_cell(&sleeping, 2);
    let (_, world) = opened(&file, false, async |tree| {
        let view = tree.unwrap().view();
        assert!(seam::resize(&view, 2 * SIZE).await.is_err());
        assert_eq!(view.size(), SIZE);
        seam::rest(&view).await.unwrap();
    });
    with_directory(&world.disk().bytes("disk").unwrap(), |entries| {
        assert!(entries.iter().all(|entry| !entry.is_in_use()), "{entries:?}");
    });
}
