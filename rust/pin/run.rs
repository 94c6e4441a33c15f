// SPDX-License-Identifier: GPL-2.0

//! Runs: the pages of a guard, in the form in which devices and the network stack take them.

use super::{charge::Charge, deferred::Deferred, folio::Folio};
use crate::{
    cache::{Cache, Cached, CachedBox},
    ffi::*,
};
use core::{mem::MaybeUninit, ptr, slice};
use kernel::{
    bindings,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// Physically contiguous bytes within one folio.
///
/// [`PinGuard::runs`](super::PinGuard::runs) lends the runs of a guard.
///
/// C: [`struct bio_vec`](srctree/include/linux/bvec.h)
///
/// # Invariants
///
/// There is at least one byte. The bytes are within pages of one folio, and the owner of this value
/// holds one pin of each of these pages.
#[repr(transparent)]
pub struct Run(pub(super) bindings::bio_vec);

// SAFETY: Any thread may release a pin.
unsafe impl Send for Run {}
// SAFETY: `&self` only reads.
unsafe impl Sync for Run {}

impl Run {
    /// Returns a run of `len` bytes from `offset` in `page` on. The bytes must be in one folio, and
    /// the caller gives up its pins.
    #[inline]
    pub(super) fn new(page: *mut bindings::page, offset: usize, len: usize) -> Self {
        Self(bindings::bio_vec {
            bv_page: page,
            bv_len: len as u32,
            bv_offset: offset as u32,
        })
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.0.bv_len as usize
    }

    /// Returns `false`: a run has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Returns the offset of the first byte in the first page, in bytes.
    pub fn offset(&self) -> usize {
        self.0.bv_offset as usize
    }

    /// Returns the number of pages of `PAGE_SIZE` bytes that the run touches.
    #[inline]
    pub fn pages(&self) -> usize {
        (self.offset() + self.len() + PAGE_SIZE - 1) >> PAGE_SHIFT
    }

    /// Returns the run as the block layer, `iov_iter_bvec()` and the DMA API take it.
    ///
    /// The pages stay pinned for as long as the guard lives. A copy of the `bio_vec` does not keep
    /// them pinned.
    pub fn as_bio_vec(&self) -> &bindings::bio_vec {
        &self.0
    }

    /// Like [`Run::as_bio_vec`], for several runs.
    #[inline]
    pub(crate) fn as_bio_vecs(runs: &[Self]) -> &[bindings::bio_vec] {
        // SAFETY: A run is a transparent `bio_vec`.
        unsafe { slice::from_raw_parts(runs.as_ptr().cast(), runs.len()) }
    }

    #[inline]
    pub(super) fn folio(&self) -> Folio {
        // SAFETY: By the type invariants, the page is pinned.
        unsafe { Folio::of(self.0.bv_page) }
    }

    /// Dirties the folio if that needs no lock. Returns whether the folio is dirty now.
    ///
    /// A folio of a file must be dirtied under its lock, because it could be truncated meanwhile.
    /// An anonymous folio cannot be truncated, and to dirty it only sets a flag
    /// (`noop_dirty_folio()`).
    pub(super) fn try_dirty(&self) -> bool {
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

/// Number of runs that need no allocation.
pub(super) const FEW: usize = 4;
/// Number of runs that [`Many`] has room for by itself.
pub(super) const MANY: usize = 16;

/// Runs that own their pins. Dropping them releases the pins, in any context, without dirtying.
///
/// Most guards have one run, and guards are moved around. So the value is small, and a few runs
/// need no allocation.
///
/// # Invariants
///
/// The first `len` places of `few` hold runs. `len` is 0 if there is `many`, which holds the runs
/// then.
pub(crate) struct Runs {
    few: [MaybeUninit<Run>; FEW],
    len: usize,
    many: Option<CachedBox<Many>>,
}

/// Room for more than [`FEW`] runs, and the fields that few guards need.
///
/// # Invariants
///
/// The first `len` places of `vec`, or of `here` if `vec` is `None`, hold runs.
pub(super) struct Many {
    here: [MaybeUninit<Run>; MANY],
    /// Only the room of this vector is used; its own length stays 0.
    vec: Option<KVVec<Run>>,
    len: usize,
    /// Length of the guard in bytes.
    pub(super) bytes: usize,
    /// Whether each run of the guard is a page of its own.
    pub(super) single: bool,
    /// `Some` if there is a charge, or if the release may have to sleep: to dirty pages of files,
    /// or to free memory.
    pub(super) deferred: Option<Pin<KBox<Deferred>>>,
}

/// The slab cache for [`Many`]; the module creates it.
pub(crate) static CACHE: Cache = Cache::new::<Many>(c"pin_guard_runs");

// SAFETY: The cache is for this type.
unsafe impl Cached for Many {
    fn cache() -> &'static Cache {
        &CACHE
    }
}

impl Many {
    /// Allocates room for at least `room` runs. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the runs.
    fn new(room: usize) -> Result<CachedBox<Self>> {
        let vec = if room > MANY {
            Some(KVVec::with_capacity(room, GFP_KERNEL)?)
        } else {
            None
        };
        // INVARIANT: There are no runs yet.
        CachedBox::init(
            init!(Self {
                here: [const { MaybeUninit::uninit() }; MANY],
                vec,
                len: 0,
                bytes: 0,
                single: false,
                deferred: None,
            }),
            GFP_KERNEL,
        )
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.vec.as_ref().map_or(MANY, KVVec::capacity)
    }

    #[inline]
    fn as_slice(&self) -> &[Run] {
        let at = match &self.vec {
            None => self.here.as_ptr().cast(),
            Some(vec) => vec.as_ptr(),
        };
        // SAFETY: By the type invariants.
        unsafe { slice::from_raw_parts(at, self.len) }
    }

    #[inline]
    fn as_mut_ptr(&mut self) -> *mut Run {
        match &mut self.vec {
            None => self.here.as_mut_ptr().cast(),
            Some(vec) => vec.as_mut_ptr(),
        }
    }
}

impl Runs {
    #[inline]
    pub(super) const fn new() -> Self {
        // INVARIANT: There are no runs yet.
        Self {
            few: [const { MaybeUninit::uninit() }; FEW],
            len: 0,
            many: None,
        }
    }

    /// Makes `run` the first and only run.
    ///
    /// # Safety
    ///
    /// There must be no run and no [`Many`]. The caller gives up the pins of `run`.
    #[inline]
    pub(super) unsafe fn set(&mut self, run: Run) {
        self.few[0].write(run);
        // INVARIANT: The first place holds a run.
        self.len = 1;
    }

    /// Returns the places of runs that have no [`Many`], in fewer instructions than
    /// [`Runs::spare`].
    #[inline]
    pub(super) fn few(&mut self) -> &mut [MaybeUninit<Run>; FEW] {
        &mut self.few
    }

    /// Makes the first `len` places the runs.
    ///
    /// # Safety
    ///
    /// These places must hold runs, whose pins the caller gives up.
    #[inline]
    pub(super) unsafe fn set_len(&mut self, len: usize) {
        // INVARIANT: By the safety requirements.
        match &mut self.many {
            None => self.len = len,
            Some(many) => many.len = len,
        }
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[Run] {
        match &self.many {
            // SAFETY: By the type invariants.
            None => unsafe { slice::from_raw_parts(self.few.as_ptr().cast(), self.len) },
            Some(many) => many.as_slice(),
        }
    }

    #[inline]
    pub(super) fn as_mut_slice(&mut self) -> &mut [Run] {
        let (at, len) = match &mut self.many {
            None => (self.few.as_mut_ptr().cast(), self.len),
            Some(many) => (many.as_mut_ptr(), many.len),
        };
        // SAFETY: By the type invariants.
        unsafe { slice::from_raw_parts_mut(at, len) }
    }

    #[inline]
    pub(super) fn many(&self) -> Option<&Many> {
        self.many.as_deref()
    }

    #[inline]
    pub(super) fn many_mut(&mut self) -> Option<&mut Many> {
        self.many.as_deref_mut()
    }

    /// Returns the [`Deferred`], which a release needs if it may have to sleep. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the [`Deferred`].
    fn deferred(&mut self) -> Result<Pin<&mut Deferred>> {
        if self.many.is_none() {
            self.grow(0)?;
        }
        let many = self.many.as_mut().ok_or(ENOMEM)?;
        if many.deferred.is_none() {
            many.deferred = Some(Deferred::new()?);
        }
        Ok(many.deferred.as_mut().ok_or(ENOMEM)?.as_mut())
    }

    /// Prepares the release of a guard of `len` bytes; `file` says whether it will dirty pages of a
    /// file. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the [`Deferred`].
    pub(super) fn prepare(&mut self, len: usize, file: bool) -> Result {
        if file || self.free_sleeps() {
            self.deferred()?;
        }
        if let Some(many) = &mut self.many {
            many.bytes = len;
        }
        Ok(())
    }

    /// Takes over the charge of a guard of `len` bytes. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the [`Deferred`].
    pub(super) fn charge(&mut self, charge: Charge, len: usize) -> Result {
        self.deferred()?.charge(charge);
        self.prepare(len, false)
    }

    /// Forgets all runs but the first `len`, and does not release their pins.
    #[inline]
    pub(super) fn truncate(&mut self, len: usize) {
        let all = match &mut self.many {
            None => &mut self.len,
            Some(many) => &mut many.len,
        };
        *all = len.min(*all);
    }

    /// Returns whether it may sleep to free the memory of the runs: kvmalloc() may have got it from
    /// vmalloc().
    #[inline]
    pub(super) fn free_sleeps(&self) -> bool {
        self.many
            .as_ref()
            .and_then(|many| many.vec.as_ref())
            // SAFETY: This only looks at the address.
            .is_some_and(|vec| unsafe { bindings::is_vmalloc_addr(vec.as_ptr().cast()) })
    }

    /// Returns the free places. [`Runs::add`] adds the runs that the caller writes there.
    #[inline]
    pub(super) fn spare(&mut self) -> &mut [MaybeUninit<Run>] {
        let (at, len, capacity) = match &mut self.many {
            None => (self.few.as_mut_ptr(), self.len, FEW),
            Some(many) => (many.as_mut_ptr().cast(), many.len, many.capacity()),
        };
        // SAFETY: There are `capacity` places, of which the first `len` are used.
        unsafe { slice::from_raw_parts_mut(at.wrapping_add(len), capacity - len) }
    }

    /// Adds the runs in the first `count` of the free places.
    ///
    /// # Safety
    ///
    /// These places must hold runs, whose pins the caller gives up.
    #[inline]
    pub(super) unsafe fn add(&mut self, count: usize) {
        // INVARIANT: By the safety requirements.
        match &mut self.many {
            None => self.len += count,
            Some(many) => many.len += count,
        }
    }

    /// Makes room for at least `more` runs more. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the runs.
    pub(super) fn grow(&mut self, more: usize) -> Result {
        let len = self.as_slice().len();
        // At least double the room, because the runs may grow many times.
        let mut many = Many::new((len + more).max(2 * len))?;
        if len != 0 {
            // SAFETY: There is room for `len` runs.
            unsafe { ptr::copy_nonoverlapping(self.as_slice().as_ptr(), many.as_mut_ptr(), len) };
        }
        // INVARIANT: The runs have moved to these places.
        many.len = len;
        self.truncate(0);
        self.many = Some(many);
        Ok(())
    }

    /// Releases the pins, and first dirties the pages if `dirty`; they must be anonymous then.
    /// There must be a run. Any context.
    #[inline]
    pub(super) fn unpin(&mut self, dirty: bool) {
        // SAFETY: By the type invariants the runs own the pins. They are forgotten below.
        unsafe { unpin(self.as_slice(), dirty) };
        self.truncate(0);
    }

    /// Releases the pins as [`Runs::unpin`] does, and frees the memory.
    ///
    /// # Safety
    ///
    /// The runs must not be used again, nor dropped. There must be no [`Deferred`].
    #[inline]
    pub(super) unsafe fn finish(&mut self, dirty: bool) {
        match self.many.take() {
            // SAFETY: As in `unpin`; the caller forgets the runs.
            None => unsafe { unpin(self.as_slice(), dirty) },
            // SAFETY: As above.
            Some(many) => unsafe { unpin(many.as_slice(), dirty) },
        }
    }

    /// Releases the pins of the bytes behind the first `len`, which must be at least 1, and at most
    /// the bytes of all runs.
    pub(super) fn truncate_bytes(&mut self, len: usize) {
        let mut left = len;
        let mut runs = 0;
        for run in self.as_mut_slice() {
            let keep = left.min(run.len());
            if keep < run.len() {
                let pages = (run.offset() + keep).div_ceil(PAGE_SIZE);
                let kept = if keep == 0 { 0 } else { pages };
                // SAFETY: The run owns these pins, and loses their pages below.
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
        self.truncate(runs);
    }

    /// Dirties the pages, and then releases the pins. May sleep.
    pub(super) fn unpin_dirty(&mut self) {
        for run in self.as_slice() {
            // SAFETY: As above.
            unsafe { bindings::unpin_user_page_range_dirty_lock(run.0.bv_page, run.pages(), true) };
        }
        self.truncate(0);
    }
}

/// Releases the pins of `runs`, of which there must be one, as [`Runs::unpin`] says.
///
/// # Safety
///
/// The caller gives up the pins.
#[inline]
unsafe fn unpin(runs: &[Run], dirty: bool) {
    let release = if dirty {
        pin_guard_unpin_dirty
    } else {
        pin_guard_unpin
    };
    // SAFETY: `Run` is a `bio_vec`, and by its type invariants its owner holds the pins.
    unsafe { release(runs.as_ptr().cast(), runs.len()) };
}

impl Drop for Runs {
    #[inline]
    fn drop(&mut self) {
        if !self.as_slice().is_empty() {
            self.unpin(false);
        }
    }
}
