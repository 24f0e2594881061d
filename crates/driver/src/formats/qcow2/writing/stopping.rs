//! What becomes of an image in which corruption is met while it is in use.
//!
//! Invariants: what was found is not written over; the image's mark that it is corrupt is set, durably, and nothing is
//! written to it any more but what was acknowledged before. Reads go on, and so does everything else. Who only reads
//! where a table lies has the same effect in an image that is open for writing, if QEMU could not read there either.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{BlockError, ErrorKind, Result};
use flow::Next;
use flow::sabotage::Rule;
use qcow2::{HeaderEdit, Lie};

use super::super::corruption::{Corruption, REFUSAL};
use super::super::image::Image;

impl Image {
    /// A lie of this image's tables, met on the way to a change.
    pub(crate) fn own<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error.kind() {
            ErrorKind::Corrupt => self.claim(&error),
            _ => error,
        })
    }

    #[cold]
    fn claim(&self, error: &BlockError) -> BlockError {
        let found = source(error).cloned().unwrap_or_else(|| Corruption::new(told(error)));
        Corruption { image: Some(self.number()), ..found }.error()
    }

    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The error as it is answered. If it is of a lie that [`Image::own`] has found, nothing is written any more.
    #[cold]
    pub(crate) fn refused(self: &Arc<Self>, error: BlockError, next: Next<'_>) -> BlockError {
        if let Some(found) = source::<Corruption>(&error).filter(|found| found.image == Some(self.number())) {
            self.stop_writing(found, next);
        }
        self.named(error)
    }

    /// Refuses changes from now on, tells so, and marks the image.
    pub(crate) fn stop_writing(self: &Arc<Self>, found: &Corruption, next: Next<'_>) {
        let Some(writer) = &self.writer else { return };
        if !writer.stop(found) {
            return;
        }
        // Those who remember where they may write look again, and find nothing that they may.
        writer.generations.bump_all();
        self.lied.store(true, Ordering::SeqCst);
        self.events.corrupt(&found.message, found.range, true);
        self.spawn(next, |image, next| {
            Box::pin(async move {
                let edit = HeaderEdit::MarkCorrupt;
                let marked =
                    image.alone(async |turn| image.write_header(&edit, Rule::LastBarrier, turn, next).await);
                if let Err(error) = marked.await {
                    image.events.failed(image.named(error).within("cannot mark it as corrupt"));
                }
            })
        });
    }

    /// A write to `guest` was to go where a lie is: nothing is written any more.
    #[cold]
    pub(crate) fn lied_to_writer(
        self: &Arc<Self>,
        error: BlockError,
        guest: u64,
        next: Next<'_>,
    ) -> BlockError {
        if error.kind() != ErrorKind::Corrupt {
            return self.named(error);
        }
        let said = source::<Lie>(&error).and_then(|lie| lie.told_to_writer(guest));
        self.stop_writing(&Corruption::new(said.unwrap_or_else(|| told(&error))), next);
        self.named(BlockError::new(ErrorKind::Corrupt, format!("{error}; {REFUSAL}")))
    }

    /// A reader has met a lie. Whoever has it open for changes (`changes`) stops them where QEMU would; else it is
    /// told, once.
    #[cold]
    pub(crate) fn lied_to_reader(
        self: &Arc<Self>,
        error: BlockError,
        changes: Option<Next<'_>>,
    ) -> BlockError {
        if error.kind() != ErrorKind::Corrupt {
            return self.named(error);
        }
        let is_fatal = source(&error).is_some_and(|lie: &Lie| lie.told_to_reader().is_some());
        match changes {
            Some(next) if is_fatal => self.stop_writing(&Corruption::new(told(&error)), next),
            _ if self.lied.swap(true, Ordering::SeqCst) => {}
            _ => self.events.corrupt(told(&error), None, false),
        }
        self.named(error)
    }
}

/// What is told of an error: QEMU's words, or its own.
fn told(error: &BlockError) -> String {
    source(error).and_then(Lie::told_to_reader).map_or_else(|| error.to_string(), str::to_owned)
}

/// What an error comes of.
fn source<T: std::error::Error + 'static>(error: &BlockError) -> Option<&T> {
    std::error::Error::source(error)?.downcast_ref()
}
