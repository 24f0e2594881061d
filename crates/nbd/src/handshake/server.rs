//! The server's end of the handshake.
//!
//! | state | waits for | then |
//! |---|---|---|
//! | ClientFlags | 4 bytes | Header; closes on a flag that we do not know |
//! | Header | 16 bytes | Data, Skip or Refuse by the option's row; closes on a wrong magic, an absurd length, one option too many, or (for clients without fixed newstyle) any option but EXPORT_NAME |
//! | Data | the option's data, and the export that it names | answered: Header again, or the end after GO, EXPORT_NAME |
//! | Skip | nothing is kept of the data | the answer that was fixed at the header: an error, or the end after ABORT |
//! | Ended | nothing | consumes nothing |
//!
//! Bounds: at most [`OPTION_DATA_MAX`] bytes are buffered, and one answer is written per call (a list of at
//! most [`LIST_REPLY_MAX`] bytes). The embedder bounds the time.

mod exports;
mod options;
mod outcome;
mod requests;

use super::layout::{EXPORT_NAME_ZEROES, OPTION_LEN, put_reply};
use super::{MetaContext, Progress, flags_for};
use crate::codec::{
    ClientFlags, Cursor, GREETING_MAGIC, HandshakeFlags, OPTION_MAGIC, OptionCode, OptionReply, PAYLOAD_MAX,
    STRING_MAX, Truncated,
};
use crate::intake::Intake;
use options::{Refused, Stopped};
use requests::{InfoRequest, MetaRequest};

pub use exports::{ExportInfo, Exports};
pub use outcome::{CloseReason, Negotiated, Outcome};

/// Most bytes of an option's data that are buffered; longer ones are skipped and answered ERR_TOO_BIG.
pub const OPTION_DATA_MAX: u32 = 64 << 10;
/// Most bytes of an option's data that are skipped; whoever announces more is cut off.
pub const OPTION_SKIP_MAX: u32 = PAYLOAD_MAX;
/// Most bytes of an answer to LIST; a longer list ends in ERR_TOO_BIG.
pub const LIST_REPLY_MAX: usize = 8 << 20;

/// What the server allows during the handshake.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Most options that one connection may send.
    pub options_max: u32,
    /// Options that are answered ERR_UNSUP although we know them, as an older server would.
    pub withheld: &'static [OptionCode],
}

impl Default for Policy {
    /// Enough options for a client that asks four things about each of 10,000 exports.
    fn default() -> Self {
        Self { options_max: 50_000, withheld: &[] }
    }
}

/// The machine; one per connection.
#[derive(Debug)]
pub struct ServerHandshake {
    policy: Policy,
    state: State,
    intake: Intake,
    client: ClientFlags,
    options: u32,
    structured: bool,
    /// Export and contexts of the last SET_META_CONTEXT.
    selected: Option<(String, Vec<MetaContext>)>,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Header,
    Data { option: OptionCode, len: u32 },
    Skip { option: u32, left: u32, answer: SkipAnswer },
    Ended,
}

/// What is answered when the data of an option has been skipped.
#[derive(Debug)]
enum SkipAnswer {
    Error(Refused),
    Goodbye,
}

/// What became of one state.
enum Step {
    Starved,
    Next,
    Answered,
    End(Outcome),
}

impl ServerHandshake {
    /// A connection that has just been accepted; send [`ServerHandshake::greeting`] first.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::ClientFlags,
            intake: Intake::default(),
            client: ClientFlags::NONE,
            options: 0,
            structured: false,
            selected: None,
        }
    }

    /// The first bytes of a connection.
    pub fn greeting(&self) -> [u8; 18] {
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        let mut out = [0; 18];
        out[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
        out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        out[16..].copy_from_slice(&flags.bits().to_be_bytes());
        out
    }

    /// Takes received bytes and appends what has to be sent to `out`. Returns after each answered option, so
    /// that the embedder sends it before it feeds the rest; call again while bytes are left.
    pub fn feed(&mut self, input: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Progress<Outcome> {
        let mut rest = input;
        let outcome = loop {
            match self.step(&mut rest, exports, out) {
                Step::Next => {}
                Step::Starved | Step::Answered => break None,
                Step::End(outcome) => {
                    self.state = State::Ended;
                    break Some(outcome);
                }
            }
        };
        Progress { consumed: input.len() - rest.len(), outcome }
    }

    /// Bytes of memory that unfinished options take.
    pub(crate) fn buffered(&self) -> usize {
        self.intake.capacity()
    }

    fn step(&mut self, input: &mut &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Step {
        match &mut self.state {
            State::ClientFlags if self.intake.fill(input, 4) => self.client_flags(),
            State::Header if self.intake.fill(input, OPTION_LEN) => self.header(),
            State::Data { option, len } if self.intake.fill(input, *len as usize) => {
                let (option, len) = (*option, *len);
                self.state = State::Header;
                let data = self.intake.take();
                let Some(step) = self.answer(option, &data, exports, out) else {
                    self.state = State::Data { option, len };
                    self.intake = Intake::holding(data);
                    return Step::Starved;
                };
                step
            }
            State::Skip { left, .. } => {
                let skipped = input.len().min(*left as usize);
                *left -= skipped as u32;
                *input = &input[skipped..];
                if *left == 0 { self.skipped(out) } else { Step::Starved }
            }
            _ => Step::Starved,
        }
    }

    fn client_flags(&mut self) -> Step {
        let bytes = self.intake.take();
        let flags = ClientFlags::from_bits(Cursor::new(&bytes).u32().unwrap_or(u32::MAX));
        let unknown = flags.without(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES);
        if !unknown.is_empty() {
            return Step::End(Outcome::Close(CloseReason::UnknownClientFlags(unknown.bits())));
        }
        self.client = flags;
        self.state = State::Header;
        Step::Next
    }

    fn header(&mut self) -> Step {
        let bytes = self.intake.take();
        match self.receive(&bytes) {
            Ok(state) => self.state = state,
            Err(reason) => return Step::End(Outcome::Close(reason)),
        }
        Step::Next
    }

    /// Which state an option's header leads to.
    fn receive(&mut self, header: &[u8]) -> Result<State, CloseReason> {
        let (magic, code, len) = parse_header(header).map_err(|Truncated| CloseReason::BadMagic(0))?;
        self.options += 1;
        let option = OptionCode::from_code(code).filter(|option| !self.policy.withheld.contains(option));
        if magic != OPTION_MAGIC {
            return Err(CloseReason::BadMagic(magic));
        }
        if len > OPTION_SKIP_MAX {
            return Err(CloseReason::OptionTooLong(len));
        }
        if self.options > self.policy.options_max {
            return Err(CloseReason::TooManyOptions);
        }
        if !self.client.contains(ClientFlags::FIXED_NEWSTYLE) && option != Some(OptionCode::ExportName) {
            return Err(CloseReason::NotFixedNewstyle(code));
        }
        let skip = |answer| Ok(State::Skip { option: code, left: len, answer });
        match option {
            Some(OptionCode::ExportName) if len as usize > STRING_MAX => Err(CloseReason::BadName),
            Some(OptionCode::Abort) => skip(SkipAnswer::Goodbye),
            Some(option) => match options::refused_by_length(option, len) {
                Some(refused) => skip(SkipAnswer::Error(refused)),
                None => Ok(State::Data { option, len }),
            },
            None => skip(SkipAnswer::Error(options::unsupported(code))),
        }
    }

    fn skipped(&mut self, out: &mut Vec<u8>) -> Step {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Skip { option, answer: SkipAnswer::Error(refused), .. } => {
                put_reply(out, option, refused.reply, &[refused.message.as_bytes()]);
                Step::Answered
            }
            State::Skip { option, .. } => {
                put_reply(out, option, OptionReply::Ack, &[]);
                Step::End(Outcome::Abort)
            }
            _ => Step::Answered,
        }
    }

    /// Answers an option; `None` (and nothing has changed) when the export that it names has to be looked for first.
    fn answer(
        &mut self,
        option: OptionCode,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        let start = out.len();
        let answered = match option {
            OptionCode::ExportName => return self.export_name(data, exports, out).map(Step::End),
            OptionCode::Info | OptionCode::Go => self.info(option, data, exports, out),
            OptionCode::List => options::list(exports, out).map(|()| None),
            OptionCode::StructuredReply => self.structured_reply(out).map(|()| None).map_err(Stopped::from),
            OptionCode::ListMetaContext => options::list_meta_context(data, exports, out).map(|()| None),
            OptionCode::SetMetaContext => self.set_meta_context(data, exports, out).map(|()| None),
            OptionCode::StartTls => Err(Refused::new(OptionReply::ErrPolicy, "TLS not configured").into()),
            OptionCode::Abort | OptionCode::PeekExport | OptionCode::ExtendedHeaders => {
                Err(options::unsupported(option.code()).into())
            }
        };
        Some(match answered {
            Ok(Some(negotiated)) => Step::End(Outcome::Transmission(Box::new(negotiated))),
            Ok(None) => Step::Answered,
            Err(Stopped::Pending) => {
                out.truncate(start);
                return None;
            }
            Err(Stopped::Refused(refused)) => {
                if !refused.after_infos {
                    out.truncate(start);
                }
                put_reply(out, option.code(), refused.reply, &[refused.message.as_bytes()]);
                Step::Answered
            }
        })
    }

    fn export_name(&self, data: &[u8], exports: &dyn Exports, out: &mut Vec<u8>) -> Option<Outcome> {
        let Ok(name) = std::str::from_utf8(data) else {
            return Some(Outcome::Close(CloseReason::BadName));
        };
        let export = match options::find(exports, name) {
            Ok(export) => export,
            Err(Stopped::Pending) => return None,
            Err(Stopped::Refused(_)) => {
                return Some(Outcome::Close(CloseReason::UnknownExport(options::shown(name))));
            }
        };
        let flags = flags_for(export.flags, self.structured);
        out.extend_from_slice(&export.size.to_be_bytes());
        out.extend_from_slice(&flags.bits().to_be_bytes());
        if !self.client.contains(ClientFlags::NO_ZEROES) {
            out.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        Some(Outcome::Transmission(Box::new(self.negotiated(export, false))))
    }

    fn structured_reply(&mut self, out: &mut Vec<u8>) -> Result<(), Refused> {
        if self.structured {
            return Err(Refused::invalid("structured reply already negotiated"));
        }
        self.structured = true;
        put_reply(out, OptionCode::StructuredReply.code(), OptionReply::Ack, &[]);
        Ok(())
    }

    fn info(
        &self,
        option: OptionCode,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<Option<Negotiated>, Stopped> {
        let request = InfoRequest::parse(option, data)?;
        let export = options::find(exports, request.name)?;
        options::put_infos(out, option, &request, &export, flags_for(export.flags, self.structured));
        let strict = export.block_sizes.minimum() > 1;
        if option == OptionCode::Info && strict && !request.block_size {
            return Err(options::block_size_required().into());
        }
        put_reply(out, option.code(), OptionReply::Ack, &[]);
        let enters = option == OptionCode::Go;
        Ok(enters.then(|| self.negotiated(export, request.block_size)))
    }

    fn set_meta_context(
        &mut self,
        data: &[u8],
        exports: &dyn Exports,
        out: &mut Vec<u8>,
    ) -> Result<(), Stopped> {
        // Even a request that fails drops what was selected before.
        self.selected = None;
        if !self.structured {
            return Err(Refused::invalid(
                "request option 'set meta context' when structured reply is not negotiated",
            )
            .into());
        }
        let request = MetaRequest::parse(OptionCode::SetMetaContext, data)?;
        let export = options::find(exports, request.name)?;
        let contexts = request.selected(export.contexts);
        options::put_contexts(out, OptionCode::SetMetaContext, &contexts);
        self.selected = Some((export.name, contexts));
        Ok(())
    }

    /// What is agreed when the client enters `export`.
    fn negotiated(&self, mut export: ExportInfo, obeys_block_sizes: bool) -> Negotiated {
        // Contexts that were selected on another export mean nothing on this one.
        let selected = self.selected.as_ref().filter(|(name, _)| *name == export.name);
        let contexts = selected.map(|(_, contexts)| contexts.clone()).unwrap_or_default();
        export.flags = flags_for(export.flags, self.structured);
        Negotiated { export, structured: self.structured, contexts, obeys_block_sizes }
    }
}

fn parse_header(bytes: &[u8]) -> Result<(u64, u32, u32), Truncated> {
    let mut cursor = Cursor::new(bytes);
    Ok((cursor.u64()?, cursor.u32()?, cursor.u32()?))
}

#[cfg(test)]
mod tests;
