// SPDX-License-Identifier: GPL-2.0

//! Pins: looks up the pages of user memory, and keeps their pins in runs.

use super::{
    folio::Folio,
    run::{Run, Runs, FEW, MANY},
};
use crate::ffi::*;
use core::{
    mem::{size_of, MaybeUninit},
    ptr, slice,
};
use kernel::{
    bindings,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// Maximum pages per lookup.
pub(super) const CHUNK: usize = 128;

/// Room for the page pointers of one lookup, on the stack (1 KiB).
pub(super) type Chunk = [MaybeUninit<*mut bindings::page>; CHUNK];

/// Maximum runs to make room for in advance (64 KiB).
const ROOM: usize = 4096;

/// Pins that a lookup collects in runs.
///
/// May be dropped in any context. The drop releases the pins and dirties no page.
pub(crate) struct Pins {
    /// The runs of a guard.
    pub(super) runs: Runs,
    /// Whether a page is not anonymous memory.
    any_file: bool,
}

impl Pins {
    pub(crate) const fn new() -> Self {
        Self {
            runs: Runs::new(),
            any_file: false,
        }
    }

    #[inline]
    pub(crate) fn runs(&self) -> &[Run] {
        self.runs.as_slice()
    }

    pub(crate) fn pages(&self) -> usize {
        self.runs().iter().map(Run::pages).sum()
    }

    /// Adds the pins of `pages`, which hold `len` bytes from `offset` in the first page on. The
    /// caller expects to add `more` pages later.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the runs. The pins are released, some of them when `self`
    /// drops.
    ///
    /// # Safety
    ///
    /// The caller must own one pin of each of `pages`, and gives it up.
    #[inline]
    unsafe fn push(
        &mut self,
        pages: &[*mut bindings::page],
        offset: usize,
        len: usize,
        more: usize,
    ) -> Result {
        let count = pages.len();
        let mut left = pages;
        let mut rest = count
            .wrapping_mul(PAGE_SIZE)
            .wrapping_sub(offset)
            .wrapping_sub(len);
        let old = self.runs().len();
        if old == 0 {
            // SAFETY: The pages are pinned.
            if count > self.runs.spare().len() && unsafe { Folio::small(left[0]) }.is_some() {
                // If the first folio is small, the others usually are, too: make room for a run per
                // page.
                self.make_room(left, more.min(ROOM))?;
            }
        } else if offset == 0 {
            if let Some((Run(last), end)) = self.continued_by(left) {
                let n = contiguous(left, end);
                last.bv_len += (n * PAGE_SIZE) as u32;
                left = &left[n..];
                if left.is_empty() {
                    last.bv_len -= rest as u32;
                    rest = 0;
                }
            }
        }
        while !left.is_empty() {
            left = self.fill(left);
            if !left.is_empty() {
                // Room for all pages of this lookup, and for later ones at the ratio of pages to
                // runs so far.
                let each = (count - left.len()).div_ceil(self.runs().len());
                self.make_room(left, more.div_ceil(each.max(1)).min(ROOM))?;
            }
        }
        self.trim(old, offset, rest);
        Ok(())
    }

    /// Makes the run `first` begin `offset` bytes later, and the last run end `rest` bytes earlier.
    /// Only the first page of all may begin, and only the last may end, in its middle.
    #[inline]
    fn trim(&mut self, first: usize, offset: usize, rest: usize) {
        let runs = self.runs.as_mut_slice();
        if let Some(Run(first)) = runs.get_mut(first) {
            first.bv_offset = offset as u32;
            first.bv_len = first.bv_len.wrapping_sub(offset as u32);
        }
        if let Some(Run(last)) = runs.last_mut() {
            last.bv_len = last.bv_len.wrapping_sub(rest as u32);
        }
    }

    /// Makes room for the runs of `pages` and for `more` other runs.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the runs. The pins of `pages` have been released.
    fn make_room(&mut self, pages: &[*mut bindings::page], more: usize) -> Result {
        self.runs.grow(pages.len() + more).inspect_err(|_| {
            // SAFETY: The caller has given up these pins, and no run has them.
            unsafe { bindings::unpin_user_pages(pages.as_ptr().cast_mut(), pages.len()) };
        })
    }

    /// Makes runs of whole pages, as many as there is room for. Returns the pages that are left.
    ///
    /// This is the cost of a guard besides the lookup of its pages.
    #[inline]
    fn fill<'a>(&mut self, pages: &'a [*mut bindings::page]) -> &'a [*mut bindings::page] {
        let places = self.runs.spare();
        // A bool and checked sums would cost six instructions a page.
        let mut all_anon = 1;
        let (mut from, mut to) = (0, 0);
        while to < places.len() && from < pages.len() {
            let before = to;
            for (place, &page) in places[to..].iter_mut().zip(&pages[from..]) {
                // SAFETY: The page is pinned.
                let Some(folio) = (unsafe { Folio::small(page) }) else {
                    break;
                };
                all_anon &= usize::from(folio.is_anon());
                place.write(Run::new(page, 0, PAGE_SIZE));
                to = to.wrapping_add(1);
            }
            from += to - before;
            if to == before {
                let page = pages[from];
                // SAFETY: The page is pinned.
                let folio = unsafe { Folio::of(page) };
                all_anon &= usize::from(folio.is_anon());
                let n = contiguous(&pages[from..], folio.end());
                places[to].write(Run::new(page, 0, n * PAGE_SIZE));
                from += n;
                to += 1;
            }
        }
        self.any_file |= all_anon == 0;
        // SAFETY: The places have been filled with runs of pinned pages.
        unsafe { self.runs.add(to) };
        &pages[from..]
    }

    /// Returns the last run and the end of its folio, if the first of `pages` follows that run in
    /// the folio.
    #[inline]
    fn continued_by(
        &mut self,
        pages: &[*mut bindings::page],
    ) -> Option<(&mut Run, *mut bindings::page)> {
        let page = *pages.first()?;
        let last = self.runs.as_mut_slice().last_mut()?;
        if !is_next(last, page) {
            return None;
        }
        let folio_end = last.folio().end();
        (page < folio_end).then_some((last, folio_end))
    }

    /// Adds `pages` if they are one run, and if the release need not dirty them under a lock.
    /// Returns whether it has.
    ///
    /// # Safety
    ///
    /// There must be no pins yet. The caller must own one pin of each of `pages`. If this returns
    /// true, it gives them up.
    #[inline]
    unsafe fn one(
        &mut self,
        pages: &[*mut bindings::page],
        offset: usize,
        len: usize,
        gup_flags: u32,
    ) -> bool {
        // SAFETY: The page is pinned.
        let (folio, end) = unsafe {
            let folio = Folio::of(pages[0]);
            (folio, pin_guard_folio_end(folio.as_raw()))
        };
        let is_one = (gup_flags & bindings::FOLL_WRITE == 0 || folio.is_anon())
            && contiguous(pages, end) == pages.len();
        if is_one {
            // SAFETY: There is no run yet, and the pages are pinned.
            unsafe { self.runs.set(Run::new(pages[0], offset, len)) };
        }
        is_one
    }

    /// Pins the `len` bytes of the current task's user memory at `addr`, which touch `pages` pages,
    /// for a guard. There must be no pins yet. May sleep.
    ///
    /// # Errors
    ///
    /// As [`PinGuard::new`](super::PinGuard::new).
    pub(super) fn user(&mut self, addr: usize, len: usize, pages: usize, gup_flags: u32) -> Result {
        if kernel::current!().mm().is_none() {
            return Err(EFAULT);
        }
        let mut offset = addr % PAGE_SIZE;
        let mut at = addr - offset;
        let mut more = pages;
        let mut left = len;
        let mut chunk: Chunk = [const { MaybeUninit::uninit() }; CHUNK];
        loop {
            let want = more.min(CHUNK);
            // SAFETY: `chunk` has room for `want` pages; the current task has an mm.
            let got = unsafe {
                bindings::pin_user_pages_fast(
                    at,
                    want as c_int,
                    gup_flags,
                    chunk.as_mut_ptr().cast(),
                )
            };
            let got = to_count(got as isize)?;
            // SAFETY: The lookup has set these pages.
            let found: &[_] = unsafe { slice::from_raw_parts(chunk.as_ptr().cast(), got) };
            // SAFETY: This function owns the pins.
            if got == pages && unsafe { self.one(found, offset, len, gup_flags) } {
                return Ok(());
            }
            more = more.wrapping_sub(got);
            let bytes = got.wrapping_mul(PAGE_SIZE);
            let part = left.min(bytes.wrapping_sub(offset));
            // SAFETY: This function owns the pins.
            unsafe { self.push(found, offset, part, more) }?;
            if more == 0 {
                break;
            }
            at = at.wrapping_add(bytes);
            left = left.wrapping_sub(part);
            offset = 0;
        }
        self.prepare(len, gup_flags)?;
        if let Some(many) = self.runs.many_mut() {
            many.single = many.len() == pages;
        }
        Ok(())
    }

    /// Like [`Pins::user`], for at most [`MANY`] pages, in fewer instructions.
    pub(super) fn few(&mut self, addr: usize, len: usize, pages: usize, gup_flags: u32) -> Result {
        if kernel::current!().mm().is_none() {
            return Err(EFAULT);
        }
        let offset = addr % PAGE_SIZE;
        let mut chunk: [MaybeUninit<*mut bindings::page>; MANY] =
            [const { MaybeUninit::uninit() }; MANY];
        // SAFETY: There is room for `pages` pages; the current task has an mm.
        let got = unsafe {
            bindings::pin_user_pages_fast(
                addr - offset,
                pages as c_int,
                gup_flags,
                chunk.as_mut_ptr().cast(),
            )
        };
        // There is an error, or somebody is changing the mappings. This is rare.
        if got != pages as c_int {
            let got = to_count(got as isize)?;
            // SAFETY: This function owns the pins.
            unsafe { bindings::unpin_user_pages(chunk.as_mut_ptr().cast(), got) };
            return self.user(addr, len, pages, gup_flags);
        }
        // SAFETY: The lookup has set these pages.
        let pages: &[_] = unsafe { slice::from_raw_parts(chunk.as_ptr().cast(), pages) };
        // SAFETY: The page is pinned.
        if unsafe { Folio::small(pages[0]) }.is_none() {
            // SAFETY: This function owns the pins.
            if unsafe { self.one(pages, offset, len, gup_flags) } {
                return Ok(());
            }
            // SAFETY: As above.
            return unsafe { self.of_pages(pages, offset, len, gup_flags) };
        }
        let places = if pages.len() > FEW {
            self.make_room(pages, 0)?;
            self.runs.spare()
        } else {
            self.runs.few()
        };
        let mut all_anon = true;
        let mut left = len;
        let mut at = offset;
        for (place, &page) in places.iter_mut().zip(pages) {
            // SAFETY: The page is pinned.
            let Some(folio) = (unsafe { Folio::small(page) }) else {
                break;
            };
            all_anon &= folio.is_anon();
            let part = left.min(PAGE_SIZE.wrapping_sub(at));
            place.write(Run::new(page, at, part));
            left = left.wrapping_sub(part);
            at = 0;
        }
        if left == 0 && (all_anon || gup_flags & bindings::FOLL_WRITE == 0) {
            // SAFETY: The places have been filled with runs of pinned pages.
            unsafe { self.runs.set_len(pages.len()) };
            if let Some(many) = self.runs.many_mut() {
                many.bytes = len;
                many.single = true;
            }
            return Ok(());
        }
        // SAFETY: This function owns the pins.
        unsafe { self.of_pages(pages, offset, len, gup_flags) }
    }

    /// Like [`Pins::user`], for these pages.
    ///
    /// # Safety
    ///
    /// The caller must own one pin of each of `pages`, and gives it up.
    #[cold]
    unsafe fn of_pages(
        &mut self,
        pages: &[*mut bindings::page],
        offset: usize,
        len: usize,
        gup_flags: u32,
    ) -> Result {
        // SAFETY: By the safety requirements.
        unsafe { self.push(pages, offset, len, 0) }?;
        self.prepare(len, gup_flags)
    }

    /// Like [`Pins::user`], for memory within one page. Inline, because most guards are of one page,
    /// and a call costs as much as the rest of this.
    #[inline(always)]
    pub(super) fn page(&mut self, addr: usize, len: usize, gup_flags: u32) -> Result {
        if kernel::current!().mm().is_none() {
            return Err(EFAULT);
        }
        let offset = addr % PAGE_SIZE;
        let mut page = ptr::null_mut();
        // SAFETY: There is room for one page; the current task has an mm.
        let got = unsafe { bindings::pin_user_pages_fast(addr - offset, 1, gup_flags, &mut page) };
        if got != 1 {
            return Err(to_error(got));
        }
        // SAFETY: The page is pinned.
        if gup_flags & bindings::FOLL_WRITE != 0 && !unsafe { Folio::of(page) }.is_anon() {
            // SAFETY: This function owns the pin.
            return unsafe { self.of_pages(&[page], offset, len, gup_flags) };
        }
        // SAFETY: There is no run yet, and the page is pinned.
        unsafe { self.runs.set(Run::new(page, offset, len)) };
        Ok(())
    }

    /// Prepares the release of a guard of `len` bytes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the [`Deferred`](super::Deferred).
    #[inline]
    fn prepare(&mut self, len: usize, gup_flags: u32) -> Result {
        let file = self.any_file && gup_flags & bindings::FOLL_WRITE != 0;
        if file || self.runs.many().is_some() {
            self.runs.prepare(len, file)
        } else {
            Ok(())
        }
    }

    /// Maximum pages per call of [`Pins::pin_remote`].
    pub(crate) const CHUNK: usize = CHUNK;

    /// Pins up to `count` pages of `mm`, from `addr` on. Returns the number of pages, at least one.
    /// May sleep.
    ///
    /// C: [`pin_user_pages_remote()`](srctree/mm/gup.c)
    ///
    /// # Errors
    ///
    /// - `EFAULT`: the first page cannot be pinned.
    /// - `EEXIST`: the first address maps something that is no page.
    /// - `ENOMEM`: there is no memory for a page, or for the list of the runs.
    /// - `EINTR`: the task has been killed.
    ///
    /// # Safety
    ///
    /// The caller must hold the mmap lock of `mm`.
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
        // `pin_user_pages_remote()` returned 0 without an error: fail the fork rather than leave
        // the page unpinned.
        let got = if got == 0 { Err(ENOMEM) } else { to_count(got) }?;
        // SAFETY: The lookup has set these pages, and this function owns their pins.
        unsafe {
            let pages = slice::from_raw_parts(pages.as_ptr().cast(), got);
            self.push(pages, 0, got * PAGE_SIZE, 0)
        }?;
        Ok(got)
    }

    /// Pins the rest of `iter`, at most `max` bytes, and advances `iter` by the length of the runs.
    /// There must be no pins yet. May sleep.
    ///
    /// C: [`iov_iter_extract_pages()`](srctree/lib/iov_iter.c)
    ///
    /// # Errors
    ///
    /// As [`PinGuard::new`](super::PinGuard::new), and `EINVAL` if `iter` is not on user memory.
    ///
    /// # Safety
    ///
    /// `iter` must be a valid `iov_iter`. If it is user-backed, it must be on memory of the current
    /// task.
    pub(super) unsafe fn extract(
        &mut self,
        iter: *mut bindings::iov_iter,
        max: usize,
        gup_flags: u32,
    ) -> Result {
        // SAFETY: `iter` is valid.
        let (user_backed, left) = unsafe {
            (
                pin_guard_user_backed_iter(iter),
                (*iter).__bindgen_anon_1.__bindgen_anon_1.as_ref().count,
            )
        };
        let len = left.min(max);
        // `iov_iter_extract_pages()` takes no pins from other iterators, so there is nothing to
        // own.
        if !user_backed || len == 0 {
            return Err(EINVAL);
        }
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
                // SAFETY: The lookup has set these pages, and this function owns their pins.
                unsafe {
                    let pages = slice::from_raw_parts(pages.as_ptr().cast(), n);
                    self.push(pages, offset, got, (len - done) >> PAGE_SHIFT)
                }
            });
            if let Err(e) = pushed {
                // SAFETY: `iter` has been advanced by `done` bytes.
                unsafe { bindings::iov_iter_revert(iter, done) };
                return Err(e);
            }
        }
        self.prepare(len, gup_flags).inspect_err(|_| {
            // SAFETY: As above.
            unsafe { bindings::iov_iter_revert(iter, len) }
        })
    }
}

/// Returns whether `page` is the next page behind the run, and the run may grow by it.
#[inline]
fn is_next(Run(run): &Run, page: *mut bindings::page) -> bool {
    let end = run.bv_offset as usize + run.bv_len as usize;
    end % PAGE_SIZE == 0
        && page == run.bv_page.wrapping_add(end >> PAGE_SHIFT)
        // The length of a run is a u32, so a larger folio has several runs.
        && end <= i32::MAX as usize
}

/// Returns how many of `pages` are physically contiguous with the first, up to `end`. `pages` must
/// not be empty.
#[inline]
fn contiguous(pages: &[*mut bindings::page], end: *mut bindings::page) -> usize {
    let mut next = pages[0];
    if next.wrapping_add(1) == end {
        return 1;
    }
    let most = (end as usize).wrapping_sub(next as usize) / size_of::<bindings::page>();
    let all = most.min(pages.len());
    let mut left = pages.get(..all).unwrap_or(pages);
    // Eight at a time: for a huge page, this loop is all of the cost.
    while let Some((eight, rest)) = left.split_first_chunk::<8>() {
        if (0..8).any(|i| eight[i] != next.wrapping_add(i)) {
            break;
        }
        next = next.wrapping_add(8);
        left = rest;
    }
    while let Some((&page, rest)) = left.split_first() {
        if page != next {
            break;
        }
        next = next.wrapping_add(1);
        left = rest;
    }
    all.wrapping_sub(left.len())
}

/// Returns the number of pages that `len` bytes at `addr` touch.
///
/// # Errors
///
/// `EINVAL`: `len` is 0, or the range goes beyond the address space.
#[inline]
pub(super) fn count_pages(addr: usize, len: usize) -> Result<usize> {
    let last = addr.wrapping_add(len).wrapping_sub(1);
    if len == 0 || last < addr {
        return Err(EINVAL);
    }
    Ok((last >> PAGE_SHIFT)
        .wrapping_sub(addr >> PAGE_SHIFT)
        .wrapping_add(1))
}

/// Returns the number of pages of a lookup that returned `ret`, or its errno.
#[inline]
pub(super) fn to_count(ret: isize) -> Result<usize> {
    if ret > 0 {
        Ok(ret as usize)
    } else {
        Err(to_error(ret as c_int))
    }
}

/// Returns the error of a lookup that returned `ret`. No page at all is EFAULT. So is the last page
/// of the address space, for which `gup_fast_fallback()` returns EOVERFLOW.
#[cold]
fn to_error(ret: c_int) -> Error {
    match ret {
        0 => EFAULT,
        n if n == EOVERFLOW.to_errno() => EFAULT,
        n => Error::from_errno(n),
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
        let continued = |len: usize, next: usize| is_next(&Run::new(page(0), 0, len), page(next));
        let most = i32::MAX as usize / P * P;
        assert!(continued(P, 1));
        assert!(!continued(P, 2));
        assert!(!continued(P - 1, 1));
        assert!(continued(most, most / P));
        assert!(!continued(most + P, most / P + 1));
        assert!(!continued((1 << 20) * P - P, (1 << 20) - 1));
    }
}
