// SPDX-License-Identifier: GPL-2.0

//! References on modules, which keep code loaded while it is in use.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

use crate::this_module;
use kernel::{bindings, prelude::*};

/// A reference on a module. As long as there is one, rmmod fails with EAGAIN.
///
/// It is for work that outlives the file or the call that started it, such as I/O in flight or an
/// item in a workqueue. Make it the last field of the value that describes the work, so that the
/// code of the module is loaded while the other fields drop. A few instructions of that code still
/// run after the reference has gone, so the module needs a [`Quiesce`].
///
/// May be cloned and dropped in any context.
///
/// C: [`try_module_get()`, `module_put()`](srctree/kernel/module/main.c)
///
/// # Invariants
///
/// Owns one reference on the module.
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use pin_guard::{this_module, ModuleRef, Quiesce};
///
/// module! {
///     type: Driver,
///     name: "driver",
///     authors: ["The author"],
///     description: "Has requests in flight",
///     license: "GPL",
/// }
///
/// struct Driver {
///     // ... the registration of its devices ...
///     _quiesce: Quiesce,
/// }
///
/// impl kernel::Module for Driver {
///     fn init(_module: &'static ThisModule) -> Result<Self> {
///         Ok(Self { _quiesce: Quiesce })
///     }
/// }
///
/// struct Request {
///     // ... what the request works on ...
///     _module: ModuleRef,
/// }
///
/// impl Request {
///     fn new() -> Result<Self> {
///         let _module = ModuleRef::try_get(this_module!()).ok_or(ENODEV)?;
///         Ok(Self { _module })
///     }
/// }
/// ```
pub struct ModuleRef(&'static ThisModule);

impl ModuleRef {
    /// Takes a reference on `module`. Returns `None` if the module is being unloaded. Any context.
    pub fn try_get(module: &'static ThisModule) -> Option<Self> {
        // SAFETY: The module is valid by the type invariants of `ThisModule`.
        // INVARIANT: If `try_module_get()` returns true, it has taken a reference.
        unsafe { bindings::try_module_get(module.as_ptr()) }.then(|| Self(module))
    }

    /// Takes a reference on this module. The caller already keeps the module loaded.
    pub(crate) fn for_client() -> Self {
        // SAFETY: This is this module, which the caller keeps loaded.
        unsafe { bindings::__module_get(this_module!().as_ptr()) };
        // INVARIANT: The reference was taken just now.
        Self(this_module!())
    }

    /// Adopts a reference on this module.
    ///
    /// # Safety
    ///
    /// A reference on this module must have been taken for the caller.
    pub(crate) unsafe fn adopt() -> Self {
        // INVARIANT: By the safety requirements.
        Self(this_module!())
    }
}

impl Clone for ModuleRef {
    fn clone(&self) -> Self {
        // SAFETY: `self` owns a reference, so the module is loaded and stays so.
        unsafe { bindings::__module_get(self.0.as_ptr()) };
        // INVARIANT: The reference was taken just now.
        Self(self.0)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: This value owns a reference.
        unsafe { bindings::module_put(self.0.as_ptr()) };
    }
}

/// The last field of a module that uses [`ModuleRef`]: its drop waits for code of the module that
/// still runs after the last reference has gone.
///
/// That code is the few instructions from the drop of the reference to the return from the module.
/// They do not sleep. In a task `synchronize_rcu_tasks()` waits for them, in a softirq
/// `synchronize_rcu()`.
///
/// The drop sleeps, for tens of milliseconds. See [`ModuleRef`] for an example.
///
/// C: [`synchronize_rcu_tasks()`](srctree/kernel/rcu/tasks.h),
/// [`synchronize_rcu()`](srctree/kernel/rcu/tree.c)
pub struct Quiesce;

impl Drop for Quiesce {
    fn drop(&mut self) {
        // SAFETY: The exit or the failed init of a module drops this value, and may sleep.
        unsafe {
            bindings::synchronize_rcu_tasks();
            bindings::synchronize_rcu();
        }
    }
}
