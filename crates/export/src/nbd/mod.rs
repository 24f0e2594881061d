//! NBD: listeners, sessions, and the loop that answers requests.
//!
//! A [`Server`] owns the exports by name and hands each connection to one of its I/O threads. A session shakes
//! hands, then runs a [`connection`] until either side ends it. Garbage costs the client that sent it its
//! connection and nothing else.

mod answer;
mod budget;
mod catalogue;
mod connection;
mod export;
mod inbox;
mod outbox;
mod reply;
mod runs;
mod server;
mod session;
mod turn;
mod waiting;

pub use catalogue::Catalogue;
pub use export::{Export, ExportOptions};
pub use server::{Server, ServerOptions};
