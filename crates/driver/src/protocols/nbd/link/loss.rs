//! Why a connection is of no use any more.

use block::{BlockError, ErrorKind};
use nbd::transmission::client::ReplyError;

use crate::protocols::nbd::options::Config;

/// Why a connection is lost; told to each request that it takes along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Loss {
    kind: ErrorKind,
    text: String,
}

impl Loss {
    /// The server is gone, or the network between.
    pub(super) fn gone(why: impl ToString) -> Self {
        Self { kind: ErrorKind::Disconnected, text: why.to_string() }
    }

    /// The server broke the protocol.
    pub(super) fn broken(why: impl ToString) -> Self {
        let text = format!("the server broke the protocol: {}", why.to_string());
        Self { kind: ErrorKind::Protocol, text }
    }

    /// What a request is told that will not be tried again.
    pub(in super::super) fn error(&self, config: &Config) -> BlockError {
        let remedy = match (config.can_reconnect(), config.reconnect_delay.is_zero()) {
            (false, _) => "; a descriptor cannot be connected again: open a new node",
            (true, true) => {
                "; the next request connects again; with 'reconnect-delay' requests wait for that"
            }
            (true, false) => "",
        };
        BlockError::new(self.kind, format!("{config}: connection lost: {}{remedy}", self.text))
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ReplyError> for Loss {
    fn from(error: ReplyError) -> Self {
        Self::broken(error)
    }
}

impl From<std::io::Error> for Loss {
    fn from(error: std::io::Error) -> Self {
        Self::gone(error)
    }
}
