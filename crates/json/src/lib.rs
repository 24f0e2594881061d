//! JSON as QEMU takes it: from a monitor's stream ([`Stream`]) or as a whole text behind `json:` ([`parse`]).
//!
//! Strings may stand in single quotes; a key may stand but once in an object. On a stream several values may come on
//! one line, and one value on several; after garbage it finds its feet at the next structural or control character. A
//! value is handed out when its last bracket has come.
//!
//! Invariants: no I/O; what is held of one value is bounded by [`Limits`]; each piece of garbage is one error; no input
//! makes this panic; an error says what QEMU 10.0 says of the same input.

mod lexer;
mod order;
mod parser;
mod stream;
mod string;
#[cfg(test)]
mod tests;
mod text;
mod whole;

use std::fmt;

pub use order::in_order;
pub use stream::{Limits, Stream};
pub use text::to_ascii;
pub use whole::parse;

/// Why there is no value: one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error(String);

impl Error {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}
