//! Locks whose last holder may have panicked.
//!
//! What this crate guards with a lock is consistent after every statement, so a panic elsewhere is no reason
//! to stop serving files.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, poisoned or not.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
