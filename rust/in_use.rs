// SPDX-License-Identifier: GPL-2.0

//! Uses of this module, which keep its code loaded.
//!
//! A use is a reference on the module, if there are few. Then rmmod works as soon as the last one
//! has gone. But all processors write to the module's counter. So once there are many, a
//! `percpu_ref` counts the uses for [`APART`]: each processor writes to memory of its own, and all
//! of these uses together hold one reference on the module. After that the `percpu_ref` is killed,
//! and the module's counter counts again for a moment, or rmmod would fail for as long as there is
//! I/O at all.
//!
//! C header: [`include/linux/percpu-refcount.h`](srctree/include/linux/percpu-refcount.h)

use crate::{counters::Counter, ffi::*, module_ref::ModuleRef, this_module};
use core::mem;
use kernel::{
    bindings,
    error::to_result,
    fmt,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    time::msecs_to_jiffies,
};

/// How long the module's counter counts before it is decided whether there are many uses, in ms.
const TOGETHER: u32 = 20;
/// So many uses in [`TOGETHER`] are many: one in 5 ms.
const MANY: isize = 4;
/// How long each processor counts for itself, in ms.
const APART: u32 = 200;

/// Whether the work is pending. Written only when that changes.
static WATCHED: Atomic<usize> = Atomic::new(0);
/// Whether each processor counts for itself. Only the work uses it.
static IS_APART: Atomic<usize> = Atomic::new(0);
/// The sum of [`Counter::Uses`] when the work looked last.
static SEEN: Atomic<isize> = Atomic::new(0);
static TIMES_APART: Atomic<usize> = Atomic::new(0);

/// Writes the counters of this file, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("uses_counted_apart {}\n", TIMES_APART.load(Relaxed)))
}

/// A use. As long as there is one, rmmod fails with EAGAIN.
///
/// May be cloned and dropped in any context. For what runs after the drop, see
/// [`ModuleRef`].
///
/// # Invariants
///
/// Owns one reference on the module, or on the `percpu_ref`, which then owns one on the module.
pub(crate) struct InUse {
    apart: bool,
}

impl InUse {
    /// Returns `None` if the module is being unloaded. Any context, and ftrace callbacks.
    #[inline]
    pub(crate) fn try_get() -> Option<Self> {
        // SAFETY: The module initialises the `percpu_ref` before anything can use it.
        let apart = unsafe { pin_guard_in_use_tryget() };
        if !apart {
            mem::forget(ModuleRef::try_get(this_module!())?);
        }
        // INVARIANT: The reference was taken just now.
        Some(Self { apart })
    }

    /// Like `try_get`, if the caller already keeps the module loaded. May not be called by an
    /// ftrace callback.
    pub(crate) fn for_client() -> Self {
        // SAFETY: As in `try_get`.
        let apart = unsafe { pin_guard_in_use_tryget() };
        if !apart {
            mem::forget(ModuleRef::for_client());
            count();
        }
        // INVARIANT: The reference was taken just now.
        Self { apart }
    }

    /// Leaves the reference to whoever calls [`InUse::adopt`] with what this returns.
    #[inline]
    pub(crate) fn leave(self) -> bool {
        let apart = self.apart;
        mem::forget(self);
        apart
    }

    /// Adopts a reference.
    ///
    /// # Safety
    ///
    /// A call of [`InUse::leave`] must have returned `apart` and left the reference to the caller.
    pub(crate) unsafe fn adopt(apart: bool) -> Self {
        if !apart {
            count();
        }
        // INVARIANT: By the safety requirements.
        Self { apart }
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        if self.apart {
            // SAFETY: `self` owns a reference.
            unsafe { pin_guard_in_use_get() };
            // INVARIANT: The reference was taken just now.
            Self { apart: true }
        } else {
            Self::for_client()
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if self.apart {
            // SAFETY: This value owns the reference.
            unsafe { pin_guard_in_use_put() };
        } else {
            // SAFETY: As above.
            drop(unsafe { ModuleRef::adopt() });
        }
    }
}

/// Counts a use that the module's counter has counted, and has the work look.
fn count() {
    Counter::Uses.add(1);
    if WATCHED.load(Relaxed) == 0 {
        watch(TOGETHER);
    }
}

/// Has the work look in `ms` ms. Does nothing if it is pending.
fn watch(ms: u32) {
    WATCHED.store(1, Relaxed);
    // SAFETY: The module is in use, or this is the work. `Counted` cancels the work only after that.
    unsafe { pin_guard_in_use_watch(msecs_to_jiffies(ms)) };
}

/// The work.
///
/// # Safety
///
/// Only the workqueue may call this.
#[no_mangle]
unsafe extern "C" fn pin_guard_in_use_look() {
    if IS_APART.load(Relaxed) != 0 {
        IS_APART.store(0, Relaxed);
        // SAFETY: The `percpu_ref` is alive since the work set `IS_APART`, and only this kills it.
        unsafe { pin_guard_in_use_kill() };
        WATCHED.store(0, Relaxed);
        return;
    }
    WATCHED.store(0, Relaxed);
    let uses = Counter::Uses.sum();
    let many = uses - SEEN.load(Relaxed) >= MANY;
    SEEN.store(uses, Relaxed);
    if !many {
        return;
    }
    // If there is none to be had, the module is being unloaded.
    if let Some(module) = ModuleRef::try_get(this_module!()) {
        // SAFETY: Only this brings the `percpu_ref` to life.
        if unsafe { pin_guard_in_use_revive() } {
            // `released` adopts it.
            mem::forget(module);
            TIMES_APART.add(1, Relaxed);
            IS_APART.store(1, Relaxed);
            watch(APART);
        }
    }
}

/// The last use that was counted apart has gone.
///
/// # Safety
///
/// Only the `percpu_ref` may call this.
unsafe extern "C" fn released(_ref: *mut bindings::percpu_ref) {
    // SAFETY: The work has left a reference when it brought the `percpu_ref` to life.
    drop(unsafe { ModuleRef::adopt() });
}

/// Uses are counted as long as this exists.
pub(crate) struct Counted;

impl Counted {
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the counter of each processor.
    ///
    /// # Safety
    ///
    /// There must be no use before this, and none when the value drops.
    pub(crate) unsafe fn new() -> Result<Self> {
        // SAFETY: By the safety requirements.
        to_result(unsafe { pin_guard_in_use_init(Some(released)) })?;
        Ok(Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // SAFETY: There is no use, so nobody starts the work. The `percpu_ref` is dead: alive, it
        // has a reference on the module, and rmmod fails.
        unsafe { pin_guard_in_use_exit() };
    }
}

#[kunit_tests(pin_guard_in_use)]
mod tests {
    use super::*;
    use crate::kunit::eventually;
    use kernel::time::{delay::fsleep, Delta};

    fn references() -> c_int {
        // SAFETY: The module of the tests is loaded.
        unsafe { bindings::module_refcount(this_module!().as_ptr()) }
    }

    /// Returns a use that was counted apart, after many that were not.
    fn apart() -> Result<InUse> {
        for _ in 0..1000 {
            for _ in 0..MANY {
                let one = InUse::for_client();
                if one.apart {
                    return Ok(one);
                }
            }
            fsleep(Delta::from_millis(i64::from(TOGETHER)));
        }
        Err(ETIMEDOUT)
    }

    #[test]
    fn few_uses_are_references() -> Result {
        assert!(eventually(|| references() == 0));
        let one = InUse::try_get().ok_or(ENODEV)?;
        let two = one.clone();
        assert_eq!(references(), 2);
        drop(one);
        assert_eq!(references(), 1);
        drop(two);
        assert_eq!(references(), 0);
        Ok(())
    }

    #[test]
    fn many_uses_have_one_reference() -> Result {
        let one = apart()?;
        assert_eq!(references(), 1);
        let two = one.clone();
        assert!(two.apart);
        // SAFETY: `leave` has left this reference.
        let two = unsafe { InUse::adopt(two.leave()) };
        assert_eq!(references(), 1);

        // After a while it is counted together again, and these still hold the module.
        assert!(eventually(|| InUse::try_get().is_some_and(|one| !one.apart)));
        drop(one);
        assert_eq!(references(), 1);
        let three = two.clone();
        drop(two);
        assert_eq!(references(), 1);
        drop(three);
        assert!(eventually(|| references() == 0));
        Ok(())
    }

    #[test]
    fn who_stays_stops_nobody() -> Result {
        let stays = apart()?;
        assert!(eventually(|| InUse::try_get().is_some_and(|one| !one.apart)));
        for _ in 0..10 {
            for _ in 0..MANY {
                assert!(!InUse::for_client().apart);
            }
            fsleep(Delta::from_millis(i64::from(TOGETHER)));
        }
        assert_eq!(references(), 1);
        drop(stays);
        drop(apart()?);
        assert!(eventually(|| references() == 0));
        Ok(())
    }
}
