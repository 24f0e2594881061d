//! The server's side: how block status is answered. Which requests are granted: [`super::validate`].

use block::{Extent, ExtentState};

pub use super::{Limits, Refusal, validate};
use crate::codec::{
    BLOCK_STATUS_LEN, Cookie, DESCRIPTOR_LEN, DESCRIPTORS_MAX, StatusFlags, put_block_status_head,
    put_descriptor,
};

/// Longest descriptor that is written: what fits 32 bits, in whole 64 KiB.
const DESCRIPTOR_SPAN_MAX: u64 = 0xffff_0000;

/// How `base:allocation` shows a state.
pub const fn status_flags(state: ExtentState) -> StatusFlags {
    match state {
        ExtentState::Data => StatusFlags::NONE,
        ExtentState::AllocatedZero => StatusFlags::ZERO,
        ExtentState::Hole => StatusFlags::HOLE.with(StatusFlags::ZERO),
    }
}

/// Writes a whole BLOCK_STATUS chunk for consecutive `extents`, as many of them as fit into `out` and into
/// [`DESCRIPTORS_MAX`] (a shorter answer is legal); answers how many bytes it took, or `None` when there is
/// no extent or no room for one. Empty extents are left out; one longer than a descriptor can say is cut,
/// and the answer ends there. With REQ_ONE the caller passes one extent, no longer than the request.
pub fn put_block_status(
    out: &mut [u8],
    cookie: Cookie,
    done: bool,
    context: u32,
    extents: &[Extent],
) -> Option<usize> {
    let (head, rest) = out.split_first_chunk_mut::<BLOCK_STATUS_LEN>()?;
    let (slots, _) = rest.as_chunks_mut::<DESCRIPTOR_LEN>();
    let mut written = 0;
    let filled = extents.iter().filter(|e| !e.range.is_empty());
    for (slot, extent) in slots.iter_mut().take(DESCRIPTORS_MAX).zip(filled) {
        let len = extent.range.len().min(DESCRIPTOR_SPAN_MAX);
        put_descriptor(slot, len as u32, status_flags(extent.state));
        written += 1;
        if len < extent.range.len() {
            break;
        }
    }
    if written == 0 {
        return None;
    }
    put_block_status_head(head, cookie, done, context, written);
    Some(BLOCK_STATUS_LEN + written as usize * DESCRIPTOR_LEN)
}

/// Bytes that [`put_block_status`] needs to write all of `extents` extents.
pub const fn block_status_len(extents: usize) -> usize {
    BLOCK_STATUS_LEN + extents * DESCRIPTOR_LEN
}

#[cfg(test)]
mod tests;
