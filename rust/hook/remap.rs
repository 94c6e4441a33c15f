// SPDX-License-Identifier: GPL-2.0

//! Windows follow mremap(): the pages that a device writes to go to a new address, and a fork has to
//! find them there.
//!
//! `move_page_tables()` is told just what moves, with the mmap lock held for write; so no fork and no new
//! submission of this mm runs until the move is over. It is called once more to move all back if something
//! fails.
//!
//! C: `copy_vma_and_data()` in `mm/mremap.c`.

use super::redirect::{replace, Args, Original};
use crate::{ffi::*, window};
use core::ops::Range;
use kernel::{bindings, prelude::*};

replace! {
    /// `unsigned long move_page_tables(struct pagetable_move_control *pmc)`
    MovePageTables: c"move_page_tables",
    fn(pmc: *mut c_void) -> c_ulong, by pin_guard_move_page_tables
}

impl MovePageTables {
    #[inline(always)]
    fn applies(args: &Args) -> bool {
        // SAFETY: mremap() passes a VMA of an mm that it holds the lock of.
        let (mm, from, _) = unsafe { what_moves(args.pointer(0)) };
        window::touch(mm, || from)
    }

    /// # Safety
    ///
    /// `pmc` is what mremap() passes.
    unsafe fn call(original: &Original<Self>, pmc: *mut c_void) -> c_ulong {
        // SAFETY: By the safety requirements.
        let (mm, from, to) = unsafe { what_moves(pmc) };
        // SAFETY: mremap() moves within a valid mm.
        if unsafe { window::follow(mm, &from, to) }.is_err() {
            // Nothing has been moved: mremap() fails with ENOMEM.
            return 0;
        }
        // SAFETY: The argument is the target's.
        unsafe { (original.function())(pmc) }
    }
}

/// The mm, what leaves, and where it goes.
///
/// # Safety
///
/// `pmc` is a `struct pagetable_move_control` of mremap().
#[inline(always)]
unsafe fn what_moves(pmc: *mut c_void) -> (*mut bindings::mm_struct, Range<usize>, usize) {
    let (mut start, mut end, mut to) = (0, 0, 0);
    // SAFETY: By the safety requirements.
    let mm = unsafe { pin_guard_what_moves(pmc, &mut start, &mut end, &mut to) };
    (mm, start..end, to)
}
