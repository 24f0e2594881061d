//! Locks of a file node: other processes are kept from what our users exclude.
//!
//! Invariant: the locks belong to the first open file of the node and stay there over its reopening, so that there
//! is no moment without them.

use std::io::ErrorKind as Std;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block::{BlockError, ErrorKind, Permissions, Result};
use flow::Permit;
use io::File;
use io::file::LockConflict;

use super::FileNode;
use super::options::Locking;

/// What changes the bytes of a file, or takes them away.
const CHANGING: Permissions = Permissions::WRITE.union(Permissions::RESIZE);

pub(super) struct Locks {
    /// The open file that holds them.
    pub(super) holder: Arc<dyn File>,
    pub(super) locking: Locking,
    /// Whether others are kept from changing what is only read, if nobody does.
    pub(super) keeps_still: bool,
}

impl Locks {
    /// Takes the locks; answers whether they are held.
    fn take(&self, uses: Permissions, shares: Permissions) -> std::io::Result<bool> {
        if self.locking == Locking::Off {
            // There may be some from before a reopen.
            return self.holder.lock(Permissions::NONE, Permissions::ALL).or(Ok(())).map(|()| false);
        }
        match self.holder.lock(uses, shares) {
            Ok(()) => Ok(true),
            Err(error) if self.locking == Locking::Auto && error.kind() == Std::Unsupported => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Permit for FileNode {
    fn permit(&self, uses: Permissions, shares: Permissions) -> Result<()> {
        if !self.keep_still(uses, shares) {
            // Before somebody may change it.
            self.lending.set_still(false);
            return self.locks.take(uses, shares).map(drop).map_err(|error| self.refused(error));
        }
        // It may have changed since it was opened: the size first, then what relies on it.
        let known = self.file.size().map(|size| self.size.store(size, Ordering::Release));
        self.lending.set_still(known.is_ok());
        Ok(())
    }
}

impl FileNode {
    /// Keeps others from changing a file that we only read: what stands still can be sent from where it lies. Answers
    /// whether it does; not where somebody writes to it already, whom QEMU's rules allow that.
    fn keep_still(&self, uses: Permissions, shares: Permissions) -> bool {
        let asked = !(shares & CHANGING).is_empty();
        let reads = uses.contains(Permissions::CONSISTENT_READ) && (uses & CHANGING).is_empty();
        let may = reads && !self.file.info().writable && (self.locks.keeps_still || !asked);
        may && matches!(self.locks.take(uses, shares - CHANGING), Ok(true))
    }

    fn refused(&self, error: std::io::Error) -> BlockError {
        let Some(conflict) = error.get_ref().and_then(|e| e.downcast_ref::<LockConflict>()) else {
            return self.failed("lock it (locking=off would do without)", error);
        };
        let shared = if conflict.in_use { "shared " } else { "" };
        let context = format!(
            "Failed to get {shared}\"{}\" lock: Is another process using the image [{}]?",
            conflict.permission, self.name
        );
        BlockError::new(ErrorKind::Busy, context)
    }
}
