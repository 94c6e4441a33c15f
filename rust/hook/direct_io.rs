// SPDX-License-Identifier: GPL-2.0

//! The direct I/O watch: opens windows around the O_DIRECT reads of file systems that hold user
//! pages by plain references (FOLL_GET).
//!
//! The watch runs instead of their `read_iter` methods, `nfs_file_read()` (`fs/nfs/file.c`) and
//! `ceph_read_iter()` (`fs/ceph/file.c`). It closes the window when the data has arrived: on return
//! for a synchronous call, in the completion for an asynchronous one, which gets a shadow kiocb (as
//! in `fs/backing-file.c`). Writes need no window: whoever writes to the page next gets a new page,
//! and the old page still holds the data that write() was given (private hugetlb memory is
//! different, see Documentation/administration.rst).

use super::redirect::{replace, Args, Original, Replace};
use crate::{
    cache::{Cache, Cached, CachedBox},
    ffi::*,
    in_use::InUse,
    window::{self, Window},
};
use kernel::{bindings, prelude::*};

macro_rules! read_iter {
    ($($(#[$doc:meta])* $target:ident: $name:literal in $module:literal $(unless $unless:literal)?, by $stand_in:path;)*) => { $(
        replace! {
            $(#[$doc])*
            $target: $name in $module $(unless $unless)?,
            fn(iocb: *mut bindings::kiocb, to: *mut bindings::iov_iter) -> c_long, by $stand_in
        }

        impl $target {
            #[inline(always)]
            fn applies(args: &Args) -> bool {
                let (iocb, to) = (args.pointer(0), args.pointer(1));
                // SAFETY: These are the arguments of a `read_iter` method.
                unsafe { is_direct_user_read(iocb, to) }
            }

            /// # Safety
            ///
            /// The arguments must be those of a `read_iter` method.
            unsafe fn call(
                original: &Original<Self>,
                iocb: *mut bindings::kiocb,
                to: *mut bindings::iov_iter,
            ) -> c_long {
                // SAFETY: By the safety requirements.
                unsafe { read_iter(original, iocb, to) }
            }
        }
    )* };
}

read_iter! {
    /// `ssize_t nfs_file_read(struct kiocb *iocb, struct iov_iter *to)`
    ///
    /// NFS has `nfs_release_request_list()` in those kernels in which it pins the pages of direct
    /// reads.
    NfsFileRead: c"nfs_file_read" in c"nfs" unless c"nfs_release_request_list", by pin_guard_nfs_file_read;
    /// `ssize_t ceph_read_iter(struct kiocb *iocb, struct iov_iter *to)`
    CephReadIter: c"ceph_read_iter" in c"ceph", by pin_guard_ceph_read_iter;
}

type ReadIter = unsafe extern "C" fn(*mut bindings::kiocb, *mut bindings::iov_iter) -> c_long;

/// Returns whether the read is direct, and to user pages that the file system will look up.
/// io_uring's fixed buffers are not user-backed: io_uring has pinned them.
///
/// # Safety
///
/// The arguments must be those of a `read_iter` method.
unsafe fn is_direct_user_read(iocb: *const bindings::kiocb, to: *const bindings::iov_iter) -> bool {
    // SAFETY: By the safety requirements.
    unsafe {
        (*iocb).ki_flags & bindings::IOCB_DIRECT as c_int != 0
            && pin_guard_user_backed_iter(to)
            && (*to).__bindgen_anon_1.__bindgen_anon_1.as_ref().count != 0
    }
}

/// An asynchronous read in flight.
///
/// `iocb` is first, because the completion gets the address of `iocb`.
#[repr(C)]
struct Read {
    iocb: bindings::kiocb,
    original: *mut bindings::kiocb,
    window: Window,
    in_use: InUse,
}

pub(crate) static READS: Cache = Cache::new::<Read>(c"pin_guard_read");

// SAFETY: The cache is for this type.
unsafe impl Cached for Read {
    fn cache() -> &'static Cache {
        &READS
    }
}

/// Runs instead of a `read_iter` method for direct reads to user memory.
///
/// # Safety
///
/// The arguments must be those of a `read_iter` method, and [`is_direct_user_read`] must be true of
/// them.
unsafe fn read_iter<T: Replace<Pointer = ReadIter>>(
    original: &Original<T>,
    iocb: *mut bindings::kiocb,
    to: *mut bindings::iov_iter,
) -> c_long {
    // SAFETY: By the safety requirements.
    let may_wait = unsafe { (*iocb).ki_flags & pin_guard_IOCB_NOWAIT } == 0;
    // SAFETY: `to` is valid, user-backed and not empty, as `is_direct_user_read` is true of it.
    let window = match unsafe { Window::open_iter(to, may_wait) } {
        Ok(window) => window,
        Err(e) => return e.to_errno() as c_long,
    };

    // SAFETY: As above.
    if unsafe { (*iocb).ki_complete }.is_none() {
        // SAFETY: The target gets its own arguments.
        let ret = unsafe { (original.function())(iocb, to) };
        drop(window);
        return ret;
    }

    // SAFETY: `iocb` is valid, and a kiocb is plain data.
    let mut shadow = unsafe { iocb.read() };
    shadow.ki_complete = Some(complete);
    let read = CachedBox::new(
        Read {
            iocb: shadow,
            original: iocb,
            window,
            // The read can be complete before the method returns, so it is a use of its own.
            in_use: original.in_use(),
        },
        window::flags(may_wait),
    );
    let read = match read {
        Ok(read) => CachedBox::into_raw(read),
        Err(_) => return if may_wait { ENOMEM } else { EAGAIN }.to_errno() as c_long,
    };
    // SAFETY: The shadow is a valid kiocb of the same file.
    let ret = unsafe { (original.function())(read.cast(), to) };
    if ret == -(bindings::EIOCBQUEUED as c_long) {
        // The completion owns `read` now, and may have freed it.
        return ret;
    }
    // SAFETY: The read was not queued, so no completion owns `read`, and `iocb` is still valid.
    unsafe {
        let read = CachedBox::from_raw(read);
        (*iocb).ki_pos = read.iocb.ki_pos;
        (*iocb).ki_flags = read.iocb.ki_flags;
    }
    ret
}

/// The `ki_complete` of a shadow kiocb.
///
/// # Safety
///
/// `iocb` must be the first field of a [`Read`] that [`read_iter`] has queued and that is now
/// complete.
unsafe extern "C" fn complete(iocb: *mut bindings::kiocb, ret: c_long) {
    // SAFETY: By the safety requirements. The completion owns a queued read.
    let read = unsafe { CachedBox::from_raw(iocb.cast::<Read>()) };
    let Read {
        iocb,
        original,
        window,
        in_use,
    } = CachedBox::into_inner(read);
    drop(window);
    // SAFETY: Only this completes the caller's kiocb, which stays valid until then. A kiocb that
    // has a shadow has a completion.
    unsafe {
        (*original).ki_pos = iocb.ki_pos;
        if let Some(ki_complete) = (*original).ki_complete {
            ki_complete(original, ret);
        }
    }
    drop(in_use);
}
