// SPDX-License-Identifier: GPL-2.0

//! The remap hook: makes windows follow mremap(), which moves pages to a new address. A fork must
//! find there the pages to which a device writes.
//!
//! `move_page_tables()` gets the exact range that moves, with the mmap lock held for write. So no
//! fork and no new submission of this mm runs until the move is over. If the move fails, mremap()
//! calls the function again to move all pages back.
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
        // SAFETY: mremap() passes a VMA of an mm whose mmap lock it holds.
        let (mm, from, _) = unsafe { what_moves(args.pointer(0)) };
        window::touch(mm, || from)
    }

    /// # Safety
    ///
    /// `pmc` must be the argument that mremap() passes.
    unsafe fn call(original: &Original<Self>, pmc: *mut c_void) -> c_ulong {
        // SAFETY: By the safety requirements.
        let (mm, from, to) = unsafe { what_moves(pmc) };
        // SAFETY: mremap() moves within a valid mm.
        if unsafe { window::follow(mm, &from, to) }.is_err() {
            // 0: nothing has been moved. mremap() then fails with ENOMEM.
            return 0;
        }
        // SAFETY: The target gets its own argument.
        unsafe { (original.function())(pmc) }
    }
}

/// Returns the mm, the range that moves, and its new address.
///
/// # Safety
///
/// `pmc` must be a `struct pagetable_move_control` of mremap().
#[inline(always)]
unsafe fn what_moves(pmc: *mut c_void) -> (*mut bindings::mm_struct, Range<usize>, usize) {
    let (mut start, mut end, mut to) = (0, 0, 0);
    // SAFETY: By the safety requirements.
    let mm = unsafe { pin_guard_what_moves(pmc, &mut start, &mut end, &mut to) };
    (mm, start..end, to)
}
