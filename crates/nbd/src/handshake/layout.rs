//! Layout of options and of their replies; both ends write and read them with these.

use crate::codec::{OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, OptionReply};

/// Length of an option's header, and of the reply's, in bytes.
pub(super) const OPTION_LEN: usize = 16;
pub(super) const OPTION_REPLY_LEN: usize = 20;
/// Zeros after the answer to an export name, unless both ends do without.
pub(super) const EXPORT_NAME_ZEROES: usize = 124;
/// Length of the answer to an export name without them.
pub(super) const EXPORT_NAME_REPLY_LEN: usize = 10;

/// Appends an option.
pub(super) fn put_option(out: &mut Vec<u8>, option: OptionCode, data: &[&[u8]]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.code().to_be_bytes());
    put_data(out, data);
}

/// Appends a reply to the option with code `option`.
pub(super) fn put_reply(out: &mut Vec<u8>, option: u32, reply: OptionReply, data: &[&[u8]]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.code().to_be_bytes());
    put_data(out, data);
}

/// Appends the length of all parts, then the parts.
fn put_data(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&(len as u32).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The length of `text` as strings inside options carry it in front.
pub(super) fn len_prefix(text: &str) -> [u8; 4] {
    (text.len() as u32).to_be_bytes()
}
