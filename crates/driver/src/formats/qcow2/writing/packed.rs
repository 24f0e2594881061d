//! What is to be written of tables, copied one behind the other: a buffer of its own takes two pages at least, and a
//! flush may be about 65,536 slices of 512 bytes.
//!
//! Invariant: what lies together in the file and was added together is one write, of at most [`WRITE_MAX`] bytes.

use io::Lease;

/// Most bytes that are written at a time, unless they came as one.
const WRITE_MAX: usize = 64 << 10;

/// Bytes, and where in the file they belong.
#[derive(Default)]
pub(super) struct Packed {
    /// Offset in the file, and how many of the bytes.
    writes: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

impl Packed {
    /// Nothing yet, with room for so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { writes: Vec::new(), bytes: Vec::with_capacity(bytes) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(super) fn push(&mut self, at: u64, bytes: &[u8]) {
        self.room(at, bytes.len()).copy_from_slice(bytes);
    }

    /// Room for `len` bytes that belong at `at`; they are zeros until they are filled in.
    pub(super) fn room(&mut self, at: u64, len: usize) -> &mut [u8] {
        self.place(at, len);
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        &mut self.bytes[start..]
    }

    /// The writes, each copied when it is its turn.
    pub(super) fn writes(&self) -> impl Iterator<Item = (u64, Lease)> {
        let mut start = 0;
        self.writes.iter().map(move |(at, len)| {
            let from = start;
            start += len;
            (*at, Lease::copy_of(&self.bytes[from..start]))
        })
    }

    fn place(&mut self, at: u64, len: usize) {
        match self.writes.last_mut() {
            Some((first, before)) if *first + *before as u64 == at && *before + len <= WRITE_MAX => {
                *before += len
            }
            _ => self.writes.push((at, len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_write_as_long_as_it_is_not_too_long() {
        let mut packed = Packed::with_capacity(4);
        assert!(packed.is_empty());
        packed.push(512, &[1; 512]);
        packed.room(1024, 512).fill(2);
        packed.push(4096, &[3; WRITE_MAX]);
        packed.push(4096 + WRITE_MAX as u64, &[4; 8]);
        packed.push(0, &[5; 512]);
        let writes: Vec<_> =
            packed.writes().map(|(at, lease)| (at, lease.len(), lease[0], lease[lease.len() - 1])).collect();
        let last = 4096 + WRITE_MAX as u64;
        assert_eq!(writes, [(512, 1024, 1, 2), (4096, WRITE_MAX, 3, 3), (last, 8, 4, 4), (0, 512, 5, 5)]);
    }
}
