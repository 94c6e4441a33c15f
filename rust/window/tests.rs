// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of the windows.

// An array of one range is meant: a range is one window here.
#![allow(clippy::single_range_in_vec_init)]

use super::{
    mm::{share_a_chain, MmRef, MmWindows},
    *,
};
use crate::kunit;

const P: usize = PAGE_SIZE;
/// Nothing is mapped at these addresses: a window touches no memory.
const A: usize = 0x1000_0000;
const B: usize = 0x2000_0000;
const C: usize = 0x3000_0000;
const D: usize = 0x4000_0000;
const EVERYTHING: Range<usize> = 0..LAST_PAGE;
const LAST_PAGE: usize = usize::MAX - (P - 1);

/// Opens windows on the mm of the test.
fn open(ranges: &[Range<usize>]) -> Result<KVec<Window>> {
    kunit::mm()?;
    let mut windows = KVec::new();
    for range in ranges {
        windows.push(Window::open(range.start, range.len())?, GFP_KERNEL)?;
    }
    Ok(windows)
}

/// Returns the ranges that a fork finds in `area`. Ranges that touch are made one.
fn within(mm: *const bindings::mm_struct, area: Range<usize>) -> Result<KVec<Range<usize>>> {
    let mut found: KVec<Range<usize>> = KVec::new();
    let mut left = area;
    while let Some(range) = first_within(mm, &left) {
        assert!(range.start >= left.start && range.end <= left.end && !range.is_empty());
        left.start = range.end;
        match found.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => found.push(range, GFP_KERNEL)?,
        }
    }
    Ok(found)
}

/// Returns whether the windows of the test's mm cover `expected` of `area`, and nothing else.
fn covered(area: Range<usize>, expected: &[Range<usize>]) -> bool {
    let found = kunit::mm().and_then(|mm| within(mm, area));
    let right = found.as_ref().is_ok_and(|found| found[..] == *expected);
    if !right {
        pr_info!("expected {expected:x?}, came {:x?}\n", found.as_deref());
    }
    right
}

/// Makes the windows of the test's mm follow, as mremap() does.
fn moved(from: Range<usize>, to: usize) -> Result {
    // SAFETY: The mm is that of this thread.
    unsafe { follow(kunit::mm()?, &from, to) }
}

/// Returns the number of nodes in the tree.
fn nodes() -> Result<usize> {
    let count = mm::with(kunit::mm()?, |state| {
        let mut count = 0;
        let mut at = state.tree.first();
        while let Some(node) = at {
            count += 1;
            at = state.tree.next(node);
        }
        count
    });
    Ok(count.unwrap_or(0))
}

#[kunit_tests(pin_guard_window)]
mod window {
    use super::*;

    #[test]
    fn pages_are_those_that_a_range_touches() {
        let area = A..A + 4 * P;
        let cases = [
            (A..A + 1, Some(A..A + P)),
            (A + P - 1..A + P + 1, Some(A..A + 2 * P)),
            (A + P..A + 2 * P, Some(A + P..A + 2 * P)),
            (A - 1..A + 1, Some(A..A + P)),
            (A + 4 * P - 1..A + 4 * P + 1, Some(A + 3 * P..A + 4 * P)),
            (A - P..A + 9 * P, Some(A..A + 4 * P)),
            (A - P..A, None),
            (A + 4 * P..A + 5 * P, None),
        ];
        for (range, expected) in cases {
            assert_eq!(pages_within(&range, &area), expected);
        }
    }

    #[test]
    fn pages_at_the_ends_of_the_address_space() {
        let last = LAST_PAGE - P..LAST_PAGE;
        let cases = [
            (0..1, 0..P, Some(0..P)),
            (0..usize::MAX, 0..P, Some(0..P)),
            (0..usize::MAX, last.clone(), Some(last.clone())),
            (LAST_PAGE - 1..usize::MAX, last.clone(), Some(last.clone())),
            (
                LAST_PAGE - P..LAST_PAGE - P + 1,
                last.clone(),
                Some(last.clone()),
            ),
            (usize::MAX - 1..usize::MAX, last.clone(), None),
            (usize::MAX - 1..usize::MAX, 0..P, None),
        ];
        for (range, area, expected) in cases {
            assert_eq!(pages_within(&range, &area), expected);
        }
    }

    #[test]
    fn a_window_needs_memory_and_a_length() -> Result {
        // The test runs in a kernel thread.
        assert!(matches!(Window::open(A, P), Err(EFAULT)));
        kunit::mm()?;
        assert!(matches!(Window::open(A, 0), Err(EINVAL)));
        assert!(matches!(Window::open(usize::MAX, 1), Err(EINVAL)));
        assert!(matches!(Window::open(LAST_PAGE, P), Err(EINVAL)));
        assert!(matches!(Window::open(2, usize::MAX), Err(EINVAL)));
        assert!(covered(EVERYTHING, &[]));
        let window = Window::open(LAST_PAGE - 1, P)?;
        assert!(covered(EVERYTHING, &[LAST_PAGE - P..LAST_PAGE]));
        drop(window);
        assert!(covered(EVERYTHING, &[]));
        Ok(())
    }

    #[test]
    fn windows_are_found_in_order() -> Result {
        let windows = open(&[
            C + 5..C + 6,         // a page of its own
            A + P + 1..A + 2 * P, // next to the one below
            A..A + 7,             //
            B + 2 * P..B + 4 * P, // overlaps the next, which begins before it
            B + P..B + 3 * P,     //
            B + P..B + P + 9,     // within it
            C + 2 * P..C + 3 * P, // a page between
        ])?;
        assert!(covered(
            EVERYTHING,
            &[
                A..A + 2 * P,
                B + P..B + 4 * P,
                C..C + P,
                C + 2 * P..C + 3 * P
            ]
        ));
        assert!(covered(
            A + P..B + 2 * P,
            &[A + P..A + 2 * P, B + P..B + 2 * P]
        ));
        assert!(covered(A + 2 * P..B + P, &[]));
        drop(windows);
        assert!(covered(EVERYTHING, &[]));
        Ok(())
    }

    #[test]
    fn many_windows_are_found_and_closed_in_any_order() -> Result {
        const COUNT: usize = 1000;
        let mm = kunit::mm()?;
        let mut windows = KVec::new();
        let mut expected = KVec::new();
        for i in 0..COUNT {
            // Each address once, but not in order.
            let addr = A + 2 * (i * 7 % COUNT) * P;
            windows.push(open(&[addr..addr + 1])?, GFP_KERNEL)?;
            expected.push(A + 2 * i * P..A + (2 * i + 1) * P, GFP_KERNEL)?;
        }
        assert!(within(mm, EVERYTHING)?[..] == expected[..]);
        while windows.pop().is_some() {
            let left = windows.len();
            if left % 100 == 0 {
                assert_eq!(within(mm, EVERYTHING)?.len(), left);
            }
        }
        assert!(covered(EVERYTHING, &[]));
        Ok(())
    }

    #[test]
    fn no_window_opens_beside_a_writer_of_the_mm() -> Result {
        let mm = kunit::mm()?;
        let open = || {
            // SAFETY: The mm is that of this thread.
            unsafe { Window::open_in(mm, A..A + P, Pieces::new(), false) }.map(drop)
        };
        open()?;
        // A fork holds the lock in this way.
        // SAFETY: The mm is that of this thread, which holds no lock of it.
        unsafe { pin_guard_mmap_write_lock(mm) };
        let result = open();
        // SAFETY: It was locked above.
        unsafe { pin_guard_mmap_write_unlock(mm) };
        assert_eq!(result, Err(EAGAIN));
        assert!(covered(EVERYTHING, &[]));
        open()
    }

    #[test]
    fn the_first_copy_of_a_fork_is_told_from_the_next() -> Result {
        let mm = kunit::mm()?;
        let _window = open(&[A..A + P])?;
        let copies = [
            (1, A, true),
            (1, B, false),
            (1, C, false),
            (2, C, true),
            (2, A, true), // another fork, whose child's mm has the same address
            (2, B, false),
            (2, B, true),
        ];
        for (child, start, expected) in copies {
            assert_eq!(first_copy(mm, child, start), expected);
        }
        Ok(())
    }

    #[test]
    fn segments_are_what_an_iterator_has_left() -> Result {
        let segment = |addr: usize, len| bindings::iovec {
            iov_base: addr as *mut c_void,
            iov_len: len,
        };
        let vector = [
            segment(A, 100),
            segment(B, 0),
            segment(B, P),
            segment(B + P, 20),      // goes on
            segment(B + P + 10, 20), // overlaps
            segment(C, 50),
            segment(A, 0),
        ];
        // The iterator has `count` bytes, of which `skip` have been consumed.
        let segments = |count: usize, skip: usize| -> Result<KVec<Range<usize>>> {
            let mut iter = bindings::iov_iter::default();
            // SAFETY: The vector lives for as long as the iterator.
            let (last, pieces) = unsafe {
                bindings::iov_iter_init(
                    &mut iter,
                    bindings::ITER_DEST,
                    vector.as_ptr(),
                    vector.len(),
                    count,
                );
                bindings::iov_iter_advance(&mut iter, skip);
                segments(&iter, GFP_KERNEL)
            }?;
            let mut found = KVec::new();
            found.push(last, GFP_KERNEL)?;
            for node in pieces.iter() {
                found.push(node.range(), GFP_KERNEL)?;
            }
            Ok(found)
        };
        // The last range comes first, then the others from the last but one backwards.
        let all = P + 190;
        let b = B..B + P + 30;
        assert_eq!(segments(all, 0)?[..], [C..C + 50, b.clone(), A..A + 100]);
        assert_eq!(
            segments(all, 40)?[..],
            [C..C + 50, b.clone(), A + 40..A + 100]
        );
        assert_eq!(segments(all, 100)?[..], [C..C + 50, b.clone()]);
        assert_eq!(segments(all - 20, 0)?[..], [C..C + 30, b, A..A + 100]);
        assert_eq!(segments(110, 0)?[..], [B..B + 10, A..A + 100]);
        for (count, skip, expected) in [
            (100, 0, A..A + 100),
            (99, 98, A + 98..A + 99),
            (110, 100, B..B + 10),
            (all, all - 1, C + 49..C + 50),
        ] {
            assert_eq!(segments(count, skip)?[..], [expected]);
        }
        Ok(())
    }
}

#[kunit_tests(pin_guard_window_mm)]
mod windows_of_an_mm {
    use super::*;

    /// An mm that no process has. A user of its windows only counts references on it.
    struct Other(KBox<bindings::mm_struct>);

    impl Other {
        fn new() -> Result<Self> {
            let mm = KBox::<bindings::mm_struct>::new_uninit(GFP_KERNEL | __GFP_ZERO)?;
            // SAFETY: An `mm_struct` is plain data, and all zeroes are valid.
            let mut mm = unsafe { mm.assume_init() };
            // More references than the test drops, so that the kernel does not free it as an mm.
            for _ in 0..1000 {
                // SAFETY: The count is valid, and mmgrab() accesses nothing else.
                unsafe { bindings::mmgrab(&mut *mm) };
            }
            Ok(Self(mm))
        }

        fn mm(&mut self) -> *mut bindings::mm_struct {
            &mut *self.0
        }

        fn use_it(&mut self) -> Result<MmRef> {
            // SAFETY: The mm is valid as far as the windows use it.
            unsafe { MmRef::open(self.mm(), GFP_KERNEL, |user, _| user) }
        }
    }

    #[test]
    fn each_mm_has_its_own_windows() -> Result {
        let mm = kunit::mm()?;
        let mut other = Other::new()?;
        let window = open(&[A..A + P])?;
        assert!(touch(mm, || EVERYTHING));
        assert!(!touch(mm, || B..C));
        assert!(!touch(mm, || 0..0));
        assert!(!touch(other.mm(), || EVERYTHING));
        assert!(within(other.mm(), EVERYTHING)?.is_empty());
        let user = other.use_it()?;
        assert!(!touch(other.mm(), || EVERYTHING));
        // SAFETY: The mm is valid as far as the windows use it.
        unsafe { follow(other.mm(), &(A..A + P), B) }?;
        assert!(covered(EVERYTHING, &[A..A + P]));
        drop(user);
        drop(window);
        assert!(!touch(mm, || EVERYTHING));
        Ok(())
    }

    #[test]
    fn what_is_freed_is_not_kept() -> Result {
        let mut kept = Other::new()?;
        let mut others = KVec::new();
        let mut other = loop {
            let mut other = Other::new()?;
            if share_a_chain(kept.mm(), other.mm()) {
                break other;
            }
            // Keep it, or the next one gets the same memory.
            others.push(other, GFP_KERNEL)?;
        };
        let first = kept.use_it()?;
        let user = other.use_it()?;
        drop(first);
        assert!(!user.is_kept());

        let _rcu = kernel::sync::rcu::read_lock();
        let windows: *const MmWindows = &*user;
        // The last user goes. The bucket keeps another value, so this one is freed.
        drop(user);
        // A late last user now retires it again. The kept value is in use.
        let first = kept.use_it()?;
        assert!(first.is_kept());
        // SAFETY: The test has been under RCU since before the value was freed.
        unsafe { &*windows }.retire_late();
        assert!(first.is_kept());
        Ok(())
    }

    #[test]
    fn many_mms_at_a_time() -> Result {
        // More than there are chains.
        const COUNT: usize = 600;
        let mut others = KVec::new();
        for _ in 0..COUNT {
            others.push(Other::new()?, GFP_KERNEL)?;
        }
        for round in 0..3 {
            let mut users = KVec::new();
            for other in others.iter_mut() {
                users.push((other.use_it()?, other.use_it()?), GFP_KERNEL)?;
            }
            for (other, (first, second)) in others.iter_mut().zip(users.iter()) {
                assert!(core::ptr::eq(&**first, &**second));
                assert!(core::ptr::eq(first.mm(), other.mm()));
            }
            // The order differs from round to round.
            for i in 0..COUNT {
                drop(users.remove(i * (round + 1) * 7 % users.len()));
            }
        }
        Ok(())
    }
}

#[kunit_tests(pin_guard_window_follow)]
mod windows_follow {
    use super::*;

    #[test]
    fn what_is_moved() -> Result {
        let windows = open(&[A + 5..A + 3 * P + 5])?;
        // The window still covers its old place: its I/O may still look up pages there.
        let old = A..A + 4 * P;
        moved(B..C, A - P)?;
        assert!(covered(EVERYTHING, &[old.clone()]));
        moved(A - P..A + 9 * P, B - P)?;
        assert!(covered(EVERYTHING, &[old.clone(), B..B + 4 * P]));
        moved(B..B + 4 * P, C)?;
        assert!(covered(EVERYTHING, &[old, B..B + 4 * P, C..C + 4 * P]));
        drop(windows);
        assert!(covered(EVERYTHING, &[]));
        assert_eq!(nodes()?, 0);
        Ok(())
    }

    #[test]
    fn in_parts_to_places_far_apart() -> Result {
        let _windows = open(&[A..A + 4 * P])?;
        moved(A + 2 * P..A + 3 * P, D + 2 * P)?;
        moved(A..A + P, B)?;
        moved(A + 3 * P..A + 4 * P, C)?;
        let parts = [A..A + 4 * P, B..B + P, C..C + P, D + 2 * P..D + 3 * P];
        assert!(covered(EVERYTHING, &parts));
        Ok(())
    }

    #[test]
    fn a_part_of_what_was_moved_and_the_rest_stays() -> Result {
        let _windows = open(&[A..A + 4 * P])?;
        moved(A..A + 4 * P, B)?;
        // mremap(B, 1 page, 4 pages) moves one.
        moved(B..B + P, C)?;
        moved(C..C + P, D)?;
        let all = [A..A + 4 * P, B..B + 4 * P, C..C + P, D..D + P];
        assert!(covered(EVERYTHING, &all));
        Ok(())
    }

    #[test]
    fn a_move_that_fails_and_is_taken_back() -> Result {
        let _windows = open(&[A..A + 4 * P])?;
        moved(A..A + 4 * P, B)?;
        let before = nodes()?;
        // The whole move, then a part of it.
        moved(B..B + 4 * P, A)?;
        moved(B + P..B + 2 * P, A + P)?;
        assert_eq!(nodes()?, before);
        assert!(covered(EVERYTHING, &[A..A + 4 * P, B..B + 4 * P]));
        Ok(())
    }

    #[test]
    fn back_and_forth_needs_no_more() -> Result {
        let _windows = open(&[A..A + 4 * P, A + P..A + 2 * P])?;
        for _ in 0..20 {
            moved(A..A + 4 * P, B)?;
            moved(B..B + 4 * P, C)?;
            moved(C + P..C + 2 * P, B + P)?;
            moved(C..C + 4 * P, A)?;
        }
        assert_eq!(nodes()?, 6);
        Ok(())
    }

    #[test]
    fn the_old_address_used_anew() -> Result {
        let _windows = open(&[A..A + 2 * P])?;
        moved(A..A + 2 * P, B)?;
        // Other memory is mapped at A now, and the I/O looks up its pages only then.
        moved(A..A + 2 * P, C)?;
        assert!(covered(
            EVERYTHING,
            &[A..A + 2 * P, B..B + 2 * P, C..C + 2 * P]
        ));
        Ok(())
    }

    #[test]
    fn more_segments_than_one() -> Result {
        let mm = kunit::mm()?;
        let pieces = Pieces::new();
        pieces.push_new(Node::new(&(A + 8 * P..A + 9 * P)), GFP_KERNEL)?;
        // SAFETY: The mm is that of this thread.
        let window = unsafe { Window::open_in(mm, A..A + P, pieces, true) }?;
        moved(A..A + 9 * P, B)?;
        assert!(covered(
            EVERYTHING,
            &[
                A..A + P,
                A + 8 * P..A + 9 * P,
                B..B + P,
                B + 8 * P..B + 9 * P
            ]
        ));
        drop(window);
        assert_eq!(nodes()?, 0);
        Ok(())
    }

    #[test]
    fn onto_itself_is_no_move() -> Result {
        let _windows = open(&[A..A + 4 * P])?;
        moved(A..A + 4 * P, A)?;
        moved(0..0, A)?;
        assert_eq!(nodes()?, 1);
        Ok(())
    }

    #[test]
    fn a_move_that_overlaps_itself_is_covered_whole() -> Result {
        // UFFDIO_MOVE allows this, and may move a page several times.
        for to in [A - 2 * P, A + 2 * P] {
            let windows = open(&[A + 2 * P..A + 3 * P, A + 3 * P..A + 3 * P + 1])?;
            moved(A..A + 4 * P, to)?;
            let hull = A.min(to)..(A + 4 * P).max(to + 4 * P);
            assert!(covered(EVERYTHING, &[hull]));
            assert_eq!(nodes()?, 4);
            moved(A..A + 4 * P, to)?;
            assert_eq!(nodes()?, 4);
            drop(windows);
            assert_eq!(nodes()?, 0);
        }
        Ok(())
    }

    #[test]
    fn what_arrives_is_covered_from_the_first_moment_on() -> Result {
        let mm = kunit::mm()?;
        let _windows = open(&[A..A + 2 * P])?;
        // SAFETY: The mm is that of this thread.
        let arrivals = unsafe { Window::open_in(mm, B..B + 4 * P, Pieces::new(), true) }?;
        assert!(covered(EVERYTHING, &[A..A + 2 * P, B..B + 4 * P]));
        // A page moves on from the destination before UFFDIO_MOVE is over.
        moved(B + P..B + 2 * P, C)?;
        assert!(have_room(mm, &(A..A + 4 * P)));
        arrive(mm, arrivals, &(A..A + 4 * P), B);
        assert!(covered(EVERYTHING, &[A..A + 2 * P, B..B + 2 * P, C..C + P]));
        assert_eq!(nodes()?, 3);
        Ok(())
    }

    #[test]
    fn a_window_that_has_been_to_too_many_places() -> Result {
        let mm = kunit::mm()?;
        let windows = open(&[A..A + P])?;
        let mut moves = 0;
        while moved(A..A + P, B + moves * P).is_ok() {
            moves += 1;
            assert!(moves < 10_000);
        }
        assert_eq!(nodes()?, 1 + moves);
        assert!(!have_room(mm, &(A..A + P)));
        drop(windows);
        assert_eq!(nodes()?, 0);
        Ok(())
    }
}
