//! How a handshake ends.

use std::fmt;

use super::{ExportInfo, OPTION_SKIP_MAX};
use crate::codec::PAYLOAD_MAX;
use crate::handshake::MetaContext;
use crate::transmission::server::Limits;

/// How a handshake ended.
#[derive(Debug)]
pub enum Outcome {
    /// The transmission phase begins (boxed, for the other two are small).
    Transmission(Box<Negotiated>),
    /// The client said goodbye; what was written may be sent, but need not arrive: many clients do not wait.
    Abort,
    /// The connection must be closed; nothing can be answered.
    Close(CloseReason),
}

/// What was agreed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The export as the client sees it, SEND_DF included where it applies.
    pub export: ExportInfo,
    /// Whether replies are structured.
    pub structured: bool,
    /// The metadata contexts that the client selected for this export.
    pub contexts: Vec<MetaContext>,
    /// Whether the client asked for the block sizes, and so has to obey them.
    pub obeys_block_sizes: bool,
}

impl Negotiated {
    /// What requests are measured against.
    pub fn limits(&self) -> Limits {
        Limits {
            size: self.export.size,
            flags: self.export.flags,
            payload_max: PAYLOAD_MAX,
            block_status: !self.contexts.is_empty(),
        }
    }
}

/// Why a connection was cut off during the handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// Client flags that we do not know.
    UnknownClientFlags(u32),
    /// An option did not begin with its magic.
    BadMagic(u64),
    /// An option announced more data than anybody needs.
    OptionTooLong(u32),
    /// More options than the policy allows.
    TooManyOptions,
    /// A client without fixed newstyle sent an option that it cannot send.
    NotFixedNewstyle(u32),
    /// EXPORT_NAME with a name that is longer than the protocol allows, or no string at all.
    BadName,
    /// EXPORT_NAME of an export that is not there.
    UnknownExport(String),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownClientFlags(flags) => write!(f, "unknown client flags 0x{flags:x} received"),
            Self::BadMagic(magic) => write!(f, "bad option magic 0x{magic:x} received"),
            Self::OptionTooLong(len) => write!(f, "option of {len} bytes is longer than {OPTION_SKIP_MAX}"),
            Self::TooManyOptions => f.write_str("too many options"),
            Self::NotFixedNewstyle(option) => {
                write!(f, "option {option} from a client that does not speak fixed newstyle")
            }
            Self::BadName => f.write_str("export name is no string of at most 4096 bytes"),
            Self::UnknownExport(name) => write!(f, "export '{name}' not present"),
        }
    }
}

impl std::error::Error for CloseReason {}
