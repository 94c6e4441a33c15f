// SPDX-License-Identifier: GPL-2.0

//! What the KUnit tests stand on: pages that belong to a test, and user memory that is made of
//! them.
//!
//! Each test runs in a kernel thread of its own, which has no user memory before it asks for some, and
//! takes that with it when it ends.

use crate::ffi::*;
use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    time::{delay::fsleep, Delta},
};

/// `include/uapi/asm-generic/mman-common.h`
const PROT_READ_WRITE: usize = 1 | 2;
const MAP_PRIVATE_ANONYMOUS: usize = 0x02 | 0x20;

pub(crate) type Page = *mut bindings::page;

/// Physically contiguous pages, freed when the last user of each is gone.
///
/// # Invariants
///
/// The `1 << order` pages from `first` on are held: one folio by one reference, or each a folio with one.
pub(crate) struct Pages {
    first: Page,
    order: u32,
    one_folio: bool,
}

impl Pages {
    pub(crate) fn one_folio(order: u32) -> Result<Self> {
        Self::new(order, true)
    }

    /// Folios of one page, next to each other all the same.
    pub(crate) fn folios(order: u32) -> Result<Self> {
        Self::new(order, false)
    }

    fn new(order: u32, one_folio: bool) -> Result<Self> {
        let compound = u32::from(one_folio) << bindings::___GFP_COMP_BIT;
        // SAFETY: Any flags and order will do.
        let first = unsafe {
            bindings::alloc_pages(
                bindings::GFP_KERNEL | bindings::__GFP_ZERO | compound,
                order,
            )
        };
        if first.is_null() {
            return Err(ENOMEM);
        }
        if !one_folio {
            // SAFETY: The pages are ours alone, and not compound.
            unsafe { bindings::split_page(first, order) };
        }
        // INVARIANT: As the allocator has it.
        Ok(Self {
            first,
            order,
            one_folio,
        })
    }

    pub(crate) fn at(&self, n: usize) -> Page {
        self.first.wrapping_add(n)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Page> + '_ {
        (0..1 << self.order).map(|n| self.at(n))
    }

    /// How many references the folio of page `n` has. A pin counts as one where the folio is large, else as
    /// 1024 (GUP_PIN_COUNTING_BIAS).
    pub(crate) fn references(&self, n: usize) -> usize {
        let head = if self.one_folio {
            self.first
        } else {
            self.at(n)
        };
        // SAFETY: The page is held; others may count, too.
        unsafe { (&raw const (*head)._refcount.counter).read_volatile() as usize }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.one_folio {
            // SAFETY: By the type invariants.
            unsafe { bindings::__free_pages(self.first, self.order) };
        } else {
            for page in self.all() {
                // SAFETY: By the type invariants.
                unsafe { bindings::__free_pages(page, 0) };
            }
        }
    }
}

/// Has the thread of the test have an mm, and returns it.
pub(crate) fn mm() -> Result<*mut bindings::mm_struct> {
    // SAFETY: This is a thread of a test.
    to_result(unsafe { bindings::kunit_attach_mm() })?;
    Ok(kernel::current!().mm().ok_or(EFAULT)?.as_raw())
}

/// New anonymous memory of `pages` pages: its address.
pub(crate) fn anonymous(pages: usize) -> Result<usize> {
    // SAFETY: This is the thread of the current test.
    let addr = unsafe {
        bindings::kunit_vm_mmap(
            bindings::kunit_get_current_test(),
            ptr::null_mut(),
            0,
            pages << PAGE_SHIFT,
            PROT_READ_WRITE,
            MAP_PRIVATE_ANONYMOUS,
            0,
        )
    };
    // An error is among the last addresses.
    if addr == 0 || addr as isize <= 0 {
        return Err(ENOMEM);
    }
    Ok(addr)
}

/// New memory that is made of `pages`, in this order, each any number of times: its address.
pub(crate) fn map(pages: &[Page]) -> Result<usize> {
    let addr = anonymous(pages.len())?;
    let mm = mm()?;
    // SAFETY: The mm is that of this thread, which holds no lock of it.
    unsafe { pin_guard_mmap_write_lock(mm) };
    let result = (|| {
        // SAFETY: The mm is locked.
        let vma = unsafe { bindings::find_vma(mm, addr) };
        for (i, &page) in pages.iter().enumerate() {
            // SAFETY: The VMA was made for that; each page is held by the test, and gets a reference.
            to_result(unsafe { bindings::vm_insert_page(vma, addr + i * PAGE_SIZE, page) })?;
        }
        Ok(())
    })();
    // SAFETY: It was locked above.
    unsafe { pin_guard_mmap_write_unlock(mm) };
    result.map(|()| addr)
}

/// Takes `pages` pages away from `addr` on.
pub(crate) fn unmap(addr: usize, pages: usize) -> Result {
    // SAFETY: The memory is that of the test, and nobody else's.
    to_result(unsafe { bindings::vm_munmap(addr, pages << PAGE_SHIFT) })
}

/// Whether `condition` holds in time: for what a workqueue does.
pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    for _ in 0..3000 {
        if condition() {
            return true;
        }
        fsleep(Delta::from_millis(10));
    }
    false
}
