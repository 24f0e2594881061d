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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use io::Address;

    use super::*;

    #[test]
    fn the_remedy_is_one_that_there_is() {
        let unix = Config::new(Address::Unix { path: "/run/s".into() }, "x");
        let patient = Config { reconnect_delay: Duration::from_secs(9), ..unix.clone() };
        let inherited = Config { address: Address::Inherited(7), ..patient.clone() };
        let said = |config: &Config| Loss::gone("it left").error(config).to_string();
        assert!(said(&unix).ends_with(
            "it left; the next request connects again; with 'reconnect-delay' requests wait for that"
        ));
        assert_eq!(said(&patient), "NBD server /run/s, export 'x': connection lost: it left");
        assert!(said(&inherited).ends_with("open a new node"));
        assert_eq!(Loss::broken("x").error(&unix).kind(), ErrorKind::Protocol);
    }
}
