//! The handshake of fixed newstyle: agreeing on an export and on how to talk about it.
//!
//! Two machines that know no socket: the embedder feeds what it received, sends what they wrote, and goes on
//! until an outcome comes. Both stop at the first byte that belongs to the transmission phase, and both
//! answer at most one message per call, so that the output never outgrows one answer.

pub mod client;
mod layout;
pub mod server;

use crate::codec::{PAYLOAD_MAX, TransmissionFlags};

/// What one call of `feed` did.
#[derive(Debug)]
pub struct Progress<T> {
    /// How many bytes of the input were used; the rest must be fed again (or belongs to the next phase).
    pub consumed: usize,
    /// How the handshake ended, once it has. After that nothing is consumed any more.
    pub outcome: Option<T>,
}

/// Size constraints of an export in bytes (section "Size constraints").
///
/// Invariant: minimum and preferred are powers of two, minimum <= preferred <= maximum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSizes {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

impl BlockSizes {
    /// What holds where nothing was said, and what QEMU offers for files.
    pub const DEFAULT: Self = Self { minimum: 1, preferred: 4096, maximum: PAYLOAD_MAX };

    /// Constraints, or `None` where the invariant would not hold.
    pub const fn new(minimum: u32, preferred: u32, maximum: u32) -> Option<Self> {
        let sizes = minimum.is_power_of_two() && preferred.is_power_of_two();
        if sizes && minimum <= preferred && preferred <= maximum {
            Some(Self { minimum, preferred, maximum })
        } else {
            None
        }
    }

    /// What offsets and lengths must be multiples of.
    pub const fn minimum(self) -> u32 {
        self.minimum
    }

    /// What they should be multiples of.
    pub const fn preferred(self) -> u32 {
        self.preferred
    }

    /// Longest payload.
    pub const fn maximum(self) -> u32 {
        self.maximum
    }
}

/// A metadata context and the number that stands for it in block status chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaContext {
    /// Its id; unique on a connection.
    pub id: u32,
    /// `namespace:leaf`.
    pub name: String,
}

impl MetaContext {
    /// `base:allocation` with the id that QEMU gives it.
    pub fn base_allocation() -> Self {
        Self { id: 0, name: crate::codec::BASE_ALLOCATION.to_owned() }
    }
}

/// Transmission flags of an export with structured replies or without: DF only makes sense with them.
fn flags_for(flags: TransmissionFlags, structured: bool) -> TransmissionFlags {
    let flags = flags | TransmissionFlags::HAS_FLAGS;
    match structured {
        true => flags | TransmissionFlags::SEND_DF,
        false => flags.without(TransmissionFlags::SEND_DF),
    }
}
