// SPDX-License-Identifier: GPL-2.0

//! The pages that a fork pins: those that windows cover and that are present.
//!
//! A device writes to a page that a lookup has found, or faulted in, for writing. Such a page is
//! exclusive to the process. It can have left the page table since for three places only: the swap
//! cache, a migration entry for a moment (the reference of the device makes the migration fail), or
//! exclusive access by another device. That reference keeps the page from going further. No device
//! writes to any other page that is absent, or to one that is shared with an earlier child. So the
//! fork hook brings in pages from these three places only, and no fork waits for a server or a
//! userfaultfd, nor for a disk unless somebody is just reading the page from swap.
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

// SAFETY: The types are those of the kernel function and of its stand-in.
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
const OUT_OF_REACH: c_int = 5;

/// The state of the page at an address.
enum Entry {
    Absent,
    /// The page is present, and a device may be writing to it.
    Present,
    /// The page must be brought in before it can be pinned. It is in the swap cache, under
    /// migration, or exclusive to a device that works on the memory of the process
    /// (`make_device_exclusive()`).
    Elsewhere,
    /// A device may be writing to the page, and nobody can pin it.
    OutOfReach,
}

/// The VMA whose pages a fork pins.
///
/// # Invariants
///
/// The mmap lock and the VMA lock are held for write.
struct Source(*mut bindings::vm_area_struct);

impl Source {
    /// Returns the state of the page at `addr`, and the end of the range that has the same state.
    fn entry(&self, addr: usize) -> (Entry, usize) {
        let (mut kind, mut swap) = (0, 0);
        // SAFETY: By the type invariants.
        let size = unsafe { pin_guard_entry(self.0, addr, &mut kind, &mut swap) };
        let entry = match kind {
            PRESENT => Entry::Present,
            ELSEWHERE => Entry::Elsewhere,
            OUT_OF_REACH => Entry::OutOfReach,
            // SAFETY: A swap entry is valid while it is in the page table, and nobody can remove it
            // now.
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

    /// Adds pins of up to `count` pages from `addr` on to `pins`. Returns the number of pages.
    ///
    /// It pins as if for another process, so that the protection keys of the forking thread do not
    /// matter. It pins without FOLL_WRITE, because it must also pin pages that have become
    /// read-only since (mprotect, userfaultfd-wp). FOLL_FORCE allows it to pin pages of a PROT_NONE
    /// VMA.
    fn pin(&self, pins: &mut Pins, addr: usize, count: usize, flags: u32) -> Result<usize> {
        // SAFETY: By the type invariants.
        unsafe { pins.pin_remote((*self.0).vm_mm, addr, count, bindings::FOLL_FORCE | flags) }
    }

    /// Pins the page at `addr`, and brings it in for that if it is not present. Returns 0 if no
    /// device can be writing to it.
    fn pin_one(&self, pins: &mut Pins, addr: usize) -> Result<usize> {
        match self.pin(pins, addr, 1, 0) {
            // Nobody can look up pages of this VMA, or the page has gone since.
            Err(EFAULT | EEXIST) => Ok(0),
            result => result,
        }
    }

    /// Returns the end of the present pages that begin at `addr`, at most `end`.
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

/// Pins those pages of `range` to which a device may be writing. `range` consists of whole pages of
/// `vma`. Returns the number of pages that it did not pin.
///
/// # Errors
///
/// - `ENOMEM`: there is no memory for a page, or for the list of the pins; or a page cannot be
///   pinned (1 GiB of hugetlb with PROT_NONE, on x86).
/// - `EINTR`: the task has been killed.
///
/// # Safety
///
/// The caller must hold the mmap lock and the VMA lock of `vma` for write.
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
            Entry::OutOfReach => return Err(ENOMEM),
            Entry::Present => {
                // `pin` takes at most `Pins::CHUNK` pages, and this would have to look at more of
                // them again.
                let end = source.present(next, range.end.min(at + Pins::CHUNK * PAGE_SIZE));
                let count = (end - at) >> PAGE_SHIFT;
                match source.pin(pins, at, count, bindings::FOLL_NOFAULT) {
                    // The page has just left the page table, and may be back already.
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

/// Allows pins in a VMA with read-write protection by userfaultfd (RWP), until it drops.
///
/// RWP makes pages PROT_NONE. If the VMA is accessible, a lookup of such a page insists on a fault,
/// which nobody can handle during a fork (`gup_can_follow_protnone()`). If the VMA is not
/// accessible, FOLL_FORCE pins the page. So this makes the VMA inaccessible.
struct Untrapped(Option<(*mut bindings::vm_area_struct, c_ulong)>);

impl Untrapped {
    /// # Safety
    ///
    /// The caller must hold the mmap lock and the VMA lock of `vma` for write for as long as the
    /// value lives.
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
            // SAFETY: By the safety requirements of `new`.
            unsafe { pin_guard_vm_flags_set(vma, flags) };
        }
    }
}
