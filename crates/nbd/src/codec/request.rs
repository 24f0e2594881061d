//! The request header: 28 bytes, the only thing that a client sends besides the payload of writes.

use std::fmt;

use super::{Command, CommandFlags, REQUEST_MAGIC};

/// Length of a request header in bytes.
pub const REQUEST_LEN: usize = 28;

/// What ties a reply to its request; chosen by the client, opaque to the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Cookie(pub u64);

/// The bytes do not begin with a magic that can stand here; the stream cannot be followed any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadMagic(pub u32);

impl fmt::Display for BadMagic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid magic 0x{:x}", self.0)
    }
}

impl std::error::Error for BadMagic {}

/// A request header as it stands on the wire; nothing but its magic has been checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// Modifiers, unknown ones included.
    pub flags: CommandFlags,
    /// Code of the command, known or not.
    pub code: u16,
    /// What the reply has to carry.
    pub cookie: Cookie,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range in bytes.
    pub len: u32,
}

impl RequestHeader {
    /// Decodes the bytes of a header.
    ///
    /// # Errors
    /// [`BadMagic`] when they do not begin with the request magic: the connection is lost.
    #[inline]
    pub fn parse(bytes: &[u8; REQUEST_LEN]) -> Result<Self, BadMagic> {
        // One array pattern instead of a cursor: no bounds to check on the hot path.
        let [m0, m1, m2, m3, f0, f1, t0, t1, rest @ ..] = *bytes;
        let [c0, c1, c2, c3, c4, c5, c6, c7, o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3] = rest;
        let magic = u32::from_be_bytes([m0, m1, m2, m3]);
        if magic != REQUEST_MAGIC {
            return Err(BadMagic(magic));
        }
        Ok(Self {
            flags: CommandFlags::from_bits(u16::from_be_bytes([f0, f1])),
            code: u16::from_be_bytes([t0, t1]),
            cookie: Cookie(u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7])),
            offset: u64::from_be_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }

    /// Encodes the header.
    #[inline]
    pub fn encode(&self, out: &mut [u8; REQUEST_LEN]) {
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.bits().to_be_bytes());
        out[6..8].copy_from_slice(&self.code.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.0.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
    }

    /// The command, or `None` when we do not know it.
    pub const fn command(&self) -> Option<Command> {
        Command::from_code(self.code)
    }

    /// Number of payload bytes that follow this header, whatever becomes of the request. Only writes carry
    /// any; a client that would send some with an unknown command cannot be followed.
    pub const fn payload_len(&self) -> u32 {
        match self.command() {
            Some(Command::Write) => self.len,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: [u8; REQUEST_LEN] = [
        0x25, 0x60, 0x95, 0x13, 0, 4, 0, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0, 0, 0, 0, 0, 1,
        0xfe, 0, 0, 0, 4, 0,
    ];

    #[test]
    fn decodes_and_encodes_what_was_seen_on_a_wire() {
        let header = RequestHeader::parse(&READ).unwrap();
        assert_eq!(header.command(), Some(Command::Read));
        assert_eq!(header.flags, CommandFlags::DF);
        assert_eq!(
            (header.cookie, header.offset, header.len),
            (Cookie(0x1122_3344_5566_7788), 0x1fe00, 0x400)
        );
        let mut out = [0; REQUEST_LEN];
        header.encode(&mut out);
        assert_eq!(out, READ);
    }

    #[test]
    fn only_the_magic_is_fatal() {
        let mut bytes = READ;
        bytes[4..8].fill(0xff);
        let header = RequestHeader::parse(&bytes).unwrap();
        assert_eq!((header.command(), header.code, header.flags.bits()), (None, 0xffff, 0xffff));
        bytes[0] = 0;
        assert_eq!(RequestHeader::parse(&bytes), Err(BadMagic(0x0060_9513)));
    }
}
