// SPDX-License-Identifier: GPL-2.0

//! Where functions of the kernel and its modules are.

use crate::{ffi::*, this_module};
use core::ptr;
use kernel::{bindings, prelude::*, str::CString};

/// A loaded module, which stays so for the life of the value.
///
/// # Invariants
///
/// `0` is valid, and we hold a reference or its loader waits for us.
pub(super) struct Home(*mut bindings::module, bool);

impl Home {
    /// The module called `name`, if it is there to stay: not on its way in or out. `None` also if it is part
    /// of the kernel proper; see [`is_built_in`].
    ///
    /// C: `mod_sysfs_init()` in `kernel/module/sysfs.c`.
    pub(super) fn find(name: &CStr) -> Option<Self> {
        with_kobject(name, |kobject| {
            let module = kobject.mod_;
            // SAFETY: A module waits for the users of its kobject before it is freed.
            if module.is_null() || !unsafe { bindings::try_module_get(module) } {
                return None;
            }
            // INVARIANT: A reference was taken just now.
            let home = Self(module, true);
            // SAFETY: As above. One on its way in may fail, and be freed without regard to references.
            let state = unsafe { (&raw const (*module).state).read_volatile() };
            (state == bindings::module_state_MODULE_STATE_LIVE).then_some(home)
        })?
    }

    /// # Safety
    ///
    /// The notifier chain of modules has passed `module`, and waits until the value is gone.
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

/// Whether what could be the module called `name` is part of the kernel.
pub(super) fn is_built_in(name: &CStr) -> bool {
    with_kobject(name, |kobject| kobject.mod_.is_null()).unwrap_or(false)
}

/// Calls `f` with what `/sys/module/` has by this name.
fn with_kobject<R>(name: &CStr, f: impl FnOnce(&bindings::module_kobject) -> R) -> Option<R> {
    // SAFETY: Our own module is in the same directory.
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
    // SAFETY: All in that directory are of this type; we hold a reference.
    let ret = f(unsafe { &*kernel::container_of!(kobject, bindings::module_kobject, kobj) });
    // SAFETY: It was found with a reference.
    unsafe { bindings::kobject_put(kobject) };
    Some(ret)
}

/// The address of the function `name`, in the module `home`, or the kernel proper. May sleep.
///
/// Errors: ENOENT if there is none that could be probed; ENOMEM.
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
    // SAFETY: `symbol` is a string, `addr` valid for a write.
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
