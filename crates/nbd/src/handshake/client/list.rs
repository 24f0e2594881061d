//! The exports of a server, collected name by name.

use super::infos::text;
use super::{HandshakeError, LIST_TEXT_MAX, RemoteExport};
use crate::codec::Cursor;

/// One export of a server's list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The text that the list carries with it; may be empty.
    pub description: String,
    /// What INFO told, or why it did not.
    pub details: Result<RemoteExport, HandshakeError>,
}

/// Invariant: `exports[..noted]` have their details, and `text` bytes of strings are kept in all.
#[derive(Debug, Default)]
pub(super) struct Listing {
    exports: Vec<Listed>,
    noted: usize,
    text: usize,
}

impl Listing {
    /// Takes the data of one reply to LIST.
    pub(super) fn add(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let mut cursor = Cursor::new(data);
        let len = cursor.u32()?;
        let name = text(cursor.bytes(len as usize)?)?;
        let description = text(cursor.rest())?;
        self.keep(name.len() + description.len())?;
        let details = Err(HandshakeError::BadReply("its details were never stated"));
        self.exports.push(Listed { name, description, details });
        Ok(())
    }

    /// The export whose details come next.
    pub(super) fn awaited(&self) -> Option<&str> {
        self.exports.get(self.noted).map(|export| export.name.as_str())
    }

    /// Notes the details of the awaited export.
    pub(super) fn note(
        &mut self,
        details: Result<RemoteExport, HandshakeError>,
    ) -> Result<(), HandshakeError> {
        self.keep(match &details {
            Ok(export) => export.name.len() + export.description.as_ref().map_or(0, String::len),
            Err(HandshakeError::Refused { message, .. }) => message.len(),
            Err(_) => 0,
        })?;
        if let Some(export) = self.exports.get_mut(self.noted) {
            export.details = details;
            self.noted += 1;
        }
        Ok(())
    }

    /// The whole list.
    pub(super) fn take(&mut self) -> Vec<Listed> {
        std::mem::take(self).exports
    }

    fn keep(&mut self, bytes: usize) -> Result<(), HandshakeError> {
        self.text += bytes;
        if self.text > LIST_TEXT_MAX {
            return Err(HandshakeError::BadReply("the list is too long"));
        }
        Ok(())
    }
}
