// SPDX-License-Identifier: GPL-2.0

//! Statistics that each processor counts for itself: otherwise all of them would write to one cache
//! line on each I/O.

use crate::ffi::*;
use kernel::prelude::*;

/// One of these statistics.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    Sends,
    SendsCopied,
    SendsInFlight,
    /// Uses of the module that its own counter has counted.
    Uses,
}

impl Counter {
    /// Any context.
    pub(crate) fn add(self, n: isize) {
        // SAFETY: `PIN_GUARD_COUNTERS` is the number of the variants.
        unsafe { pin_guard_counter_add(self as c_uint, n) };
    }

    /// Returns the sum of all processors. It is exact if nobody adds meanwhile.
    pub(crate) fn sum(self) -> isize {
        // SAFETY: As above.
        unsafe { pin_guard_counter_sum(self as c_uint) }
    }
}
