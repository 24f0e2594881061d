//! The QMP wire: values of a [`json::Stream`] in, one line of ASCII per message out, and argument types that describe
//! themselves.
//!
//! [`Request::read`] makes a command of a value; [`wire`] writes greetings, replies and events. What a command takes
//! and answers is a [`schema::Type`]: one description serves to parse the arguments, to write the answer, and for
//! `query-qmp-schema`.
//!
//! Invariants: no I/O; what a client can make us hold is bounded ([`json::Limits`]); no input makes this panic; an
//! error says what QEMU 10.0 says of the same input.

mod error;
pub mod fuzz;
mod request;
pub mod schema;
pub mod wire;

pub use error::{Error, ErrorClass};
pub use request::{Refused, Request};
#[doc(hidden)]
pub use serde_json;
