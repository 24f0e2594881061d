//! Which requests are granted on a connection. The server checks what it receives, the client what it sends.

use block::Errno;

use super::rule;
use crate::codec::{Command, RequestHeader, TransmissionFlags};

/// What a connection's requests are measured against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Size of the export in bytes.
    pub size: u64,
    /// What the handshake offered on this connection (with `SEND_DF` only if structured replies were agreed).
    pub flags: TransmissionFlags,
    /// Largest payload in bytes, [`PAYLOAD_MAX`](crate::codec::PAYLOAD_MAX) unless the export asks for less.
    pub payload_max: u32,
    /// Whether a metadata context was selected, so that BLOCK_STATUS makes sense.
    pub block_status: bool,
}

/// Why a request is not granted; the client is told both, and the connection lives on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The error number of the reply.
    pub errno: Errno,
    /// The text of a structured reply.
    pub message: &'static str,
}

const fn refuse<T>(errno: Errno, message: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, message })
}

/// Checks a request against what the export allows; what is granted needs no further check of range or flags.
///
/// A refused write is still followed by its payload ([`RequestHeader::payload_len`]): skip it, or close the
/// connection after the reply when it is longer than the limit, as QEMU does. DISC is always granted.
///
/// # Errors
/// [`Refusal`] in QEMU's order: unknown command, too long, read-only, beyond the end, flags, and then what
/// the handshake did not offer. QEMU 10.0 sends EINVAL for all of them; we send the numbers that the
/// protocol asks for (EPERM for read-only, ENOSPC for writes beyond the end).
#[inline]
pub fn validate(header: &RequestHeader, limits: &Limits) -> Result<Command, Refusal> {
    let Some(command) = header.command() else {
        return refuse(Errno::INVAL, "invalid request type received");
    };
    if command == Command::Disconnect {
        return Ok(command);
    }
    let rule = rule(command);
    if rule.bounded && header.len > limits.payload_max {
        return refuse(Errno::INVAL, "length is larger than the maximum payload");
    }
    if rule.writes && limits.flags.contains(TransmissionFlags::READ_ONLY) {
        return refuse(Errno::PERM, "Export is read-only");
    }
    if header.offset > limits.size || u64::from(header.len) > limits.size - header.offset {
        let grows = matches!(command, Command::Write | Command::WriteZeroes);
        return refuse(if grows { Errno::NOSPC } else { Errno::INVAL }, "operation past EOF");
    }
    if !header.flags.is_empty() && !header.flags.without(rule.allowed(limits.flags)).is_empty() {
        return refuse(Errno::INVAL, "unsupported flags for this command");
    }
    if !limits.flags.contains(rule.needs) {
        return refuse(Errno::INVAL, "command was not offered");
    }
    if rule.needs_len && header.len == 0 {
        return refuse(Errno::INVAL, "need non-zero length");
    }
    if command == Command::BlockStatus && !limits.block_status {
        return refuse(Errno::INVAL, "CMD_BLOCK_STATUS not negotiated");
    }
    Ok(command)
}

#[cfg(test)]
mod tests;
