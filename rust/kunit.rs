// SPDX-License-Identifier: GPL-2.0

//! Helpers of the KUnit tests: pages that belong to a test, and user memory that maps such pages.
//!
//! Each test runs in a kernel thread of its own. The thread has no user memory until the test asks
//! for it, and releases that memory when it ends.

use crate::ffi::*;
use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    time::{delay::fsleep, Delta},
};

/// `include/uapi/asm-generic/mman-common.h`, `include/uapi/linux/mman.h`
const PROT_READ_WRITE: usize = 1 | 2;
const MAP_SHARED: usize = 0x01;
const MAP_PRIVATE: usize = 0x02;
const MAP_FIXED: usize = 0x10;
const MAP_ANONYMOUS: usize = 0x20;

pub(crate) type Page = *mut bindings::page;

/// Physically contiguous pages. A page is freed when the last reference on it is dropped.
///
/// # Invariants
///
/// This value owns the `1 << order` pages from `first` on: one reference on the one folio, or one
/// reference on each of the folios of one page.
pub(crate) struct Pages {
    first: Page,
    order: u32,
    one_folio: bool,
}

impl Pages {
    pub(crate) fn one_folio(order: u32) -> Result<Self> {
        Self::new(order, true)
    }

    /// Allocates folios of one page each, which are physically contiguous all the same.
    pub(crate) fn folios(order: u32) -> Result<Self> {
        Self::new(order, false)
    }

    fn new(order: u32, one_folio: bool) -> Result<Self> {
        let compound = u32::from(one_folio) << bindings::___GFP_COMP_BIT;
        // SAFETY: Any flags and any order are valid.
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
            // SAFETY: Nobody else has the pages yet, and they are not compound.
            unsafe { bindings::split_page(first, order) };
        }
        // INVARIANT: The allocator has returned one reference, and `split_page()` one for each
        // page.
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

    /// Returns the reference count of the folio of page `n`. A pin counts as 1 if the folio is
    /// large, else as 1024 (GUP_PIN_COUNTING_BIAS).
    pub(crate) fn references(&self, n: usize) -> usize {
        let head = if self.one_folio {
            self.first
        } else {
            self.at(n)
        };
        // SAFETY: `self` holds the page. Others may change the count at any time.
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

/// Gives the thread of the test an mm, if it has none, and returns the mm.
pub(crate) fn mm() -> Result<*mut bindings::mm_struct> {
    // SAFETY: The current thread is that of a test.
    to_result(unsafe { bindings::kunit_attach_mm() })?;
    Ok(kernel::current!().mm().ok_or(EFAULT)?.as_raw())
}

/// Maps `pages` pages of anonymous memory, and returns the address.
pub(crate) fn anonymous(pages: usize) -> Result<usize> {
    mmap(0, pages, MAP_PRIVATE)
}

fn mmap(addr: usize, pages: usize, flags: usize) -> Result<usize> {
    // SAFETY: This is the thread of the current test.
    let addr = unsafe {
        bindings::kunit_vm_mmap(
            bindings::kunit_get_current_test(),
            ptr::null_mut(),
            addr,
            pages << PAGE_SHIFT,
            PROT_READ_WRITE,
            MAP_ANONYMOUS | flags,
            0,
        )
    };
    // An errno is one of the last addresses.
    if addr == 0 || addr as isize <= 0 {
        return Err(ENOMEM);
    }
    Ok(addr)
}

/// Maps `pages` in this order, each any number of times, and returns the address.
pub(crate) fn map(pages: &[Page]) -> Result<usize> {
    let addr = anonymous(pages.len())?;
    insert(addr, pages)?;
    Ok(addr)
}

/// Maps `pages` at `addr` in place of what is mapped there, and shared: a lookup for writing finds
/// them, as it finds the pages of a file, and makes no copies.
pub(crate) fn map_shared(addr: usize, pages: &[Page]) -> Result {
    mmap(addr, pages.len(), MAP_SHARED | MAP_FIXED)?;
    insert(addr, pages)
}

/// Maps `pages` from `addr` on, where a VMA is, but no page.
fn insert(addr: usize, pages: &[Page]) -> Result {
    let mm = mm()?;
    // SAFETY: The mm is that of this thread, which does not hold the mmap lock.
    unsafe { pin_guard_mmap_write_lock(mm) };
    let result = (|| {
        // SAFETY: The mmap lock is held.
        let vma = unsafe { bindings::find_vma(mm, addr) };
        for (i, &page) in pages.iter().enumerate() {
            // SAFETY: The VMA was made for these pages. The test holds each page, and the mapping
            // takes a reference of its own.
            to_result(unsafe { bindings::vm_insert_page(vma, addr + i * PAGE_SIZE, page) })?;
        }
        Ok(())
    })();
    // SAFETY: It was locked above.
    unsafe { pin_guard_mmap_write_unlock(mm) };
    result
}

/// Unmaps `pages` pages from `addr` on.
pub(crate) fn unmap(addr: usize, pages: usize) -> Result {
    // SAFETY: Only the test uses this memory.
    to_result(unsafe { bindings::vm_munmap(addr, pages << PAGE_SHIFT) })
}

/// Returns whether `condition` becomes true within 30 s: for work that a workqueue does.
pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    for _ in 0..3000 {
        if condition() {
            return true;
        }
        fsleep(Delta::from_millis(10));
    }
    false
}
