// SPDX-License-Identifier: GPL-2.0

//! Windows follow UFFDIO_MOVE, which takes pages to another address as mremap() does, but with the mmap lock
//! held for read, or none: submissions and forks run beside it.
//!
//! So the destination is a window as long as the move runs: a fork finds there what has arrived already.
//! After it, the windows of the source, old and new, cover the destination. A submission that opens its window
//! later than that finds at the source what is left there.
//!
//! C: `userfaultfd_move()` in `mm/userfaultfd.c`.

use super::redirect::{replace, Args, Original};
use crate::{
    ffi::*,
    window::{self, Pieces, Window},
};
use kernel::{
    bindings,
    prelude::*,
    uaccess::{UserPtr, UserSlice},
};

replace! {
    /// `long userfaultfd_ioctl(struct file *file, unsigned int cmd, unsigned long arg)`
    UserfaultfdIoctl: c"userfaultfd_ioctl",
    fn(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long, by pin_guard_userfaultfd_ioctl
}

impl UserfaultfdIoctl {
    #[inline(always)]
    fn applies(args: &Args) -> bool {
        // SAFETY: It is a constant.
        args.number(1) as c_uint == unsafe { pin_guard_UFFDIO_MOVE }
    }

    /// # Safety
    ///
    /// The arguments are those of an ioctl() of a userfaultfd, with UFFDIO_MOVE.
    unsafe fn call(
        original: &Original<Self>,
        file: *mut bindings::file,
        cmd: c_uint,
        arg: c_ulong,
    ) -> c_long {
        // SAFETY: By the safety requirements.
        let run = || unsafe { (original.function())(file, cmd, arg) };
        let Some((to, from)) = read(arg) else {
            return run(); // It says what is wrong.
        };
        // SAFETY: The file is that of a userfaultfd, which holds a reference on its mm.
        let mm = unsafe { pin_guard_userfaultfd_mm(file) };
        let arrival = to..to + from.len();
        if !window::have_room(mm, &from) {
            return ENOMEM.to_errno() as c_long;
        }
        // SAFETY: As above.
        let arrivals = match unsafe { Window::open_in(mm, arrival, Pieces::new(), true) } {
            Ok(window) => window,
            Err(e) => return e.to_errno() as c_long,
        };
        let ret = run();
        // EAGAIN for what moved in part, or not; EFAULT if it cannot be said how much did.
        if [0, EAGAIN.to_errno(), EFAULT.to_errno()].contains(&(ret as c_int)) {
            window::arrive(mm, arrivals, &from, to);
        }
        ret
    }
}

/// The destination and the source, of a `struct uffdio_move` that is right so far.
fn read(arg: usize) -> Option<(usize, core::ops::Range<usize>)> {
    let mut reader = UserSlice::new(UserPtr::from_addr(arg), 24).reader();
    let mut field = || reader.read::<u64>().ok().map(|field| field as usize);
    let (to, from, len) = (field()?, field()?, field()?);
    let (_, end) = (to.checked_add(len)?, from.checked_add(len)?);
    (len != 0).then_some((to, from..end))
}
