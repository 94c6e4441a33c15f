// SPDX-License-Identifier: GPL-2.0

//! The fork hook: runs instead of `copy_page_range()` (`mm/memory.c`), which a fork calls for each
//! VMA that the child gets.
//!
//! For a VMA with open windows, the hook pins the pages of the windows, lets the kernel copy the
//! VMA, and unpins. The kernel's own code (`folio_try_dup_anon_rmap_pte()`, `copy_present_page()`,
//! `copy_huge_pmd()`, `copy_hugetlb_page_range()`) copies pinned pages for the child at once: 4 KiB
//! pages, THPs and hugetlb pages alike.

use super::{
    present,
    redirect::{replace, Args, Original, Redirect},
};
use crate::{ffi::*, pin::Pins, window};
use kernel::{
    bindings, fmt,
    mm::virt::{flags, VmaRef},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    time::{Instant, Monotonic},
};

static FORKS_PINNED: Atomic<usize> = Atomic::new(0);
static PAGES_PRECOPIED: Atomic<usize> = Atomic::new(0);
static PAGES_MISSING: Atomic<usize> = Atomic::new(0);
static PINS_FAILED: Atomic<usize> = Atomic::new(0);

/// Writes the counters of this file, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("forks_pinned {}\n", FORKS_PINNED.load(Relaxed)))?;
    f.write_fmt(fmt!("pages_precopied {}\n", PAGES_PRECOPIED.load(Relaxed)))?;
    f.write_fmt(fmt!("pages_missing {}\n", PAGES_MISSING.load(Relaxed)))?;
    f.write_fmt(fmt!("pins_failed {}\n", PINS_FAILED.load(Relaxed)))
}

type Vma = bindings::vm_area_struct;

replace! {
    /// `int copy_page_range(struct vm_area_struct *dst_vma, struct vm_area_struct *src_vma)`
    CopyPageRange: c"copy_page_range",
    fn(dst: *mut Vma, src: *mut Vma) -> c_int, by pin_guard_copy_page_range,
    through pin_guard_copy_page_range_enter
}

/// The second half of the ftrace callback, whose first half is in C: the hash chain of the mm is
/// not empty.
///
/// # Safety
///
/// ftrace must call this, with the ops of the [`Redirect`].
#[no_mangle]
unsafe extern "C" fn pin_guard_copy_page_range_look(
    ip: usize,
    parent_ip: usize,
    ops: *mut bindings::ftrace_ops,
    fregs: *mut bindings::ftrace_regs,
) {
    // SAFETY: By the safety requirements.
    unsafe { Redirect::<CopyPageRange>::enter(ip, parent_ip, ops, fregs) };
}

impl CopyPageRange {
    #[inline(always)]
    fn applies(args: &Args) -> bool {
        let src = args.pointer::<Vma>(1);
        // SAFETY: A fork passes VMAs of mms whose mmap locks it holds.
        let (mm, vma) = unsafe { ((*src).vm_mm, VmaRef::from_raw(src)) };
        window::touch(mm, || {
            if is_copied(src) {
                vma.start()..vma.end()
            } else {
                0..0
            }
        })
    }

    /// # Safety
    ///
    /// The arguments must be those of `copy_page_range()`.
    unsafe fn call(original: &Original<Self>, dst: *mut Vma, src: *mut Vma) -> c_int {
        let start: Instant<Monotonic> = Instant::now();
        // SAFETY: By the safety requirements.
        let pins = match unsafe { pin_windows(dst, src) } {
            Ok(pins) => pins,
            Err(e) => {
                PINS_FAILED.add(1, Relaxed);
                return e.to_errno();
            }
        };
        // SAFETY: The target gets its own arguments.
        let ret = unsafe { (original.function())(dst, src) };
        let pages = pins.pages();
        drop(pins);
        if pages != 0 {
            PAGES_PRECOPIED.add(pages, Relaxed);
            let ns = start.elapsed().as_nanos() as u64;
            // SAFETY: The fork holds the mmap lock. A tracepoint may be hit in any context.
            unsafe {
                let vma = VmaRef::from_raw(src);
                pin_guard_trace_fork(vma.start(), vma.end(), pages, ns);
            }
        }
        ret
    }
}

/// Returns whether a fork copies pages of `vma` that the parent could lose: the mapping is private,
/// and has had anonymous pages.
fn is_copied(vma: *const Vma) -> bool {
    // SAFETY: The fork holds the mmap lock.
    let (flags, anon_vma) = unsafe { (VmaRef::from_raw(vma).flags(), (*vma).anon_vma) };
    flags & (flags::SHARED | flags::MAYWRITE) == flags::MAYWRITE && !anon_vma.is_null()
}

/// Pins the pages that windows cover in `src`. An error fails the fork: without the pins the parent
/// could lose the data of its I/O.
///
/// The loop ends, because a submission whose window opens meanwhile waits for the fork.
///
/// # Safety
///
/// The caller must hold the mmap lock and the VMA lock of `src` for write (`dup_mmap()`). `dst`
/// must be the VMA of the child.
unsafe fn pin_windows(dst: *mut Vma, src: *mut Vma) -> Result<Pins> {
    // SAFETY: By the safety requirements.
    let (vma, mm, child) = unsafe { (VmaRef::from_raw(src), (*src).vm_mm, (*dst).vm_mm) };
    let mut pins = Pins::new();
    let mut left = vma.start()..vma.end();
    while let Some(range) = window::first_within(mm, &left) {
        // SAFETY: By the safety requirements.
        let missing = unsafe { present::pin(&mut pins, src, &range) }?;
        if missing != 0 {
            PAGES_MISSING.add(missing, Relaxed);
        }
        left.start = range.end;
    }
    if !pins.runs().is_empty() && window::first_copy(mm, child as usize, vma.start()) {
        FORKS_PINNED.add(1, Relaxed);
    }
    Ok(pins)
}
