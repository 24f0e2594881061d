//! qcow2 images on simulated disks, and a check of their tables that knows nothing of the driver's.

use std::path::Path;

use block::ByteRange;
use flow::Role;
use qcow2::{Geometry, Header, NewImage, RefcountBlock};
use serde_json::{Value, json};
use sim::{SimDisk, SimWorld};

use super::{Lab, Tree};

/// The file of a fresh image.
pub fn file_of(image: &NewImage) -> Vec<u8> {
    let fresh = image.bytes().unwrap();
    let mut bytes = vec![0; fresh.len as usize];
    for (at, piece) in fresh.pieces {
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

    /// An image that is there, open for writing.
    pub async fn open_qcow2(&self, path: &str, options: Value, backing: Option<&Tree>) -> Tree {
        let (file, _) = self.file(path).await;
        let mut children = vec![(Role::File, &file)];
        children.extend(backing.map(|tree| (Role::Backing, tree)));
        self.open("qcow2", options, &children).await
    }
}

/// What a check of all tables finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub data: u64,
    pub leaks: u64,
}

/// Checks that whatever a table points to lies in the file and is counted; the error is the first that is not.
pub fn check(file: &[u8]) -> Result<Report, String> {
    let needed = Header::needed(file).map_err(|e| e.to_string())?;
    let header = Header::parse(&file[..needed]).map_err(|e| e.to_string())?;
    let mut check = Check { file, header: &header, bits: header.cluster_bits, references: Vec::new() };
    let mut report = check.walk()?;
    let counts = check.counts()?;
    for (cluster, references) in check.references.iter().enumerate() {
        let count = counts.get(cluster).copied().unwrap_or(0);
        if count < *references {
            return Err(format!("cluster {cluster} has {references} references and a refcount of {count}"));
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
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

impl Check<'_> {
    fn walk(&mut self) -> Result<Report, String> {
        let mut report = Report::default();
        self.refer("header", 0, 1)?;
        let l1 = Geometry::new(self.header).l1_range(self.file.len() as u64).map_err(|e| e.to_string())?;
        self.refer("L1 table", l1.start(), l1.len().div_ceil(1 << self.bits))?;
        let table = self.header.refcount_table;
        self.refer("refcount table", table.offset.0, table.clusters.into())?;
        for entry in self.words(table.offset.0, u64::from(table.clusters) << self.bits) {
            if entry != 0 {
                self.whole("refcount block", entry)?;
            }
        }
        for entry in self.words(l1.start(), l1.len()) {
            if entry & OFFSET != 0 {
                self.whole("L2 table", entry & OFFSET)?;
                for entry in self.words(entry & OFFSET, 1 << self.bits) {
                    report.data += u64::from(self.l2_entry(entry)?);
                }
            }
        }
        Ok(report)
    }

    fn l2_entry(&mut self, entry: u64) -> Result<bool, String> {
        if entry & 1 << 62 != 0 {
            let offset_bits = 62 - (self.bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = entry >> offset_bits & ((1 << (self.bits - 8)) - 1);
            let last = (offset / 512 + sectors) * 512;
            let (first, last) = (offset >> self.bits, last >> self.bits);
            self.refer("compressed cluster", first << self.bits, last - first + 1)?;
            return Ok(true);
        }
        if entry & OFFSET == 0 {
            return Ok(false);
        }
        if entry & 1 << 63 == 0 {
            return Err(format!("entry {entry:#x} is not marked as the only one"));
        }
        self.refer("data cluster", entry & OFFSET, 1)?;
        Ok(entry & 1 == 0)
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
            let bytes = if entry == 0 { &zeros[..] } else { self.part(entry, 1 << self.bits) };
            let block = RefcountBlock::parse(bytes, table.bits).map_err(|e| e.to_string())?;
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

    fn part(&self, offset: u64, len: u64) -> &[u8] {
        let part = ByteRange::new(offset, len);
        &self.file[part.start() as usize..part.end() as usize]
    }
}

/// Options that make tables miss: tiny caches.
pub fn tiny() -> Value {
    json!({"l2-cache-size": 1024, "l2-cache-entry-size": 512, "refcount-cache-size": 1})
}

/// A fresh image with clusters of 512 bytes whose refcount table of one cluster is all but full: most of what it
/// counts has leaked (and never lay in the file).
pub fn crowded(image: &NewImage) -> Vec<u8> {
    let mut file = file_of(image);
    let header = Header::parse(&file[..512]).unwrap();
    let table = header.refcount_table.offset.0 as usize;
    let first = u64::from_be_bytes(file[table..table + 8].try_into().unwrap()) as usize;
    let used = file.len() / 512;
    // The blocks of 1 to 62 lie behind what is there, and are counted by the first, like all in front of 200.
    for block in 1..63 {
        let at = file.len();
        file[table + block * 8..][..8].copy_from_slice(&(at as u64).to_be_bytes());
        file.resize(at + 512, 0);
        file[at..].as_chunks_mut().0.iter_mut().for_each(|count| *count = 1u16.to_be_bytes());
    }
    assert!(used + 62 < 240, "the first block has room");
    file[first..first + 512].as_chunks_mut().0[..240]
        .iter_mut()
        .for_each(|count| *count = 1u16.to_be_bytes());
    file
}
