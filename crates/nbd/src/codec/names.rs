//! The numbered things of the wire: commands, options, their replies, infos, chunk types.

/// Declares an enum whose variants are numbers on the wire.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($code:ty) { $($(#[$variant_doc:meta])* $variant:ident = $value:expr, $text:expr;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them, in order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What `code` stands for, or `None` when we do not know it.
            pub const fn from_code(code: $code) -> Option<Self> {
                match code {
                    $($value => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The number on the wire.
            pub const fn code(self) -> $code {
                match self {
                    $(Self::$variant => $value,)*
                }
            }

            /// Its name in messages, as QEMU writes it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

codes! {
    /// What a request asks for (section "Request types").
    Command(u16) {
        /// Bytes of the export.
        Read = 0, "read";
        /// Store the bytes that follow the header.
        Write = 1, "write";
        /// Finish what is under way and close; never answered.
        Disconnect = 2, "disconnect";
        /// Make durable what was answered.
        Flush = 3, "flush";
        /// The range is no longer needed.
        Trim = 4, "discard";
        /// The range will be read soon.
        Cache = 5, "cache";
        /// Store zeros.
        WriteZeroes = 6, "write zeroes";
        /// State of the range's extents.
        BlockStatus = 7, "block status";
    }
}

codes! {
    /// What a client asks for during the handshake (section "Option types").
    OptionCode(u32) {
        /// Choose an export with no way to be refused but a closed connection.
        ExportName = 1, "export name";
        /// Leave.
        Abort = 2, "abort";
        /// Names of all exports.
        List = 3, "list";
        /// A withdrawn extension.
        PeekExport = 4, "peek export";
        /// Encrypt from here on.
        StartTls = 5, "starttls";
        /// Details of an export.
        Info = 6, "info";
        /// Details of an export, and use it.
        Go = 7, "go";
        /// Answer in chunks.
        StructuredReply = 8, "structured reply";
        /// Metadata contexts of an export.
        ListMetaContext = 9, "list meta context";
        /// Select metadata contexts for BLOCK_STATUS.
        SetMetaContext = 10, "set meta context";
        /// 64-bit lengths (an experimental extension).
        ExtendedHeaders = 11, "extended headers";
    }
}

codes! {
    /// Type of a reply to an option (section "Option reply types"); errors have bit 31 set.
    OptionReply(u32) {
        /// Done.
        Ack = 1, "ack";
        /// One export of a list.
        Server = 2, "server";
        /// One info of an export.
        Info = 3, "info";
        /// One metadata context.
        MetaContext = 4, "meta context";
        /// The option is unknown.
        ErrUnsupported = 0x8000_0001, "unsupported";
        /// The option is known but not allowed.
        ErrPolicy = 0x8000_0002, "denied by policy";
        /// The option makes no sense as it was sent.
        ErrInvalid = 0x8000_0003, "invalid";
        /// The option needs what this build lacks.
        ErrPlatform = 0x8000_0004, "platform lacks support";
        /// Only after STARTTLS.
        ErrTlsRequired = 0x8000_0005, "TLS required";
        /// No such export.
        ErrUnknown = 0x8000_0006, "export unknown";
        /// The server is going away.
        ErrShutdown = 0x8000_0007, "server shutting down";
        /// The client must ask for the block sizes.
        ErrBlockSizeRequired = 0x8000_0008, "block size required";
        /// Request or reply is too large.
        ErrTooBig = 0x8000_0009, "option payload too big";
        /// Only with extended headers.
        ErrExtendedHeadersRequired = 0x8000_000a, "extended headers required";
    }
}

impl OptionReply {
    /// Bit that every error reply has, known to us or not.
    pub const ERROR_BIT: u32 = 1 << 31;
}

codes! {
    /// What an info reply tells (section "NBD_REP_INFO").
    InfoType(u16) {
        /// Size and transmission flags.
        Export = 0, "export";
        /// The canonical name.
        Name = 1, "name";
        /// A text for people.
        Description = 2, "description";
        /// Minimum, preferred and maximum sizes of requests.
        BlockSize = 3, "block size";
    }
}

codes! {
    /// Type of a structured reply's chunk (section "Structured reply types"); errors have bit 15 set.
    ChunkType(u16) {
        /// Nothing more to say.
        None = 0, "none";
        /// Bytes that were read.
        OffsetData = 1, "data";
        /// A range that reads as zeros.
        OffsetHole = 2, "hole";
        /// Extents of one metadata context.
        BlockStatus = 5, "block status";
        /// The request failed.
        Error = 0x8001, "error";
        /// The request failed at an offset.
        ErrorOffset = 0x8002, "error at offset";
    }
}

impl ChunkType {
    /// Bit that every error chunk has, known to us or not.
    pub const ERROR_BIT: u16 = 1 << 15;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_back_and_unknown_ones_do_not() {
        assert!(Command::ALL.iter().all(|c| Command::from_code(c.code()) == Some(*c)));
        assert!(OptionCode::ALL.iter().all(|o| OptionCode::from_code(o.code()) == Some(*o)));
        assert!(OptionReply::ALL.iter().all(|r| OptionReply::from_code(r.code()) == Some(*r)));
        assert_eq!(Command::from_code(8), None);
        assert_eq!(OptionCode::from_code(0), None);
        assert_eq!(ChunkType::from_code(6), None);
    }
}
