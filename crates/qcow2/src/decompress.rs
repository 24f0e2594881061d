//! Compressed bytes to clusters.
//!
//! Invariants: exactly one cluster comes out or an error; memory is bounded whatever the stream claims.

use block::{BlockError, ErrorKind};
use libdeflater::Decompressor as Inflater;
use zstd::bulk::Decompressor as Unzstd;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe;

use crate::{CompressedCluster, corrupt, inflate};

/// Largest window, base-2 logarithm of bytes, that a zstd stream may want beside its cluster: 8 MiB, four of the
/// largest clusters. Whole frames need none, and say what they like.
const MAX_WINDOW_BITS: u32 = 23;

/// How the compressed clusters of an image are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Raw deflate (RFC 1951) without a zlib header; QEMU calls it `zlib`.
    Deflate,
    /// Zstandard frames.
    Zstd,
}

impl Compression {
    /// As QEMU calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deflate => "zlib",
            Self::Zstd => "zstd",
        }
    }
}

/// Decompresses clusters of one image. Keeps its working memory (below 1 MiB): use one again rather than a
/// new one.
pub struct Decompressor(Engine);

enum Engine {
    Deflate(Inflater),
    Zstd(Unzstd<'static>),
}

impl Decompressor {
    /// A decompressor for `kind`. `NoMemory` when there is no memory for it.
    pub fn new(kind: Compression) -> Result<Self, BlockError> {
        let engine = match kind {
            Compression::Deflate => Engine::Deflate(Inflater::new()),
            Compression::Zstd => {
                let no_memory = |error| BlockError::caused(ErrorKind::NoMemory, "zstd cannot start", error);
                Engine::Zstd(Unzstd::new().map_err(no_memory)?)
            }
        };
        Ok(Self(engine))
    }

    /// Fills `out`, one whole cluster, from `bytes`, the [`CompressedCluster::len`] bytes that `cluster`
    /// names. What follows the compressed data in `bytes` is ignored.
    ///
    /// `Corrupt`, naming both offsets, where `bytes` do not yield a whole cluster; what `out` holds then is
    /// nobody's data.
    pub fn decompress(
        &mut self,
        cluster: &CompressedCluster,
        bytes: &[u8],
        out: &mut [u8],
    ) -> Result<(), BlockError> {
        let outcome = match &mut self.0 {
            Engine::Deflate(inflater) => inflate_all(inflater, bytes, out),
            Engine::Zstd(unzstd) => unzstd_all(unzstd, bytes, out),
        };
        outcome.map_err(|reason| {
            let guest = cluster.guest.start();
            corrupt(format!("compressed cluster at {} for guest offset {guest:#x}: {reason}", cluster.host))
        })
    }
}

fn inflate_all(inflater: &mut Inflater, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    match inflater.deflate_decompress(bytes, out) {
        Ok(len) if len == out.len() => Ok(()),
        Ok(len) => Err(format!("the stream ends after {len} of {} bytes", out.len())),
        // It may be a stream that does not end where the cluster does, which is allowed.
        Err(_) => inflate::fill(bytes, out).map_err(str::to_owned),
    }
}

/// Whole frames, decompressed in place; any others byte by byte.
fn unzstd_all(unzstd: &mut Unzstd<'_>, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    let (mut read, mut written) = (0, 0);
    while written < out.len() {
        let frame = zstd_safe::find_frame_compressed_size(&bytes[read..]).ok();
        let frame = frame.and_then(|len| bytes[read..].get(..len));
        let Some(Ok(len)) = frame.map(|frame| unzstd.decompress_to_buffer(frame, &mut out[written..])) else {
            return unzstd_stream(bytes, out);
        };
        (read, written) = (read + frame.map_or(0, <[u8]>::len), written + len);
    }
    Ok(())
}

/// Frames that do not end where the cluster does.
fn unzstd_stream(bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut decoder = Decoder::new().map_err(text)?;
    decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_BITS)).map_err(text)?;
    let wanted = out.len();
    let (mut input, mut output) = (InBuffer::around(bytes), OutBuffer::around(out));
    while output.pos() < wanted {
        let before = (input.pos(), output.pos());
        decoder.run(&mut input, &mut output).map_err(text)?;
        if before == (input.pos(), output.pos()) {
            return Err(format!("the stream ends after {} of {wanted} bytes", output.pos()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use block::ByteRange;

    use super::*;
    use crate::HostOffset;

    const CLUSTER: usize = 65536;

    fn plain(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * i / 1000 + i % 7) as u8).collect()
    }

    fn decompress(kind: Compression, bytes: &[u8]) -> Result<Vec<u8>, BlockError> {
        let cluster = CompressedCluster {
            guest: ByteRange::new(0x70000, CLUSTER as u64),
            host: HostOffset(0x1234),
            len: bytes.len(),
        };
        let mut out = vec![0; CLUSTER];
        Decompressor::new(kind)?.decompress(&cluster, bytes, &mut out).map(|()| out)
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        let mut out = vec![0; compressor.deflate_compress_bound(bytes.len())];
        let len = compressor.deflate_compress(bytes, &mut out).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn padding_behind_a_stream_is_ignored() {
        let plain = plain(CLUSTER);
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for (kind, mut bytes) in [(Compression::Deflate, deflate(&plain)), (Compression::Zstd, zstd)] {
            for padding in [&[][..], &[0; 300], &[0xff; 511]] {
                bytes.extend_from_slice(padding);
                assert!(decompress(kind, &bytes).unwrap() == plain, "{kind:?}");
            }
        }
    }

    #[test]
    fn a_stream_may_go_on_behind_the_cluster() {
        let plain = plain(CLUSTER + 5000);
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for (kind, bytes) in [(Compression::Deflate, deflate(&plain)), (Compression::Zstd, zstd)] {
            assert!(decompress(kind, &bytes).unwrap() == plain[..CLUSTER], "{kind:?}");
        }
    }

    #[test]
    fn a_cluster_may_be_several_zstd_frames() {
        let plain = plain(CLUSTER);
        let mut bytes = zstd::encode_all(&plain[..1000], 1).unwrap();
        bytes.extend(zstd::encode_all(&plain[1000..], 1).unwrap());
        bytes.extend([0; 99]);
        assert!(decompress(Compression::Zstd, &bytes).unwrap() == plain);
    }

    #[test]
    fn too_little_or_broken_data_is_corrupt_and_says_where() {
        let plain = plain(CLUSTER);
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        let short = zstd::encode_all(&plain[..1000], 1).unwrap();
        for (kind, bytes) in [
            (Compression::Deflate, &deflate(&plain)[..100]),
            (Compression::Deflate, &deflate(&plain[1..])[..]),
            (Compression::Deflate, &[0xff; 600]),
            (Compression::Deflate, &[]),
            (Compression::Zstd, &zstd[..zstd.len() / 2]),
            (Compression::Zstd, &short),
            (Compression::Zstd, &[0; 600]),
            (Compression::Zstd, &[]),
        ] {
            let error = decompress(kind, bytes).expect_err("not a cluster");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let text = error.to_string();
            assert!(text.contains("0x1234") && text.contains("0x70000"), "{text}");
        }
    }

    #[test]
    fn a_wrong_checksum_is_corrupt() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(&plain(CLUSTER)).unwrap();
        let mut bytes = encoder.finish().unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(decompress(Compression::Zstd, &bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_zstd_stream_cannot_ask_for_a_huge_window() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&plain(CLUSTER)).unwrap();
        encoder.flush().unwrap();
        // Not finished, so that only the streaming path could read it.
        let bytes = std::mem::take(encoder.get_mut());
        assert!(decompress(Compression::Zstd, &bytes).is_err());
    }
}
