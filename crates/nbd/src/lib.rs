//! The NBD wire: codec, handshake and transmission for both ends, with no I/O.
//!
//! Bytes in, events and bytes out. Invariants: no function here waits, reads a clock or touches a socket;
//! nothing that a peer sends can make it panic; what it buffers for a peer is bounded by the constants that
//! the modules state. Specification: the NBD project's `doc/proto.md`, cited by section name.

pub mod codec;
pub mod fuzz;
pub mod handshake;
mod intake;
pub mod transmission;
pub mod uri;

#[cfg(test)]
mod transcript;
