//! What a walk depended on: the layers on its way that can change, and their generations before they were asked.
//!
//! Invariant: a walk may be believed again only while all of them are what they were. Layers that cannot change are
//! not noted and cost nothing.

use std::sync::atomic::Ordering;

use block::ByteRange;

use crate::contract::Format;
use crate::node::Body;
use crate::view::{View, ViewIndex};

/// Regions share a generation.
pub(super) const REGION: u64 = 2 << 20;
/// Layers on the path that can change: usually the top one. Paths with more are not noted.
const CHANGING_MAX: usize = 2;

/// The layers that can change on one path.
pub(crate) struct Trail {
    notes: Notes,
    len: usize,
    mode: Mode,
}

/// What was noted.
#[derive(Clone, Copy, Default)]
pub(super) struct Notes([Note; CHANGING_MAX]);

/// A layer that can change, where it was asked, and its generation then.
#[derive(Clone, Copy, Default)]
struct Note {
    /// Position of the layer plus one; 0: none.
    layer: u32,
    generation: u32,
    offset: u64,
}

#[derive(PartialEq, Eq)]
enum Mode {
    Ignoring,
    Noting,
    /// More layers, or other regions, than there is room for.
    Lost,
}

impl Trail {
    /// For walks that nobody remembers.
    pub(super) fn ignoring() -> Self {
        Self { notes: Notes::default(), len: 0, mode: Mode::Ignoring }
    }

    /// For walks that are to be remembered.
    pub(super) fn noting() -> Self {
        Self { mode: Mode::Noting, ..Self::ignoring() }
    }

    /// The walk depends on something that has no generation (the size of a child, which writes in place may
    /// change): it is not remembered.
    pub(super) fn lose(&mut self) {
        if self.mode == Mode::Noting {
            self.mode = Mode::Lost;
        }
    }

    /// Notes a layer before it is asked for the first bytes of `range`.
    #[inline]
    pub(super) fn note(&mut self, index: ViewIndex, format: &dyn Format, range: ByteRange) {
        if self.mode != Mode::Noting {
            return;
        }
        let Some(generation) = format.changes().and_then(|c| c.generation(range.start())) else { return };
        let one_region = range.start() / REGION == (range.end() - 1) / REGION;
        if self.len == CHANGING_MAX || !one_region {
            self.mode = Mode::Lost;
            return;
        }
        let generation = generation.load(Ordering::Acquire);
        self.notes.0[self.len] = Note { layer: index.0 + 1, generation, offset: range.start() };
        self.len += 1;
    }

    /// All that the walk depended on; `None` when that could not be noted.
    pub(super) fn notes(&self) -> Option<Notes> {
        (self.mode == Mode::Noting).then_some(self.notes)
    }
}

impl Notes {
    /// Whether a walk would go the same way today.
    pub(super) fn are_current(&self, view: &View) -> bool {
        self.0.iter().all(|note| note.is_current(view))
    }
}

impl Note {
    fn is_current(&self, view: &View) -> bool {
        if self.layer == 0 {
            return true;
        }
        let Body::Maps(format) = view.node(ViewIndex(self.layer - 1)).body() else { return false };
        let generation = format.changes().and_then(|c| c.generation(self.offset));
        generation.is_some_and(|g| g.load(Ordering::Acquire) == self.generation)
    }
}
