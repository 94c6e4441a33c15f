// SPDX-License-Identifier: GPL-2.0

//! Windows follow mremap(): the pages that a device writes to go to a new address, and a fork has to
//! find them there.
//!
//! `copy_vma()` (`mm/vma.c`) is what `mm/mremap.c` calls before it moves page tables, with the mmap lock
//! held for write; so no fork and no new submission of this mm runs until the move is over.

use crate::{
    redirect::{Args, Route, Target},
    window,
};
use kernel::{bindings, mm::virt::VmaRef, page::PAGE_SHIFT, prelude::*};

/// `struct vm_area_struct *copy_vma(struct vm_area_struct **vmap, unsigned long addr, unsigned long len,
/// pgoff_t pgoff, ...)`
///
/// Only observed: a window that moves needs no memory, so nothing can fail.
pub(crate) struct CopyVma;

// SAFETY: There is no route.
unsafe impl Target for CopyVma {
    type Function = ();
    const NAME: &'static CStr = c"copy_vma";
    const MODULE: Option<&'static CStr> = None;
    const ROUTE: Option<Route<()>> = None;

    fn wants(args: &Args) -> bool {
        let vma: *mut *mut bindings::vm_area_struct = args.pointer(0);
        // SAFETY: mremap() passes a VMA of an mm that it holds the lock of.
        let (vma, mm, pgoff) = unsafe { (VmaRef::from_raw(*vma), (**vma).vm_mm, (**vma).vm_pgoff) };
        if window::any(mm) {
            let from = vma.start() + ((args.number(3) - pgoff) << PAGE_SHIFT);
            // The new length may be more than there was.
            let end = vma.end().min(from + args.number(2));
            window::follow(mm, from..end, args.number(1));
        }
        false
    }
}
