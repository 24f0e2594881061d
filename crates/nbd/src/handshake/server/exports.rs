//! What the embedder tells the handshake of its exports.

use crate::codec::TransmissionFlags;
use crate::handshake::{BlockSizes, MetaContext};

/// What clients are told of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// Its name, at most [`STRING_MAX`](crate::codec::STRING_MAX) bytes.
    pub name: String,
    /// A text for people, at most [`STRING_MAX`](crate::codec::STRING_MAX) bytes; empty for none.
    pub description: String,
    /// Size in bytes.
    pub size: u64,
    /// What it can do; HAS_FLAGS and SEND_DF are the handshake's business.
    pub flags: TransmissionFlags,
    /// Its size constraints.
    pub block_sizes: BlockSizes,
    /// The metadata contexts that clients may select.
    pub contexts: Vec<MetaContext>,
}

/// The exports that a connection may see; a value of the embedder.
pub trait Exports {
    /// The export of that name; "" is the default export.
    fn find(&self, name: &str) -> Option<ExportInfo>;

    /// Whether it is not known yet if there is such an export: the handshake stands still until it is fed again (with
    /// nothing, if nothing came) and asks once more.
    fn is_pending(&self, _name: &str) -> bool {
        false
    }

    /// The same of the list of all exports.
    fn is_list_pending(&self) -> bool {
        false
    }

    /// Calls `visit` with name and description of each export until it answers `false`.
    fn visit(&self, visit: &mut dyn FnMut(&str, &str) -> bool);
}
