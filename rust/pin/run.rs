// SPDX-License-Identifier: GPL-2.0

//! Runs: the pages of a guard, as devices and the stack take them.

use super::folio::Folio;
use core::{mem, slice};
use kernel::{
    bindings,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// Physically contiguous bytes within one folio.
///
/// # Invariants
///
/// The bytes are within pages of one folio, and the owner of this value holds one pin for each of the
/// pages.
#[repr(transparent)]
pub struct Run(pub(super) bindings::bio_vec);

impl Run {
    /// `len` bytes from `offset` in `page` on, all in one folio; the caller gives up its pins.
    #[inline]
    pub(super) fn new(page: *mut bindings::page, offset: usize, len: usize) -> Self {
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
    pub(super) fn folio(&self) -> Folio {
        // SAFETY: By the type invariants, the page is pinned.
        unsafe { Folio::of(self.0.bv_page) }
    }

    /// Releases the pins, of anonymous memory if it is to be dirtied.
    ///
    /// # Safety
    ///
    /// Once; the caller owns the run's pins.
    #[inline]
    pub(super) unsafe fn unpin(&self, dirty: bool) {
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

/// Room for the runs of one guard: most have one and need no allocation.
pub(super) enum Runs {
    None,
    One(Run),
    Many(KVVec<Run>),
}

impl Runs {
    pub(super) fn as_slice(&self) -> &[Run] {
        match self {
            Self::None => &[],
            Self::One(run) => slice::from_ref(run),
            Self::Many(runs) => runs,
        }
    }

    /// Whether freeing the room may sleep: kvmalloc() may have got it from vmalloc().
    #[inline]
    pub(super) fn free_sleeps(&self) -> bool {
        match self {
            // SAFETY: This only looks at the address.
            Self::Many(runs) => unsafe { bindings::is_vmalloc_addr(runs.as_ptr().cast()) },
            _ => false,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Run] {
        match self {
            Self::None => &mut [],
            Self::One(run) => slice::from_mut(run),
            Self::Many(runs) => runs,
        }
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Run> {
        match self {
            Self::None => None,
            Self::One(run) => Some(run),
            Self::Many(runs) => runs.last_mut(),
        }
    }

    /// Makes room for `more` runs, and says where.
    pub(super) fn reserve(&mut self, more: usize) -> Result<&mut KVVec<Run>> {
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
