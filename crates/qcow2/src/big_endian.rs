//! Big-endian numbers in byte slices, as every number in the format is stored.

/// The 16-bit number at byte `at`, or `None` where `bytes` ends before its end.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

/// The 32-bit number at byte `at`, or `None` where `bytes` ends before its end.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// The 64-bit number at byte `at`, or `None` where `bytes` ends before its end.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

/// The words of a table that is stored as `bytes`; what is left behind the last whole one is none.
pub fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks().0.iter().map(|b| u64::from_be_bytes(*b))
}

/// A table of words as it is stored.
pub fn word_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}
