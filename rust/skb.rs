// SPDX-License-Identifier: GPL-2.0

//! How the runs of a send get into an skb: each is one frag, with one reference, where the stack's own
//! `zerocopy_fill_skb_from_iter()` (`net/core/datagram.c`) goes page by page.
//!
//! The pins outlive the skb, so it needs no references at all, and there is a flag for that
//! (SKBFL_MANAGED_FRAG_REFS), which io_uring sets. It saves a percent of a large send. But what the stack has to
//! do about it later is not safe with a clone in flight (`__skb_zcopy_downgrade_managed()`).

use crate::{ffi::*, folio::Folio};
use kernel::{bindings, page::PAGE_SHIFT, page::PAGE_SIZE, prelude::*};

/// `msghdr.sg_from_iter`: appends the first `length` bytes of `from`, or as many as the skb has room for,
/// and advances `from` by them. 0, or EMSGSIZE if that were not all.
///
/// # Safety
///
/// Called by `__zerocopy_sg_from_iter()` (`net/core/datagram.c`) on an skb that is being built, with an
/// iterator over runs that has that many bytes. Who made it holds the pins until the last skb that takes
/// the `ubuf_info` of the message is freed.
pub(crate) unsafe extern "C" fn sg_from_iter(
    skb: *mut bindings::sk_buff,
    from: *mut bindings::iov_iter,
    length: usize,
) -> c_int {
    // SAFETY: By the safety requirements.
    let shared = unsafe { &mut *pin_guard_skb_shinfo(skb) };
    let mut left = length;
    while left != 0 {
        // SAFETY: By the safety requirements, there is more.
        let bvec = unsafe { &*pin_guard_iter_bvec(from) };
        // SAFETY: The iterator is valid.
        let skip = unsafe { (*from).iov_offset };
        let at = bvec.bv_offset as usize + skip;
        let part = left.min(bvec.bv_len as usize - skip);
        // SAFETY: The page is one of the run's, which is pinned.
        let Some(pages) = (unsafe {
            append(
                shared,
                bvec.bv_page.add(at >> PAGE_SHIFT),
                at % PAGE_SIZE,
                part,
            )
        }) else {
            return -(bindings::EMSGSIZE as c_int);
        };
        // SAFETY: The skb and the iterator are ours to change.
        unsafe {
            (*skb).len += part as u32;
            (*skb).data_len += part as u32;
            (*skb).truesize += (pages * PAGE_SIZE) as u32;
            bindings::iov_iter_advance(from, part);
        }
        left -= part;
    }
    0
}

/// Appends `len` bytes from `offset` in `page` on, to the last frag if they follow it. Returns how many
/// pages they touch, or `None` if there is no room.
///
/// # Safety
///
/// These bytes are in one folio, which is pinned for as long as the skb holds its `ubuf_info`.
unsafe fn append(
    shared: &mut bindings::skb_shared_info,
    page: *mut bindings::page,
    offset: usize,
    len: usize,
) -> Option<usize> {
    let count = shared.nr_frags as usize;
    let pages = (offset + len).div_ceil(PAGE_SIZE);
    // SAFETY: By the safety requirements.
    let folio = unsafe { Folio::of(page) };
    if let Some(last) = count.checked_sub(1).map(|last| &mut shared.frags[last]) {
        let end = (last.offset + last.len) as usize;
        let last_page = last.netmem as *mut bindings::page;
        // Neither memory of a device, nor another folio, which may be next to this one all the same.
        if last.netmem & 1 == 0
            && end % PAGE_SIZE == offset
            && last_page.wrapping_add(end >> PAGE_SHIFT) == page
            && last_page >= folio.as_raw().cast()
        {
            last.len += len as u32;
            return Some(pages);
        }
    }
    let frag = shared.frags.get_mut(count)?;
    *frag = bindings::skb_frag {
        netmem: page as usize,
        len: len as u32,
        offset: offset as u32,
    };
    shared.nr_frags += 1;
    // Dropped with the skb.
    // SAFETY: The folio is pinned.
    unsafe { pin_guard_folio_get(folio.as_raw()) };
    Some(pages)
}
