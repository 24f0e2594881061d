//! Images of 1 MiB that claim as much as they can: what a structure may say, said as often as there is room for it.

use qcow2::{Compression, NewImage};

/// Bytes of each of them.
pub const BYTES: usize = 1 << 20;
/// Where the header has what.
const SIZE: usize = 24;
const L1_ENTRIES: usize = 36;
const L1: usize = 40;
const REFCOUNT_TABLE: usize = 48;
const REFCOUNT_CLUSTERS: usize = 56;
const SNAPSHOTS: usize = 60;
const SNAPSHOT_TABLE: usize = 64;
const INCOMPATIBLE: usize = 72;
const AUTOCLEAR: usize = 88;
const REFCOUNT_ORDER: usize = 96;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// A hostile image and what it is called.
pub type Named = (String, Vec<u8>);

/// Of the families with many members so many are not taken, unless all are wanted.
const EACH: usize = 10;

/// A fair sample, or all of them.
pub fn all(every: bool) -> Vec<Named> {
    let large = [words(), steps(), long_tables(), dirty()];
    let small = [many_snapshots(), many_bitmaps(), striped_bitmap(), bombs(), extensions(), names()];
    let step = if every { 1 } else { EACH };
    let large = large.into_iter().flat_map(|family| family.into_iter().step_by(step));
    large.chain(small.into_iter().flatten()).collect()
}

/// An image under construction.
#[derive(Clone)]
struct Image(Vec<u8>);

impl Image {
    /// A good one of a disk of `size` bytes, and nothing behind its tables but zeros.
    fn good(size: u64, cluster_bits: u32) -> Self {
        Self::made(&NewImage::new(size, cluster_bits))
    }

    fn made(image: &NewImage) -> Self {
        let fresh = image.bytes().unwrap();
        let mut bytes = vec![0; BYTES.max(fresh.len as usize)];
        for (at, piece) in fresh.pieces {
            bytes[at.0 as usize..][..piece.len()].copy_from_slice(&piece);
        }
        Self(bytes)
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn word(self, at: usize, word: u64) -> Self {
        self.put(at, &word.to_be_bytes())
    }

    fn half(self, at: usize, half: u32) -> Self {
        self.put(at, &half.to_be_bytes())
    }

    /// Words from `at` to the end of the file, each what `word` makes of its number.
    fn fill(mut self, at: usize, word: impl Fn(u64) -> u64) -> Self {
        let words = self.0[at..].as_chunks_mut::<8>().0;
        (0..).zip(words).for_each(|(number, place)| *place = word(number).to_be_bytes());
        self
    }

    /// One entry behind the other from `at` on, as many as have room; answers how many.
    fn entries(mut self, at: usize, most: usize, entry: impl Fn(usize) -> Vec<u8>) -> (Self, usize) {
        let (mut end, mut count) = (at, 0);
        while count < most {
            let bytes = entry(count);
            if end + bytes.len() > self.0.len() {
                break;
            }
            self.0[end..end + bytes.len()].copy_from_slice(&bytes);
            (end, count) = ((end + bytes.len()).next_multiple_of(8), count + 1);
        }
        (self, count)
    }

    /// The bitmaps extension in front of all others.
    fn bitmaps(self, count: usize, directory: usize, len: usize) -> Self {
        let mut extension = 0x2385_2875u32.to_be_bytes().to_vec();
        extension.extend(24u32.to_be_bytes());
        extension.extend((count as u32).to_be_bytes());
        extension.extend([0; 4]);
        extension.extend((len as u64).to_be_bytes());
        extension.extend((directory as u64).to_be_bytes());
        extension.extend([0; 8]);
        self.put(112, &extension).word(AUTOCLEAR, 1)
    }
}

/// Tables that are all of the file: each word is an entry of whatever looks at it.
fn words() -> Vec<Named> {
    let mut all = Vec::new();
    let words = [COPIED, u64::MAX, COPIED | 0x201, 0x4000_0000_0000_1000, COPIED | 0x1_0000, 0x2_0001, 0x600];
    for cluster_bits in [9, 12, 16, 21] {
        for word in words {
            for refcount_order in [0, 6] {
                let image = everything(cluster_bits, refcount_order, |_| word);
                all.push((format!("all words {word:#x}, clusters of 2^{cluster_bits}"), image));
            }
        }
    }
    all
}

/// The same with words that each name another place.
fn steps() -> Vec<Named> {
    let mut all = Vec::new();
    for cluster_bits in [9, 12, 14, 16, 21] {
        for (what, flags) in [("", 0), (" with flags", COPIED), (" of zeros", 1), (" compressed", COMPRESSED)]
        {
            for step in [512, 1 << cluster_bits, 1 << (cluster_bits + 3)] {
                let image = everything(cluster_bits, 4, |number| flags | (number * step));
                all.push((format!("steps of {step}{what}, clusters of 2^{cluster_bits}"), image));
            }
        }
    }
    all
}

fn everything(cluster_bits: u32, refcount_order: u32, word: impl Fn(u64) -> u64) -> Vec<u8> {
    let cluster = 1usize << cluster_bits;
    let (at, len) = if cluster < BYTES { (cluster, BYTES - cluster) } else { (0, BYTES) };
    let span = cluster as u64 * (cluster as u64 / 8);
    let header = Image::good(1 << 20, cluster_bits.min(16)).0[..512].to_vec();
    let image = Image(vec![0; BYTES]).fill(0, word).put(0, &header);
    let image = image.half(20, cluster_bits).word(SIZE, ((len as u64 / 8) * span).min(1 << 62));
    let image = image.half(L1_ENTRIES, (len / 8) as u32).word(L1, at as u64);
    let clusters = ((8 << 20) / cluster).clamp(1, len / cluster.min(len));
    let image = image.word(REFCOUNT_TABLE, at as u64).half(REFCOUNT_CLUSTERS, clusters as u32);
    image.half(REFCOUNT_ORDER, refcount_order).0
}

/// Tables of the length that headers may claim, in the file and beyond its end.
fn long_tables() -> Vec<Named> {
    let mut all = Vec::new();
    for cluster_bits in [9, 16, 21] {
        let good = Image::good(1 << 20, cluster_bits);
        for (place, at) in [("inside", 1 << 19), ("at the end", BYTES), ("far away", 1 << 55)] {
            let at = (at as u64).next_multiple_of(1 << cluster_bits);
            let l1 = good.clone().word(L1, at).half(L1_ENTRIES, 4 << 20);
            all.push((format!("an L1 table of 32 MiB {place}, clusters of 2^{cluster_bits}"), l1.0));
            let clusters = (8 << 20) >> cluster_bits;
            let refcounts = good.clone().word(REFCOUNT_TABLE, at).half(REFCOUNT_CLUSTERS, clusters);
            all.push((
                format!("a refcount table of 8 MiB {place}, clusters of 2^{cluster_bits}"),
                refcounts.0,
            ));
            let snapshots = good.clone().word(SNAPSHOT_TABLE, at).half(SNAPSHOTS, 65_536);
            all.push((format!("65536 snapshots {place}, clusters of 2^{cluster_bits}"), snapshots.0));
            let directory = good.clone().bitmaps(65_535, at as usize, 65_535 << 10);
            all.push((format!("65535 bitmaps {place}, clusters of 2^{cluster_bits}"), directory.0));
        }
    }
    all
}

fn snapshot(l1: u64, entries: u32, id: &[u8], name: &[u8]) -> Vec<u8> {
    let mut bytes = l1.to_be_bytes().to_vec();
    bytes.extend(entries.to_be_bytes());
    bytes.extend((id.len() as u16).to_be_bytes());
    bytes.extend((name.len() as u16).to_be_bytes());
    bytes.extend([0; 20]);
    bytes.extend(16u32.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend((1u64 << 20).to_be_bytes());
    bytes.extend(id);
    bytes.extend(name);
    bytes
}

fn many_snapshots() -> Vec<Named> {
    let mut all = Vec::new();
    for cluster_bits in [9, 16] {
        let at = 1usize << (cluster_bits + 4);
        let good = Image::good(1 << 20, cluster_bits).half(SNAPSHOTS, 1).word(SNAPSHOT_TABLE, at as u64);
        let mut add = |what: &str, entry: &dyn Fn(usize) -> Vec<u8>| {
            let (image, count) = good.clone().entries(at, 65_536, entry);
            let image = image.half(SNAPSHOTS, count as u32);
            all.push((format!("{count} snapshots{what}, clusters of 2^{cluster_bits}"), image.0));
        };
        let id = |number: usize| number.to_string().into_bytes();
        add("", &|number| snapshot(0, 0, &id(number), b"s"));
        add(" of one table", &|number| snapshot(0, 1 << 17, &id(number), b"s"));
        let place = |number: usize| ((number % 2048) << cluster_bits) as u64;
        add(" of overlapping tables", &|number| snapshot(place(number), 4 << 20, &id(number), b"s"));
        add(" of other lengths", &|number| snapshot(0, (1 << 17) - number as u32, &id(number), b"s"));
        add(" with long names", &|number| snapshot(0, 1, &id(number), &[b'n'; 65_535]));
    }
    all
}

fn bitmap(table: usize, entries: usize, flags: u32, granularity_bits: u8, name: &[u8]) -> Vec<u8> {
    let mut bytes = (table as u64).to_be_bytes().to_vec();
    bytes.extend((entries as u32).to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend([1, granularity_bits]);
    bytes.extend((name.len() as u16).to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(name);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn many_bitmaps() -> Vec<Named> {
    let mut all = Vec::new();
    for cluster_bits in [9, 12, 14, 16] {
        let at = 1usize << (cluster_bits + 3);
        let mut add = |what: &str, size: u64, entry: &dyn Fn(usize) -> Vec<u8>| {
            let (image, count) = Image::good(1 << 20, cluster_bits).entries(at, 65_535, entry);
            let len = (0..count).map(|number| entry(number).len().next_multiple_of(8)).sum();
            let image = image.word(SIZE, size).bitmaps(count, at, len);
            all.push((format!("{count} bitmaps{what}, clusters of 2^{cluster_bits}"), image.0));
        };
        let name = |number: usize| number.to_string().into_bytes();
        add(" of one table", 1 << 20, &|number| bitmap(at, 1, 2, 16, &name(number)));
        add(" with long names", 1 << 20, &|number| {
            bitmap(at, 1, 1, 16, &[name(number), vec![b'n'; 1000]].concat())
        });
        let tables = BYTES >> cluster_bits;
        let largest = 1 << (cluster_bits - 3);
        let apart = |number: usize| {
            let table = 1 + number % (tables - 1);
            bitmap(table << cluster_bits, largest, 2, 9, &name(number))
        };
        let (image, _) = Image::good(1 << 20, cluster_bits).entries(at, tables / 2, apart);
        let len = (0..tables / 2).map(|number| apart(number).len()).sum();
        let image = image.bitmaps(tables / 2, at, len);
        all.push((
            format!("{} bitmaps of their own tables, clusters of 2^{cluster_bits}", tables / 2),
            image.0,
        ));
    }
    all
}

/// A bitmap whose every other cluster is all ones: with little in the file it is as long as it may be for the disk,
/// which is as large as its L1 table can make it.
fn striped_bitmap() -> Vec<Named> {
    const L1_AT: usize = 64 << 10;
    const L1_LEN: usize = 512 << 10;
    const DIRECTORY: usize = 640 << 10;
    const TABLE: usize = 704 << 10;
    let mut all = Vec::new();
    for cluster_bits in [9u32, 12, 13, 14] {
        let header = Image::good(1 << 20, cluster_bits).0;
        let image = Image(vec![0; BYTES]).put(0, &header[..512]).half(L1_ENTRIES, (L1_LEN / 8) as u32);
        let size = (L1_LEN as u64 / 8) << (2 * cluster_bits - 3);
        let entries = ((size / 512 / 8) >> cluster_bits) as usize;
        let mut image = image.word(L1, L1_AT as u64).word(SIZE, size);
        for number in 0..entries {
            image = image.word(TABLE + number * 8, number as u64 % 2);
        }
        let entry = bitmap(TABLE, entries, 0, 9, b"b");
        let image = image.put(DIRECTORY, &entry).bitmaps(1, DIRECTORY, entry.len());
        all.push((format!("a striped bitmap of {entries} clusters of 2^{cluster_bits}"), image.0));
    }
    all
}

/// Every guest cluster is the same compressed one.
fn bombs() -> Vec<Named> {
    let mut all = Vec::new();
    for cluster_bits in [9u32, 12, 16, 20] {
        for kind in [Compression::Deflate, Compression::Zstd] {
            let cluster = 1usize << cluster_bits;
            let packed = match kind {
                Compression::Deflate => stored_zeros(cluster),
                Compression::Zstd => zstd::bulk::compress(&vec![0; cluster + 77], 1).unwrap(),
            };
            let made = NewImage { compression: kind, ..NewImage::new(2 << 20, cluster_bits) };
            let mut image = Image::made(&made);
            let (table, data) = (image.0.len() - 2 * cluster, image.0.len() - cluster);
            let l1 = u64::from_be_bytes(image.0[L1..L1 + 8].try_into().unwrap()) as usize;
            let count = u32::from_be_bytes(image.0[L1_ENTRIES..L1_ENTRIES + 4].try_into().unwrap());
            for entry in 0..count as usize {
                image = image.word(l1 + entry * 8, table as u64);
            }
            let descriptor =
                COMPRESSED | data as u64 | ((packed.len() as u64 - 1) / 512) << (62 - (cluster_bits - 8));
            let image = image.fill(table, |_| descriptor).put(data, &packed[..packed.len().min(cluster)]);
            all.push((format!("a bomb of {}, clusters of 2^{cluster_bits}", kind.name()), image.0));
        }
    }
    all
}

/// A deflate stream of zeros, by hand: one literal, then matches of 258 bytes with the fixed codes.
fn stored_zeros(len: usize) -> Vec<u8> {
    let (mut bits, mut bytes) = (Vec::new(), Vec::new());
    let mut put = |value: u32, count: u32, from_top: bool| {
        (0..count).for_each(|bit| bits.push(value >> if from_top { count - 1 - bit } else { bit } & 1));
    };
    put(1, 1, false);
    put(1, 2, false);
    put(0x30, 8, true);
    for _ in 0..len.div_ceil(258) {
        // Length 258 is symbol 285, distance 1 symbol 0.
        put(0xc5, 8, true);
        put(0, 5, true);
    }
    for byte in bits.chunks(8) {
        bytes.push(byte.iter().enumerate().fold(0, |byte, (at, bit)| byte | (*bit as u8) << at));
    }
    bytes
}

/// Headers that are nothing but extensions.
fn extensions() -> Vec<Named> {
    let mut all = Vec::new();
    for (what, kind, len) in [
        ("unknown ones of no bytes", 0x1234_5678u32, 0u32),
        ("unknown ones of 9 bytes", 0x1234_5678, 9),
        ("our own, empty", 0x6d70_6e64, 0),
        ("marks of backing files", 0x6d70_626b, 32),
        ("one that is longer than the file", 0x1234_5678, u32::MAX - 7),
        ("names of features", 0x6803_f857, 48 * 20_000),
    ] {
        let mut extension = kind.to_be_bytes().to_vec();
        extension.extend(len.to_be_bytes());
        extension.resize(8 + (len as usize).min(1 << 19), 1);
        let header = Image::good(1 << 20, 21).0[..112].to_vec();
        let (image, _) = Image(vec![0; BYTES]).put(0, &header).entries(112, 1 << 20, |_| extension.clone());
        let image = image.word(AUTOCLEAR, 3 << 61).word(INCOMPATIBLE, 0);
        all.push((format!("extensions: {what}"), image.0.clone()));
        all.push((format!("extensions and a bit of no name: {what}"), image.word(INCOMPATIBLE, 1 << 50).0));
    }
    all
}

/// Names of backing files.
fn names() -> Vec<Named> {
    let deep = format!("json:{}1", "{\"a.b.c.d.e.f\":".repeat(60));
    let dots = format!("json:{{\"{}\":1}}", ["a"; 480].join("."));
    let names = [
        ("itself", "disk".to_owned()),
        (
            "itself as json",
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"disk"}}"#.to_owned(),
        ),
        ("deep json", deep),
        ("many dots", dots),
        ("a server", "nbd://nowhere:1/x".to_owned()),
        ("a folder", "/".to_owned()),
        ("as long as can be", "x/".repeat(511)),
        ("not text", "\u{1}\u{fffd}".to_owned()),
    ];
    let image = |(what, name): (&str, String)| {
        (format!("a backing file: {what}"), Image::made(&NewImage::new(1 << 20, 16).over(&name, "qcow2")).0)
    };
    names.into_iter().map(image).collect()
}

/// What is repaired when it is opened.
fn dirty() -> Vec<Named> {
    let mut all = words();
    all.extend(many_snapshots());
    let is_one = |number: &usize| number % 7 == 3;
    let chosen = all.into_iter().enumerate().filter(|(number, _)| is_one(number));
    let dirty = |(_, (name, bytes)): (usize, Named)| {
        (format!("not closed: {name}"), Image(bytes).word(INCOMPATIBLE, 1).0)
    };
    chosen.map(dirty).collect()
}
