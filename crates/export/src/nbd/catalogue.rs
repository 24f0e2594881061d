//! Exports that are opened when a client asks for them.

use std::sync::Arc;

use block::Result;
use io::LocalFut;

use super::Export;

/// What a server offers besides the exports that were added to it.
///
/// It is asked on the I/O thread of the client; what it opens belongs to that thread or to none.
pub trait Catalogue: Send + Sync {
    /// The export of that name, opened now if need be; `None` when there is none. An error is told to the operator,
    /// the client finds no such export.
    fn open<'a>(&'a self, name: &'a str) -> LocalFut<'a, Result<Option<Arc<Export>>>>;

    /// Name and description of everything that could be asked for, in order.
    fn list(&self) -> LocalFut<'_, Vec<(String, String)>>;
}
