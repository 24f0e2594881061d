//! Deflate (RFC 1951) that stops as soon as the output is full.
//!
//! The format says that decompression ends with a whole cluster, so a stream need not say where it ends. The
//! fast decoder insists on that; this one, a bit at a time, is for the streams that it refuses.

/// What is wrong with a stream.
type Fault = &'static str;

const CUT: Fault = "the stream ends in the middle of a cluster";
const BAD_CODE: Fault = "a code of the stream stands for nothing";

/// End of a block among the literal and length symbols; lengths follow it.
const END_OF_BLOCK: u16 = 256;
/// Longest code in bits.
const MAX_CODE_BITS: usize = 15;
/// Order in which the lengths of the code length code are stored (section 3.2.7).
const LENGTH_ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Fills `out` from the deflate stream at the start of `bytes`.
pub(crate) fn fill(bytes: &[u8], out: &mut [u8]) -> Result<(), Fault> {
    let mut bits = Bits { bytes, at: 0 };
    let mut out = Output { bytes: out, len: 0 };
    while !out.is_full() {
        let last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => stored(&mut bits, &mut out)?,
            1 => coded(&mut bits, &mut out, &fixed_codes())?,
            2 => {
                let codes = dynamic_codes(&mut bits)?;
                coded(&mut bits, &mut out, &codes)?;
            }
            _ => return Err("a block of the stream has an unknown type"),
        }
        if last && !out.is_full() {
            return Err(CUT);
        }
    }
    Ok(())
}

/// A block without compression (section 3.2.4).
fn stored(bits: &mut Bits<'_>, out: &mut Output<'_>) -> Result<(), Fault> {
    bits.at = bits.at.next_multiple_of(8);
    let (len, complement) = (bits.take(16)?, bits.take(16)?);
    if len ^ complement != 0xffff {
        return Err("the length of a stored block contradicts itself");
    }
    for _ in 0..len {
        if out.is_full() {
            break;
        }
        out.push(bits.take(8)? as u8);
    }
    Ok(())
}

/// The codes of a block: literals and lengths, distances.
struct Codes(Huffman, Huffman);

/// A block of literals and matches (section 3.2.3).
fn coded(bits: &mut Bits<'_>, out: &mut Output<'_>, codes: &Codes) -> Result<(), Fault> {
    while !out.is_full() {
        match codes.0.decode(bits)? {
            END_OF_BLOCK => break,
            literal if literal < END_OF_BLOCK => out.push(literal as u8),
            symbol => {
                let len = match_len(bits, symbol)?;
                let group = codes.1.decode(bits)?;
                let distance = distance(bits, group)?;
                out.repeat(distance, len)?;
            }
        }
    }
    Ok(())
}

/// Length of a match (section 3.2.5): groups of four symbols, each with one extra bit more than the one before.
fn match_len(bits: &mut Bits<'_>, symbol: u16) -> Result<usize, Fault> {
    let code = usize::from(symbol - END_OF_BLOCK - 1);
    match code {
        0..8 => Ok(3 + code),
        8..28 => {
            let extra = code / 4 - 1;
            Ok(3 + ((4 + code % 4) << extra) + bits.take(extra)?)
        }
        28 => Ok(258),
        _ => Err(BAD_CODE),
    }
}

/// Distance of a match (section 3.2.5): groups of two symbols.
fn distance(bits: &mut Bits<'_>, symbol: u16) -> Result<usize, Fault> {
    let code = usize::from(symbol);
    match code {
        0..4 => Ok(1 + code),
        4..30 => {
            let extra = code / 2 - 1;
            Ok(1 + ((2 + code % 2) << extra) + bits.take(extra)?)
        }
        _ => Err(BAD_CODE),
    }
}

/// Section 3.2.6.
fn fixed_codes() -> Codes {
    let mut lengths = [8; 288];
    lengths[144..256].fill(9);
    lengths[256..280].fill(7);
    Codes(Huffman::new(&lengths), Huffman::new(&[5; 30]))
}

/// Section 3.2.7: code lengths, themselves coded.
fn dynamic_codes(bits: &mut Bits<'_>) -> Result<Codes, Fault> {
    let literals = bits.take(5)? + 257;
    let distances = bits.take(5)? + 1;
    let mut order = [0; 19];
    for place in &LENGTH_ORDER[..bits.take(4)? + 4] {
        order[*place] = bits.take(3)? as u8;
    }
    let code = Huffman::new(&order);
    let mut lengths = [0; 320];
    let mut at = 0;
    while at < literals + distances {
        let (value, count) = match code.decode(bits)? {
            16 if at == 0 => return Err(BAD_CODE),
            16 => (lengths[at - 1], 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        lengths[..literals + distances].get_mut(at..at + count).ok_or(BAD_CODE)?.fill(value);
        at += count;
    }
    Ok(Codes(Huffman::new(&lengths[..literals]), Huffman::new(&lengths[literals..literals + distances])))
}

/// A canonical code (section 3.2.2): how many symbols have each length, and the symbols in order.
struct Huffman {
    counts: [u16; MAX_CODE_BITS + 1],
    symbols: Vec<u16>,
}

impl Huffman {
    /// The code in which symbol `i` has `lengths[i]` bits, at most 15; 0 leaves it out.
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0; MAX_CODE_BITS + 1];
        lengths.iter().for_each(|len| counts[usize::from(*len)] += 1);
        let mut symbols: Vec<u16> =
            (0..lengths.len() as u16).filter(|s| lengths[usize::from(*s)] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[usize::from(*symbol)]);
        Self { counts, symbols }
    }

    /// The next symbol. Codes of one length follow each other, and their first follows the last shorter one,
    /// so that `code` is never below `first`, whatever the lengths are.
    fn decode(&self, bits: &mut Bits<'_>) -> Result<u16, Fault> {
        let (mut code, mut first, mut before) = (0, 0, 0);
        for count in &self.counts[1..] {
            let count = usize::from(*count);
            code |= bits.take(1)?;
            if code < first + count {
                return self.symbols.get(before + code - first).copied().ok_or(BAD_CODE);
            }
            (before, first, code) = (before + count, (first + count) << 1, code << 1);
        }
        Err(BAD_CODE)
    }
}

/// Bits, the least significant of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next `count` bits as a number, the first one least significant.
    fn take(&mut self, count: usize) -> Result<usize, Fault> {
        let mut value = 0;
        for i in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(CUT)?;
            value |= usize::from(byte >> (self.at % 8) & 1) << i;
            self.at += 1;
        }
        Ok(value)
    }
}

/// The cluster, filled up to `len`.
struct Output<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Output<'_> {
    fn is_full(&self) -> bool {
        self.len == self.bytes.len()
    }

    /// Appends a byte; there must be room.
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// Appends `count` bytes from `distance` back, as far as there is room.
    fn repeat(&mut self, distance: usize, count: usize) -> Result<(), Fault> {
        let from = self.len.checked_sub(distance).ok_or("a match of the stream starts before the cluster")?;
        for i in 0..count.min(self.bytes.len() - self.len) {
            self.push(self.bytes[from + i]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use libdeflater::{CompressionLvl, Compressor};

    use super::*;

    /// Some bytes that are a bit of everything: text, repeats, noise.
    fn plain(len: usize) -> Vec<u8> {
        let mut x = 7u64;
        let mut next = move || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 40) as usize
        };
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < len {
            match next() % 3 {
                0 => bytes.extend((0..next() % 300).map(|_| next() as u8)),
                1 => bytes.extend(vec![next() as u8; next() % 3000]),
                _ => bytes.extend(b"some words that come again and again".iter().take(next() % 37)),
            }
        }
        bytes.truncate(len);
        bytes
    }

    fn deflate(bytes: &[u8], level: i32) -> Vec<u8> {
        let mut compressor = Compressor::new(CompressionLvl::new(level).unwrap());
        let mut out = vec![0; compressor.deflate_compress_bound(bytes.len())];
        let len = compressor.deflate_compress(bytes, &mut out).unwrap();
        out.truncate(len);
        out
    }

    #[test]
    fn agrees_with_the_fast_decoder() {
        for len in [1, 511, 4096, 65536, 300_000] {
            let plain = plain(len);
            for level in [0, 1, 6, 12] {
                let mut out = vec![0; len];
                fill(&deflate(&plain, level), &mut out).unwrap();
                assert!(out == plain, "{len} bytes at level {level}");
            }
        }
    }

    #[test]
    fn stops_when_the_output_is_full() {
        let plain = plain(65536);
        for level in [0, 1, 6] {
            let stream = deflate(&plain, level);
            let mut out = vec![0; 40_000];
            fill(&stream, &mut out).unwrap();
            assert!(out == plain[..40_000]);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let plain = plain(65536);
        let stream = deflate(&plain, 6);
        assert_eq!(fill(&stream, &mut vec![0; 65537]), Err(CUT));
        assert_eq!(fill(&stream[..stream.len() / 2], &mut vec![0; 65536]), Err(CUT));
        assert_eq!(fill(&[], &mut [0]), Err(CUT));
        assert!(fill(&[0b111], &mut [0]).unwrap_err().contains("unknown type"));
        assert!(fill(&[1, 0, 0, 0, 0], &mut [0]).unwrap_err().contains("contradicts"));
        // A fixed block whose first symbol is a match of length 3 (0000001) at distance 1 (00000).
        assert!(fill(&[0b0000_0011, 0b0000_0010, 0], &mut [0]).unwrap_err().contains("before"));
    }
}
