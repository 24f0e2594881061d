//! Which bytes of a read have been answered.

use std::ops::Range;

use block::{BlockError, ByteRange, Errno, ErrorKind, RangeSet};

use super::ReplyError;

/// Most separate pieces that out-of-order chunks may leave; it bounds memory and time per read.
const PIECES_MAX: usize = 1024;

/// Why a read came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFailure {
    /// The server could not read; the connection is fine.
    Failed(Errno),
    /// The reply broke the protocol; close the connection.
    Broken(ReplyError),
}

impl From<ReplyError> for ReadFailure {
    fn from(error: ReplyError) -> Self {
        Self::Broken(error)
    }
}

impl From<ReadFailure> for BlockError {
    fn from(failure: ReadFailure) -> Self {
        match failure {
            ReadFailure::Broken(error) => error.into(),
            ReadFailure::Failed(errno) => {
                let kind = match errno {
                    Errno::INVAL => ErrorKind::Invalid,
                    Errno::PERM => ErrorKind::NotPermitted,
                    Errno::NOMEM => ErrorKind::NoMemory,
                    Errno::NOSPC => ErrorKind::NoSpace,
                    Errno::NOTSUP => ErrorKind::Unsupported,
                    Errno::SHUTDOWN => ErrorKind::Disconnected,
                    _ => ErrorKind::Io,
                };
                BlockError::new(kind, format!("the server failed the request with errno {}", errno.0))
            }
        }
    }
}

/// Holds the chunks of a structured reply against the range of its read.
///
/// Invariant: the bytes of `range` up to `front` and those of `later` have been answered, exactly once. Chunks
/// in order, the usual case, only move `front` and allocate nothing.
#[derive(Clone, Debug)]
pub struct ReadProgress {
    range: ByteRange,
    front: u64,
    later: RangeSet,
    error: Option<Errno>,
}

impl ReadProgress {
    /// A read of `range` of which nothing has been answered.
    pub fn new(range: ByteRange) -> Self {
        Self { range, front: range.start(), later: RangeSet::new(), error: None }
    }

    /// A content chunk (data or hole) of `len` bytes at `offset`: answers which bytes of the read's buffer it
    /// fills.
    ///
    /// # Errors
    /// [`ReplyError`] when it reaches outside the read, or over bytes that were answered before.
    pub fn content(&mut self, offset: u64, len: u32) -> Result<Range<usize>, ReplyError> {
        let chunk = ByteRange::checked(offset, u64::from(len)).ok_or(ReplyError::OutOfRange)?;
        if chunk.is_empty() || !self.range.contains(chunk) {
            return Err(ReplyError::OutOfRange);
        }
        let answered = |piece: ByteRange| piece.overlaps(chunk);
        if chunk.start() < self.front || (!self.later.is_empty() && self.later.iter().any(answered)) {
            return Err(ReplyError::Overlap);
        }
        self.answered(chunk)?;
        let start = (offset - self.range.start()) as usize;
        Ok(start..start + len as usize)
    }

    fn answered(&mut self, chunk: ByteRange) -> Result<(), ReplyError> {
        if chunk.start() != self.front {
            self.later.insert(chunk);
            return if self.later.iter().count() > PIECES_MAX { Err(ReplyError::Scattered) } else { Ok(()) };
        }
        self.front = chunk.end();
        let next = self.later.iter().next();
        if let Some(next) = next.filter(|next| next.start() == self.front) {
            self.later.remove(next);
            self.front = next.end();
        }
        Ok(())
    }

    /// An error chunk: the read will fail, though more chunks may come.
    pub fn failed(&mut self, errno: Errno) {
        self.error.get_or_insert(errno);
    }

    /// The last chunk has come.
    ///
    /// # Errors
    /// [`ReadFailure`]: the server's first error, or bytes that no chunk has answered.
    pub fn finish(&self) -> Result<(), ReadFailure> {
        match self.error {
            Some(errno) => Err(ReadFailure::Failed(errno)),
            None if self.front != self.range.end() => Err(ReplyError::Missing.into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress() -> ReadProgress {
        ReadProgress::new(ByteRange::new(1000, 100))
    }

    #[test]
    fn chunks_in_any_order_fill_a_read() {
        let mut read = progress();
        assert_eq!(read.content(1050, 20), Ok(50..70));
        assert_eq!(read.content(1090, 10), Ok(90..100));
        assert_eq!(read.content(1000, 50), Ok(0..50));
        assert_eq!(read.finish(), Err(ReadFailure::Broken(ReplyError::Missing)));
        assert_eq!(read.content(1070, 20), Ok(70..90));
        assert_eq!(read.finish(), Ok(()));
    }

    #[test]
    fn chunks_that_lie_are_refused() {
        let mut read = progress();
        read.content(1010, 10).unwrap();
        for (offset, len) in [(999, 1), (1099, 2), (1100, 1), (u64::MAX, 1), (u64::MAX, 2), (1000, 0)] {
            assert_eq!(read.content(offset, len), Err(ReplyError::OutOfRange), "{offset} {len}");
        }
        for (offset, len) in [(1010, 1), (1019, 1), (1000, 11), (1000, 100)] {
            assert_eq!(read.content(offset, len), Err(ReplyError::Overlap), "{offset} {len}");
        }
        read.content(1000, 10).unwrap();
        assert_eq!(read.content(1005, 1), Err(ReplyError::Overlap));
    }

    #[test]
    fn the_first_error_counts_and_an_empty_read_needs_nothing() {
        let mut read = progress();
        read.failed(Errno::IO);
        read.failed(Errno::PERM);
        assert_eq!(read.finish(), Err(ReadFailure::Failed(Errno::IO)));
        assert_eq!(ReadProgress::new(ByteRange::new(5, 0)).finish(), Ok(()));
    }

    #[test]
    fn scattered_pieces_are_bounded() {
        let mut read = ReadProgress::new(ByteRange::new(0, 1 << 20));
        let pieces = (0..PIECES_MAX as u64).try_for_each(|i| read.content(2 * i + 1, 1).map(|_| ()));
        assert_eq!(pieces, Ok(()));
        assert_eq!(read.content(1 << 19, 1), Err(ReplyError::Scattered));
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(chunks in proptest::collection::vec((0u64..70, 0u32..20), 0..40)) {
            let mut read = ReadProgress::new(ByteRange::new(8, 48));
            let mut model = [false; 100];
            for (offset, len) in chunks {
                let span = offset as usize..offset as usize + len as usize;
                let inside = len > 0 && offset >= 8 && span.end <= 56;
                let fresh = inside && !model[span.clone()].contains(&true);
                prop_assert_eq!(read.content(offset, len).is_ok(), fresh);
                if fresh {
                    model[span].fill(true);
                }
                prop_assert_eq!(read.finish().is_ok(), model[8..56].iter().all(|b| *b));
            }
        }
    }
}
