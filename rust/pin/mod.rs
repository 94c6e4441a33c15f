// SPDX-License-Identifier: GPL-2.0

//! The pin guard: user pages that stay pinned (FOLL_PIN) for as long as their owner lives.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

mod charge;
mod deferred;
mod folio;
mod pins;
mod run;

pub use run::Run;
pub(crate) use {charge::Charge, folio::Folio, pins::Pins, run::CACHE};

use core::{marker::PhantomData, mem::ManuallyDrop, ops::Range};
use deferred::Deferred;
use kernel::{
    bindings,
    iov::{IovIterDest, IovIterSource},
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};
use pins::count_pages;
use run::{Runs, MANY};

/// User memory that is pinned (FOLL_PIN) for I/O in direction `D` until this value is dropped.
///
/// A fork copies pinned pages for the child at once, and the parent keeps the pages themselves. So
/// the device and the owner of the memory always see the same pages.
///
/// User space may still read and write the memory at any time, so a guard hands out no references
/// into it. [`PinGuard::read`] and [`PinGuard::write`] copy. They may race with user space, with
/// the device and with each other, and order nothing: a read returns each byte as it was before or
/// after a racing write, and racing writes leave each byte as one of them wrote it.
///
/// A guard may be dropped in any context. The drop releases the pins, and dirties the pages of a
/// [`Dest`]. If a part of that has to sleep (to dirty clean pages of a shared file mapping), the
/// drop leaves it to a workqueue; [`PinGuard::release`] does all of it at once.
///
/// Reference:
/// [`Documentation/core-api/pin_user_pages.rst`](srctree/Documentation/core-api/pin_user_pages.rst)
///
/// # Invariants
///
/// Until it is dropped, the guard has at least one run, and `runs` owns one pin of each of its
/// pages.
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use pin_guard::{Dest, PinGuard};
///
/// fn receive(addr: usize, data: &[u8]) -> Result {
///     let buffer = PinGuard::<Dest>::new(addr, data.len())?;
///     // A driver hands `buffer.runs()` to a device, or copies:
///     buffer.write(0, data)
/// }
/// ```
pub struct PinGuard<D: Direction> {
    /// Valid until the drop.
    runs: ManuallyDrop<Runs>,
    _direction: PhantomData<D>,
}

impl<D: Direction> PinGuard<D> {
    /// Pins `len` bytes of the current task's user memory at `addr`.
    ///
    /// `addr` and `len` need no alignment. The pins are for I/O that ends soon; if user space
    /// decides how long they last, use [`PinGuard::long_term`].
    ///
    /// May sleep. The caller must not hold the mmap lock.
    ///
    /// C: [`pin_user_pages_fast()`](srctree/mm/gup.c)
    ///
    /// # Errors
    ///
    /// After an error no page is pinned.
    ///
    /// - `EINVAL`: `len` is 0, or the range goes beyond the address space.
    /// - `EFAULT`: a page is not mapped, or is not writable ([`Dest`]), or the current task has no
    ///   user memory (a kernel thread).
    /// - `ENOMEM`: there is no memory for a page, or for the list of the runs.
    /// - `EINTR`, `EAGAIN`: the task has been killed.
    pub fn new(addr: usize, len: usize) -> Result<Self> {
        let mut pins = Pins::new();
        match count_pages(addr, len)? {
            1 => pins.page(addr, len, D::GUP_FLAGS),
            pages @ 2..=MANY => pins.few(addr, len, pages, D::GUP_FLAGS),
            pages => pins.user(addr, len, pages, D::GUP_FLAGS),
        }?;
        Ok(Self::from_runs(pins.runs))
    }

    /// Like [`PinGuard::new`], for pins of which user space decides how long they last
    /// (FOLL_LONGTERM).
    ///
    /// The kernel first migrates the pages out of movable memory. Until the drop, the pages count
    /// as locked memory of the current user (RLIMIT_MEMLOCK).
    ///
    /// May sleep. The caller must not hold the mmap lock.
    ///
    /// C: [`pin_user_pages_fast()`](srctree/mm/gup.c),
    /// [`mm_account_pinned_pages()`](srctree/net/core/skbuff.c)
    ///
    /// # Errors
    ///
    /// As [`PinGuard::new`], and:
    ///
    /// - `ENOMEM`: the user is over RLIMIT_MEMLOCK, and the task has no CAP_IPC_LOCK.
    /// - `EFAULT`: the memory of a [`Dest`] belongs to a file that needs writeback.
    /// - `EOPNOTSUPP`: the memory is a file on DAX.
    ///
    /// # Examples
    ///
    /// ```
    /// # use kernel::prelude::*;
    /// # use pin_guard::{PinGuard, Source};
    /// // A buffer that user space registers once and uses often.
    /// struct Buffer(PinGuard<Source>);
    ///
    /// impl Buffer {
    ///     fn register(addr: usize, len: usize) -> Result<Self> {
    ///         Ok(Self(PinGuard::long_term(addr, len)?))
    ///     }
    /// }
    /// ```
    pub fn long_term(addr: usize, len: usize) -> Result<Self> {
        let flags = D::GUP_FLAGS | bindings::FOLL_LONGTERM;
        let pages = count_pages(addr, len)?;
        let charge = Charge::new(pages)?;
        let mut pins = Pins::new();
        pins.user(addr, len, pages, flags)?;
        pins.runs.charge(charge, len)?;
        Ok(Self::from_runs(pins.runs))
    }

    #[inline]
    fn from_runs(runs: Runs) -> Self {
        // INVARIANT: `count_pages` and `Pins::extract` fail if there is no byte.
        Self {
            runs: ManuallyDrop::new(runs),
            _direction: PhantomData,
        }
    }

    /// Returns the length of the memory in bytes.
    pub fn len(&self) -> usize {
        match self.runs.many() {
            None => self.runs().iter().map(Run::len).sum(),
            Some(many) => many.bytes,
        }
    }

    /// Returns `false`: a guard holds at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Returns the number of pins, one per page of `PAGE_SIZE` bytes, in huge pages, too.
    pub fn pages(&self) -> usize {
        match self.runs.many() {
            Some(many) if many.single => self.runs().len(),
            _ => self.runs().iter().map(Run::pages).sum(),
        }
    }

    /// Returns the memory in order, as runs that are each within one folio: a 2 MiB huge page is
    /// one run.
    ///
    /// # Examples
    ///
    /// ```
    /// # use kernel::bindings::bio_vec;
    /// # use pin_guard::{Dest, PinGuard};
    /// fn start(buffer: &PinGuard<Dest>, add_to_scatterlist: impl Fn(&bio_vec)) {
    ///     for run in buffer.runs() {
    ///         add_to_scatterlist(run.as_bio_vec());
    ///     }
    /// }
    /// ```
    #[inline]
    pub fn runs(&self) -> &[Run] {
        self.runs.as_slice()
    }

    /// Fills `out` with the bytes that begin `offset` bytes into the memory. Does not sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the range goes beyond the end of the memory. Nothing has been copied.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> Result {
        let base = out.as_mut_ptr();
        self.walk(offset, out.len(), |at, user, len| {
            // C's memcpy() may race, Rust's copies must not.
            // SAFETY: `user` is valid for `len` bytes, and `base` for all bytes that `walk` goes
            // through.
            unsafe { bindings::memcpy(base.add(at).cast(), user.cast(), len) };
        })
    }

    /// Releases the guard like a drop, but does all of the work at once. May sleep.
    ///
    /// C: [`unpin_user_page_range_dirty_lock()`](srctree/mm/gup.c)
    pub fn release(self) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, nor used again.
        let mut runs = unsafe { ManuallyDrop::take(&mut this.runs) };
        if D::DIRTIES {
            runs.unpin_dirty();
        }
    }

    /// Returns whether each run is known to be a page of its own.
    fn is_single(&self) -> bool {
        self.runs.many().is_some_and(|many| many.single)
    }

    /// Returns runs that have the byte `offset` of the memory, and the offset of this byte in them.
    /// The first of them has the byte, if it can be found without a search; if not, these are all
    /// runs.
    pub(crate) fn runs_at(&self, offset: usize) -> (&[Run], usize) {
        let runs = self.runs();
        let at = runs.first().map_or(0, Run::offset) + offset;
        match runs.get(at >> PAGE_SHIFT..) {
            Some(runs) if self.is_single() && at >= PAGE_SIZE => (runs, at % PAGE_SIZE),
            _ => (runs, offset),
        }
    }

    /// Calls `f` for each page of the `len` bytes from `offset` on, with the position of its bytes
    /// in these `len` bytes, the address where they are mapped, and their number.
    fn walk(&self, offset: usize, len: usize, mut f: impl FnMut(usize, *mut u8, usize)) -> Result {
        if offset.checked_add(len).ok_or(EINVAL)? > self.len() {
            return Err(EINVAL);
        }
        let (runs, mut skip) = self.runs_at(offset);
        let mut done = 0;
        for run in runs {
            if done == len {
                break;
            }
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

impl<D: Direction> Drop for PinGuard<D> {
    #[inline]
    fn drop(&mut self) {
        if self.runs.many().is_some_and(|many| many.deferred.is_some()) {
            // SAFETY: The runs are not used again.
            Deferred::release(unsafe { ManuallyDrop::take(&mut self.runs) }, D::DIRTIES);
        } else {
            // SAFETY: As above, and there is no `Deferred`.
            unsafe { self.runs.finish(D::DIRTIES) };
        }
    }
}

impl PinGuard<Dest> {
    /// Copies `data` to the bytes that begin `offset` bytes into the memory. Does not sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the range goes beyond the end of the memory. Nothing has been copied.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result {
        self.walk(offset, data.len(), |at, user, len| {
            // As in `read`.
            // SAFETY: `user` is valid for `len` bytes, and `data` for all bytes that `walk` goes
            // through.
            unsafe { bindings::memcpy(user.cast(), data.as_ptr().add(at).cast(), len) };
        })
    }

    /// Pins the rest of `iter`, at most `max` bytes, and advances `iter` by the length of the
    /// guard.
    ///
    /// May sleep. The caller must not hold the mmap lock.
    ///
    /// C: [`iov_iter_extract_pages()`](srctree/lib/iov_iter.c)
    ///
    /// # Errors
    ///
    /// As [`PinGuard::new`], and `EINVAL` if `iter` is not on user memory. After an error `iter` is
    /// where it was.
    ///
    /// # Examples
    ///
    /// ```
    /// # use kernel::{iov::IovIterDest, prelude::*};
    /// # use pin_guard::{Dest, PinGuard};
    /// fn read_iter(iter: &mut IovIterDest<'_>, data: &[u8]) -> Result<usize> {
    ///     let guard = PinGuard::<Dest>::from_iter(iter, data.len())?;
    ///     guard.write(0, &data[..guard.len()])?;
    ///     Ok(guard.len())
    /// }
    /// ```
    pub fn from_iter(iter: &mut IovIterDest<'_>, max: usize) -> Result<Self> {
        let mut pins = Pins::new();
        // SAFETY: The iterator is valid by its invariants.
        unsafe { pins.extract(iter.as_raw(), max, Dest::GUP_FLAGS) }?;
        Ok(Self::from_runs(pins.runs))
    }
}

impl PinGuard<Source> {
    /// Returns whether the pages are charged to RLIMIT_MEMLOCK.
    pub(crate) fn is_charged(&self) -> bool {
        self.runs
            .many()
            .and_then(|many| many.deferred.as_ref())
            .is_some_and(|d| d.is_charged())
    }

    /// Returns the number of pins of the bytes `range`.
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

    /// Releases the pins of the bytes behind the first `len`, which must be at least 1, and at most
    /// the length of the guard.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.runs.truncate_bytes(len);
        let pages = self.pages();
        if let Some(many) = self.runs.many_mut() {
            many.bytes = len;
            if let Some(deferred) = &mut many.deferred {
                deferred.as_mut().shrink(pages);
            }
        }
    }

    /// Pins the rest of `iter`, at most `max` bytes, and advances `iter` by the length of the
    /// guard.
    ///
    /// May sleep. The caller must not hold the mmap lock.
    ///
    /// C: [`iov_iter_extract_pages()`](srctree/lib/iov_iter.c)
    ///
    /// # Errors
    ///
    /// As [`PinGuard::new`], and `EINVAL` if `iter` is not on user memory. After an error `iter` is
    /// where it was.
    pub fn from_iter(iter: &mut IovIterSource<'_>, max: usize) -> Result<Self> {
        let mut pins = Pins::new();
        // SAFETY: The iterator is valid by its invariants.
        unsafe { pins.extract(iter.as_raw(), max, Source::GUP_FLAGS) }?;
        Ok(Self::from_runs(pins.runs))
    }
}

mod sealed {
    pub trait Sealed {}
}

/// The direction of the data: [`Source`] or [`Dest`], named as the sides of an `iov_iter`.
///
/// C: [`ITER_SOURCE`, `ITER_DEST`](srctree/include/linux/uio.h)
pub trait Direction: sealed::Sealed + Send + Sync + 'static {
    #[doc(hidden)]
    const GUP_FLAGS: u32;
    /// Whether the release dirties the pages.
    #[doc(hidden)]
    const DIRTIES: bool = Self::GUP_FLAGS & bindings::FOLL_WRITE != 0;
}

/// The device reads the user's pages. They need not be writable.
///
/// # Examples
///
/// The driver cannot write to such memory either:
///
/// ```compile_fail,E0599
/// # use kernel::prelude::*;
/// # use pin_guard::{PinGuard, Source};
/// fn fill(buffer: &PinGuard<Source>) -> Result {
///     buffer.write(0, b"data")
/// }
/// ```
pub struct Source;

/// The device writes to the user's pages. They must be writable, and the release dirties them.
pub struct Dest;

impl sealed::Sealed for Source {}
impl Direction for Source {
    const GUP_FLAGS: u32 = 0;
}

impl sealed::Sealed for Dest {}
impl Direction for Dest {
    const GUP_FLAGS: u32 = bindings::FOLL_WRITE;
}

#[kunit_tests(pin_guard_pin)]
mod tests {
    use super::{pins::CHUNK, *};
    use crate::kunit::{self, Page, Pages};
    use core::ptr;
    use kernel::{
        sync::{
            atomic::{Atomic, Relaxed},
            Arc,
        },
        workqueue,
    };

    const P: usize = PAGE_SIZE;

    /// User memory that maps pages of several folios, partly out of order.
    struct Memory {
        large: Pages,
        small: Pages,
        addr: usize,
        /// The reference counts before any page is pinned.
        before: [usize; 5],
    }

    /// The mapped pages: whether each is of the large folio, and its number there or among the
    /// small folios.
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

        /// Returns whether the pages of these slots are pinned, and no others.
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

    /// Returns the number of pages that the bytes from `start` to before `end` touch.
    fn touched(start: usize, end: usize) -> usize {
        (start / P..=(end - 1) / P).count()
    }

    /// Returns the pages of a guard, in order.
    fn pages_of<D: Direction>(guard: &PinGuard<D>) -> impl Iterator<Item = Page> + '_ {
        guard.runs().iter().flat_map(|run| {
            let first = run.0.bv_page;
            (0..run.pages()).map(move |n| first.wrapping_add(n))
        })
    }

    /// Returns the length of a guard, the number of its pages, the bytes of its runs, and whether
    /// its release may have to sleep.
    fn summary<D: Direction>(guard: &PinGuard<D>) -> (usize, usize, usize, bool) {
        (
            guard.len(),
            guard.pages(),
            guard.runs().iter().map(Run::len).sum(),
            guard
                .runs
                .many()
                .is_some_and(|many| many.deferred.is_some()),
        )
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
        // A run may continue from one lookup to the next, wherever a lookup ends.
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
    fn each_number_of_runs_has_its_room() -> Result {
        let pages = Pages::folios(1)?;
        let slots: [Page; 36] = core::array::from_fn(|i| pages.at(i % 2));
        let addr = kunit::map(&slots)?;
        let before = [0, 1].map(|n| pages.references(n));
        for count in 1..=slots.len() {
            let guard = PinGuard::<Source>::new(addr + 1, count * P - 2)?;
            assert_eq!(
                (guard.runs().len(), guard.pages(), guard.len()),
                (count, count, count * P - 2)
            );
            for (i, run) in guard.runs().iter().enumerate() {
                assert!(ptr::eq(run.as_bio_vec().bv_page, slots[i]));
            }
            // The guard moves.
            let guard = KBox::new(guard, GFP_KERNEL)?;
            let pins = [count.div_ceil(2), count / 2];
            for n in [0, 1] {
                let expected = before[n] + pins[n] * bindings::GUP_PIN_COUNTING_BIAS as usize;
                assert_eq!(pages.references(n), expected);
            }
            drop(guard);
            assert_eq!([0, 1].map(|n| pages.references(n)), before);
        }
        Ok(())
    }

    #[test]
    fn up_to_16_pages_are_of_any_kind() -> Result {
        // One more page than the short way takes.
        const PAGES: usize = MANY + 1;
        const BIAS: usize = bindings::GUP_PIN_COUNTING_BIAS as usize;
        for large in [false, true] {
            // Two pages are not anonymous: two folios, or the middle of a large one.
            for at in 0..PAGES - 1 {
                let others = if large {
                    Pages::one_folio(2)?
                } else {
                    Pages::folios(2)?
                };
                let addr = kunit::anonymous(PAGES)?;
                drop(PinGuard::<Dest>::new(addr, PAGES * P)?);
                kunit::map_shared(addr + at * P, &[others.at(1), others.at(2)])?;
                let mut pages = [ptr::null_mut(); PAGES];
                for (n, page) in pages.iter_mut().enumerate() {
                    let guard = PinGuard::<Source>::new(addr + n * P, 1)?;
                    *page = guard.runs()[0].0.bv_page;
                }
                assert_eq!(pages[at..at + 2], [others.at(1), others.at(2)]);
                let before = others.references(0);
                // Whether the first `count` pages are pinned once, and no others.
                let pinned = |count: usize| {
                    pages.iter().enumerate().all(|(n, &page)| {
                        if large && (at..at + 2).contains(&n) {
                            let pins = count.saturating_sub(at).min(2);
                            return others.references(0) == before + pins;
                        }
                        // SAFETY: The page is mapped by this thread.
                        let references = unsafe {
                            (&raw const (*page)._refcount.counter).read_volatile() as usize
                        };
                        // The kernel may hold other references for a while.
                        references / BIAS == usize::from(n < count)
                    })
                };
                for count in 1..=PAGES {
                    let (start, len) = (addr + 1, count * P - 2);
                    let guard = PinGuard::<Source>::new(start, len)?;
                    assert!(pinned(count));
                    assert!(pages_of(&guard).eq(pages[..count].iter().copied()));
                    assert_eq!(summary(&guard), (len, count, len, false));
                    drop(guard);
                    assert!(pinned(0));
                    let guard = PinGuard::<Dest>::new(start, len)?;
                    assert!(pinned(count));
                    assert!(pages_of(&guard).eq(pages[..count].iter().copied()));
                    // A page of a file may have to be dirtied by a workqueue.
                    assert_eq!(summary(&guard), (len, count, len, at < count));
                    let mut last = [0];
                    guard.write(len - 1, &[count as u8])?;
                    PinGuard::<Source>::new(addr + (count - 1) * P, P)?.read(P - 2, &mut last)?;
                    assert_eq!(last, [count as u8]);
                    drop(guard);
                    assert!(kunit::eventually(|| pinned(0)));
                    for &page in &pages[..count] {
                        // SAFETY: The page is mapped by this thread.
                        assert!(unsafe { Folio::of(page) }.is_dirty());
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_zero_page_is_not_counted() -> Result {
        let addr = kunit::anonymous(6)?;
        // Of these six pages, only the third has been written to.
        PinGuard::<Dest>::new(addr + 2 * P, P)?.write(0, &[1])?;
        let references = |guard: &PinGuard<Source>, n: usize| {
            let page = guard.runs()[n].as_bio_vec().bv_page;
            // SAFETY: The page is pinned, or is the zero page.
            unsafe { (&raw const (*page)._refcount.counter).read_volatile() }
        };
        for pages in [1, 3, 6] {
            let guard = PinGuard::<Source>::new(addr, pages * P)?;
            let before = references(&guard, 0);
            drop(PinGuard::<Source>::new(addr, pages * P)?);
            assert_eq!(references(&guard, 0), before);
        }
        Ok(())
    }

    #[test]
    fn a_guard_outlives_its_memory() -> Result {
        for pages in [1, 3, 20] {
            let addr = kunit::anonymous(pages)?;
            let guard = PinGuard::<Dest>::new(addr, pages * P)?;
            kunit::unmap(addr, pages)?;
            // The guard has the last references.
            guard.write(pages * P - 1, &[7])?;
            let mut found = [0];
            guard.read(pages * P - 1, &mut found)?;
            assert_eq!(found, [7]);
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
        // No user memory is at these addresses. Each lookup is for one page.
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
            // In the first guard, each page is a run of its own; in the second, some runs are
            // longer.
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
    fn only_what_was_written_to_is_dirtied() -> Result {
        for pages in [1, 3, 9, 17] {
            let addr = kunit::anonymous(pages)?;
            let guard = PinGuard::<Dest>::new(addr, pages * P)?;
            let mut folios = KVec::new();
            for page in pages_of(&guard) {
                // SAFETY: The page is pinned, and mapped by this thread after that.
                folios.push(unsafe { Folio::of(page) }, GFP_KERNEL)?;
            }
            assert_eq!(folios.len(), pages);
            assert!(!folios.iter().any(|folio| folio.is_dirty()));
            drop(PinGuard::<Source>::new(addr, pages * P)?);
            assert!(!folios.iter().any(|folio| folio.is_dirty()));
            drop(guard);
            assert!(folios.iter().all(|folio| folio.is_dirty()));
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
    fn racing_copies_find_each_byte_as_one_of_them_wrote_it() -> Result {
        let addr = kunit::anonymous(1)?;
        let guard = Arc::new(PinGuard::<Dest>::new(addr, P)?, GFP_KERNEL)?;
        let done = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let (other, other_is_done) = (guard.clone(), done.clone());
        guard.write(100, &[1; 300])?;
        workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
            for _ in 0..10_000 {
                let _ = other.write(100, &[2; 300]);
            }
            other_is_done.store(true, Relaxed);
        })?;
        while !done.load(Relaxed) {
            guard.write(100, &[1; 300])?;
            let mut found = [0; 302];
            guard.read(99, &mut found)?;
            assert!(found[1..301].iter().all(|byte| [1, 2].contains(byte)));
            assert_eq!((found[0], found[301]), (0, 0));
        }
        Ok(())
    }

    #[test]
    fn an_iterator_is_taken_up_to_a_limit() -> Result {
        let memory = Memory::new()?;
        let segment = |offset: usize, len| bindings::iovec {
            iov_base: (memory.addr + offset) as *mut c_void,
            iov_len: len,
        };
        // The second segment begins where the first ends. Nothing is mapped at the last one.
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
            let mut pins = Pins::new();
            // SAFETY: The iterator is valid, on memory of this thread.
            unsafe { pins.extract(&mut iter, max, Source::GUP_FLAGS) }?;
            let guard = PinGuard::<Source>::from_runs(pins.runs);
            assert_eq!(guard.len(), max);
            assert_eq!(left(&iter), good + P - max);
            assert_eq!(guard.pages(), pages);
        }
        assert!(memory.pinned(0..0));
        for (max, expected) in [(good + 1, EFAULT), (usize::MAX, EFAULT), (0, EINVAL)] {
            let mut iter = iter();
            // SAFETY: As above.
            let result = unsafe { Pins::new().extract(&mut iter, max, Source::GUP_FLAGS) };
            assert_eq!(result.err(), Some(expected));
            assert_eq!(left(&iter), good + P);
        }
        assert!(memory.pinned(0..0));
        Ok(())
    }
}
