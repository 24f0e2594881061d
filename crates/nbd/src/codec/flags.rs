//! The bit sets of the wire. Unknown bits are kept: what they mean is decided above.

/// Declares a set of bits as it stands on the wire.
macro_rules! flag_set {
    ($(#[$doc:meta])* $name:ident($bits:ty) { $($(#[$flag_doc:meta])* $flag:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        pub struct $name($bits);

        impl $name {
            /// No bit set.
            pub const NONE: Self = Self(0);
            $($(#[$flag_doc])* pub const $flag: Self = Self($value);)*

            /// The set with exactly these bits, known or not.
            pub const fn from_bits(bits: $bits) -> Self {
                Self(bits)
            }

            /// The bits as they go on the wire.
            pub const fn bits(self) -> $bits {
                self.0
            }

            /// Whether every bit of `other` is set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The bits of both.
            #[must_use]
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The bits of `self` that `other` lacks.
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether no bit is set.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.with(other)
            }
        }
    };
}

flag_set! {
    /// What the server says of itself in its greeting (section "Handshake flags").
    HandshakeFlags(u16) {
        /// Options other than the export name are understood, and answered.
        FIXED_NEWSTYLE = 1 << 0,
        /// The 124 zero bytes after an export name's answer can be left out.
        NO_ZEROES = 1 << 1,
    }
}

flag_set! {
    /// What the client answers to the greeting (section "Client flags").
    ClientFlags(u32) {
        /// The client speaks fixed newstyle.
        FIXED_NEWSTYLE = 1 << 0,
        /// The client does not want the 124 zero bytes.
        NO_ZEROES = 1 << 1,
    }
}

flag_set! {
    /// What an export can do (section "Transmission flags").
    TransmissionFlags(u16) {
        /// Always set.
        HAS_FLAGS = 1 << 0,
        /// Writes are refused.
        READ_ONLY = 1 << 1,
        /// FLUSH is understood.
        SEND_FLUSH = 1 << 2,
        /// The FUA command flag is understood.
        SEND_FUA = 1 << 3,
        /// A spinning disk.
        ROTATIONAL = 1 << 4,
        /// TRIM is understood.
        SEND_TRIM = 1 << 5,
        /// WRITE_ZEROES and its NO_HOLE flag are understood.
        SEND_WRITE_ZEROES = 1 << 6,
        /// The DF command flag is understood; only with structured replies.
        SEND_DF = 1 << 7,
        /// A flush on one connection covers what others wrote: several connections are safe.
        CAN_MULTI_CONN = 1 << 8,
        /// RESIZE is understood (an experimental extension; we never set it).
        SEND_RESIZE = 1 << 9,
        /// CACHE is understood.
        SEND_CACHE = 1 << 10,
        /// The FAST_ZERO command flag is understood.
        SEND_FAST_ZERO = 1 << 11,
        /// BLOCK_STATUS may name contexts in a payload (extended headers; we never set it).
        BLOCK_STATUS_PAYLOAD = 1 << 12,
    }
}

flag_set! {
    /// Modifiers of one request (section "Command flags").
    CommandFlags(u16) {
        /// Durable before it is answered.
        FUA = 1 << 0,
        /// WRITE_ZEROES must leave the range allocated.
        NO_HOLE = 1 << 1,
        /// READ is to be answered with one content chunk.
        DF = 1 << 2,
        /// BLOCK_STATUS is to be answered with one extent.
        REQ_ONE = 1 << 3,
        /// WRITE_ZEROES must fail at once unless it is faster than writing.
        FAST_ZERO = 1 << 4,
        /// The request carries a payload of the stated length (extended headers only).
        PAYLOAD_LEN = 1 << 5,
    }
}

flag_set! {
    /// Modifiers of a structured reply's chunk (section "Structured reply flags").
    ChunkFlags(u16) {
        /// The last chunk of its reply.
        DONE = 1 << 0,
    }
}

flag_set! {
    /// State of an extent in `base:allocation`.
    StatusFlags(u32) {
        /// Not allocated.
        HOLE = 1 << 0,
        /// Reads as zeros.
        ZERO = 1 << 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_join_and_part() {
        let flags = CommandFlags::FUA | CommandFlags::DF;
        assert_eq!(flags.bits(), 5);
        assert!(flags.contains(CommandFlags::FUA) && !flags.contains(CommandFlags::REQ_ONE));
        assert_eq!(flags.without(CommandFlags::FUA), CommandFlags::DF);
        assert!(CommandFlags::NONE.is_empty() && !flags.is_empty());
    }

    #[test]
    fn bits_are_those_that_qemu_sends() {
        use TransmissionFlags as T;
        let common = T::HAS_FLAGS | T::SEND_FLUSH | T::SEND_FUA | T::CAN_MULTI_CONN | T::SEND_CACHE;
        let writable = common | T::SEND_TRIM | T::SEND_WRITE_ZEROES | T::SEND_FAST_ZERO;
        assert_eq!(writable.bits(), 0xd6d);
        assert_eq!((writable | T::SEND_DF).bits(), 0xded);
        assert_eq!((common | T::READ_ONLY | T::SEND_DF).bits(), 0x58f);
    }
}
