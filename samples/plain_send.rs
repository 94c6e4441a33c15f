// SPDX-License-Identifier: GPL-2.0

//! Sends that hold nothing once they are made: by a copy, and by MSG_SPLICE_PAGES.

use core::ptr;
use kernel::{bindings, error::to_result, page::PAGE_SIZE, prelude::*};
use pin_guard::{SendOptions, Socket};

/// What a socket offers besides the send guard.
pub(crate) trait PlainSend {
    /// Copies `len` bytes of user memory at `addr` to the socket, as send(2) does. Returns how many bytes
    /// it took. May sleep.
    fn copy(&self, addr: usize, len: usize, options: SendOptions) -> Result<usize>;

    /// Hands the pages of `len` bytes of user memory at `addr` to the socket. Returns how many bytes it
    /// took. May sleep.
    ///
    /// The stack has its own references on the pages, by which they outlive the call, and nobody is told
    /// when it drops them.
    fn splice(&self, addr: usize, len: usize, options: SendOptions) -> Result<usize>;
}

impl PlainSend for Socket {
    fn copy(&self, addr: usize, len: usize, options: SendOptions) -> Result<usize> {
        send(self, 0, options, |iter| {
            // SAFETY: `iter` is to be set up. An ioctl has a user's mm.
            to_result(unsafe {
                bindings::import_ubuf(
                    bindings::ITER_SOURCE as c_int,
                    ptr::without_provenance_mut(addr),
                    len,
                    iter,
                )
            })
        })
    }

    fn splice(&self, addr: usize, len: usize, options: SendOptions) -> Result<usize> {
        let pages = Pages::get(addr, len)?;
        let mut bvecs = KVVec::with_capacity(pages.0.len(), GFP_KERNEL)?;
        let mut offset = addr % PAGE_SIZE;
        let mut left = len;
        for &page in pages.0.iter() {
            let part = left.min(PAGE_SIZE - offset);
            bvecs.push(
                bindings::bio_vec {
                    bv_page: page,
                    bv_len: part as u32,
                    bv_offset: offset as u32,
                },
                GFP_KERNEL,
            )?;
            left -= part;
            offset = 0;
        }
        send(self, bindings::MSG_SPLICE_PAGES, options, |iter| {
            // SAFETY: `iter` is to be set up; `bvecs` and the pages outlive it.
            unsafe {
                bindings::iov_iter_bvec(
                    iter,
                    bindings::ITER_SOURCE,
                    bvecs.as_ptr(),
                    bvecs.len(),
                    len,
                )
            };
            Ok(())
        })
    }
}

/// Sends what `set_up` makes of the iterator.
fn send(
    socket: &Socket,
    flags: u32,
    options: SendOptions,
    set_up: impl FnOnce(&mut bindings::iov_iter) -> Result,
) -> Result<usize> {
    let mut message = bindings::msghdr::default();
    set_up(&mut message.msg_iter)?;
    message.msg_flags = flags | bindings::MSG_NOSIGNAL;
    // SAFETY: The socket is valid.
    let kind = unsafe { (*socket.as_raw()).type_ };
    // As the send guard has it.
    if options.more && kind as bindings::sock_type != bindings::sock_type_SOCK_STREAM {
        return Err(EINVAL);
    }
    if options.dont_wait || socket.is_nonblocking() {
        message.msg_flags |= bindings::MSG_DONTWAIT;
    }
    if options.more {
        message.msg_flags |= bindings::MSG_MORE;
    }
    // SAFETY: The socket is valid; `set_up` has set the iterator up.
    match unsafe { bindings::sock_sendmsg(socket.as_raw(), &mut message) } {
        e if e < 0 => Err(Error::from_errno(e)),
        sent => Ok(sent as usize),
    }
}

/// User memory to be read, held by plain references (FOLL_GET).
///
/// # Invariants
///
/// Owns a reference on each page.
struct Pages(KVVec<*mut bindings::page>);

impl Pages {
    /// Looks up `len` bytes of user memory at `addr`, of the current task. May sleep.
    ///
    /// Errors: EINVAL beyond the address space; EFAULT for unmapped memory; ENOMEM.
    fn get(addr: usize, len: usize) -> Result<Self> {
        addr.checked_add(len).ok_or(EINVAL)?;
        let start = addr - addr % PAGE_SIZE;
        let count = (addr - start + len).div_ceil(PAGE_SIZE);
        let mut this = Self(KVVec::with_capacity(count, GFP_KERNEL)?);
        while this.0.len() < count {
            let have = this.0.len();
            // SAFETY: There is room for that many more pages. An ioctl has a user's mm.
            let got = unsafe {
                bindings::get_user_pages_fast(
                    start + have * PAGE_SIZE,
                    (count - have) as c_int,
                    0,
                    this.0.as_mut_ptr().add(have),
                )
            };
            match got {
                0 => return Err(EFAULT),
                e if e < 0 => return Err(Error::from_errno(e)),
                // SAFETY: That many have been filled in. INVARIANT: Their references are ours.
                got => unsafe { this.0.inc_len(got as usize) },
            }
        }
        Ok(this)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let pages = bindings::release_pages_arg {
            pages: self.0.as_mut_ptr(),
        };
        // SAFETY: By the type invariants, the references are ours.
        unsafe { bindings::release_pages(pages, self.0.len() as c_int) };
    }
}
