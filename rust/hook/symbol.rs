// SPDX-License-Identifier: GPL-2.0

//! Looks up addresses of functions of the kernel and of its modules.

use crate::{ffi::*, this_module};
use core::ptr;
use kernel::{bindings, prelude::*, str::CString};

/// A loaded module, which stays loaded for as long as this value lives.
///
/// # Invariants
///
/// `0` is valid. If `1`, this value owns a reference on the module; otherwise the module loader
/// waits until this value is gone.
pub(super) struct Home(*mut bindings::module, bool);

impl Home {
    /// Returns the module called `name`, if it is live, that is neither on its way in nor on its
    /// way out. Returns `None` also if `name` is part of the kernel itself; see [`is_built_in`].
    ///
    /// C: `mod_sysfs_init()` in `kernel/module/sysfs.c`.
    pub(super) fn find(name: &CStr) -> Option<Self> {
        with_kobject(name, |kobject| {
            let module = kobject.mod_;
            // SAFETY: The kernel frees a module only when its kobject has no user any more.
            if module.is_null() || !unsafe { bindings::try_module_get(module) } {
                return None;
            }
            // INVARIANT: `try_module_get()` has taken a reference.
            let home = Self(module, true);
            // SAFETY: As above. A module on its way in may fail, and the kernel then frees it
            // without regard to references.
            let state = unsafe { (&raw const (*module).state).read_volatile() };
            (state == bindings::module_state_MODULE_STATE_LIVE).then_some(home)
        })?
    }

    /// # Safety
    ///
    /// The module notifier chain must have passed `module`, and must wait until the value is gone.
    pub(super) unsafe fn of_notifier(module: *mut bindings::module) -> Self {
        // INVARIANT: By the safety requirements.
        Self(module, false)
    }

    fn contains(&self, addr: usize) -> bool {
        // SAFETY: By the type invariants.
        unsafe { pin_guard_within_module(addr, self.0) }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.1 {
            // SAFETY: By the type invariants.
            unsafe { bindings::module_put(self.0) };
        }
    }
}

/// Returns whether the module called `name` is built into the kernel.
pub(super) fn is_built_in(name: &CStr) -> bool {
    with_kobject(name, |kobject| kobject.mod_.is_null()).unwrap_or(false)
}

/// Calls `f` with the entry of `/sys/module/` that has this name, if there is one.
fn with_kobject<R>(name: &CStr, f: impl FnOnce(&bindings::module_kobject) -> R) -> Option<R> {
    // SAFETY: This module is loaded, and its kset is that of `/sys/module/`.
    let kobject = unsafe {
        let kset = (*this_module!().as_ptr()).mkobj.kobj.kset;
        if kset.is_null() {
            return None;
        }
        bindings::kset_find_obj(kset, name.as_char_ptr())
    };
    if kobject.is_null() {
        return None;
    }
    // SAFETY: All kobjects of that kset have this type, and `kset_find_obj()` has taken a
    // reference.
    let ret = f(unsafe { &*kernel::container_of!(kobject, bindings::module_kobject, kobj) });
    // SAFETY: This is the reference that `kset_find_obj()` has taken.
    unsafe { bindings::kobject_put(kobject) };
    Some(ret)
}

/// Returns the address of the function `name`, in the module `home` or in the kernel itself. May
/// sleep.
///
/// # Errors
///
/// - `ENOENT`: there is no such function that a kprobe could be on.
/// - `ENOMEM`: there is no memory for the lookup.
///
/// C: `register_kprobe()` in `kernel/kprobes.c`.
pub(super) fn address(name: &CStr, home: Option<(&CStr, &Home)>) -> Result<usize> {
    let mut addr = 0;
    let qualified;
    let symbol = match home {
        Some((module, _)) => {
            qualified = CString::try_from_fmt(fmt!("{module}:{name}"))?;
            &*qualified
        }
        None => name,
    };
    // SAFETY: `symbol` is a C string, and `addr` is valid for a write.
    match unsafe { pin_guard_lookup(symbol.as_char_ptr(), ptr::from_mut(&mut addr)) } {
        0 => {}
        e if e == ENOMEM.to_errno() => return Err(ENOMEM),
        _ => return Err(ENOENT),
    }
    if home.is_some_and(|(_, home)| !home.contains(addr)) {
        return Err(ENOENT);
    }
    Ok(addr)
}
