//! Clients come in here.
//!
//! Invariants: exports reach the graph only through a [`flow::Root`] and know no driver; what a client can send
//! is never trusted: lengths are checked before use and the memory that one client can hold is bounded.

pub mod nbd;
