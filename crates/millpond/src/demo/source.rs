//! What the image really holds, learnt without link and cache: its size, its data, and its bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind, Result};
use engine::{Engine, Reader};

use super::host::GRANULE;
use super::image::Image;
use super::live::Live;
use super::scratch::Scratch;
use super::sweep::{pieces, sweep};

/// Bytes per read, and reads in flight, when all of it has to be read.
const PIECE: u64 = 1 << 20;
const DEPTH: usize = 8;

/// The truth about an image.
pub(super) struct Source {
    /// Virtual size in bytes.
    pub(super) size: u64,
    /// Where its data lies; the rest reads as zeros.
    pub(super) data: Vec<ByteRange>,
    /// Its bytes.
    pub(super) reference: Arc<Reference>,
}

/// A file that every byte is compared with.
pub(super) struct Reference {
    file: File,
    path: PathBuf,
}

/// Looks at the image of the repository.
pub(super) async fn study(
    engine: &Arc<Engine>,
    image: &Image,
    scratch: &Scratch,
    live: &Live,
) -> Result<Source> {
    let options = image.node.as_object().cloned().unwrap_or_default();
    let node = engine.add_node(options).await?;
    let reader = Rc::new(engine.reader("study", &node)?);
    let size = reader.size();
    if size == 0 {
        return Err(BlockError::new(
            ErrorKind::Invalid,
            format!("{}: the image is empty", image.description),
        ));
    }
    let extents = reader.extents(ByteRange::between(0, size)).await?;
    let data = extents.iter().filter(|e| !e.state.reads_zero()).map(|e| e.range).collect();
    let reference = match &image.raw {
        Some(path) => Reference::open(path)?,
        None => read_all(&reader, &scratch.path("reference"), live).await?,
    };
    if let Some(reader) = Rc::into_inner(reader) {
        reader.close().await?;
    }
    engine.delete_node(&node).await?;
    Ok(Source { size, data, reference: Arc::new(reference) })
}

/// Reads all of it, whatever it says of its extents.
async fn read_all(reader: &Rc<Reader>, path: &Path, live: &Live) -> Result<Reference> {
    let failed = |e| BlockError::system(format!("cannot write '{}'", path.display()), e);
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(failed)?;
    let size = reader.size();
    file.set_len(size).map_err(failed)?;
    sweep(reader, pieces(ByteRange::between(0, size), PIECE), DEPTH, |range, bytes| {
        live.show(&format!("reading the image: {} %", range.start() * 100 / size));
        for (piece, bytes) in pieces(range, GRANULE).zip(bytes.chunks(GRANULE as usize)) {
            if !flow::seam::is_zero(bytes) {
                file.write_all_at(bytes, piece.start()).map_err(failed)?;
            }
        }
        Ok(())
    })
    .await?;
    Ok(Reference { file, path: path.to_owned() })
}

impl Source {
    /// Bytes of data.
    pub(super) fn allocated(&self) -> u64 {
        self.data.iter().map(|range| range.len()).sum()
    }

    /// Bytes of the granules that hold data.
    pub(super) fn allocated_granules(&self) -> u64 {
        self.granules().iter().map(|granule| granule.len()).sum()
    }

    /// The granules that hold data, in order.
    pub(super) fn granules(&self) -> Vec<ByteRange> {
        self.granules_where(|holds_data| holds_data)
    }

    /// The granules that hold none, in order.
    pub(super) fn holes(&self) -> Vec<ByteRange> {
        self.granules_where(|holds_data| !holds_data)
    }

    fn granules_where(&self, wanted: impl Fn(bool) -> bool) -> Vec<ByteRange> {
        let mut data = self.data.iter().peekable();
        let mut found = Vec::new();
        for granule in pieces(ByteRange::between(0, self.size), GRANULE) {
            while data.next_if(|range| range.end() <= granule.start()).is_some() {}
            if wanted(data.peek().is_some_and(|range| range.overlaps(granule))) {
                found.push(granule);
            }
        }
        found
    }
}

impl Reference {
    fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).map_err(|e| BlockError::system(format!("cannot open '{}'", path.display()), e));
        Ok(Self { file: file?, path: path.to_owned() })
    }

    /// How many of `bytes`, which were read at `start`, are wrong. Zeros stand behind the file's end.
    pub(super) fn wrong(&self, start: u64, bytes: &[u8], buf: &mut Vec<u8>) -> Result<u64> {
        buf.clear();
        buf.resize(bytes.len(), 0);
        self.fill(start, buf)?;
        if buf == bytes {
            return Ok(0);
        }
        Ok(buf.iter().zip(bytes).filter(|(right, read)| right != read).count() as u64)
    }

    /// So many bytes from `start` on. Zeros stand behind the file's end.
    pub(super) fn read(&self, start: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.fill(start, &mut bytes).map(|()| bytes)
    }

    fn fill(&self, start: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], start + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(e) => {
                    return Err(BlockError::system(format!("cannot read '{}'", self.path.display()), e));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(size: u64, data: &[(u64, u64)]) -> Source {
        let file = tempfile::tempfile().unwrap();
        let data = data.iter().map(|(start, end)| ByteRange::between(*start, *end)).collect();
        Source { size, data, reference: Arc::new(Reference { file, path: PathBuf::new() }) }
    }

    #[test]
    fn granules_are_counted_once() {
        let at = |n: u64| n * GRANULE;
        let s = source(
            at(10) + 5,
            &[(0, 1), (2, 3), (at(1) - 1, at(1) + 1), (at(4), at(6)), (at(10), at(10) + 5)],
        );
        let starts = |list: Vec<ByteRange>| list.iter().map(|g| g.start() / GRANULE).collect::<Vec<_>>();
        assert_eq!(starts(s.granules()), [0, 1, 4, 5, 10]);
        assert_eq!(starts(s.holes()), [2, 3, 6, 7, 8, 9]);
        assert_eq!(s.allocated_granules(), at(4) + 5);
        assert_eq!(s.allocated(), 1 + 1 + 2 + at(2) + 5);
    }

    #[test]
    fn wrong_bytes_are_counted() {
        let s = source(10, &[]);
        s.reference.file.write_all_at(b"abcdef", 0).unwrap();
        let wrong = |start, bytes| s.reference.wrong(start, bytes, &mut Vec::new()).unwrap();
        assert_eq!(wrong(0, b"abcdef"), 0);
        assert_eq!(wrong(1, b"bcxef"), 1);
        assert_eq!(wrong(4, b"ef\0\0"), 0);
        assert_eq!(wrong(4, b"ef\0x"), 1);
        assert_eq!(wrong(8, b"\0\0"), 0);
    }
}
