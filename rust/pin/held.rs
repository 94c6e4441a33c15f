// SPDX-License-Identifier: GPL-2.0

//! How a guard holds its pins, and lets go of them in any context.

use super::{charge::Charge, pins::Pins, run::Run};
use crate::module_ref::ModuleRef;
use core::mem;
use kernel::{
    bindings, new_work,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    workqueue::{self, Work, WorkItem},
};

/// What a guard holds, whatever its direction.
pub(super) struct Held {
    pub(super) pins: Pins,
    pub(super) len: usize,
    /// Whether the pages are dirtied on release.
    dirties: bool,
    /// Whether each run is a page of its own.
    pub(super) single: bool,
    /// `Some` if the release may have to sleep: to dirty pages of files, or to free memory.
    deferred: Option<Pin<KBox<Deferred>>>,
    pub(super) charge: Option<Charge>,
}

impl Held {
    #[inline]
    pub(super) fn user(
        addr: usize,
        len: usize,
        gup_flags: u32,
        charge: Option<Charge>,
    ) -> Result<Self> {
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
    pub(super) unsafe fn extract(
        iter: *mut bindings::iov_iter,
        max: usize,
        gup_flags: u32,
    ) -> Result<Self> {
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
    pub(super) fn release(&mut self) {
        let pins = mem::replace(&mut self.pins, Pins::new());
        if self.dirties {
            pins.unpin_dirty();
        }
    }

    /// Calls `f` with the pieces of `len` bytes from `offset` on: where a piece is in the `len` bytes,
    /// where it is mapped, and how long it is.
    pub(super) fn walk(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(usize, *mut u8, usize),
    ) -> Result {
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
