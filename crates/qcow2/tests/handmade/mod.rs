//! Tiny images made by code: entries go where a test wants them, true or not.

/// An image file in memory: header, then one L1 table cluster, then what is added.
pub(crate) struct Handmade {
    pub(crate) bytes: Vec<u8>,
    cluster_bits: u32,
    extended: bool,
}

/// Incompatible feature bits.
pub(crate) const DATA_FILE: u64 = 4;
pub(crate) const EXTENDED_L2: u64 = 16;

/// Bit 63 of entries.
pub(crate) const COPIED: u64 = 1 << 63;

impl Handmade {
    /// An empty disk of `size` bytes. Its L1 table is in cluster 1.
    pub(crate) fn new(version: u32, cluster_bits: u32, size: u64, features: u64) -> Self {
        let extended = features & EXTENDED_L2 != 0;
        let span_bits = 2 * cluster_bits - if extended { 4 } else { 3 };
        let l1_entries = size.div_ceil(1 << span_bits) as u32;
        assert!(l1_entries * 8 <= 1 << cluster_bits, "one cluster of L1");
        let mut image = Self { bytes: Vec::new(), cluster_bits, extended };
        image.grow();
        image.grow();
        image.bytes[..4].copy_from_slice(b"QFI\xfb");
        for (at, value) in [(4, version), (20, cluster_bits), (36, l1_entries), (56, 1)] {
            image.put32(at, value);
        }
        // No test looks at refcounts, so that their table may be anywhere aligned.
        for (at, value) in [(24, size), (40, image.cluster_size()), (48, image.cluster_size())] {
            image.put64(at, value);
        }
        if version == 3 {
            image.put64(72, features);
            image.put32(96, 4);
            image.put32(100, 104);
        }
        image
    }

    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Adds a cluster of zeros, answers its offset.
    pub(crate) fn grow(&mut self) -> u64 {
        let at = self.bytes.len() as u64;
        self.bytes.resize((at + self.cluster_size()) as usize, 0);
        at
    }

    /// Writes an L1 entry.
    pub(crate) fn l1(&mut self, index: u64, entry: u64) {
        self.put64(self.cluster_size() + index * 8, entry);
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
