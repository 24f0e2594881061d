//! The matrix of options: what a seed makes of an image.

use sim::Rng;

/// Bytes of the disk at first: no multiple of most clusters, more than one of the largest.
pub(crate) const SIZE: u64 = (2 << 20) + (1 << 19) + 1536;

/// Where data lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataFile {
    Within,
    Apart,
    /// Apart, and that file reads as the disk.
    Raw,
}

/// What lies below.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// `raw` or `qcow2`.
    pub(crate) format: &'static str,
    pub(crate) size: u64,
}

/// An image as it is made.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) cluster_bits: u64,
    /// Whether it is of version 2.
    pub(crate) old: bool,
    pub(crate) refcount_bits: u64,
    pub(crate) data_file: DataFile,
    pub(crate) base: Option<Base>,
    /// Whether it has nothing that the library imago refuses: subclusters and zstd.
    pub(crate) plain: bool,
    /// In the words of `-o`, without the data file's.
    options: String,
}

impl Case {
    /// The cluster size and the width of refcounts go round with the seed; all else is by chance.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let base = rng.chance(0.5).then(|| Base {
            format: ["raw", "qcow2"][rng.index(2)],
            size: [SIZE, SIZE / 2 / 512 * 512, SIZE + (1 << 19)][rng.index(3)],
        });
        Self::with(&mut rng, 9 + seed % 13, seed % 7, base)
    }

    /// Another one, to be converted to.
    pub(crate) fn another(rng: &mut Rng) -> Self {
        let (bits, order) = (9 + rng.below(13), rng.below(7));
        Self::with(rng, bits, order, None)
    }

    fn with(rng: &mut Rng, cluster_bits: u64, refcount_order: u64, base: Option<Base>) -> Self {
        let old = refcount_order == 4 && rng.chance(0.5);
        let split = cluster_bits >= 14 && rng.chance(0.4);
        let zstd = rng.chance(0.5);
        let plain = old || !(split || zstd);
        let mut options = vec![format!("compat={}", if old { "0.10" } else { "1.1" })];
        options.push(format!("cluster_size={}", 1 << cluster_bits));
        if !old {
            options.push(format!("refcount_bits={}", 1 << refcount_order));
            options.push(format!("extended_l2={}", if split { "on" } else { "off" }));
            options.push(format!("compression_type={}", if zstd { "zstd" } else { "zlib" }));
            options.push(format!("lazy_refcounts={}", ["on", "off"][rng.index(2)]));
        }
        if base.is_none() || (split && !old) {
            let kinds = if base.is_none() { 4 } else { 2 };
            options
                .push(format!("preallocation={}", ["off", "metadata", "falloc", "full"][rng.index(kinds)]));
        }
        let data_file = match rng.below(6) {
            0 if !old => DataFile::Apart,
            1 if !old && base.is_none() => DataFile::Raw,
            _ => DataFile::Within,
        };
        let (refcount_bits, options) = (1 << refcount_order, options.join(","));
        Self { cluster_bits, old, refcount_bits, data_file, base, plain, options }
    }

    /// How many times a cluster can be referred to.
    pub(crate) fn references_max(&self) -> u64 {
        u64::MAX >> (64 - self.refcount_bits)
    }

    /// For `-o`, with a data file of this name if it has one.
    pub(crate) fn options(&self, data: &str) -> String {
        match self.data_file {
            DataFile::Within => self.options.clone(),
            DataFile::Apart => format!("{},data_file={data}", self.options),
            DataFile::Raw => format!("{},data_file={data},data_file_raw=on", self.options),
        }
    }
}
