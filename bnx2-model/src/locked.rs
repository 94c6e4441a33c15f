// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks that outlive a panic of somebody who held them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. What it guards is valid at any time, so poison is no reason
/// to stop serving the guest.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
