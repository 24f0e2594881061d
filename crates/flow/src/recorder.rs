//! The hook of dirty bitmaps: whoever records the changes of a node is told of each.
//!
//! Invariants: a change is told before the first of its bytes moves, so that what is recorded is never less than what
//! was changed, whatever becomes of the change; and once more when it has ended, so that who forgets everything in
//! between still learns of it. While a view has a node that records, its writes take the path that waits: the other one
//! pays nothing.

use block::{ByteRange, Result};

use crate::contract::Changes;
use crate::next::Next;
use crate::request::{Flags, Request};

/// Who records what is changed.
pub trait Recorder: Send + Sync {
    /// `range` is about to be changed, or has been. Answers whether the change may go on at once: if not, it waits for
    /// [`Changes::admit`] first.
    fn mark(&self, range: ByteRange) -> bool;
}

/// A change that is told to the recorder of its node, if there is one.
#[must_use]
pub(crate) struct Recorded<'a> {
    recorder: Option<&'a dyn Recorder>,
    range: ByteRange,
}

impl<'a> Recorded<'a> {
    /// Before the change begins, and before it joins another one.
    pub(crate) async fn begin(changes: &'a dyn Changes, rq: &Request, next: Next<'_>) -> Result<Self> {
        let recorder = if rq.flags.has(Flags::UNCHANGED) { None } else { changes.recorder() };
        let recorded = Self { recorder, range: rq.range };
        if !recorded.mark() {
            changes.admit(next).await?;
        }
        Ok(recorded)
    }

    fn mark(&self) -> bool {
        self.recorder.is_none_or(|recorder| recorder.mark(self.range))
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        self.mark();
    }
}
