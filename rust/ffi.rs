// SPDX-License-Identifier: GPL-2.0

//! The C functions of this module, and kernel functions that the kernel's bindings leave out.

// As in the bindings: some C structs are empty in some configurations.
#![allow(improper_ctypes)]

use kernel::bindings;
use kernel::error::Error;
use kernel::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use kernel::sync::atomic::Atomic;

/// Returns the error for a positive `errno` that has no name in `kernel::error::code`.
pub(crate) fn error(errno: u32) -> Error {
    Error::from_errno(-(errno as c_int))
}

extern "C" {
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

    pub(crate) static pin_guard_chain: [Atomic<*mut c_void>; 1 << 8];
    pub(crate) fn pin_guard_chain_of(mm: *const bindings::mm_struct) -> usize;
    pub(crate) fn pin_guard_copy_page_range_enter(
        ip: usize,
        parent_ip: usize,
        ops: *mut bindings::ftrace_ops,
        fregs: *mut bindings::ftrace_regs,
    );

    pub(crate) fn pin_guard_kmem_cache_alloc(
        cache: *mut bindings::kmem_cache,
        flags: u32,
    ) -> *mut c_void;

    pub(crate) fn pin_guard_lookup(name: *const c_char, addr: *mut c_ulong) -> c_int;
    pub(crate) fn pin_guard_within_module(addr: c_ulong, module: *const bindings::module) -> bool;

    pub(crate) static pin_guard_IOCB_NOWAIT: c_int;
    pub(crate) static pin_guard_UFFDIO_MOVE: c_uint;

    pub(crate) fn pin_guard_userfaultfd_mm(file: *const bindings::file)
        -> *mut bindings::mm_struct;
    pub(crate) fn pin_guard_userfaultfd_rwp(vma: *mut bindings::vm_area_struct) -> bool;
    pub(crate) fn pin_guard_vm_access_clear(vma: *mut bindings::vm_area_struct) -> c_ulong;
    pub(crate) fn pin_guard_vm_flags_set(vma: *mut bindings::vm_area_struct, flags: c_ulong);
    pub(crate) fn pin_guard_what_moves(
        pmc: *const c_void,
        start: *mut c_ulong,
        end: *mut c_ulong,
        to: *mut c_ulong,
    ) -> *mut bindings::mm_struct;
    /// `interval.c`
    pub(crate) fn pin_guard_interval_insert(
        node: *mut bindings::interval_tree_node,
        root: *mut bindings::rb_root_cached,
    );
    pub(crate) fn pin_guard_interval_remove(
        node: *mut bindings::interval_tree_node,
        root: *mut bindings::rb_root_cached,
    );
    pub(crate) fn pin_guard_interval_iter_first(
        root: *mut bindings::rb_root_cached,
        start: c_ulong,
        last: c_ulong,
    ) -> *mut bindings::interval_tree_node;
    pub(crate) fn pin_guard_interval_iter_next(
        node: *mut bindings::interval_tree_node,
        start: c_ulong,
        last: c_ulong,
    ) -> *mut bindings::interval_tree_node;
    /// `page_table.c`
    pub(crate) fn pin_guard_entry(
        vma: *mut bindings::vm_area_struct,
        addr: c_ulong,
        kind: *mut c_int,
        swap: *mut c_ulong,
    ) -> c_ulong;

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
    pub(crate) fn pin_guard_unpin(runs: *const bindings::bio_vec, count: usize);
    pub(crate) fn pin_guard_unpin_dirty(runs: *const bindings::bio_vec, count: usize);

    /// `net/ipv4/tcp.c`
    pub(crate) fn tcp_abort(sk: *mut bindings::sock, err: c_int) -> c_int;

    pub(crate) fn pin_guard_counter_add(counter: c_uint, n: c_long);
    pub(crate) fn pin_guard_counter_sum(counter: c_uint) -> c_long;

    pub(crate) fn pin_guard_in_use_init(release: bindings::percpu_ref_func_t) -> c_int;
    pub(crate) fn pin_guard_in_use_exit();
    pub(crate) fn pin_guard_in_use_tryget() -> bool;
    pub(crate) fn pin_guard_in_use_get();
    pub(crate) fn pin_guard_in_use_put();
    pub(crate) fn pin_guard_in_use_revive() -> bool;
    pub(crate) fn pin_guard_in_use_kill();
    pub(crate) fn pin_guard_in_use_watch(jiffies: c_ulong);

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
    pub(crate) fn pin_guard_move_page_tables(pmc: *mut c_void) -> c_ulong;
    pub(crate) fn pin_guard_userfaultfd_ioctl(
        file: *mut bindings::file,
        cmd: c_uint,
        arg: c_ulong,
    ) -> c_long;
    pub(crate) fn pin_guard_swap_cache_has_folio(entry: bindings::swp_entry_t) -> bool;
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
        opened: c_ulong,
    );
    pub(crate) fn pin_guard_trace_fork(start: c_ulong, end: c_ulong, pages: c_ulong, ns: u64);
}
