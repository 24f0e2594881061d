//! What clients ask with INFO, GO and the metadata context options.
//!
//! Invariants: every length is checked against the data at hand; strings are UTF-8 without NUL.

use super::MetaContext;
use super::options::Refused;
use crate::codec::{Cursor, InfoType, OptionCode, STRING_MAX, Truncated};

/// Data of an option under way; turns what is missing into the errors that QEMU sends.
struct Parser<'a> {
    option: OptionCode,
    cursor: Cursor<'a>,
}

impl<'a> Parser<'a> {
    fn new(option: OptionCode, data: &'a [u8]) -> Self {
        Self { option, cursor: Cursor::new(data) }
    }

    fn whole<T>(&self, read: Result<T, Truncated>) -> Result<T, Refused> {
        read.map_err(|Truncated| {
            Refused::invalid(format!("Inconsistent lengths in option {}", self.option.name()))
        })
    }

    fn u16(&mut self) -> Result<u16, Refused> {
        let read = self.cursor.u16();
        self.whole(read)
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        let read = self.cursor.u32();
        self.whole(read)
    }

    fn bytes(&mut self, len: u32) -> Result<&'a [u8], Refused> {
        let read = self.cursor.bytes(len as usize);
        self.whole(read)
    }

    fn string(&mut self, len: u32) -> Result<&'a str, Refused> {
        let bytes = self.bytes(len)?;
        let name = self.option.name();
        if bytes.contains(&0) {
            return Err(Refused::invalid(format!("Unexpected embedded NUL in option {name}")));
        }
        std::str::from_utf8(bytes)
            .map_err(|_| Refused::invalid(format!("Text that is not UTF-8 in option {name}")))
    }

    fn name(&mut self) -> Result<&'a str, Refused> {
        let len = self.u32()?;
        if len as usize > STRING_MAX {
            return Err(Refused::invalid(format!("Invalid name length: {len}")));
        }
        self.string(len)
    }

    fn end(&self) -> Result<(), Refused> {
        if self.cursor.is_empty() {
            return Ok(());
        }
        Err(Refused::invalid(format!("option '{}' has unexpected length", self.option.name())))
    }
}

/// What INFO and GO ask for.
#[derive(Debug)]
pub(super) struct InfoRequest<'a> {
    pub(super) name: &'a str,
    /// Whether the canonical name is wanted.
    pub(super) wants_name: bool,
    /// Whether the block sizes are wanted, and so will be obeyed.
    pub(super) block_size: bool,
}

impl<'a> InfoRequest<'a> {
    pub(super) fn parse(option: OptionCode, data: &'a [u8]) -> Result<Self, Refused> {
        let mut parser = Parser::new(option, data);
        let mut request = Self { name: parser.name()?, wants_name: false, block_size: false };
        for _ in 0..parser.u16()? {
            match InfoType::from_code(parser.u16()?) {
                Some(InfoType::Name) => request.wants_name = true,
                Some(InfoType::BlockSize) => request.block_size = true,
                _ => {}
            }
        }
        parser.end()?;
        Ok(request)
    }
}

/// What LIST_META_CONTEXT and SET_META_CONTEXT ask for.
#[derive(Debug)]
pub(super) struct MetaRequest<'a> {
    pub(super) name: &'a str,
    /// Queries that are no longer than a string may be; longer ones can match nothing.
    queries: Vec<&'a str>,
    /// Whether no query was sent at all.
    unasked: bool,
}

impl<'a> MetaRequest<'a> {
    pub(super) fn parse(option: OptionCode, data: &'a [u8]) -> Result<Self, Refused> {
        let mut parser = Parser::new(option, data);
        let name = parser.name()?;
        let count = parser.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            let len = parser.u32()?;
            if len as usize > STRING_MAX {
                parser.bytes(len)?;
            } else {
                queries.push(parser.string(len)?);
            }
        }
        parser.end()?;
        Ok(Self { name, queries, unasked: count == 0 })
    }

    /// The contexts that SET selects: those that a query names in full.
    pub(super) fn selected(&self, mut offered: Vec<MetaContext>) -> Vec<MetaContext> {
        offered.retain(|context| self.queries.iter().any(|query| *query == context.name));
        offered
    }

    /// The contexts that LIST shows: besides those, what begins with a query that ends in a colon; all of
    /// them when there was no query.
    pub(super) fn listed(&self, mut offered: Vec<MetaContext>) -> Vec<MetaContext> {
        let matches =
            |query: &str, name: &str| query == name || (query.ends_with(':') && name.starts_with(query));
        offered.retain(|context| self.unasked || self.queries.iter().any(|q| matches(q, &context.name)));
        offered
    }
}
