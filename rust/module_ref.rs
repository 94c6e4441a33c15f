// SPDX-License-Identifier: GPL-2.0

//! References on modules: what keeps code loaded while it is in use.

use crate::this_module;
use kernel::{bindings, prelude::*};

/// A reference on a module: rmmod fails with EAGAIN while one exists.
///
/// For what outlives the file or the call that started it (I/O in flight, work in a queue). The owner's
/// code runs a little longer than the value, so the module needs a [`Quiesce`].
///
/// C: `try_module_get()`, `module_put()` in `kernel/module/main.c`.
pub struct ModuleRef(&'static ThisModule);

impl ModuleRef {
    /// Takes a reference, unless the module is being unloaded. Any context.
    pub fn try_get(module: &'static ThisModule) -> Option<Self> {
        // SAFETY: The module is valid by the type's invariants.
        unsafe { bindings::try_module_get(module.as_ptr()) }.then(|| Self(module))
    }

    /// Takes a reference on this module on behalf of one that uses it, and so keeps it loaded.
    pub(crate) fn for_client() -> Self {
        // SAFETY: `THIS_MODULE` is this module, and in use.
        unsafe { bindings::__module_get(this_module!().as_ptr()) };
        Self(this_module!())
    }

    /// Adopts a reference on this module.
    ///
    /// # Safety
    ///
    /// Somebody took the reference and left it to the caller.
    pub(crate) unsafe fn adopt() -> Self {
        Self(this_module!())
    }
}

impl Clone for ModuleRef {
    fn clone(&self) -> Self {
        // SAFETY: `self` holds a reference, so there is one to add to.
        unsafe { bindings::__module_get(self.0.as_ptr()) };
        Self(self.0)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: This value owns a reference.
        unsafe { bindings::module_put(self.0.as_ptr()) };
    }
}

/// The last field of a module that uses [`ModuleRef`]: dropping it waits until nobody is left between its
/// last reference and its return from the module's code.
///
/// Those few instructions do not sleep, which is what `synchronize_rcu_tasks()` waits for in task
/// context, as `synchronize_rcu()` does in softirqs. Takes tens of milliseconds.
pub struct Quiesce;

impl Drop for Quiesce {
    fn drop(&mut self) {
        // SAFETY: Dropped by a module's exit or failed init, which may sleep.
        unsafe {
            bindings::synchronize_rcu_tasks();
            bindings::synchronize_rcu();
        }
    }
}
