//! Following a long piece of work: how far it is, and whether it was called off.
//!
//! Invariant: an empty image is done at once; no share is computed of nothing.

use block::BlockError;
use flow::copy::Follow;
use std::cell::Cell;

use crate::image::SECTOR;
use crate::session::Session;
use crate::words;

/// Who follows the work of a verb.
pub(crate) struct Following<'a> {
    session: &'a Session,
    total: u64,
    done: Cell<u64>,
    /// What needs no copy counts, too.
    counts_spared: bool,
    tells_lost: bool,
}

impl<'a> Following<'a> {
    /// Begins with nothing done of `total` bytes.
    pub(crate) fn begin(session: &'a Session, total: u64) -> Self {
        Self { session, total, done: Cell::new(0), counts_spared: true, tells_lost: false }
    }

    /// Goes on with nothing done of `total` bytes, which are to be copied; those that need no copy do not count.
    pub(crate) fn of_copied(self, total: u64) -> Self {
        Self { total, counts_spared: false, ..self }
    }

    /// What could not be read, and is copied as zeros, is told.
    pub(crate) fn telling_lost(self, tells_lost: bool) -> Self {
        Self { tells_lost, ..self }
    }

    /// So many bytes are done now.
    pub(crate) fn reached(&self, done: u64) {
        self.done.set(done);
        self.session.listener.progress(done as f32 * 100.0 / self.total.max(1) as f32);
    }
}

impl Follow for Following<'_> {
    fn moved(&self, bytes: u64) {
        self.reached(self.done.get() + bytes);
    }

    fn spared(&self, bytes: u64) {
        if self.counts_spared {
            self.moved(bytes);
        }
    }

    fn is_over(&self) -> bool {
        self.session.check_called_off().is_err()
    }

    fn lost(&self, at: u64, error: &BlockError) {
        if self.tells_lost && at.is_multiple_of(SECTOR) {
            let why = words::cause(error);
            self.session.listener.complain(&format!("warning: error while reading offset {at}: {why}"));
        }
    }
}
