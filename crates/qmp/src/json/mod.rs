//! JSON as QEMU's monitor takes it, from a stream.
//!
//! Strings may stand in single quotes; several values may come on one line, and one value on several. After garbage
//! the stream finds its feet at the next structural or control character. A value is handed out when its last bracket
//! has come.
//!
//! Invariants: what is held of one value is bounded by [`Limits`]; each piece of garbage is one error.

mod lexer;
mod parser;
mod stream;
mod string;
#[cfg(test)]
mod tests;
mod text;

pub use stream::{Limits, Stream};
pub use text::to_ascii;
