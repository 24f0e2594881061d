//! The answers to options: infos, contexts, lists and errors.
//!
//! The texts of errors are those that QEMU's server sends, since people search for them.

use super::super::layout::{len_prefix, put_reply};
use super::super::{BlockSizes, MetaContext};
use super::requests::{InfoRequest, MetaRequest};
use super::{ExportInfo, Exports, LIST_REPLY_MAX, OPTION_DATA_MAX};
use crate::codec::{InfoType, OptionCode, OptionReply, TransmissionFlags};

/// An option answered with an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    pub(super) reply: OptionReply,
    pub(super) message: String,
    /// Whether what was already written of the answer still stands.
    pub(super) after_infos: bool,
}

impl Refused {
    pub(super) fn new(reply: OptionReply, message: impl Into<String>) -> Self {
        Self { reply, message: message.into(), after_infos: false }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(OptionReply::ErrInvalid, message)
    }
}

/// Why an option is not answered in full.
pub(super) enum Stopped {
    Refused(Refused),
    /// The export that it names has to be looked for first.
    Pending,
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// The export that an option names.
pub(super) fn find(exports: &dyn Exports, name: &str) -> Result<ExportInfo, Stopped> {
    if exports.is_pending(name) {
        return Err(Stopped::Pending);
    }
    exports.find(name).ok_or_else(|| not_present(name).into())
}

pub(super) fn unsupported(code: u32) -> Refused {
    let name = OptionCode::from_code(code).map_or("<unknown>", OptionCode::name);
    Refused::new(OptionReply::ErrUnsupported, format!("Unsupported option {code} ({name})"))
}

pub(super) fn not_present(name: &str) -> Refused {
    Refused::new(OptionReply::ErrUnknown, format!("export '{}' not present", shown(name)))
}

pub(super) fn block_size_required() -> Refused {
    let message = "request NBD_INFO_BLOCK_SIZE to use this export";
    Refused { after_infos: true, ..Refused::new(OptionReply::ErrBlockSizeRequired, message) }
}

/// Which error an option's length alone deserves, so that its data need not be kept.
pub(super) fn refused_by_length(option: OptionCode, len: u32) -> Option<Refused> {
    match option {
        OptionCode::List | OptionCode::StartTls | OptionCode::StructuredReply if len > 0 => {
            Some(Refused::invalid(format!("option '{}' has unexpected length", option.name())))
        }
        OptionCode::PeekExport | OptionCode::ExtendedHeaders => Some(unsupported(option.code())),
        _ if len > OPTION_DATA_MAX => Some(Refused::new(
            OptionReply::ErrTooBig,
            format!("option '{}' has more than {OPTION_DATA_MAX} bytes", option.name()),
        )),
        _ => None,
    }
}

/// A name as messages show it: bounded, without control characters.
pub(super) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
    if name.chars().nth(80).is_some() {
        text.push_str("...");
    }
    text
}

/// Appends the infos of `export`, in QEMU's order: name if asked for, description if there is one, block
/// sizes, and last what an export cannot do without.
pub(super) fn put_infos(
    out: &mut Vec<u8>,
    option: OptionCode,
    request: &InfoRequest<'_>,
    export: &ExportInfo,
    flags: TransmissionFlags,
) {
    let mut put = |info: InfoType, parts: [&[u8]; 3]| {
        let [a, b, c] = parts;
        put_reply(out, option.code(), OptionReply::Info, &[&info.code().to_be_bytes(), a, b, c]);
    };
    if request.wants_name {
        put(InfoType::Name, [export.name.as_bytes(), &[], &[]]);
    }
    if !export.description.is_empty() {
        put(InfoType::Description, [export.description.as_bytes(), &[], &[]]);
    }
    let sizes = export.block_sizes;
    // Whoever enters without asking for the minimum will not obey it, so it is told that every byte will do.
    let told = option == OptionCode::Info || request.block_size;
    let minimum = if told { sizes.minimum() } else { BlockSizes::DEFAULT.minimum() };
    put(
        InfoType::BlockSize,
        [&minimum.to_be_bytes(), &sizes.preferred().to_be_bytes(), &sizes.maximum().to_be_bytes()],
    );
    put(InfoType::Export, [&export.size.to_be_bytes(), &flags.bits().to_be_bytes(), &[]]);
}

/// Appends all exports and the final reply; an error when the list would be longer than anybody buffers.
pub(super) fn list(exports: &dyn Exports, out: &mut Vec<u8>) -> Result<(), Stopped> {
    if exports.is_list_pending() {
        return Err(Stopped::Pending);
    }
    let (option, start) = (OptionCode::List.code(), out.len());
    let mut fits = true;
    exports.visit(&mut |name, description| {
        fits = out.len() - start + name.len() + description.len() <= LIST_REPLY_MAX;
        if fits {
            let parts = [&len_prefix(name)[..], name.as_bytes(), description.as_bytes()];
            put_reply(out, option, OptionReply::Server, &parts);
        }
        fits
    });
    if !fits {
        return Err(Refused::new(OptionReply::ErrTooBig, "too many exports to list").into());
    }
    put_reply(out, option, OptionReply::Ack, &[]);
    Ok(())
}

pub(super) fn list_meta_context(
    data: &[u8],
    exports: &dyn Exports,
    out: &mut Vec<u8>,
) -> Result<(), Stopped> {
    let request = MetaRequest::parse(OptionCode::ListMetaContext, data)?;
    let export = find(exports, request.name)?;
    let mut contexts = request.listed(export.contexts);
    // Ids mean something only once they are selected.
    contexts.iter_mut().for_each(|context| context.id = 0);
    put_contexts(out, OptionCode::ListMetaContext, &contexts);
    Ok(())
}

/// Appends one reply for each context, and the final one.
pub(super) fn put_contexts(out: &mut Vec<u8>, option: OptionCode, contexts: &[MetaContext]) {
    for context in contexts {
        let parts = [&context.id.to_be_bytes()[..], context.name.as_bytes()];
        put_reply(out, option.code(), OptionReply::MetaContext, &parts);
    }
    put_reply(out, option.code(), OptionReply::Ack, &[]);
}
