//! Reading integers and strings off received bytes.

/// Fewer bytes were there than the layout needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncated;

/// A position in received bytes. Invariant: never reads beyond them, never panics.
#[derive(Clone, Debug)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// At the first of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next 16 bits.
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next 32 bits.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_be_bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_until_the_bytes_end() {
        let mut cursor = Cursor::new(&[0, 1, 0, 0, 0, 2, 9]);
        assert_eq!(cursor.u16(), Ok(1));
        assert_eq!(cursor.u32(), Ok(2));
        assert_eq!(cursor.clone().u16(), Err(Truncated));
        assert_eq!(cursor.rest(), [9]);
        assert!(cursor.is_empty());
        assert_eq!(cursor.bytes(1), Err(Truncated));
    }
}
