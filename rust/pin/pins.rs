// SPDX-License-Identifier: GPL-2.0

//! Pins: looked up page by page, and kept in runs.

use super::{
    folio::Folio,
    run::{Run, Runs},
};
use crate::ffi::*;
use core::{
    mem::{self, size_of, MaybeUninit},
    ptr, slice,
};
use kernel::{
    bindings,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// How many pages are looked up at a time.
pub(super) const CHUNK: usize = 128;

/// Room for the addresses of as many pages, on the stack (1 KiB).
pub(super) type Chunk = [MaybeUninit<*mut bindings::page>; CHUNK];

/// A set of pins, in runs. Dropping it releases them, in any context, without dirtying.
pub(crate) struct Pins {
    pub(super) runs: Runs,
    /// The end of the last run's folio.
    folio_end: *mut bindings::page,
    /// Whether some page is not of anonymous memory.
    pub(super) any_file: bool,
}

// SAFETY: A pin may be released by any thread.
unsafe impl Send for Pins {}
// SAFETY: `&self` only reads.
unsafe impl Sync for Pins {}

impl Pins {
    pub(crate) const fn new() -> Self {
        Self {
            runs: Runs::None,
            folio_end: ptr::null_mut(),
            any_file: false,
        }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        self.runs.as_slice()
    }

    pub(crate) fn pages(&self) -> usize {
        self.runs().iter().map(Run::pages).sum()
    }

    /// Takes over the pins of the first `count` of `pages`, which hold `len` bytes from `offset` in the
    /// first on.
    ///
    /// Errors: ENOMEM; the pins are released then.
    ///
    /// # Safety
    ///
    /// The first `count` of `pages` are set, and the caller owns one pin of each.
    pub(super) unsafe fn push(
        &mut self,
        pages: &Chunk,
        count: usize,
        offset: usize,
        len: usize,
    ) -> Result {
        // SAFETY: By the safety requirements.
        let mut fresh: &[_] = unsafe { slice::from_raw_parts(pages.as_ptr().cast(), count) };
        let mut len = len;
        let folio_end = self.folio_end;
        if let (0, Some(Run(last))) = (offset, self.continued_by(fresh)) {
            let n = contiguous(fresh, folio_end);
            let part = len.min(n * PAGE_SIZE);
            last.bv_len += part as u32;
            len -= part;
            fresh = &fresh[n..];
        }
        let Some(&first) = fresh.first() else {
            return Ok(());
        };

        // SAFETY: The page is pinned.
        self.look_at(unsafe { Folio::of(first) });
        if matches!(self.runs, Runs::None) && contiguous(fresh, self.folio_end) == fresh.len() {
            self.runs = Runs::One(Run::new(first, offset, len));
            return Ok(());
        }
        let Ok(runs) = self.runs.reserve(fresh.len()) else {
            // SAFETY: These pins are ours, and in no run.
            unsafe { bindings::unpin_user_pages(fresh.as_ptr().cast_mut(), fresh.len()) };
            return Err(ENOMEM);
        };
        let old = runs.len();
        let mut left = fresh;
        while let Some(&page) = left.first() {
            // SAFETY: The page is pinned.
            let folio = unsafe { Folio::of(page) };
            self.any_file |= !folio.is_anon();
            self.folio_end = folio.end();
            let n = contiguous(left, self.folio_end);
            // The capacity is there.
            let _ = runs.push_within_capacity(Run::new(page, 0, n * PAGE_SIZE));
            left = &left[n..];
        }
        // Only the first page may start, and only the last may end, in its middle.
        let Run(first) = &mut runs[old];
        first.bv_offset = offset as u32;
        first.bv_len -= offset as u32;
        if let Some(Run(last)) = runs.last_mut() {
            last.bv_len -= (fresh.len() * PAGE_SIZE - offset - len) as u32;
        }
        Ok(())
    }

    /// Notes the folio of the run that is to be the last.
    #[inline]
    fn look_at(&mut self, folio: Folio) {
        self.folio_end = folio.end();
        self.any_file |= !folio.is_anon();
    }

    /// The last run, if the first of `pages` is the next one in the same folio.
    #[inline]
    fn continued_by(&mut self, pages: &[*mut bindings::page]) -> Option<&mut Run> {
        let page = *pages.first()?;
        let folio_end = self.folio_end;
        self.runs.last_mut().filter(|Run(last)| {
            let end = last.bv_offset as usize + last.bv_len as usize;
            page < folio_end
                && end % PAGE_SIZE == 0
                && page == last.bv_page.wrapping_add(end >> PAGE_SHIFT)
                // A run's length is a u32: larger folios are cut.
                && end <= i32::MAX as usize
        })
    }

    /// Pins the pages of `len` bytes of user memory at `addr`, of the current task.
    pub(super) fn pin_user(addr: usize, len: usize, gup_flags: u32) -> Result<Self> {
        let mut more = count_pages(addr, len)?;
        if kernel::current!().mm().is_none() {
            return Err(EFAULT);
        }
        let mut pins = Self::new();
        let mut offset = addr % PAGE_SIZE;
        let mut at = addr - offset;
        if more == 1 {
            let mut page = ptr::null_mut();
            // SAFETY: There is room for one page; the current task has an mm.
            let got = unsafe { bindings::pin_user_pages_fast(at, 1, gup_flags, &mut page) };
            to_count(got as isize)?;
            // SAFETY: The page is pinned.
            pins.look_at(unsafe { Folio::of(page) });
            pins.runs = Runs::One(Run::new(page, offset, len));
            return Ok(pins);
        }
        let mut left = len;
        let mut pages: Chunk = [const { MaybeUninit::uninit() }; CHUNK];
        while more != 0 {
            let want = more.min(CHUNK);
            // SAFETY: `pages` has room for `want` pages; the current task has an mm.
            let got = unsafe {
                bindings::pin_user_pages_fast(
                    at,
                    want as c_int,
                    gup_flags,
                    pages.as_mut_ptr().cast(),
                )
            };
            let got = to_count(got as isize)?;
            more -= got;
            let part = left.min(got * PAGE_SIZE - offset);
            // SAFETY: The pins of the first `got` pages are ours.
            unsafe { pins.push(&pages, got, offset, part) }?;
            at = at.wrapping_add(got * PAGE_SIZE);
            left -= part;
            offset = 0;
        }
        Ok(pins)
    }

    /// How many pages [`Pins::pin_remote`] looks up at a time.
    pub(crate) const CHUNK: usize = CHUNK;

    /// Adds pins of up to `count` pages of `mm`, from `addr` on. Returns how many, at least one.
    ///
    /// Errors: EFAULT if the first one cannot be had; EEXIST if it is no page; ENOMEM; EINTR if the task is
    /// killed.
    ///
    /// C: `pin_user_pages_remote()` in `mm/gup.c`.
    ///
    /// # Safety
    ///
    /// The mmap lock of `mm` is held.
    pub(crate) unsafe fn pin_remote(
        &mut self,
        mm: *mut bindings::mm_struct,
        addr: usize,
        count: usize,
        gup_flags: u32,
    ) -> Result<usize> {
        let mut pages: Chunk = [const { MaybeUninit::uninit() }; CHUNK];
        // SAFETY: `pages` has room for that many pages, and the mmap lock is held.
        let got = unsafe {
            bindings::pin_user_pages_remote(
                mm,
                addr,
                count.min(CHUNK),
                gup_flags,
                pages.as_mut_ptr().cast(),
                ptr::null_mut(),
            )
        };
        // No page for no reason: fail, do not go on without it.
        let got = if got == 0 { Err(ENOMEM) } else { to_count(got) }?;
        // SAFETY: The pins of the first `got` pages are ours.
        unsafe { self.push(&pages, got, 0, got * PAGE_SIZE) }?;
        Ok(got)
    }

    /// Pins what is left of `iter`, `max` bytes at most, and advances it by that.
    ///
    /// # Safety
    ///
    /// `iter` is a valid `iov_iter`, and if it is user-backed, on memory of the current task.
    pub(super) unsafe fn extract(
        iter: *mut bindings::iov_iter,
        max: usize,
    ) -> Result<(Self, usize)> {
        // SAFETY: `iter` is valid.
        let (user_backed, left) = unsafe {
            (
                pin_guard_user_backed_iter(iter),
                (*iter).__bindgen_anon_1.__bindgen_anon_1.as_ref().count,
            )
        };
        let len = left.min(max);
        // Other iterators are extracted without pins: there is nothing to own.
        if !user_backed || len == 0 {
            return Err(EINVAL);
        }
        let mut pins = Self::new();
        let mut done = 0;
        let mut pages: Chunk = [const { MaybeUninit::uninit() }; CHUNK];
        while done < len {
            let mut array = pages.as_mut_ptr().cast();
            let mut offset = 0;
            // SAFETY: `iter` is valid and `array` has room for `CHUNK` pages.
            let got = unsafe {
                bindings::iov_iter_extract_pages(
                    iter,
                    &mut array,
                    len - done,
                    CHUNK as u32,
                    0,
                    &mut offset,
                )
            };
            let pushed = to_count(got).and_then(|got| {
                done += got;
                let n = (offset + got).div_ceil(PAGE_SIZE);
                // SAFETY: The pins of the first `n` pages are ours.
                unsafe { pins.push(&pages, n, offset, got) }
            });
            if let Err(e) = pushed {
                // SAFETY: `iter` has been advanced by `done` bytes.
                unsafe { bindings::iov_iter_revert(iter, done) };
                return Err(e);
            }
        }
        Ok((pins, len))
    }

    /// Releases the pins behind the first `len` bytes: not zero, and no more than there are.
    pub(super) fn truncate(&mut self, len: usize) {
        let mut left = len;
        let mut runs = 0;
        for run in self.runs.as_mut_slice() {
            let keep = left.min(run.len());
            if keep < run.len() {
                let pages = (run.offset() + keep).div_ceil(PAGE_SIZE);
                let kept = if keep == 0 { 0 } else { pages };
                // SAFETY: The pins of these pages are ours; they are in the run no more.
                unsafe {
                    bindings::unpin_user_folio(
                        run.folio().as_raw(),
                        (run.pages() - kept) as c_ulong,
                    )
                };
                run.0.bv_len = keep as u32;
            }
            runs += usize::from(keep != 0);
            left -= keep;
        }
        if let Runs::Many(many) = &mut self.runs {
            many.truncate(runs);
        }
    }

    /// Releases the pins, of anonymous memory if it is to be dirtied. Any context.
    #[inline]
    pub(super) fn unpin(&mut self, dirty: bool) {
        match &self.runs {
            Runs::None => return,
            // SAFETY: By the invariants of `Run`, the pins are ours, and they are forgotten below.
            Runs::One(run) => unsafe { run.unpin(dirty) },
            Runs::Many(runs) => {
                for run in runs.iter() {
                    // SAFETY: As above.
                    unsafe { run.unpin(dirty) };
                }
            }
        }
        self.runs = Runs::None;
    }

    /// Releases the pins after dirtying the pages. May sleep.
    pub(super) fn unpin_dirty(mut self) {
        let runs = mem::replace(&mut self.runs, Runs::None);
        for run in runs.as_slice() {
            // SAFETY: The pins of `run` are ours and no longer in `self`.
            unsafe { bindings::unpin_user_page_range_dirty_lock(run.0.bv_page, run.pages(), true) };
        }
    }
}

impl Drop for Pins {
    #[inline]
    fn drop(&mut self) {
        self.unpin(false);
    }
}

/// How many of `pages`, which are some, follow each other up to `end`.
#[inline]
fn contiguous(pages: &[*mut bindings::page], end: *mut bindings::page) -> usize {
    let mut next = pages[0].wrapping_add(1);
    if next == end {
        return 1;
    }
    let most = (end as usize - pages[0] as usize) / size_of::<bindings::page>();
    let pages = &pages[..most.min(pages.len())];
    let mut n = 1;
    // Four at a time: this is all that the pages of a huge page cost.
    for four in pages[1..].chunks_exact(4) {
        let differs = |i: usize| four[i] as usize ^ next.wrapping_add(i) as usize;
        if differs(0) | differs(1) | differs(2) | differs(3) != 0 {
            break;
        }
        next = next.wrapping_add(4);
        n += 4;
    }
    while pages.get(n) == Some(&next) {
        next = next.wrapping_add(1);
        n += 1;
    }
    n
}

/// The number of pages that `len` bytes at `addr` touch. EINVAL for no length or beyond the address space.
pub(super) fn count_pages(addr: usize, len: usize) -> Result<usize> {
    let last = len.checked_sub(1).and_then(|less| addr.checked_add(less));
    Ok((last.ok_or(EINVAL)? >> PAGE_SHIFT) - (addr >> PAGE_SHIFT) + 1)
}

/// What a lookup of pages returned: a count, or an errno. None at all is EFAULT, and so is the last page of
/// the address space, for which `gup_fast_fallback()` has EOVERFLOW.
pub(super) fn to_count(ret: isize) -> Result<usize> {
    match ret {
        0 => Err(EFAULT),
        n if n == EOVERFLOW.to_errno() as isize => Err(EFAULT),
        n if n < 0 => Err(Error::from_errno(n as c_int)),
        n => Ok(n as usize),
    }
}

#[kunit_tests(pin_guard_pins)]
mod tests {
    use super::*;

    const P: usize = PAGE_SIZE;

    #[test]
    fn contiguous_pages_are_counted_up_to_the_end_of_a_folio() {
        let page = |n: usize| ptr::null_mut::<bindings::page>().wrapping_add(1000 + n);
        for len in 1..=11 {
            for jump in 1..=11 {
                let pages: [_; 11] = core::array::from_fn(|i| page(i + usize::from(i >= jump)));
                for end in 1..=13 {
                    let expected = len.min(jump).min(end);
                    assert_eq!(contiguous(&pages[..len], page(end)), expected);
                }
            }
        }
    }

    #[test]
    fn a_run_is_not_longer_than_a_u32_can_say() {
        let page = |n: usize| ptr::null_mut::<bindings::page>().wrapping_add(1000 + n);
        let continued = |len: usize, next: usize| {
            let mut pins = Pins::new();
            pins.runs = Runs::One(Run::new(page(0), 0, len));
            pins.folio_end = page(1 << 20);
            let continued = pins.continued_by(&[page(next)]).is_some();
            // There are no such pages.
            pins.runs = Runs::None;
            continued
        };
        let most = i32::MAX as usize / P * P;
        assert!(continued(P, 1));
        assert!(!continued(P, 2));
        assert!(!continued(P - 1, 1));
        assert!(continued(most, most / P));
        assert!(!continued(most + P, most / P + 1));
        assert!(!continued((1 << 20) * P - P, (1 << 20) - 1));
    }
}
