// SPDX-License-Identifier: GPL-2.0

//! Charges: pinned memory counts as locked (RLIMIT_MEMLOCK).

use core::ptr;
use kernel::{bindings, page::PAGE_SHIFT, prelude::*};

/// Locked memory charged to a user (RLIMIT_MEMLOCK), as MSG_ZEROCOPY does it. Dropped in any context.
pub(crate) struct Charge(bindings::ubuf_info_msgzc_mmpin);

// SAFETY: A user's account may be changed by any thread.
unsafe impl Send for Charge {}
// SAFETY: `&self` gives nothing.
unsafe impl Sync for Charge {}

impl Charge {
    /// Charges the pages to the current user, two at least. Errors: ENOMEM over the limit.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let mut charge = Self(pin_init::zeroed());
        // It adds two pages for what is not aligned, and takes no bytes for no charge.
        let bytes = (pages.saturating_sub(2) << PAGE_SHIFT).max(1);
        // SAFETY: A zeroed `mmpin` has no charge yet.
        match unsafe { bindings::mm_account_pinned_pages(&mut charge.0, bytes) } {
            0 => Ok(charge),
            // As mlock() says it.
            _ => Err(ENOMEM),
        }
    }

    /// Gives back what is above `pages`.
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
        // SAFETY: Undoes the charge of `new`, once.
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
        // SAFETY: The user is the test's own.
        let locked = move || unsafe { bindings::atomic64_read(&raw const (*user).locked_vm) };
        // A second reference, or the kernel would free it.
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
        // One of a user who needs none.
        let mut charge = Charge(pin_init::zeroed());
        charge.shrink(0);
        Ok(())
    }
}
