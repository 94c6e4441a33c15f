// SPDX-License-Identifier: GPL-2.0

//! The pin guard: user pages held by FOLL_PIN, and released by whoever owns the value.

use crate::{ffi::*, folio::Folio, module_ref::ModuleRef};
use core::{
    marker::PhantomData,
    mem::{self, size_of, MaybeUninit},
    ops::Range,
    ptr, slice,
};
use kernel::{
    bindings,
    iov::{IovIterDest, IovIterSource},
    new_work,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    workqueue::{self, Work, WorkItem},
};

mod sealed {
    pub trait Sealed {}
}

/// Which way the data goes; named as the sides of an `iov_iter` are.
pub trait Direction: sealed::Sealed + Send + Sync + 'static {
    #[doc(hidden)]
    const GUP_FLAGS: u32;
}

/// The device reads the user's pages.
pub struct Source;

/// The device writes the user's pages: they must be writable, and are dirtied on release.
pub struct Dest;

impl sealed::Sealed for Source {}
impl Direction for Source {
    const GUP_FLAGS: u32 = 0;
}

impl sealed::Sealed for Dest {}
impl Direction for Dest {
    const GUP_FLAGS: u32 = bindings::FOLL_WRITE;
}

/// Physically contiguous bytes within one folio.
///
/// # Invariants
///
/// The bytes are within pages of one folio, and the owner of this value holds one pin for each of the
/// pages.
#[repr(transparent)]
pub struct Run(bindings::bio_vec);

impl Run {
    /// `len` bytes from `offset` in `page` on, all in one folio; the caller gives up its pins.
    #[inline]
    fn new(page: *mut bindings::page, offset: usize, len: usize) -> Self {
        Self(bindings::bio_vec {
            bv_page: page,
            bv_len: len as u32,
            bv_offset: offset as u32,
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.bv_len as usize
    }

    /// Never: a run has at least a byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Offset of the first byte in the first page, in bytes.
    pub fn offset(&self) -> usize {
        self.0.bv_offset as usize
    }

    /// Number of pages that the run touches.
    #[inline]
    pub fn pages(&self) -> usize {
        (self.offset() + self.len() + PAGE_SIZE - 1) >> PAGE_SHIFT
    }

    /// The run as the block layer, `iov_iter_bvec()` and the DMA API take it. The pages stay pinned
    /// for as long as the guard lives, and no longer.
    pub fn as_bio_vec(&self) -> &bindings::bio_vec {
        &self.0
    }

    #[inline]
    fn folio(&self) -> Folio {
        // SAFETY: By the type invariants, the page is pinned.
        unsafe { Folio::of(self.0.bv_page) }
    }

    /// Releases the pins, of anonymous memory if it is to be dirtied.
    ///
    /// # Safety
    ///
    /// Once; the caller owns the run's pins.
    #[inline]
    unsafe fn unpin(&self, dirty: bool) {
        let folio = self.folio();
        // SAFETY: By the type invariants and the safety requirements.
        unsafe {
            if dirty && !folio.is_dirty() {
                bindings::folio_mark_dirty(folio.as_raw());
            }
            bindings::unpin_user_folio(folio.as_raw(), self.pages());
        }
    }

    /// Dirties the folio if that needs no lock, and says whether it is dirty now.
    ///
    /// A folio of a file is dirtied under its lock, as it could be truncated meanwhile. One of anonymous
    /// memory cannot, and its dirtying is a mere flag (`noop_dirty_folio()`).
    fn try_dirty(&self) -> bool {
        let folio = self.folio();
        if !folio.is_dirty() {
            if !folio.is_anon() {
                return false;
            }
            // SAFETY: The folio is pinned.
            unsafe { bindings::folio_mark_dirty(folio.as_raw()) };
        }
        true
    }
}

/// Room for the runs of one guard: most have one and need no allocation.
enum Runs {
    None,
    One(Run),
    Many(KVVec<Run>),
}

impl Runs {
    fn as_slice(&self) -> &[Run] {
        match self {
            Self::None => &[],
            Self::One(run) => slice::from_ref(run),
            Self::Many(runs) => runs,
        }
    }

    /// Whether freeing the room may sleep: kvmalloc() may have got it from vmalloc().
    #[inline]
    fn free_sleeps(&self) -> bool {
        match self {
            // SAFETY: This only looks at the address.
            Self::Many(runs) => unsafe { bindings::is_vmalloc_addr(runs.as_ptr().cast()) },
            _ => false,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Run] {
        match self {
            Self::None => &mut [],
            Self::One(run) => slice::from_mut(run),
            Self::Many(runs) => runs,
        }
    }

    fn last_mut(&mut self) -> Option<&mut Run> {
        match self {
            Self::None => None,
            Self::One(run) => Some(run),
            Self::Many(runs) => runs.last_mut(),
        }
    }

    /// Makes room for `more` runs, and says where.
    fn reserve(&mut self, more: usize) -> Result<&mut KVVec<Run>> {
        if let Self::Many(runs) = self {
            runs.reserve(more, GFP_KERNEL)?;
        } else {
            let mut runs = KVVec::with_capacity(more + 1, GFP_KERNEL)?;
            if let Self::One(first) = mem::replace(self, Self::None) {
                // The capacity is there.
                let _ = runs.push_within_capacity(first);
            }
            *self = Self::Many(runs);
        }
        match self {
            Self::Many(runs) => Ok(runs),
            _ => Err(ENOMEM),
        }
    }
}

/// How many pages are looked up at a time.
const CHUNK: usize = 128;

/// Room for the addresses of as many pages, on the stack (1 KiB).
type Chunk = [MaybeUninit<*mut bindings::page>; CHUNK];

/// A set of pins, in runs. Dropping it releases them, in any context, without dirtying.
pub(crate) struct Pins {
    runs: Runs,
    /// The end of the last run's folio.
    folio_end: *mut bindings::page,
    /// Whether some page is not of anonymous memory.
    any_file: bool,
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
    unsafe fn push(&mut self, pages: &Chunk, count: usize, offset: usize, len: usize) -> Result {
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
    fn pin_user(addr: usize, len: usize, gup_flags: u32) -> Result<Self> {
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

    /// Pins what is there of `range`, whole pages of `mm`, for the copy by a fork. Returns the number of
    /// pages that were not there.
    ///
    /// As for another process, so that the protection keys of the thread that forks do not matter. Without
    /// FOLL_WRITE, as pages that were made read-only since (mprotect, userfaultfd-wp) must be pinned, too;
    /// FOLL_FORCE passes a PROT_NONE VMA.
    ///
    /// Errors: ENOMEM; EINTR if the task is killed.
    ///
    /// # Safety
    ///
    /// The mmap lock of `mm` is held.
    pub(crate) unsafe fn pin_present(
        &mut self,
        mm: *mut bindings::mm_struct,
        range: &Range<usize>,
    ) -> Result<usize> {
        let mut missing = 0;
        let mut at = range.start;
        let mut pages: Chunk = [const { MaybeUninit::uninit() }; CHUNK];
        while at < range.end {
            let more = (range.end - at) >> PAGE_SHIFT;
            // SAFETY: `pages` has room for that many pages, and the mmap lock is held.
            let got = unsafe {
                bindings::pin_user_pages_remote(
                    mm,
                    at,
                    more.min(CHUNK),
                    bindings::FOLL_FORCE,
                    pages.as_mut_ptr().cast(),
                    ptr::null_mut(),
                )
            };
            // No page for no reason: fail, do not go on without it.
            match if got == 0 { Err(ENOMEM) } else { to_count(got) } {
                Ok(got) => {
                    let len = got * PAGE_SIZE;
                    // SAFETY: The pins of the first `got` pages are ours.
                    unsafe { self.push(&pages, got, 0, len) }?;
                    at += len;
                }
                // Unmapped since, or memory without pages: no device's target.
                Err(EFAULT | EEXIST) => {
                    missing += 1;
                    at += PAGE_SIZE;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(missing)
    }

    /// Pins what is left of `iter`, `max` bytes at most, and advances it by that.
    ///
    /// # Safety
    ///
    /// `iter` is a valid `iov_iter`, and if it is user-backed, on memory of the current task.
    unsafe fn extract(iter: *mut bindings::iov_iter, max: usize) -> Result<(Self, usize)> {
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
    fn truncate(&mut self, len: usize) {
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
    fn unpin(&mut self, dirty: bool) {
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
    fn unpin_dirty(mut self) {
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
fn count_pages(addr: usize, len: usize) -> Result<usize> {
    let last = len.checked_sub(1).and_then(|less| addr.checked_add(less));
    Ok((last.ok_or(EINVAL)? >> PAGE_SHIFT) - (addr >> PAGE_SHIFT) + 1)
}

/// What a lookup of pages returned: a count, or an errno. None at all is EFAULT, and so is the last page of
/// the address space, for which `gup_fast_fallback()` has EOVERFLOW.
fn to_count(ret: isize) -> Result<usize> {
    match ret {
        0 => Err(EFAULT),
        n if n == EOVERFLOW.to_errno() as isize => Err(EFAULT),
        n if n < 0 => Err(Error::from_errno(n as c_int)),
        n => Ok(n as usize),
    }
}

/// The pins of a guard, on their way to be released by a workqueue.
///
/// It is allocated when the guard is made, as the release cannot fail.
#[pin_data]
struct Deferred {
    pins: Pins,
    dirties: bool,
    charge: Option<Charge>,
    module: Option<ModuleRef>,
    #[pin]
    work: Work<Self>,
}

kernel::impl_has_work! {
    impl HasWork<Self> for Deferred { self.work }
}

impl Deferred {
    fn new(dirties: bool) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                pins: Pins::new(),
                dirties,
                charge: None,
                module: None,
                work <- new_work!("pin_guard_release"),
            }),
            GFP_KERNEL,
        )
    }
}

impl WorkItem for Deferred {
    type Pointer = Pin<KBox<Self>>;

    fn run(mut this: Pin<KBox<Self>>) {
        let this = this.as_mut().project();
        let pins = mem::replace(this.pins, Pins::new());
        if *this.dirties {
            pins.unpin_dirty();
        } else {
            drop(pins);
        }
        drop(this.charge.take());
        drop(this.module.take());
    }
}

/// Locked memory charged to a user (RLIMIT_MEMLOCK), as MSG_ZEROCOPY does it. Dropped in any context.
pub(crate) struct Charge(bindings::ubuf_info_msgzc_mmpin);

// SAFETY: A user's account may be changed by any thread.
unsafe impl Send for Charge {}
// SAFETY: `&self` gives nothing.
unsafe impl Sync for Charge {}

impl Charge {
    /// Charges the pages to the current user, two at least. Errors: ENOMEM over the limit.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let mut charge = Self(pin_init::zeroed());
        // It adds two pages for what is not aligned, and takes no bytes for no charge.
        let bytes = (pages.saturating_sub(2) << PAGE_SHIFT).max(1);
        // SAFETY: A zeroed `mmpin` has no charge yet.
        match unsafe { bindings::mm_account_pinned_pages(&mut charge.0, bytes) } {
            0 => Ok(charge),
            // As mlock() says it.
            _ => Err(ENOMEM),
        }
    }

    /// Gives back what is above `pages`.
    pub(crate) fn shrink(&mut self, pages: usize) {
        let keep = pages.max(2) as u32;
        let Some(user) = ptr::NonNull::new(self.0.user) else {
            return;
        };
        if let Some(excess @ 1..) = self.0.num_pg.checked_sub(keep) {
            // SAFETY: The charge holds a reference on its user.
            unsafe { bindings::atomic64_sub(excess.into(), &raw mut (*user.as_ptr()).locked_vm) };
            self.0.num_pg = keep;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        // SAFETY: Undoes the charge of `new`, once.
        unsafe { bindings::mm_unaccount_pinned_pages(&mut self.0) };
    }
}

/// What a [`PinGuard`] holds, whatever its direction.
struct Held {
    pins: Pins,
    len: usize,
    /// Whether the pages are dirtied on release.
    dirties: bool,
    /// Whether each run is a page of its own.
    single: bool,
    /// `Some` if the release may have to sleep: to dirty pages of files, or to free memory.
    deferred: Option<Pin<KBox<Deferred>>>,
    charge: Option<Charge>,
}

impl Held {
    #[inline]
    fn user(addr: usize, len: usize, gup_flags: u32, charge: Option<Charge>) -> Result<Self> {
        let mut held = Self::new(
            Pins::pin_user(addr, len, gup_flags)?,
            len,
            gup_flags,
            charge,
        )?;
        held.single = held.pins.runs().len() == (addr % PAGE_SIZE + len).div_ceil(PAGE_SIZE);
        Ok(held)
    }

    /// Pins what is left of `iter`, `max` bytes at most, and advances it by that if it succeeds.
    ///
    /// # Safety
    ///
    /// `iter` is a valid `iov_iter`, and if it is user-backed, on memory of the current task.
    unsafe fn extract(iter: *mut bindings::iov_iter, max: usize, gup_flags: u32) -> Result<Self> {
        // SAFETY: By the safety requirements.
        let (pins, len) = unsafe { Pins::extract(iter, max) }?;
        Self::new(pins, len, gup_flags, None).inspect_err(|_| {
            // SAFETY: `iter` has been advanced by `len` bytes.
            unsafe { bindings::iov_iter_revert(iter, len) }
        })
    }

    #[inline]
    fn new(pins: Pins, len: usize, gup_flags: u32, charge: Option<Charge>) -> Result<Self> {
        let dirties = gup_flags & bindings::FOLL_WRITE != 0;
        let deferred = if (dirties && pins.any_file) || pins.runs.free_sleeps() {
            Some(Deferred::new(dirties)?)
        } else {
            None
        };
        Ok(Self {
            pins,
            len,
            dirties,
            single: false,
            deferred,
            charge,
        })
    }

    /// May sleep.
    fn release(&mut self) {
        let pins = mem::replace(&mut self.pins, Pins::new());
        if self.dirties {
            pins.unpin_dirty();
        }
    }

    /// Calls `f` with the pieces of `len` bytes from `offset` on: where a piece is in the `len` bytes,
    /// where it is mapped, and how long it is.
    fn walk(&self, offset: usize, len: usize, mut f: impl FnMut(usize, *mut u8, usize)) -> Result {
        if offset.checked_add(len).ok_or(EINVAL)? > self.len {
            return Err(EINVAL);
        }
        let mut skip = offset;
        let mut done = 0;
        for run in self.pins.runs() {
            if skip >= run.len() {
                skip -= run.len();
                continue;
            }
            let end = run.offset() + run.len();
            let mut at = run.offset() + skip;
            skip = 0;
            while at < end && done < len {
                let in_page = at % PAGE_SIZE;
                let part = (PAGE_SIZE - in_page).min(end - at).min(len - done);
                // SAFETY: The page is one of the run's, so it is pinned. The mapping is undone in
                // this thread, in reverse order.
                unsafe {
                    let page = run.0.bv_page.add(at >> PAGE_SHIFT);
                    let mapped = bindings::kmap_local_page(page);
                    f(done, mapped.cast::<u8>().add(in_page), part);
                    bindings::kunmap_local(mapped);
                }
                at += part;
                done += part;
            }
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut deferred) = self.deferred.take() else {
            self.pins.unpin(self.dirties);
            return;
        };
        let dirty = !self.dirties || self.pins.runs().iter().all(Run::try_dirty);
        if dirty && !self.pins.runs.free_sleeps() {
            return;
        }
        {
            let deferred = deferred.as_mut().project();
            mem::swap(deferred.pins, &mut self.pins);
            *deferred.charge = self.charge.take();
            *deferred.module = Some(ModuleRef::for_client());
        }
        workqueue::system_long().enqueue(deferred);
    }
}

/// User memory, pinned (FOLL_PIN) for I/O in direction `D` until this value is dropped.
///
/// A fork leaves pinned pages with the parent and copies them for the child at once, so the device and
/// the owner of the memory keep seeing the same pages. The pages are the user's all the same: it may
/// read and write them at any time, so nothing here hands out references into them.
///
/// Dropping the guard releases the pins, in any context, and dirties the pages of a [`Dest`]. What has to
/// sleep for that (clean pages of a shared file mapping) is left to a workqueue; [`PinGuard::release`] does
/// it on the spot.
///
/// C: `pin_user_pages_fast()` in `mm/gup.c`, `iov_iter_extract_pages()` in `lib/iov_iter.c`,
/// `Documentation/core-api/pin_user_pages.rst`.
///
/// # Examples
///
/// ```ignore
/// use pin_guard::{Dest, PinGuard};
///
/// fn receive(addr: usize, data: &[u8]) -> Result {
///     let buffer = PinGuard::<Dest>::new(addr, data.len())?;
///     // ... hand `buffer.runs()` to a device, or:
///     buffer.write(0, data)
/// }
/// ```
pub struct PinGuard<D: Direction> {
    held: Held,
    _direction: PhantomData<D>,
}

impl<D: Direction> PinGuard<D> {
    /// Pins `len` bytes of user memory at `addr`, of the current task.
    ///
    /// Any alignment and length will do. For I/O that ends soon; see [`PinGuard::long_term`]. May sleep.
    ///
    /// Errors, with nothing kept: EINVAL for no length or a range beyond the address space; EFAULT if a
    /// page is not mapped, is not writable ([`Dest`]), or there is no user memory (kernel threads);
    /// ENOMEM; EINTR or EAGAIN if killed.
    pub fn new(addr: usize, len: usize) -> Result<Self> {
        Held::user(addr, len, D::GUP_FLAGS, None).map(Self::from_held)
    }

    /// As [`PinGuard::new`], for pins that last as long as user space wishes (FOLL_LONGTERM).
    ///
    /// The pages are migrated out of movable memory first, and charged to the user's RLIMIT_MEMLOCK: over
    /// that ENOMEM, unless the task has CAP_IPC_LOCK. Pages of files that need
    /// writeback give EFAULT for a [`Dest`], files on DAX EOPNOTSUPP.
    pub fn long_term(addr: usize, len: usize) -> Result<Self> {
        let flags = D::GUP_FLAGS | bindings::FOLL_LONGTERM;
        Held::user(
            addr,
            len,
            flags,
            Some(Charge::new(count_pages(addr, len)?)?),
        )
        .map(Self::from_held)
    }

    fn from_held(held: Held) -> Self {
        Self {
            held,
            _direction: PhantomData,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.held.len
    }

    /// Never: a guard holds at least a byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Number of pins held: one a page, also where the memory is huge pages.
    pub fn pages(&self) -> usize {
        self.held.pins.pages()
    }

    /// The memory, in order, as folio-contiguous runs: a 2 MiB huge page is one.
    pub fn runs(&self) -> &[Run] {
        self.held.pins.runs()
    }

    /// Copies `out.len()` bytes from `offset` bytes into the memory on to `out`. Does not sleep.
    ///
    /// Errors: EINVAL beyond the end.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result {
        let base = out.as_mut_ptr();
        self.held.walk(offset, out.len(), |at, user, len| {
            // SAFETY: `user` is valid for `len` bytes, and `base` for all that `walk` was asked for. The
            // user may write meanwhile; a raw copy takes what it finds.
            unsafe { ptr::copy_nonoverlapping(user.cast_const(), base.add(at), len) }
        })
    }

    /// Releases the pins on the spot. May sleep.
    pub fn release(mut self) {
        self.held.release();
    }
}

impl PinGuard<Dest> {
    /// Copies `data` to `offset` bytes into the memory. Does not sleep.
    ///
    /// Errors: EINVAL beyond the end.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result {
        self.held.walk(offset, data.len(), |at, user, len| {
            // SAFETY: `user` is valid for `len` bytes, and `data` for all that `walk` was asked for. The
            // memory is the user's, who may use it meanwhile; it is nobody's `&` or `&mut`.
            unsafe { ptr::copy_nonoverlapping(data.as_ptr().add(at), user, len) }
        })
    }

    /// Pins what `iter` has left, `max` bytes at most, and advances it by that. May sleep.
    ///
    /// Errors, with nothing kept and `iter` where it was: EINVAL for no length or an iterator that is not
    /// on user memory (its pages are not for us to pin); else as [`PinGuard::new`].
    pub fn from_iter(iter: &mut IovIterDest<'_>, max: usize) -> Result<Self> {
        // SAFETY: The iterator is valid by its invariants.
        unsafe { Held::extract(iter.as_raw(), max, Dest::GUP_FLAGS) }.map(Self::from_held)
    }
}

impl PinGuard<Source> {
    /// Whether the pages are charged to RLIMIT_MEMLOCK.
    pub(crate) fn is_charged(&self) -> bool {
        self.held.charge.is_some()
    }

    /// Number of pins that the bytes `range` have.
    pub(crate) fn pages_in(&self, range: Range<usize>) -> usize {
        let (runs, mut skip) = self.runs_at(range.start);
        let mut left = range.len();
        let mut pages = 0;
        for run in runs {
            if skip >= run.len() {
                skip -= run.len();
                continue;
            }
            let part = left.min(run.len() - skip);
            let start = run.offset() + skip;
            pages += (start + part).div_ceil(PAGE_SIZE) - (start >> PAGE_SHIFT);
            left -= part;
            skip = 0;
            if left == 0 {
                break;
            }
        }
        pages
    }

    /// The run that has the byte `offset`, if that is found without a search, and those behind it; and where
    /// the byte is in them.
    pub(crate) fn runs_at(&self, offset: usize) -> (&[Run], usize) {
        let runs = self.runs();
        let at = runs.first().map_or(0, Run::offset) + offset;
        match runs.get(at >> PAGE_SHIFT..) {
            Some(runs) if self.held.single && at >= PAGE_SIZE => (runs, at % PAGE_SIZE),
            _ => (runs, offset),
        }
    }

    /// Lets go of what is behind the first `len` bytes: not zero, and no more than there are.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.held.pins.truncate(len);
        self.held.len = len;
        if let Some(charge) = &mut self.held.charge {
            charge.shrink(self.held.pins.pages());
        }
    }

    /// Pins what `iter` has left, `max` bytes at most, and advances it by that. May sleep.
    ///
    /// Errors: as for a [`Dest`].
    pub fn from_iter(iter: &mut IovIterSource<'_>, max: usize) -> Result<Self> {
        // SAFETY: The iterator is valid by its invariants.
        unsafe { Held::extract(iter.as_raw(), max, Source::GUP_FLAGS) }.map(Self::from_held)
    }
}

#[kunit_tests(pin_guard_pin)]
mod tests {
    use super::*;
    use crate::kunit::{self, Page, Pages};

    const P: usize = PAGE_SIZE;

    /// User memory whose pages are of several folios, in some disorder.
    struct Memory {
        large: Pages,
        small: Pages,
        addr: usize,
        /// References before anything is pinned.
        before: [usize; 5],
    }

    /// Pages of the large folio, then of the small ones.
    const SLOTS: [(bool, usize); 12] = [
        (true, 2), // a run
        (true, 3),
        (true, 4),
        (false, 0), // physically contiguous, but not one folio
        (false, 1),
        (true, 6), // up to the end of its folio
        (true, 7),
        (true, 0), // from its beginning
        (false, 3),
        (true, 5), // backwards
        (true, 4),
        (true, 5),
    ];
    const RUNS: [usize; 8] = [3, 1, 1, 2, 1, 1, 1, 2];
    const LEN: usize = SLOTS.len() * P;

    impl Memory {
        fn new() -> Result<Self> {
            let (large, small) = (Pages::one_folio(3)?, Pages::folios(2)?);
            let slots = SLOTS.map(|(is_large, n)| if is_large { &large } else { &small }.at(n));
            let addr = kunit::map(&slots)?;
            let mut memory = Self {
                large,
                small,
                addr,
                before: [0; 5],
            };
            memory.before = memory.references();
            Ok(memory)
        }

        fn slot(&self, n: usize) -> Page {
            let (is_large, n) = SLOTS[n];
            if is_large { &self.large } else { &self.small }.at(n)
        }

        fn references(&self) -> [usize; 5] {
            core::array::from_fn(|i| match i {
                0 => self.large.references(0),
                _ => self.small.references(i - 1),
            })
        }

        /// Whether the pages of these slots are pinned, and no others.
        fn pinned(&self, slots: Range<usize>) -> bool {
            let mut expected = self.before;
            for (is_large, n) in &SLOTS[slots] {
                match is_large {
                    true => expected[0] += 1,
                    false => expected[n + 1] += bindings::GUP_PIN_COUNTING_BIAS as usize,
                }
            }
            let references = self.references();
            if references != expected {
                pr_info!("expected {expected:?} references, came {references:?}\n");
            }
            references == expected
        }

        fn pin(&self, offset: usize, len: usize) -> Result<PinGuard<Source>> {
            PinGuard::new(self.addr + offset, len)
        }
    }

    /// The number of pages from the byte `start` to before `end`.
    fn touched(start: usize, end: usize) -> usize {
        (start / P..=(end - 1) / P).count()
    }

    #[test]
    fn a_huge_folio_is_one_run() -> Result {
        let pages = Pages::one_folio(9)?;
        let mut all = KVec::new();
        for page in pages.all() {
            all.push(page, GFP_KERNEL)?;
        }
        let addr = kunit::map(&all)?;
        let before = pages.references(0);
        // Several lookups, which may end anywhere.
        for (offset, len) in [
            (0, 512 * P),
            (100, 512 * P - 200),
            (127 * P, 2 * P),
            (P, 128 * P),
        ] {
            let guard = PinGuard::<Source>::new(addr + offset, len)?;
            assert_eq!(guard.runs().len(), 1);
            assert_eq!(guard.runs()[0].offset(), offset % P);
            assert_eq!(guard.runs()[0].len(), len);
            assert_eq!(guard.pages(), touched(offset, offset + len));
            assert_eq!(pages.references(0), before + guard.pages());
            drop(guard);
            assert_eq!(pages.references(0), before);
        }
        Ok(())
    }

    #[test]
    fn runs_end_where_folios_or_order_do() -> Result {
        let memory = Memory::new()?;
        let guard = memory.pin(0, LEN)?;
        let mut slot = 0;
        for (run, pages) in guard.runs().iter().zip(RUNS) {
            assert_eq!(
                (run.offset(), run.len(), run.pages()),
                (0, pages * P, pages)
            );
            assert!(ptr::eq(run.as_bio_vec().bv_page, memory.slot(slot)));
            slot += pages;
        }
        assert_eq!(guard.runs().len(), RUNS.len());
        assert!(memory.pinned(0..SLOTS.len()));
        drop(guard);
        assert!(memory.pinned(0..0));
        Ok(())
    }

    #[test]
    fn more_pages_than_are_looked_up_at_a_time() -> Result {
        let pages = Pages::folios(1)?;
        let mut all = KVec::new();
        for i in 0..3 * CHUNK + 1 {
            all.push(pages.at(i % 2), GFP_KERNEL)?;
        }
        let guard = PinGuard::<Source>::new(kunit::map(&all)? + 1, all.len() * P - 2)?;
        assert_eq!(guard.runs().len(), all.len());
        for (i, (run, page)) in guard.runs().iter().zip(&all).enumerate() {
            assert!(ptr::eq(run.as_bio_vec().bv_page, *page));
            assert_eq!(run.offset(), usize::from(i == 0));
            let edge = i == 0 || i == 3 * CHUNK;
            assert_eq!(run.len(), P - usize::from(edge));
        }
        Ok(())
    }

    #[test]
    fn any_offset_and_length() -> Result {
        let memory = Memory::new()?;
        let edges = [0, 1, P - 1, P, P + 1, 3 * P - 1, 3 * P, 5 * P + 7, LEN - 1];
        for offset in edges {
            for end in edges.iter().map(|edge| LEN - edge) {
                if offset >= end {
                    continue;
                }
                let guard = memory.pin(offset, end - offset)?;
                assert_eq!(guard.len(), end - offset);
                let bytes: usize = guard.runs().iter().map(Run::len).sum();
                assert_eq!(bytes, end - offset);
                assert_eq!(guard.pages(), touched(offset, end));
                assert_eq!(guard.runs()[0].offset(), offset % P);
                assert!(guard.runs()[1..].iter().all(|run| run.offset() == 0));
                assert!(memory.pinned(offset / P..end.div_ceil(P)));
            }
        }
        assert!(memory.pinned(0..0));
        Ok(())
    }

    #[test]
    fn ranges_at_the_ends_of_the_address_space() -> Result {
        let cases = [
            (0, 1, Ok(1)),
            (P - 1, 2, Ok(2)),
            (P, P, Ok(1)),
            (0, usize::MAX, Ok(usize::MAX / P + 1)),
            (1, usize::MAX, Ok(usize::MAX / P + 1)),
            (2, usize::MAX, Err(EINVAL)),
            (usize::MAX, 1, Ok(1)),
            (usize::MAX, 2, Err(EINVAL)),
            (usize::MAX - (P - 1), P, Ok(1)),
            (usize::MAX - (P - 1), P + 1, Err(EINVAL)),
            (usize::MAX - P, P + 1, Ok(2)),
            (0, 0, Err(EINVAL)),
            (usize::MAX, 0, Err(EINVAL)),
        ];
        for (addr, len, expected) in cases {
            assert_eq!(count_pages(addr, len), expected);
        }
        // Not user memory. No more than one page of these is looked up.
        kunit::mm()?;
        for addr in [usize::MAX, usize::MAX - (P - 1), 1 << 63] {
            assert_eq!(PinGuard::<Source>::new(addr, 1).err(), Some(EFAULT));
        }
        Ok(())
    }

    #[test]
    fn a_hole_keeps_nothing() -> Result {
        assert_eq!(PinGuard::<Source>::new(P, P).err(), Some(EFAULT));
        let memory = Memory::new()?;
        kunit::unmap(memory.addr + 6 * P, 1)?;
        let memory = Memory {
            before: memory.references(),
            ..memory
        };
        assert_eq!(memory.pin(0, LEN).err(), Some(EFAULT));
        assert_eq!(memory.pin(5 * P + 1, P).err(), Some(EFAULT));
        assert_eq!(memory.pin(6 * P, 1).err(), Some(EFAULT));
        assert!(memory.pinned(0..0));
        let guard = memory.pin(1, 6 * P - 1)?;
        assert!(memory.pinned(0..6));
        drop(guard);

        // As a fork does: what is there.
        let mut pins = Pins::new();
        let mm = kunit::mm()?;
        // SAFETY: The mm is that of this thread, which holds no lock of it.
        unsafe { pin_guard_mmap_write_lock(mm) };
        // SAFETY: The lock is held.
        let missing = unsafe { pins.pin_present(mm, &(memory.addr..memory.addr + LEN)) };
        // SAFETY: It was locked above.
        unsafe { pin_guard_mmap_write_unlock(mm) };
        assert_eq!(missing, Ok(1));
        assert_eq!(pins.pages(), SLOTS.len() - 1);
        drop(pins);
        assert!(memory.pinned(0..0));
        Ok(())
    }

    #[test]
    fn truncating_lets_go_of_what_is_behind() -> Result {
        let memory = Memory::new()?;
        for offset in [0, 1, P - 1, 4 * P + 9] {
            let whole = LEN - offset;
            for len in Iterator::chain((1..whole).step_by(1023), [P - 1, P, P + 1, whole]) {
                let mut guard = memory.pin(offset, whole)?;
                guard.truncate(len);
                assert_eq!(guard.len(), len);
                let bytes: usize = guard.runs().iter().map(Run::len).sum();
                assert_eq!(bytes, len);
                assert!(guard.runs().iter().map(Run::len).min() > Some(0));
                assert_eq!(guard.pages(), touched(offset, offset + len));
                assert!(memory.pinned(offset / P..(offset + len).div_ceil(P)));
                drop(guard);
                assert!(memory.pinned(0..0));
            }
        }
        Ok(())
    }

    #[test]
    fn a_byte_is_found_in_its_run() -> Result {
        let memory = Memory::new()?;
        let small = kunit::map(&[0, 1, 3, 2, 1].map(|n| memory.small.at(n)))?;
        let page_of = |runs: &[Run], offset: usize| {
            let mut skip = offset;
            let run = runs.iter().find(|run| {
                let found = skip < run.len();
                skip -= if found { 0 } else { run.len() };
                found
            })?;
            let at = run.offset() + skip;
            Some((run.0.bv_page.wrapping_add(at / P), at % P))
        };
        for start in [0, 1, P - 1] {
            // Each page is a run, or not.
            for guard in [
                PinGuard::<Source>::new(small + start, 5 * P - start)?,
                memory.pin(start, LEN - start)?,
            ] {
                let single = guard.runs().len() == 5;
                for offset in Iterator::chain((0..guard.len()).step_by(509), [P - 1, P, P + 1]) {
                    let (runs, skip) = guard.runs_at(offset);
                    assert_eq!(page_of(runs, skip), page_of(guard.runs(), offset));
                    assert!(!single || skip < P);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_pins_of_a_part_are_counted() -> Result {
        let memory = Memory::new()?;
        let small = kunit::map(&[0, 1, 3, 2, 1].map(|n| memory.small.at(n)))?;
        let edges = [1, 7, P - 1, P, P + 1, 2 * P, 3 * P - 1, 4 * P];
        for start in [0, 1, P - 1] {
            for guard in [
                PinGuard::<Source>::new(small + start, 5 * P - start)?,
                memory.pin(start, LEN - start)?,
            ] {
                for at in edges.iter().map(|edge| edge - 1) {
                    for end in edges.iter().map(|edge| guard.len() - edge + 1) {
                        if at < end {
                            let expected = touched(start + at, start + end);
                            assert_eq!(guard.pages_in(at..end), expected);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn bytes_go_where_they_belong() -> Result {
        let addr = kunit::anonymous(3)?;
        let guard = PinGuard::<Dest>::new(addr + 5, 2 * P)?;
        let other = PinGuard::<Source>::new(addr, 3 * P)?;
        let mut data = [0; 300];
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = i as u8 ^ 0x5a;
        }
        let mut found = [0; 302];
        for offset in [1, P - 5 - 150, P - 5, 2 * P - 300] {
            guard.write(offset, &data)?;
            other.read(offset + 4, &mut found)?;
            assert_eq!(found[1..301], data);
            assert_eq!((found[0], found[301]), (0, 0));
            guard.write(offset, &[0; 300])?;
        }
        for (offset, len) in [
            (2 * P - 299, 300),
            (2 * P + 1, 0),
            (usize::MAX, 2),
            (usize::MAX, 0),
        ] {
            assert_eq!(guard.read(offset, &mut found[..len]), Err(EINVAL));
            assert_eq!(guard.write(offset, &data[..len]), Err(EINVAL));
        }
        assert_eq!(guard.write(2 * P, &[]), Ok(()));
        Ok(())
    }

    #[test]
    fn an_iterator_is_taken_up_to_a_limit() -> Result {
        let memory = Memory::new()?;
        let segment = |offset: usize, len| bindings::iovec {
            iov_base: (memory.addr + offset) as *mut c_void,
            iov_len: len,
        };
        // The second begins where the first ends; the last is not there.
        let vector = [
            segment(7, P),
            segment(P + 7, P),
            segment(7 * P + 1, 3),
            bindings::iovec {
                iov_base: P as *mut c_void,
                iov_len: P,
            },
        ];
        let iter = || {
            let mut iter = bindings::iov_iter::default();
            let len = vector.iter().map(|v| v.iov_len).sum();
            // SAFETY: The vector lives for as long as the iterator.
            unsafe {
                bindings::iov_iter_init(
                    &mut iter,
                    bindings::ITER_SOURCE,
                    vector.as_ptr(),
                    vector.len(),
                    len,
                )
            };
            iter
        };
        let left = |iter: &bindings::iov_iter| {
            // SAFETY: The iterator is valid.
            unsafe { iter.__bindgen_anon_1.__bindgen_anon_1.as_ref().count }
        };
        let good = 2 * P + 3;
        for (max, pages) in [
            (1, 1),
            (P - 7, 1),
            (P - 6, 2),
            (P, 2),
            (P + 1, 3),
            (good, 5),
        ] {
            let mut iter = iter();
            // SAFETY: The iterator is valid, on memory of this thread.
            let held = unsafe { Held::extract(&mut iter, max, Source::GUP_FLAGS) }?;
            assert_eq!(held.len, max);
            assert_eq!(left(&iter), good + P - max);
            assert_eq!(held.pins.pages(), pages);
        }
        assert!(memory.pinned(0..0));
        for (max, expected) in [(good + 1, EFAULT), (usize::MAX, EFAULT), (0, EINVAL)] {
            let mut iter = iter();
            // SAFETY: As above.
            let held = unsafe { Held::extract(&mut iter, max, Source::GUP_FLAGS) };
            assert_eq!(held.err(), Some(expected));
            assert_eq!(left(&iter), good + P);
        }
        assert!(memory.pinned(0..0));
        Ok(())
    }

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

    #[test]
    fn a_charge_shrinks_to_two_pages_at_least() -> Result {
        let mut user = KBox::new(pin_init::zeroed::<bindings::user_struct>(), GFP_KERNEL)?;
        let user: *mut bindings::user_struct = &mut *user;
        // SAFETY: The user is the test's own.
        let locked = move || unsafe { bindings::atomic64_read(&raw const (*user).locked_vm) };
        // A second reference, or the kernel would free it.
        // SAFETY: As above.
        unsafe {
            bindings::refcount_set(&raw mut (*user).__count, 2);
            bindings::atomic64_add(17, &raw mut (*user).locked_vm);
        }
        let mut charge = Charge(bindings::ubuf_info_msgzc_mmpin { user, num_pg: 10 });
        for (pages, expected) in [
            (11, 17),
            (10, 17),
            (7, 14),
            (7, 14),
            (3, 10),
            (1, 9),
            (0, 9),
            (5, 9),
        ] {
            charge.shrink(pages);
            assert_eq!(locked(), expected);
        }
        drop(charge);
        assert_eq!(locked(), 7);
        // One of a user who needs none.
        let mut charge = Charge(pin_init::zeroed());
        charge.shrink(0);
        Ok(())
    }
}
