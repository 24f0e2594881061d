//! What the replies to INFO and GO tell of an export.

use super::HandshakeError;
use crate::codec::{Cursor, InfoType, PAYLOAD_MAX, STRING_MAX, TransmissionFlags};
use crate::handshake::BlockSizes;
use crate::transmission::Limits;

/// What a server said of an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteExport {
    /// The name that it goes by there.
    pub name: String,
    /// Size in bytes; at most `i64::MAX`.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Its size constraints, where the server stated them.
    pub block_sizes: Option<BlockSizes>,
    /// A text for people, where the server has one.
    pub description: Option<String>,
    /// Whether replies are structured.
    pub structured: bool,
    /// Id of `base:allocation` in block status chunks, where it was agreed.
    pub allocation: Option<u32>,
}

impl RemoteExport {
    /// What our requests are measured against; payloads within what both ends can take.
    pub fn limits(&self) -> Limits {
        Limits {
            size: self.size,
            flags: self.flags,
            payload_max: self.block_sizes.map_or(PAYLOAD_MAX, |sizes| sizes.maximum().min(PAYLOAD_MAX)),
            block_status: self.allocation.is_some(),
        }
    }
}

/// The infos of one export as they come in.
#[derive(Clone, Debug, Default)]
pub(super) struct Infos {
    export: Option<(u64, TransmissionFlags)>,
    name: Option<String>,
    description: Option<String>,
    block_sizes: Option<BlockSizes>,
}

impl Infos {
    /// Takes the data of one info reply; unknown infos say nothing to us.
    pub(super) fn learn(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        let mut cursor = Cursor::new(data);
        match InfoType::from_code(cursor.u16()?) {
            Some(InfoType::Export) => {
                self.learn_export(&mut cursor)?;
                end(&cursor)?;
            }
            Some(InfoType::Name) => self.name = Some(text(cursor.rest())?),
            Some(InfoType::Description) => self.description = Some(text(cursor.rest())?),
            Some(InfoType::BlockSize) => {
                let sizes = BlockSizes::new(cursor.u32()?, cursor.u32()?, cursor.u32()?);
                let wrong = HandshakeError::BadReply("its block sizes contradict each other");
                self.block_sizes = Some(sizes.ok_or(wrong)?);
                end(&cursor)?;
            }
            None => {}
        }
        Ok(())
    }

    /// Takes size and flags, as EXPORT_NAME and the info of that kind state them.
    pub(super) fn learn_export(&mut self, cursor: &mut Cursor<'_>) -> Result<(), HandshakeError> {
        let (size, flags) = (cursor.u64()?, cursor.u16()?);
        if size > i64::MAX as u64 {
            return Err(HandshakeError::BadReply("the export's size is beyond all files"));
        }
        self.export = Some((size, TransmissionFlags::from_bits(flags)));
        Ok(())
    }

    /// The export that was asked for as `name`.
    pub(super) fn export(
        self,
        name: &str,
        structured: bool,
        allocation: Option<u32>,
    ) -> Result<RemoteExport, HandshakeError> {
        let (size, flags) =
            self.export.ok_or(HandshakeError::BadReply("the export's size was never stated"))?;
        Ok(RemoteExport {
            name: self.name.unwrap_or_else(|| name.to_owned()),
            size,
            flags,
            block_sizes: self.block_sizes,
            description: self.description.filter(|text| !text.is_empty()),
            structured,
            allocation,
        })
    }
}

fn end(cursor: &Cursor<'_>) -> Result<(), HandshakeError> {
    if cursor.is_empty() { Ok(()) } else { Err(HandshakeError::BadReply("it is too long for its type")) }
}

/// A string of the protocol.
pub(super) fn text(bytes: &[u8]) -> Result<String, HandshakeError> {
    if bytes.len() > STRING_MAX {
        return Err(HandshakeError::BadReply("a string in it is too long"));
    }
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|_| HandshakeError::BadReply("a string in it is not UTF-8"))
}
