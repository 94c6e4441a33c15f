// SPDX-License-Identifier: GPL-2.0

//! The properties of a folio that the pin guard needs, read without a function call if the first
//! page has the answer.
//!
//! C: `page_folio()`, `folio_test_anon()` in `include/linux/page-flags.h`, `folio_nr_pages()` in
//! `include/linux/mm.h`.

use crate::ffi::*;
use core::ptr;
use kernel::{bindings, prelude::*};

/// A folio that somebody keeps from being freed.
///
/// # Invariants
///
/// `0` is a head page, on which somebody holds a reference or a pin for longer than this value
/// lives.
#[derive(Clone, Copy)]
pub(crate) struct Folio(*mut bindings::page);

impl Folio {
    /// Returns the folio of `page`.
    ///
    /// # Safety
    ///
    /// The caller must hold a reference or a pin on the page for as long as it uses the folio.
    #[inline]
    pub(crate) unsafe fn of(page: *mut bindings::page) -> Self {
        // SAFETY: The page is valid, and stays in the same folio while the caller holds it.
        unsafe {
            let info = ptr::read_volatile(
                &raw const (*page).__bindgen_anon_1.__bindgen_anon_3.compound_info,
            );
            // INVARIANT: Bit 0 is PageTail().
            if info & 1 == 0 {
                Self(page)
            } else {
                Self(pin_guard_page_folio(page).cast())
            }
        }
    }

    /// Returns the folio of `page` if `page` is its only page. Takes fewer instructions than
    /// [`Folio::of`].
    ///
    /// # Safety
    ///
    /// As for [`Folio::of`].
    #[inline]
    pub(crate) unsafe fn small(page: *mut bindings::page) -> Option<Self> {
        // SAFETY: By the safety requirements.
        let info = unsafe {
            ptr::read_volatile(&raw const (*page).__bindgen_anon_1.__bindgen_anon_3.compound_info)
        };
        // INVARIANT: As in `of`.
        Some(Self(page)).filter(|folio| info & 1 == 0 && !folio.is_large())
    }

    #[inline]
    pub(crate) fn as_raw(self) -> *mut bindings::folio {
        self.0.cast()
    }

    /// Returns whether `flag` is set, which is one of `bindings::pageflags_PG_*`.
    #[inline]
    fn test(self, flag: bindings::pageflags) -> bool {
        // SAFETY: By the type invariants.
        let flags = unsafe { ptr::read_volatile(&raw const (*self.0).flags.f) };
        flags & (1 << flag) != 0
    }

    #[inline]
    pub(crate) fn is_dirty(self) -> bool {
        self.test(bindings::pageflags_PG_dirty)
    }

    /// Returns whether the folio is anonymous memory, which includes KSM pages.
    #[inline]
    pub(crate) fn is_anon(self) -> bool {
        // SAFETY: By the type invariants.
        let mapping = unsafe {
            ptr::read_volatile(&raw const (*self.0).__bindgen_anon_1.__bindgen_anon_1.mapping)
        };
        mapping as usize & bindings::FOLIO_MAPPING_ANON as usize != 0
    }

    /// Returns whether the folio has more than one page.
    #[inline]
    pub(crate) fn is_large(self) -> bool {
        self.test(bindings::pageflags_PG_head)
    }

    /// Returns the page behind the last page of the folio.
    #[inline]
    pub(crate) fn end(self) -> *mut bindings::page {
        if self.is_large() {
            // SAFETY: By the type invariants.
            unsafe { pin_guard_folio_end(self.as_raw()) }
        } else {
            self.0.wrapping_add(1)
        }
    }
}

#[kunit_tests(pin_guard_folio)]
mod tests {
    use super::*;
    use crate::kunit::{self, Pages};

    #[test]
    fn a_page_finds_its_folio_and_the_end_of_it() -> Result {
        for order in [1, 2, 3, 4, 9] {
            let pages = Pages::one_folio(order)?;
            for page in pages.all() {
                // SAFETY: The test holds the page.
                let folio = unsafe { Folio::of(page) };
                assert!(ptr::eq(folio.as_raw().cast(), pages.at(0)));
                assert!(ptr::eq(folio.end(), pages.at(1 << order)));
            }
        }
        Ok(())
    }

    #[test]
    fn a_folio_of_one_page_ends_with_it() -> Result {
        let pages = Pages::folios(3)?;
        for page in pages.all() {
            // SAFETY: The test holds the page.
            let folio = unsafe { Folio::of(page) };
            assert!(ptr::eq(folio.as_raw().cast(), page));
            assert!(ptr::eq(folio.end(), page.wrapping_add(1)));
        }
        Ok(())
    }

    #[test]
    fn anonymous_memory_is_told_from_other() -> Result {
        let addr = kunit::anonymous(1)?;
        let mut page = ptr::null_mut();
        // SAFETY: There is room for one page; this thread has an mm.
        let got =
            unsafe { bindings::pin_user_pages_fast(addr, 1, bindings::FOLL_WRITE, &mut page) };
        assert_eq!(got, 1);
        // SAFETY: The page is pinned.
        let is_anon = unsafe { Folio::of(page) }.is_anon();
        // SAFETY: The test owns the pin.
        unsafe { bindings::unpin_user_page(page) };
        assert!(is_anon);
        let pages = Pages::one_folio(1)?;
        for page in pages.all() {
            // SAFETY: The test holds the page.
            assert!(!unsafe { Folio::of(page) }.is_anon());
        }
        Ok(())
    }
}
