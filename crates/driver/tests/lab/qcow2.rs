//! qcow2 images on simulated disks, and a check of their tables that knows nothing of the driver's.

use std::path::Path;

use block::ByteRange;
use flow::Role;
use qcow2::{Geometry, Header, NewImage, RefcountBlock, UnknownExtension};
use serde_json::{Value, json};
use sim::{SimDisk, SimWorld};

use super::{Lab, Tree};

/// The file of a fresh image.
pub fn file_of(image: &NewImage) -> Vec<u8> {
    let fresh = image.bytes().unwrap();
    let mut bytes = vec![0; fresh.len as usize];
    for (at, piece) in fresh.tables.into_iter().flatten().chain(fresh.pieces) {
        bytes[at.0 as usize..][..piece.len()].copy_from_slice(&piece);
    }
    bytes
}

/// Puts a fresh image there.
pub fn put(disk: &SimDisk, path: impl AsRef<Path>, image: &NewImage) {
    disk.put(path, &file_of(image));
}

impl Lab<SimWorld> {
    /// A fresh image in a file of its own, over `backing`, open for writing.
    pub async fn qcow2(&self, path: &str, image: &NewImage, options: Value, backing: Option<&Tree>) -> Tree {
        put(&self.world.disk(), path, image);
        self.open_qcow2(path, options, backing).await
    }

    /// An image that is there, open for writing; a data file is `data`, if there is one.
    pub async fn open_qcow2(&self, path: &str, options: Value, backing: Option<&Tree>) -> Tree {
        let (file, _) = self.file(path).await;
        let mut children = vec![(Role::File, &file)];
        let data = match self.world.disk().bytes("data") {
            Some(_) => Some(self.file("data").await.0),
            None => None,
        };
        children.extend(data.as_ref().map(|data| (Role::DataFile, data)));
        children.extend(backing.map(|tree| (Role::Backing, tree)));
        self.open("qcow2", options, &children).await
    }
}

/// What a check of all tables finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Clusters that the active tables map.
    pub data: u64,
    pub leaks: u64,
}

/// Checks that whatever a table points to lies in the file and is counted, and that what the active tables call
/// theirs alone is so and nothing else; the error is the first that is not.
pub fn check(file: &[u8]) -> Result<Report, String> {
    let needed = Header::needed(file).map_err(|e| e.to_string())?;
    let header = Header::parse(&file[..needed]).map_err(|e| e.to_string())?;
    let mut check = Check {
        file,
        header: &header,
        bits: header.cluster_bits,
        references: Vec::new(),
        claims: Vec::new(),
    };
    let mut report = check.walk()?;
    let counts = check.counts()?;
    let count = |cluster: usize| counts.get(cluster).copied().unwrap_or(0);
    for (cluster, references) in check.references.iter().enumerate() {
        if count(cluster) < *references {
            let count = count(cluster);
            return Err(format!("cluster {cluster} has {references} references and a refcount of {count}"));
        }
    }
    for (what, cluster, alone) in &check.claims {
        let count = count(*cluster);
        if (count == 1) != *alone {
            return Err(format!("{what} {cluster} has a refcount of {count}, but its only entry: {alone}"));
        }
    }
    let counted = counts.iter().enumerate().filter(|(_, count)| **count > 0);
    report.leaks =
        counted.filter(|(at, _)| check.references.get(*at).copied().unwrap_or(0) == 0).count() as u64;
    Ok(report)
}

struct Check<'a> {
    file: &'a [u8],
    header: &'a Header,
    bits: u32,
    references: Vec<u64>,
    /// What active entries say of being alone.
    claims: Vec<(&'static str, usize, bool)>,
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

impl Check<'_> {
    fn walk(&mut self) -> Result<Report, String> {
        let mut report = Report::default();
        self.refer("header", 0, 1)?;
        let table = self.header.refcount_table;
        self.refer("refcount table", table.offset.0, table.clusters.into())?;
        for entry in self.words(table.offset.0, u64::from(table.clusters) << self.bits) {
            if entry != 0 {
                self.whole("refcount block", entry)?;
            }
        }
        let l1 = Geometry::new(self.header).l1_range(self.file.len() as u64).map_err(|e| e.to_string())?;
        report.data = self.l1(l1, true)?;
        let snapshots = self.header.snapshots;
        let mut at = snapshots.offset.0;
        for _ in 0..snapshots.count {
            let head = self.part(at, 40);
            let word = |at: usize| u64::from_be_bytes(head[at..at + 8].try_into().unwrap());
            let (entries, lens, extra) = (word(8) >> 32, word(8), word(32) & 0xffff_ffff);
            self.l1(ByteRange::new(word(0), entries * 8), false)?;
            at += (40 + extra + (lens >> 16 & 0xffff) + (lens & 0xffff)).next_multiple_of(8);
        }
        if snapshots.count > 0 {
            let clusters = (at - snapshots.offset.0).div_ceil(1 << self.bits);
            self.refer("snapshot table", snapshots.offset.0, clusters)?;
        }
        Ok(report)
    }

    fn l1(&mut self, l1: ByteRange, active: bool) -> Result<u64, String> {
        self.refer("L1 table", l1.start(), l1.len().div_ceil(1 << self.bits))?;
        let words = if self.header.features.extended_l2() { 2 } else { 1 };
        let mut data = 0;
        for entry in self.words(l1.start(), l1.len()) {
            if entry & OFFSET != 0 {
                self.whole("L2 table", entry & OFFSET)?;
                self.claim("L2 table", entry, active);
                for entry in self.words(entry & OFFSET, 1 << self.bits).chunks(words) {
                    data += u64::from(self.l2_entry(entry, active)?);
                }
            }
        }
        Ok(data)
    }

    fn claim(&mut self, what: &'static str, entry: u64, active: bool) {
        if active {
            self.claims.push((what, ((entry & OFFSET) >> self.bits) as usize, entry & COPIED != 0));
        }
    }

    fn l2_entry(&mut self, entry: &[u64], active: bool) -> Result<bool, String> {
        let (entry, bitmap) = (entry[0], entry.get(1).copied());
        if entry & 1 << 62 != 0 {
            let offset_bits = 62 - (self.bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = entry >> offset_bits & ((1 << (self.bits - 8)) - 1);
            let last = (offset / 512 + sectors) * 512;
            let (first, last) = (offset >> self.bits, last >> self.bits);
            self.refer("compressed cluster", first << self.bits, last - first + 1)?;
            return Ok(true);
        }
        if let Some(bitmap) = bitmap
            && (bitmap >> 32 & bitmap & 0xffff_ffff != 0
                || entry & OFFSET == 0 && bitmap & 0xffff_ffff != 0 && self.header.data_file.is_none())
        {
            return Err(format!("entry {entry:#x} has the bitmap {bitmap:#x}"));
        }
        let is_data = bitmap.map_or(entry & 1 == 0, |bitmap| bitmap & 0xffff_ffff != 0);
        if self.header.data_file.is_some() {
            return Ok(entry & COPIED != 0 && is_data);
        }
        if entry & OFFSET == 0 {
            return Ok(false);
        }
        self.refer("data cluster", entry & OFFSET, 1)?;
        self.claim("data cluster", entry, active);
        Ok(is_data)
    }

    /// A table, which lies wholly in the file.
    fn whole(&mut self, what: &str, offset: u64) -> Result<(), String> {
        if offset + (1 << self.bits) > self.file.len() as u64 {
            return Err(format!("{what} at {offset:#x} is not wholly in the file of {:#x}", self.file.len()));
        }
        self.refer(what, offset, 1)
    }

    fn refer(&mut self, what: &str, offset: u64, clusters: u64) -> Result<(), String> {
        if !offset.is_multiple_of(1 << self.bits) || offset >= self.file.len() as u64 {
            return Err(format!("{what} at {offset:#x} is not in the file of {:#x} bytes", self.file.len()));
        }
        let first = (offset >> self.bits) as usize;
        let end = first + clusters as usize;
        self.references.resize(self.references.len().max(end), 0);
        self.references[first..end].iter_mut().for_each(|count| *count += 1);
        Ok(())
    }

    fn counts(&self) -> Result<Vec<u64>, String> {
        let table = self.header.refcount_table;
        let mut counts = Vec::new();
        for entry in self.words(table.offset.0, u64::from(table.clusters) << self.bits) {
            let zeros = vec![0; 1 << self.bits];
            let bytes = if entry == 0 { zeros } else { self.part(entry, 1 << self.bits) };
            let block = RefcountBlock::parse(&bytes, table.bits).map_err(|e| e.to_string())?;
            counts.extend((0..block.len()).map(|index| block.get(index)));
            if entry == 0 && counts.len() as u64 > (self.file.len() as u64 >> self.bits) + block.len() {
                break;
            }
        }
        Ok(counts)
    }

    fn words(&self, offset: u64, len: u64) -> Vec<u64> {
        self.part(offset, len).as_chunks().0.iter().map(|word| u64::from_be_bytes(*word)).collect()
    }

    /// What lies behind the end of the file reads as zeros.
    fn part(&self, offset: u64, len: u64) -> Vec<u8> {
        let from = self.file.get(offset as usize..).unwrap_or_default();
        let mut part = from[..from.len().min(len as usize)].to_vec();
        part.resize(len as usize, 0);
        part
    }
}

/// Options that make tables miss: tiny caches.
pub fn tiny() -> Value {
    json!({"l2-cache-size": 1024, "l2-cache-entry-size": 512, "refcount-cache-size": 1})
}

/// A fresh image with clusters of 512 bytes whose refcount table of one cluster is all but full: most of what it
/// counts has leaked (and never lay in the file). A block that is not there yet has its place in the table.
pub fn crowded(image: &NewImage) -> Vec<u8> {
    crowded_by(image, 63)
}

/// The same; the table has no room for another block.
pub fn overcrowded(image: &NewImage) -> Vec<u8> {
    crowded_by(image, 64)
}

fn crowded_by(image: &NewImage, blocks: usize) -> Vec<u8> {
    let mut file = file_of(image);
    file.resize(file.len().next_multiple_of(512), 0);
    let header = Header::parse(&file[..512]).unwrap();
    let table = header.refcount_table.offset.0 as usize;
    let first = u64::from_be_bytes(file[table..table + 8].try_into().unwrap()) as usize;
    let used = file.len() / 512;
    // The others lie behind what is there, and are counted by the first, like all in front of 200.
    for block in 1..blocks {
        let at = file.len();
        file[table + block * 8..][..8].copy_from_slice(&(at as u64).to_be_bytes());
        file.resize(at + 512, 0);
        file[at..].as_chunks_mut().0.iter_mut().for_each(|count| *count = 1u16.to_be_bytes());
    }
    assert!(used + blocks <= 240, "the first block has room");
    file[first..first + 512].as_chunks_mut().0[..240]
        .iter_mut()
        .for_each(|count| *count = 1u16.to_be_bytes());
    file
}

/// The same image in version 2.
pub fn version_2(mut file: Vec<u8>) -> Vec<u8> {
    file[7] = 2;
    file
}

/// The same fresh image with extended L2 entries.
pub fn with_subclusters(mut file: Vec<u8>) -> Vec<u8> {
    file[79] |= 1 << 4;
    file
}

/// A fresh image whose data lies in the file `data`, which reads as the disk by itself if it is `raw`.
pub fn with_data_file(image: &NewImage, raw: bool) -> Vec<u8> {
    let name = UnknownExtension { kind: 0x4441_5441, data: b"data".to_vec() };
    let autoclear = if raw { 2 } else { 0 };
    let mut file = file_of(&NewImage { extensions: vec![name], autoclear, ..image.clone() });
    file[79] |= 1 << 2;
    file
}

/// The same image, the one snapshot of which does not say how large the disk was, as those of old programs.
pub fn with_incomplete_snapshot(mut file: Vec<u8>) -> Vec<u8> {
    let header = Header::parse(&file[..Header::needed(&file).unwrap()]).unwrap();
    let at = header.snapshots.offset.0 as usize;
    file[at + 39] = 0;
    // The id and the name lie where the rest was.
    file.copy_within(at + 56..at + 64, at + 40);
    file[at + 48..at + 64].fill(0);
    file
}

/// The same image, which has data and refcounts of 16 bits, with an internal snapshot of what it holds.
pub fn with_snapshot(mut file: Vec<u8>) -> Vec<u8> {
    let header = Header::parse(&file[..Header::needed(&file).unwrap()]).unwrap();
    let cluster = 1usize << header.cluster_bits;
    let l1 = Geometry::new(&header).l1_range(file.len() as u64).unwrap();
    let (l1_at, l1_len) = (l1.start() as usize, l1.len() as usize);
    let mut shared = Vec::new();
    for at in (l1_at..l1_at + l1_len).step_by(8) {
        let table = share(&mut file, at, &mut shared);
        for at in (table..table + if table == 0 { 0 } else { cluster }).step_by(8) {
            share(&mut file, at, &mut shared);
        }
    }
    file.resize(file.len().next_multiple_of(cluster), 0);
    let copy_at = file.len();
    file.extend_from_within(l1_at..l1_at + l1_len);
    file.resize(file.len().next_multiple_of(cluster), 0);
    let table_at = file.len();
    let mut entry = vec![0; 40];
    entry[..8].copy_from_slice(&(copy_at as u64).to_be_bytes());
    entry[8..12].copy_from_slice(&header.l1_entries.to_be_bytes());
    (entry[13], entry[15], entry[39]) = (1, 3, 16);
    entry.extend_from_slice(&[0; 8]);
    entry.extend_from_slice(&header.virtual_size.to_be_bytes());
    entry.extend_from_slice(b"1one\0\0\0\0");
    file.extend(entry);
    file.resize(file.len().next_multiple_of(cluster), 0);
    file[60..64].copy_from_slice(&1u32.to_be_bytes());
    file[64..72].copy_from_slice(&(table_at as u64).to_be_bytes());
    let fresh = copy_at / cluster..file.len() / cluster;
    let table = header.refcount_table.offset.0 as usize;
    for host in shared.into_iter().chain(fresh) {
        let block = host / (cluster / 2);
        let block = u64::from_be_bytes(file[table + block * 8..][..8].try_into().unwrap()) as usize;
        assert_ne!(block, 0, "the blocks that are there are enough");
        let at = block + host % (cluster / 2) * 2;
        let count = u16::from_be_bytes(file[at..at + 2].try_into().unwrap()) + 1;
        file[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    file
}

/// Marks the entry at `at` as shared; answers the offset that it points to.
fn share(file: &mut [u8], at: usize, shared: &mut Vec<usize>) -> usize {
    let header_bits = file[23];
    let entry = u64::from_be_bytes(file[at..at + 8].try_into().unwrap());
    file[at..at + 8].copy_from_slice(&(entry & !COPIED).to_be_bytes());
    let offset = (entry & OFFSET) as usize;
    if offset != 0 {
        shared.push(offset >> header_bits);
    }
    offset
}
