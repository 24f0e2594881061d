//! Small images made by code: entries go where a test wants them, true or not.

/// Clusters of 64 KiB.
pub(crate) const CLUSTER: u64 = 65536;
/// Incompatible feature bits.
pub(crate) const DATA_FILE: u64 = 4;
pub(crate) const EXTENDED_L2: u64 = 16;
/// Bit 63 of entries.
pub(crate) const COPIED: u64 = 1 << 63;
/// Bit 62 of L2 entries.
pub(crate) const COMPRESSED: u64 = 1 << 62;

/// An image file in memory with clusters of 64 KiB: header, one cluster of L1 table, then what is added.
pub(crate) struct Handmade {
    pub(crate) bytes: Vec<u8>,
    extended: bool,
}

impl Handmade {
    /// An empty disk of `size` bytes. Its L1 table is in cluster 1.
    pub(crate) fn new(version: u32, size: u64, features: u64) -> Self {
        let extended = features & EXTENDED_L2 != 0;
        let span_bits = if extended { 28 } else { 29 };
        let mut image = Self { bytes: Vec::new(), extended };
        image.grow();
        image.grow();
        image.bytes[..4].copy_from_slice(b"QFI\xfb");
        let l1_entries = size.div_ceil(1 << span_bits) as u32;
        for (at, value) in [(4, version), (20, 16), (36, l1_entries), (56, 1)] {
            image.put32(at, value);
        }
        // Nobody looks at refcounts, so that their table may be anywhere aligned.
        for (at, value) in [(24, size), (40, CLUSTER), (48, CLUSTER)] {
            image.put64(at, value);
        }
        if version == 3 {
            image.put64(72, features);
            image.put32(96, 4);
            image.put32(100, 104);
        }
        image
    }

    /// The same with one L2 table for the first bytes; answers where it is.
    pub(crate) fn with_table(version: u32, size: u64, features: u64) -> (Self, u64) {
        let mut image = Self::new(version, size, features);
        let table = image.grow();
        image.l1(0, table | COPIED);
        (image, table)
    }

    /// An overlay of the image in the file `backing`.
    pub(crate) fn overlay(size: u64, backing: &str) -> Self {
        let mut image = Self::new(3, size, 0);
        image.put32(104, 0xe279_2aca);
        image.put32(108, 5);
        image.bytes[112..117].copy_from_slice(b"qcow2");
        image.put64(8, 256);
        image.put32(16, backing.len() as u32);
        image.bytes[256..256 + backing.len()].copy_from_slice(backing.as_bytes());
        image
    }

    /// Adds a cluster of zeros, answers its offset.
    pub(crate) fn grow(&mut self) -> u64 {
        let at = self.bytes.len() as u64;
        self.bytes.resize((at + CLUSTER) as usize, 0);
        at
    }

    /// Adds a cluster of that byte, answers its offset.
    pub(crate) fn fill(&mut self, byte: u8) -> u64 {
        let at = self.grow();
        self.bytes[at as usize..].fill(byte);
        at
    }

    /// Adds a cluster of that byte as deflate stores it, answers its L2 entry.
    pub(crate) fn store(&mut self, byte: u8) -> u64 {
        let at = self.bytes.len() as u64;
        for (last, len) in [(0, 65_535u16), (1, 1)] {
            self.bytes.push(last);
            self.bytes.extend(len.to_le_bytes());
            self.bytes.extend((!len).to_le_bytes());
            self.bytes.extend(vec![byte; usize::from(len)]);
        }
        let end = self.bytes.len() as u64;
        let sectors = (end - 1) / 512 - at / 512;
        self.bytes.resize(end.next_multiple_of(CLUSTER) as usize, 0);
        COMPRESSED | sectors << 54 | at
    }

    /// Writes an L1 entry.
    pub(crate) fn l1(&mut self, index: u64, entry: u64) {
        self.put64(CLUSTER + index * 8, entry);
    }

    /// Writes an L2 entry, and its bitmap where entries have one, in the table at `table`.
    pub(crate) fn l2(&mut self, table: u64, index: u64, entry: u64, bitmap: u64) {
        if self.extended {
            self.put64(table + index * 16, entry);
            self.put64(table + index * 16 + 8, bitmap);
        } else {
            self.put64(table + index * 8, entry);
        }
    }

    pub(crate) fn put32(&mut self, at: u64, value: u32) {
        self.bytes[at as usize..][..4].copy_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn put64(&mut self, at: u64, value: u64) {
        self.bytes[at as usize..][..8].copy_from_slice(&value.to_be_bytes());
    }
}
