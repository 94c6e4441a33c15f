// SPDX-License-Identifier: GPL-2.0

//! Differences between the supported kernels. Kbuild sets `linux_7_3` from 7.3 on.

use kernel::{prelude::*, sync::barrier};

/// Returns the `&'static ThisModule` of the crate that invokes the macro, on each supported kernel.
///
/// The root of that crate must have the `module!`. See [`ModuleRef`](crate::ModuleRef) for an
/// example.
///
/// C: [`THIS_MODULE`](srctree/include/linux/init.h)
#[cfg(linux_7_3)]
#[allow(clippy::crate_in_macro_def)] // the invoking crate is meant
#[macro_export]
macro_rules! this_module {
    () => {
        ::kernel::module::this_module::<crate::LocalModule>()
    };
}

/// Returns the `&'static ThisModule` of the crate that invokes the macro, on each supported kernel.
///
/// The root of that crate must have the `module!`. See [`ModuleRef`](crate::ModuleRef) for an
/// example.
///
/// C: [`THIS_MODULE`](srctree/include/linux/init.h)
#[cfg(not(linux_7_3))]
#[allow(clippy::crate_in_macro_def)] // the invoking crate is meant
#[macro_export]
macro_rules! this_module {
    () => {
        &crate::THIS_MODULE
    };
}

/// A full memory barrier between CPUs.
pub(crate) fn smp_mb() {
    #[cfg(linux_7_3)]
    barrier::smp_mb(barrier::Full);
    #[cfg(not(linux_7_3))]
    barrier::smp_mb();
}

/// Initialises the value at `slot`.
///
/// # Safety
///
/// `slot` must be valid for a write, and pinned.
pub(crate) unsafe fn init_at<T>(slot: *mut T, init: impl PinInit<T>) {
    // SAFETY: By the safety requirements.
    #[cfg(linux_7_3)]
    unsafe {
        pin_init::raw_init(slot, init)
    };
    // SAFETY: By the safety requirements.
    #[cfg(not(linux_7_3))]
    let Ok(()) = unsafe { init.__pinned_init(slot) };
}
