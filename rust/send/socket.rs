// SPDX-License-Identifier: GPL-2.0

//! The sockets over which the send guard can send: TCP and UDP, over IPv4 and IPv6.
//!
//! C header: [`include/linux/net.h`](srctree/include/linux/net.h)

use super::skb;
use crate::ffi::*;
use kernel::{bindings, page::PAGE_SIZE, prelude::*};

/// As in `include/uapi/linux/in.h`.
pub(super) const IPPROTO_TCP: u16 = 6;
pub(super) const IPPROTO_UDP: u16 = 17;

/// As in `include/linux/fs.h`.
const MAX_RW_COUNT: usize = c_int::MAX as usize & !(PAGE_SIZE - 1);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// A TCP or UDP socket, over IPv4 or IPv6.
///
/// The socket stays open for as long as this value lives, even if user space closes the file
/// descriptor. Any task may use it. The drop does not sleep (`fput()`).
///
/// C: [`struct socket`](srctree/include/linux/net.h)
///
/// # Invariants
///
/// `raw` is a valid socket of that `protocol`. This value owns a reference on its `file`, which
/// keeps the socket open.
pub struct Socket {
    file: *mut bindings::file,
    raw: *mut bindings::socket,
    protocol: Protocol,
}

// SAFETY: Any task may use and release a socket.
unsafe impl Send for Socket {}
// SAFETY: The socket has its own lock.
unsafe impl Sync for Socket {}

impl Socket {
    /// Takes a reference on the socket of the current task's file descriptor `fd`. Does not sleep.
    ///
    /// C: [`fget()`](srctree/fs/file.c), [`sock_from_file()`](srctree/net/socket.c)
    ///
    /// # Errors
    ///
    /// - `EBADF`: `fd` is not open.
    /// - `ENOTSOCK`: `fd` is not a socket.
    /// - `EOPNOTSUPP`: the socket is not TCP or UDP over IPv4 or IPv6.
    pub fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any number is valid here.
        let file = unsafe { bindings::fget(fd as c_uint) };
        if file.is_null() {
            return Err(EBADF);
        }
        // SAFETY: `fget()` has taken a reference, which goes to `from_file`.
        unsafe { Self::from_file(file) }
    }

    /// Takes over a reference on the file of a socket.
    ///
    /// # Errors
    ///
    /// As [`Socket::from_fd`]. The reference has been dropped.
    ///
    /// # Safety
    ///
    /// `file` must be valid. The caller must own a reference on it, and gives it up.
    pub(super) unsafe fn from_file(file: *mut bindings::file) -> Result<Self> {
        // SAFETY: The file is valid.
        let raw = unsafe { bindings::sock_from_file(file) };
        if raw.is_null() {
            // SAFETY: This function owns the reference.
            unsafe { bindings::fput(file) };
            return Err(error(bindings::ENOTSOCK));
        }
        // Made now, so that its drop releases the reference.
        // INVARIANT: The protocol is set below, before anybody else gets the value.
        let mut socket = Self {
            file,
            raw,
            protocol: Protocol::Tcp,
        };
        // SAFETY: An open socket has a sock.
        let (family, protocol) = unsafe {
            (
                pin_guard_sk_family(socket.sk()),
                pin_guard_sk_protocol(socket.sk()),
            )
        };
        if u32::from(family) != bindings::AF_INET && u32::from(family) != bindings::AF_INET6 {
            return Err(error(bindings::EOPNOTSUPP));
        }
        // SAFETY: The socket is valid.
        let kind = unsafe { (*raw).type_ } as bindings::sock_type;
        socket.protocol = match (kind, protocol) {
            (bindings::sock_type_SOCK_STREAM, IPPROTO_TCP) => Protocol::Tcp,
            (bindings::sock_type_SOCK_DGRAM, IPPROTO_UDP) => Protocol::Udp,
            _ => return Err(error(bindings::EOPNOTSUPP)),
        };
        Ok(socket)
    }

    /// Returns the socket as the C API takes it. The pointer is valid for as long as this value
    /// lives.
    pub fn as_raw(&self) -> *mut bindings::socket {
        self.raw
    }

    /// Returns whether the file has O_NONBLOCK. If so, a send does not wait for room.
    pub fn is_nonblocking(&self) -> bool {
        // SAFETY: By the type invariants. fcntl(2) may change the flags at any time.
        let flags = unsafe { (&raw const (*self.file).f_flags).read_volatile() };
        flags & bindings::O_NONBLOCK != 0
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn sk(&self) -> *mut bindings::sock {
        // SAFETY: By the type invariants. `sk` does not change while the file is open.
        unsafe { (*self.raw).sk }
    }

    pub(super) fn sock(&self) -> Sock {
        // SAFETY: The socket has a sock.
        // INVARIANT: The value gets this reference.
        unsafe { pin_guard_sock_hold(self.sk()) };
        Sock {
            raw: self.sk(),
            protocol: self.protocol,
        }
    }

    /// Returns whether the last reference on a `ubuf_info` is the end of a send on this socket.
    ///
    /// kTLS, other ULPs and sockmap take the data in another way, and clear SOCK_SUPPORT_ZC. MTU
    /// probing (`tcp_mtu_probe()`, sysctl tcp_mtu_probing) builds its probes from the frags of
    /// other skbs (`tcp_clone_payload()`) and does not take references on their `ubuf_info`, which
    /// would be complete too early.
    pub(super) fn can_zerocopy(&self) -> bool {
        // SAFETY: By the type invariants. The sock of a TCP socket is a TCP sock.
        unsafe {
            pin_guard_sock_support_zc(self.raw)
                && !(self.protocol == Protocol::Tcp && pin_guard_tcp_mtu_probing(self.sk()))
        }
    }

    /// Returns whether the next send would be part of a corked datagram (UDP_CORK).
    pub(super) fn is_corked(&self) -> bool {
        // SAFETY: By the type invariants. The sock of a UDP socket is a UDP sock.
        self.protocol == Protocol::Udp && unsafe { pin_guard_udp_corked(self.sk()) }
    }

    /// Sends `len` bytes of `runs` from `start` on. Each skb that takes pages takes a reference on
    /// `ubuf`; if that is null, the stack copies. Returns the number of bytes that the socket took,
    /// at least 1.
    ///
    /// # Safety
    ///
    /// The runs must have these bytes, at least one. `ubuf` must be null; or valid, and the caller
    /// must own a reference on it. The pages must be pinned until the last reference on `ubuf` is
    /// dropped.
    pub(super) unsafe fn transmit(
        &self,
        runs: &[bindings::bio_vec],
        start: usize,
        len: usize,
        flags: u32,
        ubuf: *mut bindings::ubuf_info,
    ) -> Result<usize> {
        // As send(2), because the stack counts in an `int`.
        let len = len.min(MAX_RW_COUNT);
        let mut msg_flags = flags | bindings::MSG_NOSIGNAL;
        if !ubuf.is_null() {
            msg_flags |= bindings::MSG_ZEROCOPY;
        }
        if self.is_nonblocking() {
            msg_flags |= bindings::MSG_DONTWAIT;
        }
        let mut message = bindings::msghdr {
            msg_flags,
            msg_ubuf: ubuf,
            sg_from_iter: Some(skb::sg_from_iter),
            ..Default::default()
        };
        // SAFETY: By the safety requirements.
        let ret = unsafe {
            bindings::iov_iter_bvec(
                &mut message.msg_iter,
                bindings::ITER_SOURCE,
                runs.as_ptr(),
                runs.len(),
                start + len,
            );
            if start != 0 {
                bindings::iov_iter_advance(&mut message.msg_iter, start);
            }
            bindings::sock_sendmsg(self.raw, &mut message)
        };
        match ret {
            0 => Err(EAGAIN),
            e if e < 0 => Err(Error::from_errno(e)),
            sent => Ok(sent as usize),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this value owns the reference.
        unsafe { bindings::fput(self.file) };
    }
}

/// The sock of a socket, which may outlive the file.
///
/// # Invariants
///
/// `raw` is a sock of that protocol, and this value owns a reference on it.
pub(super) struct Sock {
    raw: *mut bindings::sock,
    protocol: Protocol,
}

// SAFETY: Any thread may drop a reference.
unsafe impl Send for Sock {}
// SAFETY: The sock has its own lock.
unsafe impl Sync for Sock {}

impl Sock {
    /// Returns EOPNOTSUPP if the sock has no connection to reset.
    pub(super) fn can_abort(&self) -> Result {
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => Err(error(bindings::EOPNOTSUPP)),
        }
    }

    /// Resets the TCP connection, and frees the queued data. May sleep. Errors: as
    /// [`Sock::can_abort`].
    ///
    /// C: `tcp_abort()` in `net/ipv4/tcp.c`.
    pub(super) fn abort(&self) -> Result {
        self.can_abort()?;
        // It returns ENOENT if the connection is already gone, which is as good.
        // SAFETY: By the type invariants, the sock is valid; `can_abort` has checked that it is
        // TCP.
        unsafe { tcp_abort(self.raw, bindings::ECONNABORTED as c_int) };
        Ok(())
    }
}

impl Drop for Sock {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { pin_guard_sock_put(self.raw) };
    }
}
