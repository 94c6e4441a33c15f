// SPDX-License-Identifier: GPL-2.0

//! What a fork pins: the pages of windows that are there.
//!
//! A device writes to a page that some lookup has found or faulted in, for writing. Such a page is exclusive to
//! the process, and can have left the page table since only for the swap cache, for the moment of a migration
//! that is about to fail, or to be exclusive to another device; the reference keeps it from going further. What else is absent, or shared with
//! a child of before, is no device's target. So nothing is faulted in but from the swap cache: no fork waits
//! for a server, a disk, or a userfaultfd.
//!
//! C: `mm/gup.c`, `try_to_unmap_one()` in `mm/rmap.c`.

use super::redirect::Function;
use crate::{ffi::*, pin::Pins};
use core::ops::Range;
use kernel::{
    bindings,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// `bool swap_cache_has_folio(swp_entry_t entry)`
pub(super) struct SwapCacheHasFolio;

// SAFETY: The types are those of the function, and of the stand-in.
unsafe impl Function for SwapCacheHasFolio {
    type Pointer = unsafe extern "C" fn(bindings::swp_entry_t) -> bool;
    const NAME: &'static CStr = c"swap_cache_has_folio";
    const MODULE: Option<&'static CStr> = None;
    const STAND_IN: Self::Pointer = pin_guard_swap_cache_has_folio;
}

// `enum pin_guard_entry` in helpers.h.
const PRESENT: c_int = 1;
const SWAP: c_int = 3;
const ELSEWHERE: c_int = 4;

/// What is at an address.
enum Entry {
    Absent,
    /// A page that may have been looked up for writing.
    Present,
    /// A page that has to be brought in to be pinned: in the swap cache, under migration, or exclusive to a
    /// device that works on the memory of the process (`make_device_exclusive()`).
    Elsewhere,
}

/// A VMA whose pages are to be pinned.
///
/// # Invariants
///
/// Its mmap lock is held for write, and its own, too.
struct Source(*mut bindings::vm_area_struct);

impl Source {
    /// What is at `addr`, and the end of what that holds for.
    fn entry(&self, addr: usize) -> (Entry, usize) {
        let (mut kind, mut swap) = (0, 0);
        // SAFETY: By the type invariants.
        let size = unsafe { pin_guard_entry(self.0, addr, &mut kind, &mut swap) };
        let entry = match kind {
            PRESENT => Entry::Present,
            ELSEWHERE => Entry::Elsewhere,
            // SAFETY: A swap entry of a page table is valid while that cannot change.
            SWAP if unsafe {
                pin_guard_swap_cache_has_folio(bindings::swp_entry_t { val: swap })
            } =>
            {
                Entry::Elsewhere
            }
            _ => Entry::Absent,
        };
        (entry, (addr & !(size - 1)).saturating_add(size))
    }

    /// Adds pins of up to `count` pages from `addr` on to `pins`. Returns how many.
    ///
    /// As for another process, so that the protection keys of the thread that forks do not matter. Without
    /// FOLL_WRITE, as pages that were made read-only since (mprotect, userfaultfd-wp) must be pinned, too;
    /// FOLL_FORCE passes a PROT_NONE VMA.
    fn pin(&self, pins: &mut Pins, addr: usize, count: usize, flags: u32) -> Result<usize> {
        // SAFETY: By the type invariants.
        unsafe { pins.pin_remote((*self.0).vm_mm, addr, count, bindings::FOLL_FORCE | flags) }
    }

    /// Pins the page at `addr`, wherever it is. Returns 0 if a device cannot have it.
    fn pin_one(&self, pins: &mut Pins, addr: usize) -> Result<usize> {
        match self.pin(pins, addr, 1, 0) {
            // The VMA is such that nobody gets its pages, or the page has gone since.
            Err(EFAULT | EEXIST) => Ok(0),
            result => result,
        }
    }

    /// The end of the present pages from `addr` on, `end` at most.
    fn present(&self, addr: usize, end: usize) -> usize {
        let mut at = addr;
        while at < end {
            match self.entry(at) {
                (Entry::Present, next) => at = next,
                _ => return at,
            }
        }
        end
    }
}

/// Pins what may be in flight of `range`, whole pages of `vma`. Returns the number of pages that cannot be.
///
/// Errors: ENOMEM; EINTR if the task is killed.
///
/// # Safety
///
/// The mmap lock of `vma` is held for write, and its own, too.
pub(super) unsafe fn pin(
    pins: &mut Pins,
    vma: *mut bindings::vm_area_struct,
    range: &Range<usize>,
) -> Result<usize> {
    // SAFETY: By the safety requirements.
    let _accessible = unsafe { Untrapped::new(vma) };
    // INVARIANT: By the safety requirements.
    let source = Source(vma);
    let mut missing = 0;
    let mut at = range.start;
    while at < range.end {
        let (entry, next) = source.entry(at);
        let next = next.min(range.end);
        let got = match entry {
            Entry::Absent => {
                missing += (next - at) >> PAGE_SHIFT;
                at = next;
                continue;
            }
            Entry::Elsewhere => source.pin_one(pins, at)?,
            Entry::Present => {
                // No more than are pinned at a time, or they would be looked at again.
                let end = source.present(next, range.end.min(at + Pins::CHUNK * PAGE_SIZE));
                let count = (end - at) >> PAGE_SHIFT;
                match source.pin(pins, at, count, bindings::FOLL_NOFAULT) {
                    // It went elsewhere just now, and may be back already.
                    Err(EFAULT | EEXIST) => match source.entry(at) {
                        (Entry::Absent, _) => 0,
                        _ => source.pin_one(pins, at)?,
                    },
                    result => result?,
                }
            }
        };
        missing += usize::from(got == 0);
        at += got.max(1) * PAGE_SIZE;
    }
    Ok(missing)
}

/// Has pins pass the traps of userfaultfd's read-write protection (RWP).
///
/// A page under it is PROT_NONE, as one of a VMA that nobody may access, where FOLL_FORCE pins it; in others
/// it would be a fault that nobody can handle now (`gup_can_follow_protnone()`). So until this is dropped
/// the VMA is one of those.
struct Untrapped(Option<(*mut bindings::vm_area_struct, c_ulong)>);

impl Untrapped {
    /// # Safety
    ///
    /// The mmap lock of `vma` is held for write, and its own, too, for as long as the value lives.
    unsafe fn new(vma: *mut bindings::vm_area_struct) -> Self {
        // SAFETY: By the safety requirements.
        unsafe {
            if !pin_guard_userfaultfd_rwp(vma) {
                return Self(None);
            }
            Self(Some((vma, pin_guard_vm_access_clear(vma))))
        }
    }
}

impl Drop for Untrapped {
    fn drop(&mut self) {
        if let Some((vma, flags)) = self.0 {
            // SAFETY: As when it was made.
            unsafe { pin_guard_vm_flags_set(vma, flags) };
        }
    }
}
