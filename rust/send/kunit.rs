// SPDX-License-Identifier: GPL-2.0

//! Helpers of the KUnit tests of the send guard: skbs, and sockets without a file descriptor.

use super::socket::Socket;
use crate::ffi::*;
use core::ptr;
use kernel::{bindings, error::to_result, prelude::*};

/// Creates a socket over IPv4, which is not connected.
pub(super) fn socket(kind: bindings::sock_type, protocol: u16) -> Result<Socket> {
    let mut socket = ptr::null_mut();
    // SAFETY: `init_net` is always valid.
    unsafe {
        to_result(bindings::sock_create_kern(
            &raw mut bindings::init_net,
            bindings::AF_INET as c_int,
            kind as c_int,
            protocol.into(),
            &mut socket,
        ))?
    };
    // SAFETY: The socket is new. `sock_alloc_file()` releases it on error.
    let file = unsafe { bindings::sock_alloc_file(socket, 0, ptr::null()) };
    let file = kernel::error::from_err_ptr(file)?;
    // SAFETY: The caller of `sock_alloc_file()` owns the reference on the new file.
    unsafe { Socket::from_file(file) }
}

/// An skb that begins without data. The drop frees it.
///
/// # Invariants
///
/// `0` is a valid skb, on which this value owns a reference.
pub(super) struct Skb(*mut bindings::sk_buff);

impl Skb {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: Any size and any node are valid.
        let skb = unsafe { bindings::__alloc_skb(128, bindings::GFP_KERNEL, 0, -1) };
        Self::own(skb)
    }

    /// Clones the skb; the clone refers to the same pages. TCP sends a clone, and keeps the skb for
    /// a retransmission.
    pub(super) fn try_clone(&self) -> Result<Self> {
        // SAFETY: By the type invariants.
        Self::own(unsafe { bindings::skb_clone(self.0, bindings::GFP_KERNEL) })
    }

    /// Returns an skb that holds `ubuf`, as if it had the first pages of a send.
    ///
    /// # Safety
    ///
    /// `ubuf` must be valid.
    pub(super) unsafe fn holding(ubuf: *mut bindings::ubuf_info) -> Result<Self> {
        let skb = Self::new()?;
        // SAFETY: The skb and `ubuf` are valid.
        unsafe { pin_guard_skb_zcopy_set(skb.0, ubuf) };
        Ok(skb)
    }

    fn own(skb: *mut bindings::sk_buff) -> Result<Self> {
        // INVARIANT: The reference on the new skb goes to this value.
        (!skb.is_null()).then_some(Self(skb)).ok_or(ENOMEM)
    }

    pub(super) fn as_raw(&self) -> *mut bindings::sk_buff {
        self.0
    }

    pub(super) fn shared(&mut self) -> &mut bindings::skb_shared_info {
        // SAFETY: By the type invariants. The tests use no clone meanwhile.
        unsafe { &mut *pin_guard_skb_shinfo(self.0) }
    }

    /// Makes the stack copy the pages, as it does for a receiver on this machine.
    pub(super) fn copy(&self) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe { bindings::skb_copy_ubufs(self.0, bindings::GFP_KERNEL) })
    }
}

impl Drop for Skb {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::consume_skb(self.0) };
    }
}
