// SPDX-License-Identifier: GPL-2.0

//! Puts the runs of a send into an skb. Each run becomes one frag with one reference; the stack's
//! own `zerocopy_fill_skb_from_iter()` (`net/core/datagram.c`) goes page by page.
//!
//! The pins outlive the skb, so the skb needs no references at all. io_uring sets a flag for that
//! (SKBFL_MANAGED_FRAG_REFS), which would save one percent of a large send. But the stack has to
//! take the missing references later in some cases, and that is not safe while a clone is in flight
//! (`__skb_zcopy_downgrade_managed()`).

use crate::{ffi::*, pin::Folio};
use kernel::{bindings, page::PAGE_SHIFT, page::PAGE_SIZE, prelude::*};

/// `msghdr.sg_from_iter`: appends the first `length` bytes of `from` to the skb, or as many as it
/// has room for, and advances `from` by them. Returns 0, or EMSGSIZE if the skb had no room for
/// all.
///
/// # Safety
///
/// `__zerocopy_sg_from_iter()` (`net/core/datagram.c`) must call this, on an skb that is being
/// built, with an iterator over runs that has at least `length` bytes. The sender must hold the
/// pins until the last skb that takes the `ubuf_info` of the message is freed.
pub(super) unsafe extern "C" fn sg_from_iter(
    skb: *mut bindings::sk_buff,
    from: *mut bindings::iov_iter,
    length: usize,
) -> c_int {
    // SAFETY: By the safety requirements.
    let shared = unsafe { &mut *pin_guard_skb_shinfo(skb) };
    let mut left = length;
    while left != 0 {
        // SAFETY: By the safety requirements, the iterator has bytes left.
        let bvec = unsafe { &*pin_guard_iter_bvec(from) };
        // SAFETY: The iterator is valid.
        let skip = unsafe { (*from).iov_offset };
        let at = bvec.bv_offset as usize + skip;
        let part = left.min(bvec.bv_len as usize - skip);
        // SAFETY: The bytes are in the run, whose pages are pinned.
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
        // SAFETY: By the safety requirements, this function may change the skb and the iterator.
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

/// Appends `len` bytes from `offset` in `page` on, to the last frag if they follow it. Returns the
/// number of pages that the bytes touch, or `None` if there is no room.
///
/// # Safety
///
/// These bytes must be in one folio, which is pinned for as long as the skb holds its `ubuf_info`.
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
        // The last frag must not be memory of a device, nor another folio, which may be physically
        // next to this one.
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
    // The skb drops this reference when its data is freed.
    // SAFETY: The folio is pinned.
    unsafe { pin_guard_folio_get(folio.as_raw()) };
    Some(pages)
}

#[kunit_tests(pin_guard_skb)]
mod tests {
    use super::{super::kunit::Skb, *};
    use crate::{
        kunit::{self, Page, Pages},
        pin::{PinGuard, Source},
    };

    const P: usize = PAGE_SIZE;

    /// A guard, and the bytes of it that are not yet sent.
    struct Sending {
        // In a box, so that it does not move: the iterator refers to its runs.
        _guard: KBox<PinGuard<Source>>,
        iter: bindings::iov_iter,
    }

    impl Sending {
        fn new(addr: usize, len: usize) -> Result<Self> {
            let guard = KBox::new(PinGuard::new(addr, len)?, GFP_KERNEL)?;
            let mut iter = bindings::iov_iter::default();
            // SAFETY: The guard lives for as long as the iterator.
            unsafe {
                bindings::iov_iter_bvec(
                    &mut iter,
                    bindings::ITER_SOURCE,
                    guard.runs().as_ptr().cast(),
                    guard.runs().len(),
                    len,
                )
            };
            Ok(Self {
                _guard: guard,
                iter,
            })
        }

        fn left(&self) -> usize {
            // SAFETY: The iterator is valid.
            unsafe { self.iter.__bindgen_anon_1.__bindgen_anon_1.as_ref().count }
        }

        fn append(&mut self, skb: &Skb, len: usize) -> Result {
            // SAFETY: The skb is being built, and the tests append no more bytes than the guard
            // has.
            kernel::error::to_result(unsafe { sg_from_iter(skb.as_raw(), &mut self.iter, len) })
        }
    }

    fn map(pages: &Pages) -> Result<usize> {
        let mut all = KVec::new();
        for page in pages.all() {
            all.push(page, GFP_KERNEL)?;
        }
        kunit::map(&all)
    }

    /// Returns whether the skb has these frags: page, offset, length.
    fn has(skb: &mut Skb, expected: &[(Page, usize, usize)]) -> bool {
        let shared = skb.shared();
        let count = shared.nr_frags as usize;
        let mut frags = shared.frags[..count].iter();
        let right = count == expected.len()
            && expected.iter().all(|&(page, offset, len)| {
                frags.next().is_some_and(|frag| {
                    (frag.netmem, frag.offset as usize, frag.len as usize)
                        == (page as usize, offset, len)
                })
            });
        let bytes: usize = expected.iter().map(|frag| frag.2).sum();
        // SAFETY: The skb is valid.
        let (len, data_len) = unsafe { ((*skb.as_raw()).len, (*skb.as_raw()).data_len) };
        right && (len as usize, data_len as usize) == (bytes, bytes)
    }

    fn truesize(skb: &Skb) -> usize {
        // SAFETY: The skb is valid.
        unsafe { (*skb.as_raw()).truesize as usize }
    }

    #[test]
    fn a_run_is_one_frag_with_one_reference() -> Result {
        let pages = Pages::one_folio(3)?;
        let mut sending = Sending::new(map(&pages)? + 100, 8 * P - 200)?;
        let before = pages.references(0);
        let mut skb = Skb::new()?;
        let empty = truesize(&skb);
        sending.append(&skb, 8 * P - 200)?;
        assert!(has(&mut skb, &[(pages.at(0), 100, 8 * P - 200)]));
        assert_eq!(truesize(&skb), empty + 8 * P);
        assert_eq!(sending.left(), 0);
        assert_eq!(pages.references(0), before + 1);
        drop(skb);
        assert_eq!(pages.references(0), before);
        Ok(())
    }

    #[test]
    fn what_follows_in_a_folio_is_added_to_its_frag() -> Result {
        let pages = Pages::one_folio(3)?;
        let mut sending = Sending::new(map(&pages)? + P + 5, 6 * P)?;
        let before = pages.references(0);
        let mut skb = Skb::new()?;
        let mut done = 0;
        for part in [1, P - 6, P, 1, 7, P, 2 * P - 2] {
            sending.append(&skb, part)?;
            done += part;
            assert!(has(&mut skb, &[(pages.at(1), 5, done)]));
            assert_eq!(sending.left(), 6 * P - done);
        }
        assert_eq!(pages.references(0), before + 1);
        Ok(())
    }

    #[test]
    fn a_neighbour_of_another_folio_is_a_frag_of_its_own() -> Result {
        let pages = Pages::folios(2)?;
        let mut sending = Sending::new(map(&pages)? + 1, 4 * P - 2)?;
        let mut skb = Skb::new()?;
        sending.append(&skb, 4 * P - 2)?;
        assert!(has(
            &mut skb,
            &[
                (pages.at(0), 1, P - 1),
                (pages.at(1), 0, P),
                (pages.at(2), 0, P),
                (pages.at(3), 0, P - 1)
            ]
        ));
        for i in 0..4 {
            // One reference of the mapping, one of the test, and one of the skb.
            assert_eq!(
                pages.references(i) % bindings::GUP_PIN_COUNTING_BIAS as usize,
                3
            );
        }
        Ok(())
    }

    #[test]
    fn what_does_not_follow_is_a_frag_of_its_own() -> Result {
        let pages = Pages::one_folio(3)?;
        let addr = map(&pages)?;
        let mut skb = Skb::new()?;
        for (offset, len) in [
            (0, 10),
            (11, 5),
            (P + 16, 1),
            (3 * P, P),
            (5 * P, P),
            (4 * P, P),
        ] {
            Sending::new(addr + offset, len)?.append(&skb, len)?;
        }
        assert!(has(
            &mut skb,
            &[
                (pages.at(0), 0, 10),
                (pages.at(0), 11, 5),
                (pages.at(1), 16, 1),
                (pages.at(3), 0, P),
                (pages.at(5), 0, P),
                (pages.at(4), 0, P)
            ]
        ));
        Ok(())
    }

    #[test]
    fn a_full_skb_takes_no_more_frags() -> Result {
        const FULL: usize = bindings::MAX_SKB_FRAGS as usize;
        let (pages, large) = (Pages::folios(5)?, Pages::one_folio(1)?);
        let mut sending = Sending::new(map(&pages)?, 32 * P)?;
        let mut last = Sending::new(map(&large)?, 2 * P)?;
        let skb = Skb::new()?;
        sending.append(&skb, (FULL - 1) * P)?;
        last.append(&skb, P)?;
        assert_eq!(
            sending.append(&skb, 1),
            Err(Error::from_errno(-(bindings::EMSGSIZE as c_int)))
        );
        assert_eq!(sending.left(), (32 - FULL + 1) * P);
        // The last frag can still grow.
        last.append(&skb, P)?;

        let mut skb = Skb::new()?;
        let mut sending = Sending::new(map(&pages)?, 32 * P)?;
        assert!(sending.append(&skb, 32 * P).is_err());
        assert_eq!(sending.left(), (32 - FULL) * P);
        let expected: [_; FULL] = core::array::from_fn(|i| (pages.at(i), 0, P));
        assert!(has(&mut skb, &expected));
        Ok(())
    }
}
