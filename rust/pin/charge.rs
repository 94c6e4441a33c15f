// SPDX-License-Identifier: GPL-2.0

//! Charges: pinned memory counts as locked memory (RLIMIT_MEMLOCK).

use core::ptr;
use kernel::{bindings, page::PAGE_SHIFT, prelude::*};

/// Pages that a user is charged for as locked memory (RLIMIT_MEMLOCK), as by MSG_ZEROCOPY. The drop
/// takes back the charge, in any context.
///
/// C: `mm_account_pinned_pages()` in `net/core/skbuff.c`.
pub(crate) struct Charge(bindings::ubuf_info_msgzc_mmpin);

// SAFETY: Any thread may change the account of a user.
unsafe impl Send for Charge {}
// SAFETY: `&self` allows no access.
unsafe impl Sync for Charge {}

impl Charge {
    /// Charges `pages` pages, but at least two, to the current user. Charges nothing if the task
    /// has CAP_IPC_LOCK, or if there is no limit.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the user would be over RLIMIT_MEMLOCK.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let mut charge = Self(pin_init::zeroed());
        // The function adds two pages for unaligned memory, and charges nothing for 0 bytes.
        let bytes = (pages.saturating_sub(2) << PAGE_SHIFT).max(1);
        // SAFETY: A zeroed `mmpin` has no charge yet.
        match unsafe { bindings::mm_account_pinned_pages(&mut charge.0, bytes) } {
            0 => Ok(charge),
            // As mlock(2); the function returns ENOBUFS.
            _ => Err(ENOMEM),
        }
    }

    /// Takes back the charge above `pages` pages, but keeps at least two.
    pub(crate) fn shrink(&mut self, pages: usize) {
        let keep = pages.max(2) as u32;
        let Some(user) = ptr::NonNull::new(self.0.user) else {
            return;
        };
        if let Some(excess @ 1..) = self.0.num_pg.checked_sub(keep) {
            // SAFETY: The charge holds a reference on its user.
            unsafe { bindings::atomic64_sub(excess.into(), &raw mut (*user.as_ptr()).locked_vm) };
            self.0.num_pg = keep;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: This takes back the charge of `new`, and does so once.
        unsafe { bindings::mm_unaccount_pinned_pages(&mut self.0) };
    }
}

#[kunit_tests(pin_guard_charge)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_shrinks_to_two_pages_at_least() -> Result {
        let mut user = KBox::new(pin_init::zeroed::<bindings::user_struct>(), GFP_KERNEL)?;
        let user: *mut bindings::user_struct = &mut *user;
        // SAFETY: Only the test uses this user.
        let locked = move || unsafe { bindings::atomic64_read(&raw const (*user).locked_vm) };
        // A second reference, so that the kernel does not free the user.
        // SAFETY: As above.
        unsafe {
            bindings::refcount_set(&raw mut (*user).__count, 2);
            bindings::atomic64_add(17, &raw mut (*user).locked_vm);
        }
        let mut charge = Charge(bindings::ubuf_info_msgzc_mmpin { user, num_pg: 10 });
        for (pages, expected) in [
            (11, 17),
            (10, 17),
            (7, 14),
            (7, 14),
            (3, 10),
            (1, 9),
            (0, 9),
            (5, 9),
        ] {
            charge.shrink(pages);
            assert_eq!(locked(), expected);
        }
        drop(charge);
        assert_eq!(locked(), 7);
        // The charge of a user who is charged nothing.
        let mut charge = Charge(pin_init::zeroed());
        charge.shrink(0);
        Ok(())
    }
}
