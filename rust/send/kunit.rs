// SPDX-License-Identifier: GPL-2.0

//! What the KUnit tests of this room stand on: skbs, and sockets without a file descriptor.

use super::socket::Socket;
use crate::ffi::*;
use core::ptr;
use kernel::{bindings, error::to_result, prelude::*};

/// A socket over IPv4, not connected.
pub(super) fn socket(kind: bindings::sock_type, protocol: u16) -> Result<Socket> {
    let mut socket = ptr::null_mut();
    // SAFETY: The first network namespace stays.
    unsafe {
        to_result(bindings::sock_create_kern(
            &raw mut bindings::init_net,
            bindings::AF_INET as c_int,
            kind as c_int,
            protocol.into(),
            &mut socket,
        ))?
    };
    // SAFETY: The socket is new. An error releases it.
    let file = unsafe { bindings::sock_alloc_file(socket, 0, ptr::null()) };
    let file = kernel::error::from_err_ptr(file)?;
    // SAFETY: The reference on the new file is ours.
    unsafe { Socket::from_file(file) }
}

/// An skb without data, freed when dropped.
///
/// # Invariants
///
/// It is valid, and ours.
pub(super) struct Skb(*mut bindings::sk_buff);

impl Skb {
    pub(super) fn new() -> Result<Self> {
        // SAFETY: Any size will do, and any node.
        let skb = unsafe { bindings::__alloc_skb(128, bindings::GFP_KERNEL, 0, -1) };
        Self::own(skb)
    }

    /// One that refers to the same pages, as is sent while this is kept for a retransmission.
    pub(super) fn try_clone(&self) -> Result<Self> {
        // SAFETY: By the type invariants.
        Self::own(unsafe { bindings::skb_clone(self.0, bindings::GFP_KERNEL) })
    }

    /// An skb that holds `ubuf`, as it does with the first pages of a send.
    ///
    /// # Safety
    ///
    /// `ubuf` is valid.
    pub(super) unsafe fn holding(ubuf: *mut bindings::ubuf_info) -> Result<Self> {
        let skb = Self::new()?;
        // SAFETY: Both are valid.
        unsafe { pin_guard_skb_zcopy_set(skb.0, ubuf) };
        Ok(skb)
    }

    fn own(skb: *mut bindings::sk_buff) -> Result<Self> {
        // INVARIANT: Nobody else has it.
        (!skb.is_null()).then_some(Self(skb)).ok_or(ENOMEM)
    }

    pub(super) fn as_raw(&self) -> *mut bindings::sk_buff {
        self.0
    }

    pub(super) fn shared(&mut self) -> &mut bindings::skb_shared_info {
        // SAFETY: By the type invariants; its clones are not used meanwhile.
        unsafe { &mut *pin_guard_skb_shinfo(self.0) }
    }

    /// Has the stack make a copy of the pages, as for a receiver on this machine.
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
