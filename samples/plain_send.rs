// SPDX-License-Identifier: GPL-2.0

//! Sends after which the sender holds nothing: by a copy, and by MSG_SPLICE_PAGES.

use core::ptr;
use kernel::{bindings, error::to_result, page::PAGE_SIZE, prelude::*};
use pin_guard::{SendOptions, Socket};

/// The ways to send over a socket besides the send guard.
pub(crate) trait PlainSend {
    /// Copies `len` bytes of the current task's user memory at `addr` to the socket, as send(2)
    /// does. Returns the number of bytes that the socket took. May sleep.
    fn copy(&self, addr: usize, len: usize, options: SendOptions) -> Result<usize>;

    /// Hands the pages of `len` bytes of the current task's user memory at `addr` to the socket.
    /// Returns the number of bytes that the socket took. May sleep.
    ///
    /// The stack takes references of its own on the pages, so the pages outlive the call. It does
    /// not report when it drops them.
    fn splice(&self, addr: usize, len: usize, options: SendOptions) -> Result<usize>;
}

impl PlainSend for Socket {
    fn copy(&self, addr: usize, len: usize, options: SendOptions) -> Result<usize> {
        send(self, 0, options, |iter| {
            // SAFETY: `iter` may be overwritten. A task in an ioctl has an mm.
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
            // SAFETY: `iter` may be overwritten. `bvecs` and the pages outlive it.
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

/// Sends the bytes of the iterator that `set_up` sets up.
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
    // As the send guard, which returns EINVAL in this case.
    if options.more && kind as bindings::sock_type != bindings::sock_type_SOCK_STREAM {
        return Err(EINVAL);
    }
    if options.dont_wait || socket.is_nonblocking() {
        message.msg_flags |= bindings::MSG_DONTWAIT;
    }
    if options.more {
        message.msg_flags |= bindings::MSG_MORE;
    }
    // SAFETY: The socket is valid, and `set_up` has set up the iterator.
    match unsafe { bindings::sock_sendmsg(socket.as_raw(), &mut message) } {
        e if e < 0 => Err(Error::from_errno(e)),
        sent => Ok(sent as usize),
    }
}

/// User memory that the stack reads, held by plain references (FOLL_GET).
///
/// # Invariants
///
/// Owns a reference on each page.
struct Pages(KVVec<*mut bindings::page>);

impl Pages {
    /// Looks up the pages of `len` bytes of the current task's user memory at `addr`. May sleep.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the range goes beyond the address space.
    /// - `EFAULT`: a page is not mapped.
    /// - `ENOMEM`: there is no memory for a page, or for the list of the pages.
    fn get(addr: usize, len: usize) -> Result<Self> {
        addr.checked_add(len).ok_or(EINVAL)?;
        let start = addr - addr % PAGE_SIZE;
        let count = (addr - start + len).div_ceil(PAGE_SIZE);
        let mut this = Self(KVVec::with_capacity(count, GFP_KERNEL)?);
        while this.0.len() < count {
            let have = this.0.len();
            // SAFETY: The list has room for that many more pages. A task in an ioctl has an mm.
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
                // SAFETY: The function has set `got` pages.
                // INVARIANT: This value owns their references.
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
        // SAFETY: By the type invariants, this value owns the references.
        unsafe { bindings::release_pages(pages, self.0.len() as c_int) };
    }
}
