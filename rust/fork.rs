// SPDX-License-Identifier: GPL-2.0

//! The fork hook: stands in front of `copy_page_range()` (`mm/memory.c`), which a fork calls for each
//! VMA that the child gets.
//!
//! For a VMA with open windows it pins their pages, lets the kernel copy the VMA, and unpins. The
//! kernel's own code (`folio_try_dup_anon_rmap_pte()`, `copy_present_page()`, `copy_huge_pmd()`,
//! `copy_hugetlb_page_range()`) finds pinned pages and copies them for the child on the spot: 4 KiB
//! pages, THPs and hugetlb pages alike.

use crate::{
    ffi::*,
    module_ref::ModuleRef,
    pin::Pins,
    redirect::{Args, Route, Target},
    window,
};
use kernel::{
    bindings, fmt,
    mm::virt::{flags, VmaRef},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    time::{Instant, Monotonic},
};

static FORKS_SEEN: Atomic<usize> = Atomic::new(0);
static FORKS_PINNED: Atomic<usize> = Atomic::new(0);
static PAGES_PRECOPIED: Atomic<usize> = Atomic::new(0);
static PAGES_MISSING: Atomic<usize> = Atomic::new(0);
static PINS_FAILED: Atomic<usize> = Atomic::new(0);

/// The counters of this file, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("forks_seen {}\n", FORKS_SEEN.load(Relaxed)))?;
    f.write_fmt(fmt!("forks_pinned {}\n", FORKS_PINNED.load(Relaxed)))?;
    f.write_fmt(fmt!("pages_precopied {}\n", PAGES_PRECOPIED.load(Relaxed)))?;
    f.write_fmt(fmt!("pages_missing {}\n", PAGES_MISSING.load(Relaxed)))?;
    f.write_fmt(fmt!("pins_failed {}\n", PINS_FAILED.load(Relaxed)))
}

type Vma = bindings::vm_area_struct;

/// `int copy_page_range(struct vm_area_struct *dst_vma, struct vm_area_struct *src_vma)`
pub(crate) struct CopyPageRange;

// SAFETY: The type and the stand-in are those of `copy_page_range()`; the replacement keeps its
// reference to its end.
unsafe impl Target for CopyPageRange {
    type Function = unsafe extern "C" fn(*mut Vma, *mut Vma) -> c_int;
    const NAME: &'static CStr = c"copy_page_range";
    const MODULE: Option<&'static CStr> = None;
    const ROUTE: Option<Route<Self::Function>> = Some(Route {
        replacement: copy_page_range,
        stand_in: pin_guard_copy_page_range,
    });

    fn wants(args: &Args) -> bool {
        let (dst, src) = (args.pointer::<Vma>(0), args.pointer::<Vma>(1));
        // SAFETY: A fork passes VMAs of mms that it holds the locks of. `dup_mmap()` counts a VMA of
        // the child before it has it copied.
        let (mm, first) = unsafe {
            let dst_mm = (*dst).vm_mm;
            ((*src).vm_mm, (*dst_mm).__bindgen_anon_1.map_count == 1)
        };
        if first {
            FORKS_SEEN.add(1, Relaxed);
        }
        window::any(mm) && is_copied(src)
    }
}

/// Whether a fork copies pages of `vma` that the parent could lose: of a private mapping that has some.
fn is_copied(vma: *const Vma) -> bool {
    // SAFETY: The fork holds the mmap lock.
    let (flags, anon_vma) = unsafe { (VmaRef::from_raw(vma).flags(), (*vma).anon_vma) };
    flags & (flags::SHARED | flags::MAYWRITE) == flags::MAYWRITE && !anon_vma.is_null()
}

/// Runs instead of `copy_page_range()` for the VMAs that [`CopyPageRange::wants`].
///
/// # Safety
///
/// Called by a fork, redirected.
unsafe extern "C" fn copy_page_range(dst: *mut Vma, src: *mut Vma) -> c_int {
    // SAFETY: This is the replacement, and `enter` took a reference for it.
    let _module = unsafe { ModuleRef::adopt() };
    let start: Instant<Monotonic> = Instant::now();
    // SAFETY: The caller's requirements are ours.
    let pins = match unsafe { pin_windows(dst, src) } {
        Ok(pins) => pins,
        Err(e) => {
            PINS_FAILED.add(1, Relaxed);
            return e.to_errno();
        }
    };
    // SAFETY: The arguments are the target's.
    let ret = unsafe { pin_guard_copy_page_range(dst, src) };
    let pages = pins.pages();
    drop(pins);
    if pages != 0 {
        PAGES_PRECOPIED.add(pages, Relaxed);
        let ns = start.elapsed().as_nanos() as u64;
        // SAFETY: The fork holds the mmap lock; a tracepoint may be hit anywhere.
        unsafe {
            let vma = VmaRef::from_raw(src);
            pin_guard_trace_fork(vma.start(), vma.end(), pages, ns);
        }
    }
    ret
}

/// Pins what the windows in `src` cover. An error fails the fork: without the pins the parent could
/// lose the data of its I/O.
///
/// # Safety
///
/// `src` is a VMA whose mmap lock is held for write.
unsafe fn pin_windows(dst: *mut Vma, src: *mut Vma) -> Result<Pins> {
    // SAFETY: By the safety requirements.
    let (vma, mm, child) = unsafe { (VmaRef::from_raw(src), (*src).vm_mm, (*dst).vm_mm) };
    let mut pins = Pins::new();
    let ranges = window::within(mm, vma.start()..vma.end())?;
    for range in ranges.iter() {
        // SAFETY: The mmap lock is held.
        let missing = unsafe { pins.pin_present(mm, range) }?;
        PAGES_MISSING.add(missing, Relaxed);
    }
    if !pins.runs().is_empty() && window::first_copy(mm, child as usize, vma.start()) {
        FORKS_PINNED.add(1, Relaxed);
    }
    Ok(pins)
}
