// SPDX-License-Identifier: GPL-2.0

//! The functions of `helpers.c` and `events.c`, and what the kernel's bindings leave out.

// As in the bindings: some C structs are empty in some configurations.
#![allow(improper_ctypes)]

use kernel::bindings;
use kernel::error::Error;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};

/// An error that `kernel::error::code` has no name for.
pub(crate) fn error(errno: u32) -> Error {
    Error::from_errno(-(errno as c_int))
}

extern "C" {
    /// `lib/sort.c`
    pub(crate) fn sort(
        base: *mut c_void,
        num: usize,
        size: usize,
        cmp: bindings::cmp_func_t,
        swap: bindings::swap_func_t,
    );

    pub(crate) fn pin_guard_ftrace_regs_get_argument0(fregs: *mut bindings::ftrace_regs)
        -> c_ulong;
    pub(crate) fn pin_guard_ftrace_regs_get_argument1(fregs: *mut bindings::ftrace_regs)
        -> c_ulong;
    pub(crate) fn pin_guard_ftrace_regs_get_argument(
        fregs: *mut bindings::ftrace_regs,
        n: c_uint,
    ) -> c_ulong;
    pub(crate) fn pin_guard_ftrace_regs_set_instruction_pointer(
        fregs: *mut bindings::ftrace_regs,
        ip: c_ulong,
    );

    pub(crate) static pin_guard_IOCB_NOWAIT: c_int;

    pub(crate) fn pin_guard_user_backed_iter(iter: *const bindings::iov_iter) -> bool;
    pub(crate) fn pin_guard_iter_iov_addr(iter: *const bindings::iov_iter) -> *mut c_void;
    pub(crate) fn pin_guard_iter_iov_len(iter: *const bindings::iov_iter) -> usize;

    pub(crate) fn pin_guard_untagged_addr(addr: c_ulong) -> c_ulong;
    pub(crate) fn pin_guard_mmap_lock_speculate_try_begin(
        mm: *mut bindings::mm_struct,
        seq: *mut c_uint,
    ) -> bool;
    pub(crate) fn pin_guard_mmap_read_lock_killable(mm: *mut bindings::mm_struct) -> c_int;

    pub(crate) fn pin_guard_page_folio(page: *mut bindings::page) -> *mut bindings::folio;
    pub(crate) fn pin_guard_folio_end(folio: *mut bindings::folio) -> *mut bindings::page;

    /// `net/ipv4/tcp.c`
    pub(crate) fn tcp_abort(sk: *mut bindings::sock, err: c_int) -> c_int;

    pub(crate) fn pin_guard_sk_family(sk: *const bindings::sock) -> u16;
    pub(crate) fn pin_guard_sk_protocol(sk: *const bindings::sock) -> u16;
    pub(crate) fn pin_guard_sock_support_zc(sock: *const bindings::socket) -> bool;
    pub(crate) fn pin_guard_tcp_mtu_probing(sk: *const bindings::sock) -> bool;
    pub(crate) fn pin_guard_udp_corked(sk: *const bindings::sock) -> bool;
    pub(crate) fn pin_guard_sock_hold(sk: *mut bindings::sock);
    pub(crate) fn pin_guard_sock_put(sk: *mut bindings::sock);
    pub(crate) fn pin_guard_iter_bvec(iter: *const bindings::iov_iter) -> *const bindings::bio_vec;
    pub(crate) fn pin_guard_folio_get(folio: *mut bindings::folio);
    pub(crate) fn pin_guard_skb_shinfo(
        skb: *const bindings::sk_buff,
    ) -> *mut bindings::skb_shared_info;
    pub(crate) fn pin_guard_skb_zcopy(skb: *mut bindings::sk_buff) -> *mut bindings::ubuf_info;

    pub(crate) fn pin_guard_copy_page_range(
        dst_vma: *mut bindings::vm_area_struct,
        src_vma: *mut bindings::vm_area_struct,
    ) -> c_int;
    pub(crate) fn pin_guard_nfs_file_read(
        iocb: *mut bindings::kiocb,
        to: *mut bindings::iov_iter,
    ) -> c_long;
    pub(crate) fn pin_guard_ceph_read_iter(
        iocb: *mut bindings::kiocb,
        to: *mut bindings::iov_iter,
    ) -> c_long;

    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn pin_guard_mmap_write_lock(mm: *mut bindings::mm_struct);
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn pin_guard_mmap_write_unlock(mm: *mut bindings::mm_struct);
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn pin_guard_skb_zcopy_set(
        skb: *mut bindings::sk_buff,
        ubuf: *mut bindings::ubuf_info,
    );

    pub(crate) fn pin_guard_trace_window_open(mm: *const c_void, start: c_ulong, end: c_ulong);
    pub(crate) fn pin_guard_trace_window_close(
        mm: *const c_void,
        start: c_ulong,
        end: c_ulong,
        age_ns: u64,
    );
    pub(crate) fn pin_guard_trace_fork(start: c_ulong, end: c_ulong, pages: c_ulong, ns: u64);
}
