//! Why a handshake failed, as the client sees it.

use std::fmt;

use block::{BlockError, ErrorKind};

use crate::codec::{OptionCode, OptionReply, STRING_MAX, Truncated};

/// A handshake that came to nothing; what it says completes "server X: ...".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HandshakeError {
    /// The first bytes are not those of an NBD server.
    NotNbd,
    /// The server speaks the oldstyle handshake, which carries no export name.
    Oldstyle,
    /// The server speaks newstyle, but not the fixed one.
    NotFixedNewstyle,
    /// The server refused an option that we need.
    Refused {
        /// Which option.
        option: OptionCode,
        /// The type of the reply, known to us or not.
        reply: u32,
        /// The server's text, at most 4096 bytes; may be empty.
        message: String,
    },
    /// The server, too old to say why, closed the connection when asked for this export.
    ExportDenied(String),
    /// The server closed the connection.
    Closed(&'static str),
    /// A reply broke the protocol.
    BadReply(&'static str),
}

impl HandshakeError {
    pub(super) fn refused(option: OptionCode, reply: u32, data: &[u8]) -> Self {
        let message = String::from_utf8_lossy(&data[..data.len().min(STRING_MAX)]).into_owned();
        Self::Refused { option, reply, message }
    }

    /// Whether the server answered with `reply`.
    pub fn is(&self, reply: OptionReply) -> bool {
        matches!(self, Self::Refused { reply: seen, .. } if *seen == reply.code())
    }

    /// Whether asking for something else is pointless as well.
    pub(super) fn is_final(&self) -> bool {
        self.is(OptionReply::ErrTlsRequired) || self.is(OptionReply::ErrShutdown)
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Oldstyle | Self::NotFixedNewstyle => ErrorKind::Unsupported,
            Self::ExportDenied(_) => ErrorKind::NotFound,
            Self::Closed(_) => ErrorKind::Disconnected,
            Self::Refused { .. } if self.is(OptionReply::ErrUnknown) => ErrorKind::NotFound,
            Self::Refused { .. } if self.is(OptionReply::ErrPolicy) => ErrorKind::NotPermitted,
            Self::Refused { .. } if self.is(OptionReply::ErrShutdown) => ErrorKind::Disconnected,
            Self::Refused { .. } => ErrorKind::Unsupported,
            Self::NotNbd | Self::BadReply(_) => ErrorKind::Protocol,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNbd => f.write_str("is not an NBD server"),
            Self::Oldstyle => f.write_str("oldstyle negotiation is not supported"),
            Self::NotFixedNewstyle => f.write_str("only fixed newstyle negotiation is supported"),
            Self::Refused { option, reply, message } => {
                let why = OptionReply::from_code(*reply).map_or("unknown error", OptionReply::name);
                write!(f, "option '{}' refused: {why}", option.name())?;
                match message.as_str() {
                    "" => Ok(()),
                    // A peer's text must not be able to drive a terminal.
                    text => write!(f, " ({})", text.escape_debug()),
                }
            }
            Self::ExportDenied(name) => {
                write!(f, "closed the connection when asked for export '{name}'; does it have one?")
            }
            Self::Closed(when) => write!(f, "closed the connection {when}"),
            Self::BadReply(why) => write!(f, "sent a reply that breaks the protocol: {why}"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<Truncated> for HandshakeError {
    fn from(_: Truncated) -> Self {
        Self::BadReply("it is too short")
    }
}

impl From<HandshakeError> for BlockError {
    fn from(error: HandshakeError) -> Self {
        BlockError::new(error.kind(), error.to_string())
    }
}
