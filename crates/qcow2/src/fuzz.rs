//! Entry points for fuzzers: any bytes may come in, none may panic or take much memory or time.
//!
//! They also check what the rest of the crate promises: whoever calls them has only to watch for panics.

use block::{BlockError, ByteRange, Mapping, Place};

use crate::{
    Backing, CompressedCluster, Compression, Decompressor, Geometry, Header, HeaderEdit, HeaderWrite,
    HostOffset, L1Table, L2Slice, Located, SliceAddress, cache,
};

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
        edits(&bytes[..needed.min(bytes.len())]);
    }
}

/// Changes the header `first` in all ways. What is written leaves a header that can be read.
fn edits(first: &[u8]) {
    let backing = |name: &str, format: &str| {
        HeaderEdit::Backing(Backing { name: name.to_owned(), format: Some(format.to_owned()) })
    };
    let table = HeaderEdit::RefcountTable { offset: HostOffset(1 << 21), clusters: 2 };
    let all = [
        HeaderEdit::NoBacking,
        backing("x", "raw"),
        backing(&"long/".repeat(60), "qcow2"),
        HeaderEdit::ClearAutoclear(u64::MAX),
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
