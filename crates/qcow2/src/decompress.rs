//! Compressed bytes to clusters.
//!
//! Invariants: exactly one cluster comes out or an error; memory is bounded whatever the stream claims.

use block::BlockError;
use libdeflater::Decompressor as Inflater;
use zstd::bulk::Decompressor as Unzstd;

use crate::{CompressedCluster, corrupt};

/// How the compressed clusters of an image are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Raw deflate (RFC 1951) without a zlib header; QEMU calls it `zlib`.
    Deflate,
    /// Zstandard frames.
    Zstd,
}

/// Decompresses clusters of one image. Keeps its working memory: use one again rather than a new one.
pub struct Decompressor(Engine);

enum Engine {
    Deflate(Inflater),
    Zstd(Unzstd<'static>),
}

impl Decompressor {
    /// A decompressor for `kind`. `NoMemory` when there is no memory for it.
    pub fn new(kind: Compression) -> Result<Self, BlockError> {
        Ok(Self(match kind {
            Compression::Deflate => Engine::Deflate(Inflater::new()),
            Compression::Zstd => Engine::Zstd(Unzstd::new().map_err(|error| {
                BlockError::caused(block::ErrorKind::NoMemory, "zstd cannot start", error)
            })?),
        }))
    }

    /// Fills `out`, one whole cluster, from `bytes`, the [`CompressedCluster::len`] bytes that `cluster`
    /// names. What follows the compressed data in `bytes` is ignored.
    ///
    /// `Corrupt`, naming both offsets, where `bytes` do not yield a whole cluster.
    pub fn decompress(
        &mut self,
        cluster: &CompressedCluster,
        bytes: &[u8],
        out: &mut [u8],
    ) -> Result<(), BlockError> {
        let outcome = match &mut self.0 {
            Engine::Deflate(inflater) => inflate(inflater, bytes, out),
            Engine::Zstd(unzstd) => unzstd_frames(unzstd, bytes, out),
        };
        outcome.map_err(|reason| {
            corrupt(format!(
                "compressed cluster at {} for guest offset {:#x}: {reason}",
                cluster.host,
                cluster.guest.start()
            ))
        })
    }
}

fn inflate(inflater: &mut Inflater, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    match inflater.deflate_decompress(bytes, out) {
        Ok(len) if len == out.len() => Ok(()),
        Ok(len) => Err(too_short(len, out.len())),
        Err(error) => Err(format!("{error}")),
    }
}

fn unzstd_frames(unzstd: &mut Unzstd<'_>, bytes: &[u8], out: &mut [u8]) -> Result<(), String> {
    let (mut read, mut written) = (0, 0);
    while written < out.len() {
        let rest = &bytes[read..];
        let frame = zstd::zstd_safe::find_frame_compressed_size(rest)
            .map_err(|code| zstd::zstd_safe::get_error_name(code).to_owned())?;
        let frame_bytes = rest.get(..frame).ok_or("a frame leaves its sectors")?;
        let len = unzstd
            .decompress_to_buffer(frame_bytes, &mut out[written..])
            .map_err(|error| error.to_string())?;
        (read, written) = (read + frame, written + len);
        if frame == 0 {
            return Err(too_short(written, out.len()));
        }
    }
    Ok(())
}

fn too_short(len: usize, wanted: usize) -> String {
    format!("it yields {len} bytes, not {wanted}")
}
