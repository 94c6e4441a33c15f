// SPDX-License-Identifier: GPL-2.0

//! The userfaultfd hook: makes windows follow UFFDIO_MOVE. Like mremap(), it moves pages to another
//! address, but it holds the mmap lock for read, or not at all, so submissions and forks run beside
//! it.
//!
//! So the hook keeps a window open on the destination while the move runs. A fork finds there the
//! pages that have already arrived. After the move, the windows that touch the source, old and new,
//! cover the destination. A submission that opens its window later looks up the pages that are at
//! the source then.
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
        // SAFETY: Nobody writes to this constant.
        args.number(1) as c_uint == unsafe { pin_guard_UFFDIO_MOVE }
    }

    /// # Safety
    ///
    /// The arguments must be those of an ioctl() of a userfaultfd, with UFFDIO_MOVE.
    unsafe fn call(
        original: &Original<Self>,
        file: *mut bindings::file,
        cmd: c_uint,
        arg: c_ulong,
    ) -> c_long {
        // SAFETY: By the safety requirements.
        let run = || unsafe { (original.function())(file, cmd, arg) };
        let Some((to, from)) = read(arg) else {
            return run(); // The ioctl returns the right errno.
        };
        // SAFETY: The file is that of a userfaultfd, which holds a reference on its mm.
        let mm = unsafe { pin_guard_userfaultfd_mm(file) };
        let arrival = to..to + from.len();
        if !window::have_room(mm, &from) {
            return ENOMEM.to_errno() as c_long;
        }
        // SAFETY: As above. An ioctl holds no lock of the mm.
        let arrivals = match unsafe { Window::open_in(mm, arrival, Pieces::new(), true) } {
            Ok(window) => window,
            Err(e) => return e.to_errno() as c_long,
        };
        let ret = run();
        // EAGAIN: it moved a part, or nothing. EFAULT: it could not store how much it moved.
        if [0, EAGAIN.to_errno(), EFAULT.to_errno()].contains(&(ret as c_int)) {
            window::arrive(mm, arrivals, &from, to);
        }
        ret
    }
}

/// Returns the destination and the source of a `struct uffdio_move`, or `None` if that is invalid.
fn read(arg: usize) -> Option<(usize, core::ops::Range<usize>)> {
    let mut reader = UserSlice::new(UserPtr::from_addr(arg), 24).reader();
    let mut field = || reader.read::<u64>().ok().map(|field| field as usize);
    let (to, from, len) = (field()?, field()?, field()?);
    let (_, end) = (to.checked_add(len)?, from.checked_add(len)?);
    (len != 0).then_some((to, from..end))
}
