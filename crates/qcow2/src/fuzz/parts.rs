//! Entry points for single structures, in images that are good otherwise: random bytes get further there.

use super::{check, tables};
use crate::{Backing, BackingMark, Header, NewImage, RefcountBlock, UnknownExtension, cache};

/// Bytes of a refcount block that is looked at.
const BLOCK: usize = 512;
/// Most of the bytes are clusters behind the tables of a small image.
const DISK: u64 = 1 << 20;

/// Takes `bytes` for entries of an L2 table and the clusters behind it; the first byte chooses the image: clusters of
/// 512 B, 4 or 16 KiB, entries with bitmaps, zstd.
pub fn entries(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let extended_l2 = choice & 4 != 0;
    let cluster_bits = if extended_l2 { 14 } else { [9, 12, 14, 9][usize::from(choice & 3)] };
    let compression = if choice & 8 == 0 { crate::Compression::Deflate } else { crate::Compression::Zstd };
    let new = NewImage { extended_l2, compression, ..NewImage::new(DISK, cluster_bits) };
    let Some(mut image) = file(&new) else { return };
    let Ok(header) = Header::parse(&image) else { panic!("a fresh image cannot be read") };
    let (cluster, table) = (1 << cluster_bits, image.len());
    image.extend(bytes);
    image.resize(image.len().next_multiple_of(cluster).max(table + cluster), 0);
    let shared = u64::from(choice >> 4 & 1) << 63;
    image[header.l1_offset.0 as usize..][..8].copy_from_slice(&(table as u64 | shared).to_be_bytes());
    tables(&image);
    check(&image);
}

/// Takes `bytes` for a refcount block and changes of it, and compares with plain numbers; the first byte says how wide
/// they are.
pub fn refcounts(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let bits = 1 << (choice % 7);
    let (stored, changes) = bytes.split_at(bytes.len().min(BLOCK));
    let mut block = stored.to_vec();
    block.resize(BLOCK, 0);
    let Ok(mut block) = RefcountBlock::parse(&block, bits) else { panic!("{bits} bits are refused") };
    let mut model: Vec<u64> = (0..block.len()).map(|index| block.get(index)).collect();
    for change in changes.chunks_exact(10) {
        let index = u64::from(u16::from_be_bytes([change[0], change[1]]));
        let count = change[2..].iter().fold(0, |count, byte| count << 8 | u64::from(*byte)) & block.most();
        let changed = block.set(index, count);
        match model.get_mut(index as usize) {
            Some(place) => *place = count,
            None => assert!(changed.is_empty()),
        }
        let free = (index..block.len()).find(|at| model[*at as usize] == 0);
        let run = block.free_run(index, count.max(1));
        assert_eq!(run.as_ref().map(|run| run.start), free);
        assert!(run.is_none_or(|run| run.clone().all(|at| model[at as usize] == 0) && !run.is_empty()));
    }
    assert!((0..).zip(&model).all(|(index, count)| block.get(index) == *count));
}

/// Takes `bytes` for the data of millpond's own header extensions, in an image that has them armed.
pub fn own_extensions(bytes: &[u8]) {
    let extension = |kind| UnknownExtension { kind, data: bytes.to_vec() };
    let kinds = [cache::EXTENSION, BackingMark::EXTENSION];
    let new = NewImage {
        extensions: kinds.map(extension).into(),
        autoclear: cache::AUTOCLEAR | BackingMark::AUTOCLEAR,
        ..NewImage::new(DISK, 16).over("base", "raw")
    };
    let Some(image) = file(&new) else { return };
    let Ok(header) = Header::parse(&image) else { panic!("a fresh image cannot be read") };
    if let Ok(Some(text)) = cache::read(&header) {
        assert_eq!(text.as_bytes(), bytes);
        let _ = cache::terms(text);
    }
    if let Some(mark) = BackingMark::read(&header) {
        let backing = Backing { name: "base".to_owned(), format: Some("raw".to_owned()) };
        assert_eq!(mark.extension(&backing).data, bytes);
    }
}

/// The file of a fresh image, if there can be one.
fn file(new: &NewImage) -> Option<Vec<u8>> {
    let fresh = new.bytes().ok()?;
    let mut file = vec![0; fresh.len as usize];
    for (at, piece) in fresh.pieces {
        file[at.0 as usize..][..piece.len()].copy_from_slice(&piece);
    }
    Some(file)
}
