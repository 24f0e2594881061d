//! Reading the directory, and bitmaps.

use std::collections::HashSet;

use block::{BlockError, ByteRange, DirtyBitmap, ErrorKind, Result};
use flow::{Next, View, seam};
use qcow2::{BitmapCluster, BitmapEntry, FILE_CHILD, Header};

use super::super::image::Image;
use super::super::space::Run;
use super::{Bitmaps, Book, Tracked};

impl Bitmaps {
    /// Those that an image names, if they belong to what is opened (they belong to the `present` state); in one that is
    /// to be written a directory that lies is an error.
    pub(crate) async fn open(file: &View, header: &Header, present: bool, read_only: bool) -> Result<Self> {
        let Some(place) = header.bitmaps.filter(|_| present) else { return Ok(Self::of(Book::default())) };
        let read = match read(file, header).await {
            Ok(entries) => disjoint(&entries, header.cluster_bits, file.size()).map(|()| entries),
            Err(error) => Err(error),
        };
        let entries = match read {
            Ok(entries) => entries,
            Err(error) if read_only => {
                let unreadable = Some(error.to_string());
                return Ok(Self::of(Book { unreadable, ..Book::default() }));
            }
            Err(error) => {
                return Err(
                    error.within("its bitmaps cannot be kept: open it read-only, or convert it without them")
                );
            }
        };
        let tracked = |entry| Tracked::stored(entry, header.virtual_size);
        Ok(Self::of(Book {
            all: entries.into_iter().map(tracked).collect(),
            place: Some(place),
            unreadable: None,
        }))
    }
}

async fn read(file: &View, header: &Header) -> Result<Vec<BitmapEntry>> {
    let Some(place) = header.bitmaps else { return Ok(Vec::new()) };
    // The header's check keeps the offset in bounds and the length at 64 MiB.
    let range = ByteRange::checked(place.directory.0, place.directory_len);
    match range.filter(|range| !range.is_empty() && range.end() <= file.size()) {
        Some(range) => {
            let bytes = seam::read(file, range).await?;
            BitmapEntry::parse_directory(&bytes, place.count, header.cluster_bits, header.virtual_size)
        }
        None => Err(corrupt("the bitmap directory is empty or leaves the file".to_owned())),
    }
}

/// Each has a name and a table of its own.
fn disjoint(entries: &[BitmapEntry], cluster_bits: u32, file_len: u64) -> Result<()> {
    let mut names = HashSet::new();
    let named = |entry: &BitmapEntry| String::from_utf8_lossy(&entry.name).into_owned();
    if let Some(twice) = entries.iter().find(|entry| !names.insert(&entry.name)) {
        return Err(corrupt(format!("there are two bitmaps '{}'", named(twice))));
    }
    let mut tables: Vec<_> = entries.iter().filter(|entry| entry.is_usable()).collect();
    tables.sort_unstable_by_key(|entry| entry.table.0);
    let mut end = 0;
    for entry in tables {
        let len = (u64::from(entry.table_entries) * 8).next_multiple_of(1 << cluster_bits);
        if entry.table.0 < end || entry.table.0 + u64::from(entry.table_entries) * 8 > file_len {
            return Err(corrupt(format!(
                "the table of bitmap '{}' leaves the file or is another's, too",
                named(entry)
            )));
        }
        end = entry.table.0 + len;
    }
    Ok(())
}

/// Memory that a bitmap may take however short its file is.
const MEMORY_MAX: u64 = 8 << 20;
/// What bits of one cluster may take of it,
const MEMORY_CHUNK: u64 = 64 << 10;
/// and how many times as much as the file has bytes: little in the file can say much.
const MEMORY_TIMES: u64 = 32;
/// How often that is looked at, in entries of its table.
const MEMORY_LOOKS: u64 = 1024;

impl Image {
    /// What is stored of a bitmap.
    pub(super) async fn load_bitmap(
        &self,
        entry: &BitmapEntry,
        mut into: DirtyBitmap,
        next: Next<'_>,
    ) -> Result<DirtyBitmap> {
        let cluster = self.geometry.cluster_size();
        let file_len = next.size(FILE_CHILD)?;
        let times = (MEMORY_CHUNK / cluster).clamp(1, MEMORY_TIMES);
        let memory_max = file_len.saturating_mul(times).max(MEMORY_MAX);
        let needed = into.stored_len().div_ceil(cluster);
        for (number, cell) in self.bitmap_table(entry, needed, next).await?.into_iter().enumerate() {
            let start = number as u64 * cluster;
            if (number as u64).is_multiple_of(MEMORY_LOOKS) && into.memory() as u64 > memory_max {
                let name = String::from_utf8_lossy(&entry.name);
                return Err(corrupt(format!(
                    "bitmap '{name}' takes more memory than its file has bytes: remove it with 'bitmap --remove'"
                )));
            }
            match cell {
                BitmapCluster::Zeros => {}
                BitmapCluster::Ones => into.load_dirty(start, cluster),
                BitmapCluster::At(offset) => {
                    // The file may end in its last cluster.
                    let len = cluster.min(file_len - offset.0).min(into.stored_len() - start);
                    let bytes = self.read_file(offset.0, len as usize, next).await?;
                    into.load(start, &bytes);
                }
            }
        }
        Ok(into)
    }

    /// The first `needed` entries of a bitmap's table: the clusters that they name are in the file, each once.
    async fn bitmap_table(
        &self,
        entry: &BitmapEntry,
        needed: u64,
        next: Next<'_>,
    ) -> Result<Vec<BitmapCluster>> {
        let name = String::from_utf8_lossy(&entry.name);
        let (file_len, len) = (next.size(FILE_CHILD)?, needed.min(entry.table_entries.into()) * 8);
        if entry.table.0 + len > file_len {
            return Err(corrupt(format!("the table of bitmap '{name}' leaves the file")));
        }
        let bytes = self.read_file(entry.table.0, len as usize, next).await?;
        let mut seen = HashSet::new();
        let mut cells = Vec::with_capacity(needed as usize);
        for word in bytes.as_chunks().0 {
            let cell = BitmapCluster::parse(u64::from_be_bytes(*word), self.geometry.cluster_bits())?;
            if let BitmapCluster::At(offset) = cell
                && (offset.0 >= file_len || !seen.insert(offset.0))
            {
                let context = format!(
                    "the table of bitmap '{name}' names the cluster at {offset} twice, or beyond the file"
                );
                return Err(corrupt(context));
            }
            cells.push(cell);
        }
        Ok(cells)
    }

    /// The clusters that a bitmap takes in the file.
    pub(super) async fn clusters_of_bitmap(&self, entry: &BitmapEntry, next: Next<'_>) -> Result<Vec<Run>> {
        let bits = self.geometry.cluster_bits();
        let entries = u64::from(entry.table_entries);
        let table =
            Run { first: entry.table.0 >> bits, count: (entries * 8).div_ceil(self.geometry.cluster_size()) };
        let mut runs = vec![table];
        for cell in self.bitmap_table(entry, entries, next).await? {
            if let BitmapCluster::At(offset) = cell {
                runs.push(Run { first: offset.0 >> bits, count: 1 });
            }
        }
        Ok(runs)
    }
}

fn corrupt(context: String) -> BlockError {
    BlockError::new(ErrorKind::Corrupt, context)
}
