//! Clusters to compressed bytes.
//!
//! Invariant: what comes out is shorter than what went in, and is decompressed by QEMU and by [`crate::Decompressor`].

use block::{BlockError, ErrorKind};
use libdeflater::{CompressionLvl, Compressor as Deflater};
use zstd::bulk::Compressor as Zstd;

use crate::Compression;

/// Level of zstd, its default.
const ZSTD_LEVEL: i32 = 3;

/// Compresses clusters of one image. Keeps its working memory (some MiB at most): use one again rather than a new one.
pub struct Compressor(Engine);

enum Engine {
    Deflate(Deflater),
    Zstd(Zstd<'static>),
}

impl Compressor {
    /// A compressor for `kind`. `NoMemory` when there is no memory for it.
    pub fn new(kind: Compression) -> Result<Self, BlockError> {
        let engine = match kind {
            Compression::Deflate => Engine::Deflate(Deflater::new(CompressionLvl::default())),
            Compression::Zstd => {
                let no_memory = |error| BlockError::caused(ErrorKind::NoMemory, "zstd cannot start", error);
                Engine::Zstd(Zstd::new(ZSTD_LEVEL).map_err(no_memory)?)
            }
        };
        Ok(Self(engine))
    }

    /// Compresses one whole cluster; `None` where that saves nothing.
    pub fn compress(&mut self, cluster: &[u8]) -> Option<Vec<u8>> {
        let mut out = vec![0; cluster.len().saturating_sub(1)];
        let len = match &mut self.0 {
            // What does not fit is no shorter.
            Engine::Deflate(deflater) => deflater.deflate_compress(cluster, &mut out).ok()?,
            Engine::Zstd(zstd) => zstd.compress_to_buffer(cluster, &mut out[..]).ok()?,
        };
        out.truncate(len);
        (len > 0).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use block::ByteRange;

    use super::*;
    use crate::{CompressedCluster, Decompressor, HostOffset};

    /// Bytes that come again after a long way, and bytes that never do.
    fn cluster(len: usize, noise: usize) -> Vec<u8> {
        let mut x = 1u64;
        let mut next = || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 56) as u8
        };
        let first: Vec<_> =
            (0..len / 2).map(|at| if at % 64 < noise { next() } else { at as u8 / 64 }).collect();
        [&first[..], &first[..]].concat()
    }

    #[test]
    fn what_is_compressed_is_what_comes_out_again() {
        for kind in [Compression::Deflate, Compression::Zstd] {
            let mut compressor = Compressor::new(kind).expect("memory");
            let mut decompressor = Decompressor::new(kind).expect("memory");
            for bits in 9..=21 {
                let bytes = cluster(1 << bits, 8);
                let packed = compressor.compress(&bytes).expect("it is shorter");
                assert!(packed.len() < bytes.len());
                let guest = ByteRange::new(0, bytes.len() as u64);
                let place = CompressedCluster { guest, host: HostOffset(0), len: packed.len() };
                let mut out = vec![0; bytes.len()];
                decompressor.decompress(&place, &packed, &mut out).expect("good");
                assert!(out == bytes, "{kind:?}, 2^{bits}");
            }
        }
    }

    #[test]
    fn what_cannot_be_shorter_stays_as_it_is() {
        for kind in [Compression::Deflate, Compression::Zstd] {
            let noise = cluster(1024, 64);
            assert_eq!(Compressor::new(kind).expect("memory").compress(&noise[..512]), None);
        }
    }
}
