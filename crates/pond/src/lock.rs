//! Books behind a lock that is held for moments, never across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock. What it guards is whole between any two statements, whatever panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
