// SPDX-License-Identifier: GPL-2.0

//! Windows: user memory of an mm that has I/O in flight which holds no pins.
//!
//! # Why no fork slips by
//!
//! A submitter (S) opens its window and then looks up its pages; a fork (F) looks for windows and then
//! copies the page tables:
//!
//! ```text
//!     S1  insert the window              F1  mmap_write_lock(): mm_lock_seq becomes odd
//!     S2  smp_mb()                       F2  smp_mb()
//!     S3  look at mm_lock_seq;           F3  look for windows; pin what they cover
//!         odd: take and drop the         F4  copy the page tables
//!         read lock                      F5  mmap_write_unlock(): mm_lock_seq becomes even
//!     S4  look up the pages
//! ```
//!
//! By the two barriers, F3 sees the window or S3 sees what F1 wrote. In the first case F4 finds the
//! pages pinned and copies them for the child at once, so that the parent keeps its own. In the second,
//! either the fork is over (F5), or S3 waits for it: S4 then looks at page tables that the fork has
//! already write-protected, and its write access gives the parent a page of its own before the device
//! sees it. A fork that starts later than S3 is in the first case.
//!
//! C: `mmap_lock_speculate_try_begin()` in `include/linux/mmap_lock.h`, `dup_mmap()` in `mm/mmap.c`.

use crate::{ffi::*, version::*};
use core::{mem, ops::Range};
use kernel::{
    alloc::Flags,
    bindings,
    error::to_result,
    fmt, impl_list_arc_safe, impl_list_item,
    list::{List, ListArc, ListLinks},
    mm::{Mm, MmWithUser},
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    str::BStr,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Arc, SpinLock,
    },
    time::{Instant, Monotonic},
    types::Opaque,
};

/// The user memory of one I/O: most have one segment and need no allocation.
enum Segments {
    One(Range<usize>),
    Many(KVec<Range<usize>>),
}

impl Segments {
    fn as_slice(&self) -> &[Range<usize>] {
        match self {
            Self::One(range) => core::slice::from_ref(range),
            Self::Many(ranges) => ranges,
        }
    }

    /// What `iter` has left.
    ///
    /// # Safety
    ///
    /// `iter` is a valid, user-backed `iov_iter`.
    unsafe fn of_iter(iter: *const bindings::iov_iter, flags: Flags) -> Result<Self> {
        // SAFETY: By the safety requirements. A copy can be advanced without a trace; it borrows the
        // segments of the original only here.
        let mut at = unsafe { iter.read() };
        let mut ranges = KVec::new();
        loop {
            // SAFETY: `at` is a valid, user-backed `iov_iter`, not beyond its last segment.
            let (addr, len, left) = unsafe {
                (
                    untagged(pin_guard_iter_iov_addr(&at) as usize),
                    pin_guard_iter_iov_len(&at),
                    at.__bindgen_anon_1.__bindgen_anon_1.as_ref().count,
                )
            };
            let len = len.min(left);
            let range = addr..addr.saturating_add(len);
            if len == left && ranges.is_empty() {
                return Ok(Self::One(range));
            }
            if len != 0 {
                ranges.push(range, flags)?;
            }
            if len == left {
                return Ok(Self::Many(ranges));
            }
            // SAFETY: There are more than `len` bytes left. This steps over empty segments, too.
            unsafe { bindings::iov_iter_advance(&mut at, len) };
        }
    }
}

/// The address that VMAs go by: user pointers may have tags (x86 LAM, arm64 TBI).
fn untagged(addr: usize) -> usize {
    // SAFETY: Any address will do.
    unsafe { pin_guard_untagged_addr(addr) }
}

/// What the registry keeps of an open window.
#[pin_data]
struct Entry {
    #[pin]
    links: ListLinks,
    mm: ARef<Mm>,
    segments: Segments,
    /// Where mremap() has moved parts of it, and where these were before, if the ends are not 0. Used
    /// under the bucket's lock.
    moved: [Atomic<usize>; 2],
    left: [Atomic<usize>; 2],
    pid: i32,
    comm: [u8; 16],
    opened: Instant<Monotonic>,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Entry { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Entry { using ListLinks { self.links }; }
}

impl Entry {
    fn moved(&self) -> Range<usize> {
        self.moved[0].load(Relaxed)..self.moved[1].load(Relaxed)
    }

    fn left(&self) -> Range<usize> {
        self.left[0].load(Relaxed)..self.left[1].load(Relaxed)
    }

    /// All memory that the I/O may be in flight to.
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let moved = [self.moved(), self.left()];
        let moved = moved.into_iter().filter(|range| !range.is_empty());
        Iterator::chain(self.segments.as_slice().iter().cloned(), moved)
    }
}

struct Open {
    windows: List<Entry>,
    opened: u64,
    /// The last VMA copy that found windows: the child's mm and the VMA's start.
    last_copy: (usize, usize),
}

#[pin_data]
struct Bucket {
    /// The length of `windows`, to be read without the lock by the fork hook.
    count: Atomic<usize>,
    #[pin]
    open: SpinLock<Open>,
}

const BUCKET_BITS: u32 = 8;
const BUCKETS: usize = 1 << BUCKET_BITS;

/// All open windows, hashed by mm.
///
/// # Invariants
///
/// Initialised by [`init`] before anything else in this file runs.
struct Registry(Opaque<[Bucket; BUCKETS]>);

// SAFETY: A bucket is made of an atomic and a lock.
unsafe impl Sync for Registry {}

static REGISTRY: Registry = Registry(Opaque::uninit());

/// Sets up the registry.
///
/// # Safety
///
/// Once, from the module's init, before any window is opened or looked for.
pub(crate) unsafe fn init() {
    for i in 0..BUCKETS {
        let bucket = pin_init!(Bucket {
            count: Atomic::new(0),
            open <- new_spinlock!(
                Open { windows: List::new(), opened: 0, last_copy: (0, 0) },
                "pin_guard_windows"
            ),
        });
        // SAFETY: The static is pinned, in bounds, and by the safety requirements not yet in use.
        unsafe { init_at(REGISTRY.0.get().cast::<Bucket>().add(i), bucket) };
    }
}

fn buckets() -> &'static [Bucket; BUCKETS] {
    // SAFETY: By the invariants of `Registry`.
    unsafe { &*REGISTRY.0.get() }
}

fn bucket(mm: *const bindings::mm_struct) -> &'static Bucket {
    // The golden ratio spreads the slab's strides over the upper bits.
    let hash = (mm as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BUCKET_BITS);
    &buckets()[hash as usize]
}

static SUBMISSIONS_WAITED: Atomic<usize> = Atomic::new(0);

/// User memory of the current mm has I/O in flight, from open to drop.
///
/// For code that holds pages by plain references (`get_user_pages_fast()`) and lets a device write to
/// them: a fork while the window is open pre-copies the pages for the child instead of sharing them.
/// Open it *before* looking up the pages, drop it when the device is done. Costs the same whatever the
/// length: no page is touched.
///
/// Drop it in process context (a workqueue will do); it does not sleep.
pub struct Window(Arc<Entry>);

impl Window {
    /// Opens a window on `len` bytes of user memory at `addr`, of the current task.
    ///
    /// Waits for a fork of this mm that is under way. May sleep. Errors: EINVAL for no length or a range
    /// beyond the address space; EFAULT in a kernel thread without mm; ENOMEM; EINTR if killed.
    pub fn open(addr: usize, len: usize) -> Result<Self> {
        let addr = untagged(addr);
        let end = addr.checked_add(len).filter(|_| len != 0).ok_or(EINVAL)?;
        Self::with_segments(Segments::One(addr..end), true)
    }

    /// Opens a window on what `iter` has left. As [`Window::open`], but with `may_wait` false gives
    /// EAGAIN instead of sleeping.
    ///
    /// # Safety
    ///
    /// `iter` is a valid, user-backed `iov_iter` on the memory of the current task.
    pub(crate) unsafe fn open_iter(
        iter: *const bindings::iov_iter,
        may_wait: bool,
    ) -> Result<Self> {
        let flags = if may_wait { GFP_KERNEL } else { GFP_NOWAIT };
        // SAFETY: By the safety requirements.
        unsafe { Segments::of_iter(iter, flags) }
            .and_then(|segments| Self::with_segments(segments, may_wait))
            .map_err(|e| if e == ENOMEM && !may_wait { EAGAIN } else { e })
    }

    fn with_segments(segments: Segments, may_wait: bool) -> Result<Self> {
        let task = kernel::current!();
        let mm = task.mm().ok_or(EFAULT)?;
        // SAFETY: The current task's name; a torn read of it while it is changed does no harm.
        let comm = unsafe { (*task.as_ptr()).comm };
        let entry = ListArc::pin_init(
            try_pin_init!(Entry {
                links <- ListLinks::new(),
                mm: ARef::from(&**mm),
                segments,
                moved: [Atomic::new(0), Atomic::new(0)],
                left: [Atomic::new(0), Atomic::new(0)],
                pid: task.pid(),
                comm,
                opened: Instant::now(),
            }),
            if may_wait { GFP_KERNEL } else { GFP_NOWAIT },
        )?;
        let window = Self(entry.clone_arc());
        let bucket = bucket(mm.as_raw());
        {
            let mut open = bucket.open.lock();
            open.windows.push_back(entry);
            open.opened += 1;
            bucket.count.add(1, Relaxed);
        }
        for range in window.0.segments.as_slice() {
            // SAFETY: A tracepoint may be hit anywhere.
            unsafe { pin_guard_trace_window_open(mm.as_raw().cast(), range.start, range.end) };
        }
        wait_for_fork(mm, may_wait)?;
        Ok(window)
    }
}

/// S2 and S3 of the proof above: waits for a fork of `mm` that may have missed a new window.
fn wait_for_fork(mm: &MmWithUser, may_wait: bool) -> Result {
    smp_mb();
    let mut seq = 0;
    // SAFETY: `mm` is valid.
    if unsafe { pin_guard_mmap_lock_speculate_try_begin(mm.as_raw(), &mut seq) } {
        return Ok(());
    }
    if !may_wait {
        return Err(EAGAIN);
    }
    SUBMISSIONS_WAITED.add(1, Relaxed);
    // SAFETY: `mm` is valid and has users; whoever looks up user pages holds no lock of it.
    unsafe {
        to_result(pin_guard_mmap_read_lock_killable(mm.as_raw()))?;
        bindings::mmap_read_unlock(mm.as_raw());
    }
    Ok(())
}

impl Drop for Window {
    fn drop(&mut self) {
        let entry = &*self.0;
        let bucket = bucket(entry.mm.as_raw());
        let removed = {
            let mut open = bucket.open.lock();
            bucket.count.fetch_sub(1, Relaxed);
            // SAFETY: An entry is only ever in the list of its mm's bucket.
            unsafe { open.windows.remove(entry) }
        };
        drop(removed);
        let age = entry.opened.elapsed().as_nanos();
        for range in entry.segments.as_slice() {
            // SAFETY: A tracepoint may be hit anywhere.
            unsafe {
                pin_guard_trace_window_close(
                    entry.mm.as_raw().cast(),
                    range.start,
                    range.end,
                    age as u64,
                )
            };
        }
    }
}

/// Whether `mm`, whose mmap lock is held for write, may have windows. Runs in an ftrace callback.
pub(crate) fn any(mm: *const bindings::mm_struct) -> bool {
    // F2 of the proof above.
    smp_mb();
    bucket(mm).count.load(Relaxed) != 0
}

/// What the windows of `mm` cover of `area`: whole pages, in order, without overlap.
///
/// Errors: ENOMEM.
pub(crate) fn within(
    mm: *const bindings::mm_struct,
    area: Range<usize>,
) -> Result<KVVec<Range<usize>>> {
    let bucket = bucket(mm);
    // There may be more than kmalloc() has room for: a read has up to 1024 segments.
    let mut found = KVVec::new();
    let mut needed = 16;
    // Windows that come while the lock is dropped wait for this fork, so this ends.
    while needed > found.capacity() {
        found.clear();
        found.reserve(needed, GFP_KERNEL)?;
        needed = 0;
        let open = bucket.open.lock();
        for entry in open
            .windows
            .iter()
            .filter(|w| w.mm.as_raw().cast_const() == mm)
        {
            for range in entry.ranges() {
                if let Some(pages) = pages_within(&range, &area) {
                    needed += 1;
                    // A vector that is too small is caught by the loop's condition.
                    let _ = found.push_within_capacity(pages);
                }
            }
        }
    }

    // SAFETY: The vector's elements are valid ranges, which are plain data.
    unsafe {
        sort(
            found.as_mut_ptr().cast(),
            found.len(),
            mem::size_of::<Range<usize>>(),
            Some(compare_starts),
            None,
        )
    };
    let mut merged = 0;
    for i in 1..found.len() {
        let next = found[i].clone();
        if next.start <= found[merged].end {
            found[merged].end = found[merged].end.max(next.end);
        } else {
            merged += 1;
            found[merged] = next;
        }
    }
    found.truncate(merged + 1);
    Ok(found)
}

/// Has the windows of `mm` follow their pages from `from` to `to`. Runs in an ftrace callback, with the
/// mmap lock held for write.
///
/// A window has room for two more ranges: an mremap() that fails moves the pages back without a word, so
/// where they were before still counts. What is moved in parts, to several places, is covered from the
/// lowest to the highest of them, which pins too much at worst.
///
/// C: `copy_vma_and_data()` in `mm/mremap.c`.
pub(crate) fn follow(mm: *const bindings::mm_struct, from: Range<usize>, to: usize) {
    let open = bucket(mm).open.lock();
    for entry in open
        .windows
        .iter()
        .filter(|w| w.mm.as_raw().cast_const() == mm)
    {
        let before = entry.moved();
        // What moves on as a whole leaves nothing behind.
        let mut moved = if from.start <= before.start && before.end <= from.end {
            0..0
        } else {
            before.clone()
        };
        for range in entry.ranges() {
            let (start, end) = (range.start.max(from.start), range.end.min(from.end));
            if start < end {
                let (start, end) = (start - from.start + to, end - from.start + to);
                moved = if moved.is_empty() {
                    start..end
                } else {
                    moved.start.min(start)..moved.end.max(end)
                };
            }
        }
        if moved != before {
            entry.left[0].store(before.start, Relaxed);
            entry.left[1].store(before.end, Relaxed);
        }
        entry.moved[0].store(moved.start, Relaxed);
        entry.moved[1].store(moved.end, Relaxed);
    }
}

/// A `cmp_func_t` for ranges.
///
/// # Safety
///
/// `a` and `b` point to `Range<usize>`.
unsafe extern "C" fn compare_starts(a: *const c_void, b: *const c_void) -> c_int {
    // SAFETY: By the safety requirements.
    let (a, b) = unsafe { (&*a.cast::<Range<usize>>(), &*b.cast::<Range<usize>>()) };
    a.start.cmp(&b.start) as c_int
}

/// The pages of `area`, which is made of whole pages, that `range` touches.
fn pages_within(range: &Range<usize>, area: &Range<usize>) -> Option<Range<usize>> {
    let start = (range.start & !(PAGE_SIZE - 1)).max(area.start);
    // Compared before it is rounded up: a range may end at the end of the address space.
    let end = if range.end >= area.end {
        area.end
    } else {
        (range.end + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
    };
    (start < end).then_some(start..end)
}

/// Notes that the fork of `mm` into `child` has found windows in the VMA at `start`. Returns whether
/// that is the first such VMA of this fork.
///
/// A fork copies VMAs in ascending order, so the same child at a lower address is a new fork.
pub(crate) fn first_copy(mm: *const bindings::mm_struct, child: usize, start: usize) -> bool {
    let mut open = bucket(mm).open.lock();
    let (last_child, last_start) = open.last_copy;
    open.last_copy = (child, start);
    last_child != child || start <= last_start
}

/// debugfs `windows`: the open windows, a line per segment.
pub(crate) fn list(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("pid comm start-end age_ms\n"))?;
    for bucket in buckets() {
        let open = bucket.open.lock();
        for window in open.windows.iter() {
            let comm = window.comm.split(|&c| c == 0).next().unwrap_or_default();
            let age = window.opened.elapsed().as_millis();
            for Range { start, end } in window.ranges() {
                let comm = BStr::from_bytes(comm);
                f.write_fmt(fmt!("{} {comm} {start:x}-{end:x} {age}\n", window.pid))?;
            }
        }
    }
    Ok(())
}

/// The counters of this file, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut opened, mut open) = (0, 0);
    for bucket in buckets() {
        opened += bucket.open.lock().opened;
        open += bucket.count.load(Relaxed);
    }
    f.write_fmt(fmt!("windows_opened {opened}\n"))?;
    f.write_fmt(fmt!("windows_open {open}\n"))?;
    f.write_fmt(fmt!(
        "submissions_waited {}\n",
        SUBMISSIONS_WAITED.load(Relaxed)
    ))
}

#[kunit_tests(pin_guard_window)]
// A range is one window here.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::kunit;

    const P: usize = PAGE_SIZE;
    /// Windows cost the same wherever they are: no memory is there.
    const A: usize = 0x1000_0000;
    const B: usize = 0x2000_0000;
    const C: usize = 0x3000_0000;
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

    /// Whether the windows of the test's mm cover just that of `area`.
    fn covered(area: Range<usize>, expected: &[Range<usize>]) -> bool {
        let found = kunit::mm().and_then(|mm| within(mm, area));
        let right = found.as_ref().is_ok_and(|found| found[..] == *expected);
        if !right {
            pr_info!("expected {expected:x?}, came {:x?}\n", found.as_deref());
        }
        right
    }

    /// Another mm with the same bucket as `mm`: an address that is looked at, and not behind.
    fn colliding(mm: *const bindings::mm_struct) -> *const bindings::mm_struct {
        let mut other = mm.wrapping_byte_add(64);
        while !core::ptr::eq(bucket(other), bucket(mm)) {
            other = other.wrapping_byte_add(64);
        }
        other
    }

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
        // A kernel thread.
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
    fn windows_are_found_in_order_and_merged() -> Result {
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
    fn more_windows_than_there_is_room_for_at_first() -> Result {
        for count in [15, 16, 17, 40, 100] {
            let mut windows = KVec::new();
            let mut expected = KVec::new();
            // The last one first.
            for i in (0..count).rev() {
                let addr = A + 2 * i * P;
                windows.push(open(&[addr..addr + 1])?, GFP_KERNEL)?;
            }
            for i in 0..count {
                expected.push(A + 2 * i * P..A + (2 * i + 1) * P, GFP_KERNEL)?;
            }
            assert!(covered(EVERYTHING, &expected));
        }
        Ok(())
    }

    #[test]
    fn each_mm_has_its_own_windows() -> Result {
        let mm = kunit::mm()?;
        let other = colliding(mm);
        let before = bucket(mm).count.load(Relaxed);
        let window = open(&[A..A + P])?;
        assert_eq!(bucket(mm).count.load(Relaxed), before + 1);
        assert!(any(mm) && any(other));
        assert!(within(other, EVERYTHING)?.is_empty());
        follow(other, A..A + P, B);
        assert!(covered(EVERYTHING, &[A..A + P]));
        drop(window);
        assert_eq!(bucket(mm).count.load(Relaxed), before);
        Ok(())
    }

    #[test]
    fn no_window_opens_beside_a_writer_of_the_mm() -> Result {
        let mm = kunit::mm()?;
        let before = bucket(mm).count.load(Relaxed);
        let open = || Window::with_segments(Segments::One(A..A + P), false).map(drop);
        open()?;
        // As a fork does.
        // SAFETY: The mm is that of this thread, which holds no lock of it.
        unsafe { pin_guard_mmap_write_lock(mm) };
        let result = open();
        // SAFETY: It was locked above.
        unsafe { pin_guard_mmap_write_unlock(mm) };
        assert_eq!(result, Err(EAGAIN));
        assert_eq!(bucket(mm).count.load(Relaxed), before);
        open()
    }

    #[test]
    fn a_window_follows_what_is_moved() -> Result {
        let mm = kunit::mm()?;
        let windows = open(&[A + 5..A + 3 * P + 5])?;
        // Where it was is kept: the device may have taken any of its pages for those.
        let old = A..A + 4 * P;
        follow(mm, B..C, A - P);
        assert!(covered(EVERYTHING, &[old.clone()]));
        follow(mm, A - P..A + 9 * P, B - P);
        assert!(covered(EVERYTHING, &[old.clone(), B..B + 4 * P]));
        // As a whole. The second place is kept, for the kernel moves them back if it runs out of memory.
        follow(mm, B..B + 4 * P, C);
        assert!(covered(
            EVERYTHING,
            &[old.clone(), B..B + 4 * P, C..C + 4 * P]
        ));
        // And home: nothing is left of the second place.
        follow(mm, C..C + 4 * P, A);
        assert!(covered(EVERYTHING, &[old, C..C + 4 * P]));
        drop(windows);
        assert!(covered(EVERYTHING, &[]));
        Ok(())
    }

    #[test]
    fn a_window_that_is_moved_in_parts_covers_them_all() -> Result {
        let mm = kunit::mm()?;
        let _windows = open(&[A..A + 4 * P, C..C + 1])?;
        follow(mm, A + 2 * P..A + 3 * P, B + 2 * P);
        let parts = |second: Range<usize>| [A..A + 4 * P, second, C..C + P];
        assert!(covered(EVERYTHING, &parts(B + 2 * P..B + 3 * P)));
        follow(mm, A..A + P, B + 8 * P);
        assert!(covered(EVERYTHING, &parts(B + 2 * P..B + 9 * P)));
        follow(mm, A + 3 * P..A + 4 * P, B);
        assert!(covered(EVERYTHING, &parts(B..B + 9 * P)));
        // A part of what was moved.
        follow(mm, B + 8 * P..B + 9 * P, B + 10 * P);
        assert!(covered(EVERYTHING, &parts(B..B + 11 * P)));
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
            segment(C, 50),
            segment(A, 0),
        ];
        // `skip` bytes of `count` are gone.
        let segments = |count: usize, skip: usize| {
            let mut iter = bindings::iov_iter::default();
            // SAFETY: The vector lives for as long as the iterator.
            unsafe {
                bindings::iov_iter_init(
                    &mut iter,
                    bindings::ITER_DEST,
                    vector.as_ptr(),
                    vector.len(),
                    count,
                );
                bindings::iov_iter_advance(&mut iter, skip);
                Segments::of_iter(&iter, GFP_KERNEL)
            }
        };
        let all = P + 150;
        assert_eq!(
            segments(all, 0)?.as_slice(),
            &[A..A + 100, B..B + P, C..C + 50]
        );
        assert_eq!(
            segments(all, 40)?.as_slice(),
            &[A + 40..A + 100, B..B + P, C..C + 50]
        );
        assert_eq!(segments(all, 100)?.as_slice(), &[B..B + P, C..C + 50]);
        assert_eq!(
            segments(all - 20, 0)?.as_slice(),
            &[A..A + 100, B..B + P, C..C + 30]
        );
        assert_eq!(segments(110, 0)?.as_slice(), &[A..A + 100, B..B + 10]);
        for (count, skip, expected) in [
            (100, 0, A..A + 100),
            (99, 98, A + 98..A + 99),
            (110, 100, B..B + 10),
            (all, all - 1, C + 49..C + 50),
        ] {
            let segments = segments(count, skip)?;
            assert!(matches!(segments, Segments::One(_)));
            assert_eq!(segments.as_slice(), &[expected]);
        }
        Ok(())
    }

    #[test]
    fn the_first_copy_of_a_fork_is_told_from_the_next() -> Result {
        let mm = kunit::mm()?;
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
}
