//! Lookups in handmade images: what is true is found, what lies is `Corrupt` and says where.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its images fails")]

mod handmade;

use block::{BlockError, ByteRange, ErrorKind, Mapping, Place};
use handmade::{COPIED, DATA_FILE, EXTENDED_L2, Handmade};
use qcow2::{DATA_FILE_CHILD, FILE_CHILD, Geometry, Header, L1Table, L2Slice, Located};

/// Lookups in an image with one L2 table at `table`, the data file as long as it likes to be.
struct Opened<'a> {
    image: &'a Handmade,
    geometry: Geometry,
    l1: L1Table,
    data_len: u64,
}

impl<'a> Opened<'a> {
    fn new(image: &'a Handmade) -> Self {
        let geometry = Geometry::new(&Header::parse(&image.bytes).unwrap());
        let l1 = geometry.l1_range(image.bytes.len() as u64).unwrap();
        let l1 = &image.bytes[l1.start() as usize..l1.end() as usize];
        let l1 = L1Table::parse(&geometry, l1).unwrap();
        Self { image, geometry, l1, data_len: image.bytes.len() as u64 }
    }

    fn file_len(&self) -> u64 {
        self.image.bytes.len() as u64
    }

    fn locate(&self, start: u64, len: u64) -> Result<Located, BlockError> {
        self.geometry.locate(&self.l1, ByteRange::new(start, len), self.file_len())
    }

    fn slice(&self, guest: u64) -> Result<L2Slice, BlockError> {
        let Located::Slice(address) = self.locate(guest, 1)? else { panic!("no slice for {guest}") };
        let bytes = &self.image.bytes[address.host.0 as usize..][..self.geometry.slice_bytes()];
        L2Slice::parse(&self.geometry, address, bytes)
    }

    fn map(&self, start: u64, len: u64) -> Result<Mapping, BlockError> {
        self.geometry.map(&self.slice(start)?, ByteRange::new(start, len), self.data_len)
    }

    /// Expects a lookup of one cluster to be `Corrupt` with `words`.
    fn lies(&self, guest: u64, words: &str) {
        let error = self.map(guest, self.geometry.cluster_size()).expect_err(words);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(words), "'{error}' does not say '{words}'");
    }
}

fn data(offset: u64, len: u64) -> Mapping {
    Mapping::new(Place::Data { child: FILE_CHILD, offset, exclusive: true }, len)
}

/// A version 3 image of 64 KiB clusters with one L2 table and `clusters` data clusters behind it.
fn image(features: u64, clusters: u64) -> (Handmade, u64, Vec<u64>) {
    let mut image = Handmade::new(3, 16, 64 << 20, features);
    let table = image.grow();
    image.l1(0, table | COPIED);
    let clusters = (0..clusters).map(|_| image.grow()).collect();
    (image, table, clusters)
}

#[test]
fn contiguous_clusters_are_one_run() {
    let (mut image, table, at) = image(0, 4);
    for (index, cluster) in [(0, at[0]), (1, at[1]), (2, at[3])] {
        image.l2(table, index, cluster | COPIED, 0);
    }
    let opened = Opened::new(&image);
    assert_eq!(opened.map(0, 1 << 20).unwrap(), data(at[0], 2 << 16));
    assert_eq!(opened.map(100, 70_000).unwrap(), data(at[0] + 100, 70_000));
    assert_eq!(opened.map(0x1ffff, 7).unwrap(), data(at[1] + 0xffff, 1));
    assert_eq!(opened.map(0x20000, 1 << 20).unwrap(), data(at[3], 1 << 16));
    assert_eq!(
        opened.map(0x30000, 64 << 20).unwrap(),
        Mapping::new(Place::Unallocated, (32 << 20) - 0x30000)
    );
}

#[test]
fn runs_end_where_the_kind_or_the_exclusiveness_changes() {
    let (mut image, table, at) = image(0, 3);
    image.l2(table, 0, at[0] | COPIED, 0);
    image.l2(table, 1, at[1], 0);
    image.l2(table, 2, 1, 0);
    image.l2(table, 3, at[2] | 1 | COPIED, 0);
    let opened = Opened::new(&image);
    assert_eq!(opened.map(0, 1 << 20).unwrap(), data(at[0], 1 << 16));
    let shared = Place::Data { child: FILE_CHILD, offset: at[1], exclusive: false };
    assert_eq!(opened.map(1 << 16, 1 << 20).unwrap(), Mapping::new(shared, 1 << 16));
    // Zero clusters with and without a host cluster read the same.
    assert_eq!(opened.map(2 << 16, 1 << 20).unwrap(), Mapping::new(Place::Zero, 2 << 16));
}

#[test]
fn slices_are_parts_of_tables() {
    let (mut image, table, at) = image(0, 1);
    // The last entry of the second slice, the first of the third.
    image.l2(table, 1023, at[0] | COPIED, 0);
    image.l2(table, 1024, 1, 0);
    let opened = Opened::new(&image);
    let Located::Slice(second) = opened.locate(1023 << 16, 1 << 20).unwrap() else { panic!() };
    assert_eq!((second.host.0, second.first_guest), (table + 4096, 512 << 16));
    assert_eq!(opened.map(1023 << 16, 1 << 20).unwrap(), data(at[0], 1 << 16));
    let third = opened.slice(1024 << 16).unwrap();
    assert_eq!(third.address().first_guest, 1024 << 16);
    let error = opened.geometry.map(&third, ByteRange::new(1023 << 16, 512), u64::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = opened.geometry.map(&third, ByteRange::new(1024 << 16, 0), u64::MAX).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(L2Slice::parse(&opened.geometry, second, &[0; 4095]).is_err());
}

#[test]
fn holes_in_l1_are_one_run() {
    let mut image = Handmade::new(3, 9, 20 * 32768 - 512, 0);
    let table = image.grow();
    image.l1(5, table);
    image.l1(7, COPIED);
    let opened = Opened::new(&image);
    assert_eq!(opened.locate(1000, 1 << 20).unwrap(), Located::Unallocated { len: 5 * 32768 - 1000 });
    assert_eq!(opened.locate(1000, 77).unwrap(), Located::Unallocated { len: 77 });
    assert_eq!(opened.locate(6 * 32768, 1 << 20).unwrap(), Located::Unallocated { len: 14 * 32768 });
    assert_eq!(opened.locate(20 * 32768, 1).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(opened.locate(0, 0).unwrap_err().kind(), ErrorKind::OutOfRange);
    assert_eq!(opened.locate(u64::MAX - 1, 1).unwrap_err().kind(), ErrorKind::OutOfRange);
}

#[test]
fn two_l1_entries_may_name_one_table() {
    let (mut image, table, at) = image(0, 1);
    let span = 8192 << 16;
    image.put64(24, 2 * span);
    image.put32(36, 2);
    image.l1(1, table);
    image.l2(table, 3, at[0], 0);
    let opened = Opened::new(&image);
    let place = Place::Data { child: FILE_CHILD, offset: at[0], exclusive: false };
    for first in [0, span] {
        assert_eq!(opened.map(first + (3 << 16), 1 << 20).unwrap(), Mapping::new(place, 1 << 16));
    }
    assert_ne!(opened.slice(0).unwrap().address(), opened.slice(span).unwrap().address());
}

#[test]
fn lying_l1_entries() {
    let (mut image, table, _) = image(0, 0);
    let end = image.bytes.len() as u64;
    for (entry, words) in [
        (table | 1, "reserved bits"),
        (table | 1 << 62, "reserved bits"),
        (1 << 56, "reserved bits"),
        (table | 0x200, "multiple of the cluster size"),
        (end, "leaves the file"),
        ((1 << 56) - (1 << 16), "leaves the file"),
    ] {
        image.l1(0, entry);
        let error = Opened::new(&image).locate(0, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(words) && error.to_string().contains("L1 entry 0"), "{error}");
    }
    // A table that the end of the file cuts is no table.
    image.l1(0, table);
    image.bytes.pop();
    assert!(Opened::new(&image).locate(0, 1).unwrap_err().to_string().contains("leaves the file"));
}

#[test]
fn an_l1_table_outside_the_file() {
    let mut image = Handmade::new(3, 9, 64 * 32768, 0);
    let header = Header::parse(&image.bytes).unwrap();
    let geometry = Geometry::new(&header);
    assert_eq!(geometry.l1_range(1024).unwrap(), ByteRange::new(512, 512));
    assert_eq!(geometry.l1_range(1023).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(L1Table::parse(&geometry, &[0; 511]).unwrap_err().kind(), ErrorKind::Invalid);
    // An empty disk may have none at all.
    image.put64(24, 0);
    image.put32(36, 0);
    image.put64(40, 1 << 40);
    let geometry = Geometry::new(&Header::parse(&image.bytes).unwrap());
    assert_eq!(geometry.l1_range(512).unwrap(), ByteRange::new(0, 0));
}

#[test]
fn lying_l2_entries() {
    let (mut image, table, at) = image(0, 1);
    let end = image.bytes.len() as u64;
    for (index, entry) in [at[0] | 2, at[0] | 1 << 56, at[0] | 0x200, end, at[0]].into_iter().enumerate() {
        image.l2(table, index as u64, entry, 0);
    }
    let opened = Opened::new(&image);
    opened.lies(0, "reserved bits");
    opened.lies(1 << 16, "reserved bits");
    opened.lies(2 << 16, "multiple of the cluster size");
    opened.lies(3 << 16, "beyond the end of the file");
    opened.lies(3 << 16, &format!("host offset {:#x} for guest offset 0x30000", table + 24));
    assert!(opened.map(4 << 16, 1 << 16).is_ok());
}

#[test]
fn a_lie_does_not_spoil_the_bytes_before_it() {
    let (mut image, table, at) = image(0, 2);
    image.l2(table, 0, at[0] | COPIED, 0);
    image.l2(table, 1, at[1] | COPIED | 2, 0);
    let opened = Opened::new(&image);
    assert_eq!(opened.map(0, 1 << 20).unwrap(), data(at[0], 1 << 16));
    opened.lies(1 << 16, "reserved bits");
}

#[test]
fn zero_clusters_are_a_lie_in_version_2() {
    let mut image = Handmade::new(2, 16, 1 << 20, 0);
    let table = image.grow();
    image.l1(0, table);
    image.l2(table, 0, 1, 0);
    Opened::new(&image).lies(0, "reserved bits");
}

#[test]
fn what_can_be_made_of_a_broken_image() {
    let (mut image, table, at) = image(0, 1);
    image.l1(0, table | 1 | 1 << 60);
    image.l2(table, 0, at[0] | COPIED | 2 | 1 << 56, 0);
    image.l2(table, 1, at[0] | 0x200, 0);
    let mut opened = Opened::new(&image);
    opened.geometry = opened.geometry.salvaging();
    assert_eq!(opened.map(0, 1 << 20).unwrap(), data(at[0], 1 << 16));
    opened.lies(1 << 16, "multiple of the cluster size");
    // Of a table that the end of the file cuts there are the slices before the end, and whole entries of the last.
    let mut bytes_of_slice = |len: usize, at: u64| {
        image.bytes.truncate(table as usize + len);
        let mut opened = Opened::new(&image);
        opened.geometry = opened.geometry.salvaging();
        match opened.locate(at * opened.geometry.slice_span(), 1).unwrap() {
            Located::Slice(slice) => opened.geometry.slice_bytes_in(slice, image.bytes.len() as u64),
            Located::Unallocated { .. } => 0,
        }
    };
    let found =
        [(3 * 4096 - 1, 1), (3 * 4096 - 1, 2), (2 * 4096 + 8, 2), (2 * 4096 + 7, 2), (2 * 4096 + 7, 3)]
            .map(|(len, at)| bytes_of_slice(len, at));
    assert_eq!(found, [4096, 4088, 8, 0, 0]);
    let mut opened = Opened::new(&image);
    opened.geometry = opened.geometry.salvaging();
    let span = opened.geometry.slice_span();
    assert_eq!(opened.locate(2 * span + 5, 1 << 30).unwrap(), Located::Unallocated { len: span - 5 });
    assert_eq!(opened.locate(2 * span, 7).unwrap(), Located::Unallocated { len: 7 });
}

#[test]
fn the_end_of_the_file_cuts_the_last_cluster() {
    let (mut image, table, at) = image(0, 2);
    image.l2(table, 0, at[0] | COPIED, 0);
    image.l2(table, 1, at[1] | COPIED, 0);
    image.l2(table, 2, 1, 0);
    image.bytes.truncate(at[1] as usize + 1000);
    let opened = Opened::new(&image);
    assert_eq!(opened.map(0, 1 << 20).unwrap(), data(at[0], 65536 + 1000));
    assert_eq!(opened.map(65536 + 1000, 1 << 20).unwrap(), Mapping::new(Place::Zero, 65536 - 1000 + 65536));
    image.bytes.truncate(at[1] as usize);
    Opened::new(&image).lies(1 << 16, "beyond the end");
}

#[test]
fn subclusters_each_have_a_state() {
    let (mut image, table, at) = image(EXTENDED_L2, 2);
    // Subclusters of 2 KiB: 0..4 data, 4..8 zero, 8..31 nothing, 31 data; then all of the next cluster.
    image.l2(table, 0, at[0] | COPIED, 0x8000_000f | 0xf0 << 32);
    image.l2(table, 1, at[1] | COPIED, 0xffff_ffff);
    image.l2(table, 2, 0, 0xffff_ffff << 32);
    image.l2(table, 3, 0, 0);
    let opened = Opened::new(&image);
    assert_eq!(opened.geometry.subcluster_size(), 2048);
    assert_eq!(opened.map(0, 1 << 20).unwrap(), data(at[0], 4 * 2048));
    assert_eq!(opened.map(2047, 2).unwrap(), data(at[0] + 2047, 2));
    assert_eq!(opened.map(5 * 2048 + 1, 1 << 20).unwrap(), Mapping::new(Place::Zero, 3 * 2048 - 1));
    assert_eq!(opened.map(8 * 2048, 1 << 20).unwrap(), Mapping::new(Place::Unallocated, 23 * 2048));
    assert_eq!(opened.map(31 * 2048, 1 << 20).unwrap(), data(at[0] + 31 * 2048, 2048 + 65536));
    assert_eq!(opened.map(2 << 16, 1 << 20).unwrap(), Mapping::new(Place::Zero, 1 << 16));
    assert_eq!(opened.map(3 << 16, 3).unwrap(), Mapping::new(Place::Unallocated, 3));
}

#[test]
fn lying_bitmaps() {
    let (mut image, table, at) = image(EXTENDED_L2, 1);
    image.l2(table, 0, at[0], 1 << 9 | 1 << 41);
    image.l2(table, 1, 0, 2);
    image.l2(table, 2, at[0] | 1, 0);
    image.l2(table, 3, 1 << 30, 0);
    let opened = Opened::new(&image);
    opened.lies(0, "both allocated and zero");
    opened.lies(1 << 16, "it has no cluster");
    opened.lies(2 << 16, "reserved bits");
    // A cluster beyond the end of which no subcluster is used maps nothing there.
    assert_eq!(opened.map(3 << 16, 3).unwrap(), Mapping::new(Place::Unallocated, 3));
}

#[test]
fn data_files_hold_each_cluster_at_its_guest_offset() {
    let (mut image, table, _) = image(DATA_FILE, 0);
    image.l2(table, 0, COPIED, 0);
    image.l2(table, 1, 1 << 16 | COPIED, 0);
    image.l2(table, 3, 2 << 16 | COPIED, 0);
    image.l2(table, 4, 1 << 62, 0);
    image.l2(table, 9, 9 << 16 | COPIED, 0);
    let mut opened = Opened::new(&image);
    opened.data_len = 9 << 16;
    let place = Place::Data { child: DATA_FILE_CHILD, offset: 5, exclusive: true };
    assert_eq!(opened.map(5, 1 << 20).unwrap(), Mapping::new(place, (2 << 16) - 5));
    assert_eq!(opened.map(2 << 16, 1 << 20).unwrap(), Mapping::new(Place::Unallocated, 1 << 16));
    opened.lies(3 << 16, "is not its guest offset");
    opened.lies(4 << 16, "compressed");
    opened.lies(9 << 16, "beyond the end");
}

#[test]
fn compressed_clusters_come_one_by_one() {
    let (mut image, table, at) = image(0, 1);
    // 8 bits of sectors above bit 54 with 64 KiB clusters.
    image.l2(table, 0, 1 << 62 | 2 << 54 | (at[0] + 100), 0);
    image.l2(table, 1, 1 << 62 | (at[0] + 1200), 0);
    image.l2(table, 2, 1 << 62 | image.bytes.len() as u64, 0);
    let opened = Opened::new(&image);
    assert_eq!(opened.map(10, 1 << 20).unwrap(), Mapping::new(Place::Special, 65526));
    let slice = opened.slice(0).unwrap();
    let compressed = |guest| opened.geometry.compressed(&slice, guest, opened.file_len());
    let first = compressed(65535).unwrap();
    assert_eq!(
        (first.guest, first.host.0, first.len),
        (ByteRange::new(0, 65536), at[0] + 100, 3 * 512 - 100)
    );
    assert_eq!(compressed(65536).unwrap().len, 1536 - 1200);
    let beyond = compressed(2 << 16).unwrap_err();
    assert!(
        beyond.kind() == ErrorKind::Corrupt && beyond.to_string().contains("guest offset 0x20000"),
        "{beyond}"
    );
    assert_eq!(compressed(3 << 16).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(compressed(u64::MAX).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(compressed(1 << 40).unwrap_err().kind(), ErrorKind::Invalid);
}
