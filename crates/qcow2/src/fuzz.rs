//! Entry points for fuzzers: any bytes may come in, none may panic or take much memory or time.
//!
//! They also check what the rest of the crate promises: whoever calls them has only to watch for panics.

mod parts;

use block::{BlockError, ByteRange, Mapping, NewSnapshot, Place};

use crate::check::{Check, Repair, Step};
use crate::{
    Backing, BackingMark, BitmapEntry, BitmapsExtension, CompressedCluster, Compression, Decompressor,
    Geometry, Header, HeaderEdit, HeaderWrite, HostOffset, L1Table, L2Slice, Located, ParsedSnapshots,
    SliceAddress, Snapshot, SnapshotList, Version, cache,
};

pub use parts::{entries, own_extensions, refcounts};

/// Most lookups in one image.
const MAX_LOOKUPS: usize = 5_000;
/// Most clusters decompressed in one image.
const MAX_CLUSTERS: usize = 16;
/// Lookups ask for at most so many bytes, so that runs end in many ways.
const MAX_RANGE: u64 = 3 << 20;

/// Parses `bytes` as the first bytes of an image.
pub fn header(bytes: &[u8]) {
    if let (Ok(needed), Ok(header)) = (Header::needed(bytes), Header::parse(bytes)) {
        assert_eq!(needed as u64, Geometry::new(&header).cluster_size());
        assert!(header.l1_entries <= 4 << 20);
        let _ = cache::read(&header);
        let _ = BackingMark::read(&header);
        edits(&bytes[..needed.min(bytes.len())]);
    }
}

/// Changes the header `first` in all ways. What is written leaves a header that can be read.
fn edits(first: &[u8]) {
    let backing = |name: &str, format: &str| {
        HeaderEdit::Backing(Backing { name: name.to_owned(), format: Some(format.to_owned()) })
    };
    let bitmaps = |count: u32| BitmapsExtension {
        count,
        directory_len: 32 * u64::from(count),
        directory: HostOffset(1 << 21),
    };
    let table = HeaderEdit::RefcountTable { offset: HostOffset(1 << 21), clusters: 2 };
    let all = [
        HeaderEdit::NoBacking,
        backing("x", "raw"),
        backing(&"long/".repeat(60), "qcow2"),
        HeaderEdit::Bitmaps(Some(bitmaps(1))),
        HeaderEdit::Bitmaps(Some(bitmaps(2))),
        HeaderEdit::Bitmaps(None),
        HeaderEdit::ClearAutoclear(u64::MAX),
        HeaderEdit::Version(Version::V2),
        HeaderEdit::Version(Version::V3),
        HeaderEdit::LazyRefcounts(true),
        HeaderEdit::DataFileName(Some("elsewhere".to_owned())),
        HeaderEdit::DataFileName(None),
        HeaderEdit::MarkCorrupt,
        table,
    ];
    for edit in all.into_iter().chain(cache::edit("{}")) {
        let Ok(writes) = edit.writes(first) else { continue };
        let mut now = first.to_vec();
        for HeaderWrite { offset, bytes } in writes {
            let end = offset as usize + bytes.len();
            now.resize(now.len().max(end), 0);
            now[offset as usize..end].copy_from_slice(&bytes);
            if let Err(error) = Header::parse(&now) {
                panic!("{edit:?} leaves a header that cannot be read: {error}");
            }
        }
    }
}

/// Takes `image` for a whole image file and looks up what its tables map, a bounded part of it.
pub fn tables(image: &[u8]) {
    if let Ok(walk) = Walk::new(image) {
        walk.lookups();
    }
}

/// Takes `image` for a whole image file, checks it, and repairs it in each way: what fails has written nothing, what a
/// repair says is left is what a check finds afterwards, nothing that could be read reads otherwise, and no file grows
/// beyond what is reckoned with.
pub fn check(image: &[u8]) {
    let Ok(needed) = Header::needed(image) else { return };
    for repair in [Repair::Nothing, Repair::Leaks, Repair::All] {
        let mut file = image.to_vec();
        let Ok(mut check) = Check::new(&image[..needed.min(image.len())], image.len() as u64, true, repair)
        else {
            return;
        };
        match run(&mut check, &mut file) {
            // Nothing was written before it failed.
            Err(_) => assert!(file == image),
            Ok(()) if repair == Repair::Nothing => assert!(file == image),
            Ok(()) => repaired(image, &file, left(&check)),
        }
    }
}

/// Parses `bytes` as the tables of snapshots and of bitmaps, the first byte of which says how many.
pub fn directories(bytes: &[u8]) {
    let Some((count, bytes)) = bytes.split_first() else { return };
    for at_end in [false, true] {
        if let Ok(ParsedSnapshots::Whole(snapshots, len)) =
            Snapshot::parse_table(bytes, (*count).into(), at_end)
        {
            let again = Snapshot::table_bytes(&snapshots);
            let parsed = Snapshot::parse_table(&again, (*count).into(), false);
            assert!(matches!(parsed, Ok(ParsedSnapshots::Whole(found, _)) if found.len() == snapshots.len()));
            assert!(at_end || len <= bytes.len() as u64);
            one_more(snapshots);
        }
    }
    if let Ok(entries) = BitmapEntry::parse_directory(bytes, (*count).into(), 16, 1 << 30) {
        let again = BitmapEntry::directory_bytes(&entries);
        let parsed = BitmapEntry::parse_directory(&again, (*count).into(), 16, 1 << 30);
        assert!(parsed.is_ok_and(|found| found == entries));
    }
}

/// Adds a snapshot and takes the first one away: all others are stored as they were.
fn one_more(snapshots: Vec<Snapshot>) {
    let mut list = SnapshotList::new(snapshots, 1 << 30);
    let new = NewSnapshot { name: "one more".to_owned(), ..NewSnapshot::default() };
    if list.add(&new, 1 << 30, HostOffset(1 << 16), 2).is_err() {
        return;
    }
    list.remove(0);
    let mut wanted = list.all().to_vec();
    wanted.iter_mut().for_each(|snapshot| _ = snapshot.icount.get_or_insert(u64::MAX));
    let (bytes, count) = (list.bytes(), wanted.len() as u32);
    let found = Snapshot::parse_table(&bytes, count, false);
    assert!(matches!(found, Ok(ParsedSnapshots::Whole(found, _)) if found == wanted));
}

/// Does what a check asks for, with a file in memory.
fn run(check: &mut Check, file: &mut Vec<u8>) -> Result<(), BlockError> {
    let bound = 2 * file.len() + (64 << 20);
    loop {
        let mut writes = Vec::new();
        match check.step()? {
            Step::Read(ranges) => {
                for range in ranges {
                    check.take(part(file, range))?;
                    writes.extend(check.drain_writes());
                }
            }
            Step::Write(these) => writes = these,
            Step::Barrier | Step::Again => {}
            Step::Done => return Ok(()),
        }
        drop(check.drain_lines());
        for (at, bytes) in writes {
            let end = at as usize + bytes.len();
            assert!(end < bound, "a repair makes a file of {end} bytes");
            file.resize(file.len().max(end), 0);
            file[at as usize..end].copy_from_slice(&bytes);
        }
    }
}

/// Corruptions, leaks and check errors that there are.
fn left(check: &Check) -> [u64; 3] {
    let found = check.found();
    [found.corruptions, found.leaks, found.check_errors]
}

/// Whether all that could be read of the image `before` reads the same of `after`, within the bounds of a fuzzer.
pub fn reads_as(before: &[u8], after: &[u8]) -> bool {
    let Ok(walk) = Walk::new(before) else { return true };
    Walk::new(after).is_ok_and(|now| walk.difference(&now).is_none())
}

fn repaired(before: &[u8], after: &[u8], left_over: [u64; 3]) {
    let needed = Header::needed(after).unwrap_or(after.len()).min(after.len());
    let again = Check::new(&after[..needed], after.len() as u64, true, Repair::Nothing);
    let Ok(mut again) = again else { panic!("a repaired image cannot be checked") };
    if let Err(error) = run(&mut again, &mut after.to_vec()) {
        panic!("a repaired image cannot be checked: {error}");
    }
    assert_eq!(
        left_over,
        left(&again),
        "corruptions, leaks and errors that a repair leaves, and a check finds"
    );
    if let Ok(walk) = Walk::new(before) {
        let Ok(now) = Walk::new(after) else { panic!("a repaired image cannot be opened") };
        assert_eq!(walk.difference(&now), None);
    }
}

/// Decompresses `bytes`, the first byte of which chooses how and to what cluster size.
pub fn decompress(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let kind = if choice & 1 == 0 { Compression::Deflate } else { Compression::Zstd };
    let size = 512usize << (choice >> 1).min(12);
    let cluster =
        CompressedCluster { guest: ByteRange::new(0, size as u64), host: HostOffset(0), len: bytes.len() };
    if let Ok(mut decompressor) = Decompressor::new(kind) {
        let _ = decompressor.decompress(&cluster, bytes, &mut vec![0; size]);
    }
}

/// Resolves `bytes` as the name of a backing file.
pub fn name(bytes: &[u8]) {
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Ok(crate::Target::Options(options)) = crate::resolve(name, "/pool/overlay.qcow2")
    {
        let _ = options.nested();
    }
}

/// An image file in memory, opened.
struct Walk<'a> {
    image: &'a [u8],
    header: Header,
    geometry: Geometry,
    l1: L1Table,
}

impl<'a> Walk<'a> {
    fn new(image: &'a [u8]) -> Result<Self, BlockError> {
        let needed = Header::needed(image)?;
        let header = Header::parse(&image[..needed.min(image.len())])?;
        // Different slices for different images.
        let geometry = Geometry::new(&header).with_slice_bytes(512 << (image.len() % 4));
        let bytes = part(image, geometry.l1_range(image.len() as u64)?);
        Ok(Self { image, l1: L1Table::parse(&geometry, bytes)?, header, geometry })
    }

    /// Looks up the disk from its start, going on behind whatever lies.
    fn lookups(&self) {
        let mut decompressor = Decompressor::new(self.header.compression).ok();
        let (mut at, mut clusters) = (0, 0);
        for _ in 0..MAX_LOOKUPS {
            let range = ByteRange::between(at, self.geometry.virtual_size()).head(MAX_RANGE);
            if range.is_empty() {
                return;
            }
            at += match self.lookup(range) {
                Ok(Looked::Run(run)) => run.len,
                Ok(Looked::Compressed(cluster, len)) => {
                    if let Some(decompressor) = decompressor.as_mut().filter(|_| clusters < MAX_CLUSTERS) {
                        self.decompress(decompressor, &cluster);
                        clusters += 1;
                    }
                    len
                }
                Err(_) => self.geometry.cluster_size() - at % self.geometry.cluster_size(),
            };
        }
    }

    /// What could be read and cannot be read in the other, or is not the same there.
    fn difference(&self, other: &Self) -> Option<String> {
        let mut at = 0;
        for _ in 0..MAX_LOOKUPS {
            let range = ByteRange::between(at, self.geometry.virtual_size()).head(MAX_RANGE);
            if range.is_empty() {
                return None;
            }
            let Ok(Looked::Run(run)) = self.lookup(range) else {
                at += self.geometry.cluster_size() - at % self.geometry.cluster_size();
                continue;
            };
            let Ok(Looked::Run(now)) = other.lookup(range.head(run.len)) else {
                return Some(format!("{range} cannot be read any more"));
            };
            let len = run.len.min(now.len);
            let same = match (self.bytes(&run, len), other.bytes(&now, len)) {
                // The file may end later, with zeros.
                (None, Some(bytes)) | (Some(bytes), None) => bytes.iter().all(|byte| *byte == 0),
                (before, after) => before == after,
            };
            if !same {
                return Some(format!("{range} reads otherwise: {run:?}, {now:?}"));
            }
            at += len;
        }
        None
    }

    /// The data of a run; none where it holds none.
    fn bytes(&self, run: &Mapping, len: u64) -> Option<&[u8]> {
        match run.place {
            Place::Data { offset, .. } if self.header.data_file.is_none() => {
                Some(part(self.image, ByteRange::new(offset, len)))
            }
            _ => None,
        }
    }

    fn lookup(&self, range: ByteRange) -> Result<Looked, BlockError> {
        let len = self.image.len() as u64;
        let address = match self.geometry.locate(&self.l1, range, len)? {
            Located::Unallocated { len } => {
                assert!(0 < len && len <= range.len());
                return Ok(Looked::Run(Mapping::new(Place::Unallocated, len)));
            }
            Located::Slice(address) => address,
        };
        let slice = self.slice(address)?;
        let run = self.geometry.map(&slice, range, len)?;
        assert!(0 < run.len && run.len <= range.len());
        if let Place::Data { offset, .. } = run.place {
            assert!(offset + run.len <= len);
        }
        if run.place != Place::Special {
            return Ok(Looked::Run(run));
        }
        let cluster = self.geometry.compressed(&slice, range.start(), len)?;
        Ok(Looked::Compressed(cluster, run.len))
    }

    fn slice(&self, address: SliceAddress) -> Result<L2Slice, BlockError> {
        let range = ByteRange::new(address.host.0, self.geometry.slice_bytes() as u64);
        L2Slice::parse(&self.geometry, address, part(self.image, range))
    }

    fn decompress(&self, decompressor: &mut Decompressor, cluster: &CompressedCluster) {
        let bytes = part(self.image, ByteRange::new(cluster.host.0, cluster.len as u64));
        assert_eq!(cluster.guest.len(), self.geometry.cluster_size());
        let _ = decompressor.decompress(cluster, bytes, &mut vec![0; cluster.guest.len() as usize]);
    }
}

/// What a lookup found.
enum Looked {
    Run(Mapping),
    /// A compressed cluster, and how many bytes of it were asked for.
    Compressed(CompressedCluster, u64),
}

/// Bytes that the crate said are in the file: if they are not, this panics, as it should.
fn part(image: &[u8], range: ByteRange) -> &[u8] {
    &image[range.start() as usize..range.end() as usize]
}
