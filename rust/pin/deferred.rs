// SPDX-License-Identifier: GPL-2.0

//! The release of a guard on a workqueue, because it may have to sleep.

use super::{
    charge::Charge,
    run::{Run, Runs},
};
use crate::module_ref::ModuleRef;
use core::mem;
use kernel::{
    new_work,
    prelude::*,
    workqueue::{self, Work, WorkItem},
};

/// A work item that releases the runs of a guard, and its charge.
///
/// It is allocated when the guard is made, because a release cannot fail.
#[pin_data]
pub(super) struct Deferred {
    runs: Runs,
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
    pub(super) fn new() -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                runs: Runs::new(),
                dirties: false,
                charge: None,
                module: None,
                work <- new_work!("pin_guard_release"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes over the charge of the guard.
    pub(super) fn charge(self: Pin<&mut Self>, charge: Charge) {
        *self.project().charge = Some(charge);
    }

    pub(super) fn is_charged(&self) -> bool {
        self.charge.is_some()
    }

    /// Shrinks the charge, if there is one, to `pages`.
    pub(super) fn shrink(self: Pin<&mut Self>, pages: usize) {
        if let Some(charge) = self.project().charge {
            charge.shrink(pages);
        }
    }

    /// Releases the pins of a guard that has a [`Deferred`]. Any context.
    #[cold]
    pub(super) fn release(mut runs: Runs, dirties: bool) {
        match runs.many_mut().and_then(|many| many.deferred.take()) {
            None => runs.unpin(dirties),
            Some(deferred)
                if (dirties && !runs.as_slice().iter().all(Run::try_dirty))
                    || runs.free_sleeps() =>
            {
                deferred.enqueue(runs, dirties);
            }
            // If `dirties`, all pages were dirty just now. Writeback may have cleaned a page of a
            // file since, but the device had finished before, so it has written that data, too.
            Some(_deferred) => drop(runs),
        }
    }

    fn enqueue(mut self: Pin<KBox<Self>>, runs: Runs, dirties: bool) {
        {
            let this = self.as_mut().project();
            *this.runs = runs;
            *this.dirties = dirties;
            *this.module = Some(ModuleRef::for_client());
        }
        workqueue::system_long().enqueue(self);
    }
}

impl WorkItem for Deferred {
    type Pointer = Pin<KBox<Self>>;

    fn run(mut this: Pin<KBox<Self>>) {
        let this = this.as_mut().project();
        let mut runs = mem::replace(this.runs, Runs::new());
        if *this.dirties {
            runs.unpin_dirty();
        }
        drop(runs);
        drop(this.charge.take());
        drop(this.module.take());
    }
}
