//! NBD URIs: `nbd://host[:port]/export` and `nbd+unix:///export?socket=PATH` (the NBD project's `doc/uri.md`).
//!
//! Invariant: what was parsed, written and parsed again is the same.

mod percent;

use std::fmt;
use std::str::FromStr;

use block::{BlockError, ErrorKind};

use crate::codec::{DEFAULT_PORT, STRING_MAX};

/// Where a server listens, and the name of one of its exports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NbdUri {
    /// Where the server listens.
    pub address: Address,
    /// Name of the export, at most 4096 bytes; "" for the default one.
    pub export: String,
}

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A TCP socket.
    Tcp {
        /// Name or address; a literal IPv6 address without its brackets.
        host: String,
        /// Port, [`DEFAULT_PORT`] unless stated.
        port: u16,
    },
    /// A Unix socket: the bytes of its path, which need not be text; with a NUL in front the name is one of
    /// the abstract namespace.
    Unix(Vec<u8>),
}

/// Why a text is no URI that we can follow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UriError {
    /// It begins with no scheme of NBD.
    NotNbd,
    /// A scheme or parameter that asks for TLS.
    TlsUnsupported,
    /// A user name, which only TLS could make use of.
    UserUnsupported,
    /// No host where one is needed, or one where none belongs.
    BadAuthority,
    /// A port that is no number of 16 bits.
    BadPort,
    /// A percent sign without two hexadecimal digits, a fragment, or text that is not UTF-8.
    BadEscape,
    /// An export name with NUL or of more than 4096 bytes.
    BadExport,
    /// No socket parameter where one is needed, one where none belongs, two, or one that is no path.
    BadSocket,
    /// A parameter that we do not know.
    UnknownParameter(String),
}

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotNbd => "is no nbd:// or nbd+unix:// URI",
            Self::TlsUnsupported => "asks for TLS, which is not supported yet",
            Self::UserUnsupported => "has a user name, which only TLS would need",
            Self::BadAuthority => "needs a host in nbd://HOST/, and none in nbd+unix:///",
            Self::BadPort => "has a port that is no number from 0 to 65535",
            Self::BadEscape => "has a fragment, or a percent sign or bytes that encode no text",
            Self::BadExport => "has an export name with NUL or of more than 4096 bytes",
            Self::BadSocket => "needs one parameter socket=PATH with nbd+unix, and none with nbd",
            Self::UnknownParameter(name) => return write!(f, "has an unknown parameter '{name}'"),
        })
    }
}

impl std::error::Error for UriError {}

impl From<UriError> for BlockError {
    fn from(error: UriError) -> Self {
        let kind = match error {
            UriError::TlsUnsupported | UriError::UserUnsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Invalid,
        };
        BlockError::new(kind, format!("the URI {error}"))
    }
}

impl FromStr for NbdUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or(UriError::NotNbd)?;
        let unix = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => false,
            "nbd+unix" => true,
            "nbds" | "nbds+unix" => return Err(UriError::TlsUnsupported),
            _ => return Err(UriError::NotNbd),
        };
        if rest.contains('#') {
            return Err(UriError::BadEscape);
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let export = export(path)?;
        let socket = socket(query)?;
        let address = match (unix, socket) {
            (true, Some(_)) if !authority.is_empty() => return Err(UriError::BadAuthority),
            (true, Some(path)) => Address::Unix(path),
            (false, None) => tcp(authority)?,
            _ => return Err(UriError::BadSocket),
        };
        Ok(Self { address, export })
    }
}

fn export(path: &str) -> Result<String, UriError> {
    let name = percent::decode_text(path)?;
    if name.len() > STRING_MAX || name.contains('\0') {
        return Err(UriError::BadExport);
    }
    Ok(name)
}

/// The socket parameter, if there is one.
fn socket(query: &str) -> Result<Option<Vec<u8>>, UriError> {
    let mut socket = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "socket" if socket.is_none() => socket = Some(percent::decode(value)?),
            "socket" => return Err(UriError::BadSocket),
            _ if name.starts_with("tls-") => return Err(UriError::TlsUnsupported),
            _ => return Err(UriError::UnknownParameter(name.to_owned())),
        }
    }
    match socket {
        // A NUL is the abstract namespace's mark in front, and an error anywhere else.
        Some(path) if path.is_empty() || path[1..].contains(&0) => Err(UriError::BadSocket),
        socket => Ok(socket),
    }
}

fn tcp(authority: &str) -> Result<Address, UriError> {
    if authority.contains('@') {
        return Err(UriError::UserUnsupported);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => literal.split_once(']').ok_or(UriError::BadAuthority)?,
        None => authority.find(':').map_or((authority, ""), |colon| authority.split_at(colon)),
    };
    let host = percent::decode_text(host)?;
    if host.is_empty() || host.contains(char::is_control) {
        return Err(UriError::BadAuthority);
    }
    let port = match port.strip_prefix(':') {
        Some("") => DEFAULT_PORT,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| UriError::BadPort)?
        }
        None if port.is_empty() => DEFAULT_PORT,
        _ => return Err(UriError::BadPort),
    };
    Ok(Address::Tcp { host, port })
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = percent::encode(self.export.as_bytes(), "/");
        match &self.address {
            Address::Tcp { host, port } => {
                let host = match host.contains(':') {
                    true => format!("[{}]", percent::encode(host.as_bytes(), ":")),
                    false => percent::encode(host.as_bytes(), ""),
                };
                write!(f, "nbd://{host}")?;
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")
            }
            Address::Unix(path) => {
                let socket = percent::encode(path, "/");
                write!(f, "nbd+unix:///{export}?socket={socket}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
