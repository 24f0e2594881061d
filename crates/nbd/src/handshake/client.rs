//! The client's end of the handshake.
//!
//! | phase | asks | when granted | when refused |
//! |---|---|---|---|
//! | Greeting | waits for 18 bytes | Structured, MetaContext, Go or List by what is wished | fails: no NBD, oldstyle, no fixed newstyle |
//! | Structured | STRUCTURED_REPLY | MetaContext if wished, else Go | Go, with simple replies |
//! | MetaContext | SET_META_CONTEXT | Go | Go, without block status |
//! | Go | GO with all infos | ready | EXPORT_NAME when the server does not know GO, else fails |
//! | ExportName | EXPORT_NAME | ready | the server closes the connection |
//! | List | LIST | Info of the first name | fails |
//! | Info | INFO of a name | the next name, or the list is complete | noted for that name, then as granted |
//! | Ended | nothing | | |
//!
//! TLS_REQD and SHUTDOWN fail in every phase but Info. Bounds: a reply of at most [`REPLY_DATA_MAX`] bytes is
//! buffered, at most [`REPLIES_MAX`] infos or contexts are read for one option, and a list keeps at most
//! [`LIST_TEXT_MAX`] bytes of names and descriptions.

mod error;
mod infos;
mod list;

use super::Progress;
use super::layout::{EXPORT_NAME_REPLY_LEN, EXPORT_NAME_ZEROES, OPTION_REPLY_LEN, len_prefix, put_option};
use crate::codec::{
    BASE_ALLOCATION, ClientFlags, Cursor, GREETING_MAGIC, HandshakeFlags, InfoType, OLDSTYLE_MAGIC,
    OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, OptionReply, Truncated,
};
use crate::intake::Intake;
use infos::Infos;
use list::Listing;

pub use error::HandshakeError;
pub use infos::RemoteExport;
pub use list::Listed;

/// Most bytes of one reply's data that are taken from a server.
pub const REPLY_DATA_MAX: u32 = 64 << 10;
/// Most replies to one option; a list may have [`LISTED_MAX`].
pub const REPLIES_MAX: u32 = 1000;
/// Most exports of a list.
pub const LISTED_MAX: u32 = 100_000;
/// Most bytes of names and descriptions that a list keeps.
pub const LIST_TEXT_MAX: usize = 16 << 20;

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Name of the export, "" for the default one.
    pub export: String,
    /// Whether to ask for structured replies.
    pub structured: bool,
    /// Whether to ask for `base:allocation`; only with structured replies.
    pub allocation: bool,
}

/// How a handshake ended well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The transmission phase begins.
    Ready(Box<RemoteExport>),
    /// The exports of the server. What was written is still to be sent before closing.
    Listed(Vec<Listed>),
}

/// The machine; one per connection.
#[derive(Debug)]
pub struct ClientHandshake {
    goal: Goal,
    phase: Phase,
    intake: Intake,
    /// The header of the reply whose data is awaited.
    head: Option<ReplyHead>,
    replies: u32,
    no_zeroes: bool,
    structured: bool,
    allocation: Option<u32>,
    infos: Infos,
}

#[derive(Debug)]
enum Goal {
    Use(Wish),
    List(Listing),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Greeting,
    Structured,
    MetaContext,
    Go,
    ExportName,
    List,
    Info,
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct ReplyHead {
    kind: u32,
    len: u32,
}

enum Step {
    Starved,
    Next,
    Sent,
    End(Outcome),
}

impl ClientHandshake {
    /// A connection that is to be used.
    pub fn new(wish: Wish) -> Self {
        Self::towards(Goal::Use(wish))
    }

    /// A connection that is to list the server's exports with their details, and then to be closed.
    pub fn list() -> Self {
        Self::towards(Goal::List(Listing::default()))
    }

    fn towards(goal: Goal) -> Self {
        Self {
            goal,
            phase: Phase::Greeting,
            intake: Intake::default(),
            head: None,
            replies: 0,
            no_zeroes: false,
            structured: false,
            allocation: None,
            infos: Infos::default(),
        }
    }

    /// Takes received bytes and appends what has to be sent to `out`; call again while bytes are left. After
    /// an error the connection must be closed, when `out` (which may hold a goodbye) has been sent.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Progress<Result<Outcome, HandshakeError>> {
        let mut rest = input;
        let outcome = loop {
            match self.step(&mut rest, out) {
                Ok(Step::Next) => {}
                Ok(Step::Starved | Step::Sent) => break None,
                Ok(Step::End(outcome)) => break Some(Ok(outcome)),
                Err(error) => break Some(Err(error)),
            }
        };
        if let Some(Ok(Outcome::Listed(_)) | Err(HandshakeError::Refused { .. })) = &outcome {
            put_option(out, OptionCode::Abort, &[]);
        }
        if outcome.is_some() {
            self.phase = Phase::Ended;
        }
        Progress { consumed: input.len() - rest.len(), outcome }
    }

    /// What it means when the server closes the connection now.
    pub fn closed(&self) -> HandshakeError {
        match (self.phase, &self.goal) {
            (Phase::ExportName, Goal::Use(wish)) => HandshakeError::ExportDenied(wish.export.clone()),
            (Phase::Greeting, _) => HandshakeError::Closed("before it said anything"),
            _ => HandshakeError::Closed("during the handshake"),
        }
    }

    /// Bytes of memory that unfinished replies take.
    pub(crate) fn buffered(&self) -> usize {
        self.intake.capacity()
    }

    fn step(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        match self.phase {
            Phase::Ended => Ok(Step::Starved),
            Phase::Greeting if self.intake.fill(input, 18) => self.greeted(out),
            Phase::ExportName if self.intake.fill(input, self.export_name_reply_len()) => self.entered(),
            Phase::Greeting | Phase::ExportName => Ok(Step::Starved),
            _ => self.reply(input, out),
        }
    }

    fn greeted(&mut self, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let bytes = self.intake.take();
        let mut cursor = Cursor::new(&bytes);
        let (magic, style) = (cursor.u64()?, cursor.u64()?);
        let flags = HandshakeFlags::from_bits(cursor.u16()?);
        match (magic, style) {
            (GREETING_MAGIC, OPTION_MAGIC) => {}
            (GREETING_MAGIC, OLDSTYLE_MAGIC) => return Err(HandshakeError::Oldstyle),
            _ => return Err(HandshakeError::NotNbd),
        }
        if !flags.contains(HandshakeFlags::FIXED_NEWSTYLE) {
            return Err(HandshakeError::NotFixedNewstyle);
        }
        self.no_zeroes = flags.contains(HandshakeFlags::NO_ZEROES);
        let zeroes = if self.no_zeroes { ClientFlags::NO_ZEROES } else { ClientFlags::NONE };
        out.extend_from_slice(&(ClientFlags::FIXED_NEWSTYLE | zeroes).bits().to_be_bytes());
        let first = match &self.goal {
            Goal::List(_) => Phase::List,
            Goal::Use(wish) if wish.structured => Phase::Structured,
            Goal::Use(_) => Phase::Go,
        };
        self.enter(first, out)
    }

    /// Asks what `phase` asks.
    fn enter(&mut self, phase: Phase, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        self.phase = phase;
        self.replies = 0;
        let name = match &self.goal {
            Goal::Use(wish) => wish.export.as_str(),
            Goal::List(listing) => listing.awaited().unwrap_or_default(),
        };
        let named: [&[u8]; 2] = [&len_prefix(name), name.as_bytes()];
        let infos = [InfoType::Name, InfoType::Description, InfoType::BlockSize];
        let wanted: Vec<u8> = infos.iter().flat_map(|info| info.code().to_be_bytes()).collect();
        match phase {
            Phase::Structured => put_option(out, OptionCode::StructuredReply, &[]),
            Phase::MetaContext => {
                let query: [&[u8]; 3] =
                    [&1u32.to_be_bytes(), &len_prefix(BASE_ALLOCATION), BASE_ALLOCATION.as_bytes()];
                put_option(out, OptionCode::SetMetaContext, &[&named[..], &query].concat());
            }
            Phase::Go => put_option(out, OptionCode::Go, &[named[0], named[1], &[0, 3], &wanted]),
            Phase::Info => put_option(out, OptionCode::Info, &[named[0], named[1], &[0, 3], &wanted]),
            Phase::ExportName => put_option(out, OptionCode::ExportName, &[name.as_bytes()]),
            Phase::List => put_option(out, OptionCode::List, &[]),
            Phase::Greeting | Phase::Ended => {}
        }
        Ok(Step::Sent)
    }

    /// The option that a phase awaits replies to.
    pub(crate) fn option(&self) -> OptionCode {
        match self.phase {
            Phase::Structured => OptionCode::StructuredReply,
            Phase::MetaContext => OptionCode::SetMetaContext,
            Phase::List => OptionCode::List,
            Phase::Info => OptionCode::Info,
            Phase::Greeting | Phase::Go | Phase::ExportName | Phase::Ended => OptionCode::Go,
        }
    }

    fn reply(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        let head = match self.head {
            Some(head) => head,
            None if self.intake.fill(input, OPTION_REPLY_LEN) => {
                let head = self.reply_head()?;
                *self.head.insert(head)
            }
            None => return Ok(Step::Starved),
        };
        if !self.intake.fill(input, head.len as usize) {
            return Ok(Step::Starved);
        }
        self.head = None;
        let data = self.intake.take();
        self.received(head.kind, &data, out)
    }

    fn reply_head(&mut self) -> Result<ReplyHead, HandshakeError> {
        let bytes = self.intake.take();
        let mut cursor = Cursor::new(&bytes);
        if cursor.u64()? != OPTION_REPLY_MAGIC {
            return Err(HandshakeError::BadReply("its magic is wrong"));
        }
        if cursor.u32()? != self.option().code() {
            return Err(HandshakeError::BadReply("it answers an option that was not sent"));
        }
        let head = ReplyHead { kind: cursor.u32()?, len: cursor.u32()? };
        if head.len > REPLY_DATA_MAX {
            return Err(HandshakeError::BadReply("it is too long"));
        }
        self.replies += 1;
        let most = if self.phase == Phase::List { LISTED_MAX } else { REPLIES_MAX };
        if self.replies > most {
            return Err(HandshakeError::BadReply("it is one too many"));
        }
        Ok(head)
    }

    fn received(&mut self, kind: u32, data: &[u8], out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        if kind & OptionReply::ERROR_BIT != 0 {
            return self.refused(HandshakeError::refused(self.option(), kind, data), out);
        }
        match (self.phase, OptionReply::from_code(kind), &mut self.goal) {
            (_, Some(OptionReply::Ack), _) => return self.granted(out),
            (Phase::Go | Phase::Info, Some(OptionReply::Info), _) => self.infos.learn(data)?,
            (Phase::List, Some(OptionReply::Server), Goal::List(listing)) => listing.add(data)?,
            (Phase::MetaContext, Some(OptionReply::MetaContext), _) => self.context(data)?,
            _ => return Err(HandshakeError::BadReply("its type does not belong to the option")),
        }
        Ok(Step::Next)
    }

    fn context(&mut self, data: &[u8]) -> Result<(), Truncated> {
        let mut cursor = Cursor::new(data);
        let id = cursor.u32()?;
        if cursor.rest() == BASE_ALLOCATION.as_bytes() {
            self.allocation = Some(id);
        }
        Ok(())
    }

    fn granted(&mut self, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        match (self.phase, &mut self.goal) {
            (Phase::Structured, Goal::Use(wish)) => {
                self.structured = true;
                let next = if wish.allocation { Phase::MetaContext } else { Phase::Go };
                self.enter(next, out)
            }
            (Phase::Go, _) => self.ready(),
            (Phase::List, _) => self.next_info(out),
            (Phase::Info, Goal::List(listing)) => {
                let name = listing.awaited().unwrap_or_default().to_owned();
                let details = std::mem::take(&mut self.infos).export(&name, false, None);
                listing.note(details)?;
                self.next_info(out)
            }
            _ => self.enter(Phase::Go, out),
        }
    }

    fn refused(&mut self, refusal: HandshakeError, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        // One export that needs TLS does not make the others unknowable.
        if refusal.is_final() && self.phase != Phase::Info {
            return Err(refusal);
        }
        match (self.phase, &mut self.goal) {
            (Phase::Structured, _) => self.enter(Phase::Go, out),
            (Phase::MetaContext, _) => {
                self.allocation = None;
                self.enter(Phase::Go, out)
            }
            (Phase::Go, _) if refusal.is(OptionReply::ErrUnsupported) => {
                self.infos = Infos::default();
                self.enter(Phase::ExportName, out)
            }
            (Phase::Info, Goal::List(listing)) => {
                self.infos = Infos::default();
                listing.note(Err(refusal))?;
                self.next_info(out)
            }
            _ => Err(refusal),
        }
    }

    /// Asks for the next export of the list, or ends it.
    fn next_info(&mut self, out: &mut Vec<u8>) -> Result<Step, HandshakeError> {
        match &mut self.goal {
            Goal::List(listing) if listing.awaited().is_none() => {
                Ok(Step::End(Outcome::Listed(listing.take())))
            }
            _ => self.enter(Phase::Info, out),
        }
    }

    fn ready(&mut self) -> Result<Step, HandshakeError> {
        let name = match &self.goal {
            Goal::Use(wish) => wish.export.as_str(),
            Goal::List(_) => "",
        };
        let export = std::mem::take(&mut self.infos).export(name, self.structured, self.allocation)?;
        Ok(Step::End(Outcome::Ready(Box::new(export))))
    }

    fn export_name_reply_len(&self) -> usize {
        EXPORT_NAME_REPLY_LEN + if self.no_zeroes { 0 } else { EXPORT_NAME_ZEROES }
    }

    fn entered(&mut self) -> Result<Step, HandshakeError> {
        let bytes = self.intake.take();
        self.infos.learn_export(&mut Cursor::new(&bytes))?;
        self.ready()
    }
}

#[cfg(test)]
mod tests;
