// SPDX-License-Identifier: GPL-2.0

//! Windows: ranges of user memory with I/O in flight that holds no pins.
//!
//! # Why no fork slips by
//!
//! A submission (S) opens its window and then looks up its pages; a fork (F) looks for windows and
//! then copies the page tables:
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
//! Because of the two barriers, F3 sees the window or S3 sees the write of F1. In the first case F4
//! finds the pages pinned and copies them for the child at once, so the parent keeps its own pages.
//! In the second case, either the fork is over (F5), or S3 waits for it. The page tables that S4
//! looks at are then write-protected by the fork, so its write access gives the parent a page of
//! its own before the device sees that page. A fork that starts later than S3 is in the first case.
//!
//! On a CPU that reorders, such as arm64: S3 reads the count by a load-acquire
//! (`raw_seqcount_try_begin()`), and F5 writes it behind a write barrier
//! (`do_raw_write_seqcount_end()`). So if S3 sees the write of F5, S4 sees the writes of F4. If S3
//! takes the read lock, the lock orders them. F3 reads some writes of S1 without a lock: the hash
//! chain, and `mm` and `users` of the values in it. S1 writes them before its barrier, and F3 reads
//! them after its own. F3 reads all the rest under the lock that S1 held.
//!
//! F3 looks once per VMA, and may find a new window in one VMA and not in another. But S1 inserts
//! all ranges of a window under the lock of the mm's windows, and each look of F3 finds the ranges
//! that S1 inserted before F1.
//!
//! mremap() is an F, too: it moves page tables with the lock held for write. Its F3 makes each
//! window that touches the moved range cover the new place as well ([`follow`]).
//!
//! C: [`mmap_lock_speculate_try_begin()`](srctree/include/linux/mmap_lock.h),
//! [`raw_seqcount_try_begin()`, `do_raw_write_seqcount_end()`](srctree/include/linux/seqlock.h),
//! [`dup_mmap()`](srctree/mm/mmap.c), [`move_page_tables()`](srctree/mm/mremap.c)

mod follow;
mod list;
mod mm;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod tree;

pub(crate) use follow::{arrive, follow, have_room};
pub(crate) use list::List;
pub(crate) use mm::Registry;

use crate::{
    cache::{Cache, Cached, CachedBox},
    ffi::*,
    version::*,
};
use core::{cell::Cell, ops::Range, pin::Pin};
use kernel::{
    alloc::Flags,
    bindings,
    error::to_result,
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};
use mm::{MmRef, State};
use tree::Node;
pub(crate) use tree::Pieces;

static SUBMISSIONS_WAITED: Atomic<usize> = Atomic::new(0);

/// Tells forks that a range of user memory has I/O in flight, from open to drop.
///
/// A window is for code that holds the pages by plain references (`get_user_pages_fast()`) while a
/// device writes to them. If the process forks while the window is open, the fork copies these
/// pages for the child at once instead of sharing them, so the parent keeps the pages of the
/// device.
///
/// Open the window *before* you look up the pages, and drop it when the device has finished.
/// Neither touches a page, so the cost does not depend on the length, and hardly on the number of
/// windows. The memory of the window is charged to the memory cgroup of the task.
///
/// Drop the window in process context, for example in a workqueue. The drop does not sleep. Any
/// task may drop it, also after the process has exited.
///
/// C: [`copy_page_range()`](srctree/mm/memory.c), which a fork calls for each VMA
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use pin_guard::Window;
///
/// fn receive(addr: usize, len: usize, io: impl FnOnce() -> Result) -> Result {
///     let window = Window::open(addr, len)?;
///     // Looks up the pages, starts the device and waits for it.
///     let result = io();
///     drop(window);
///     result
/// }
/// ```
pub struct Window(Pin<CachedBox<Entry>>);

/// The state of a [`Window`].
///
/// # Invariants
///
/// From when `mm` is set until `is_out`, `first` and the nodes of `more` and `moved` are in the
/// tree of `mm`.
#[pin_data]
struct Entry {
    /// `Some` from when the window is in the tree until it is dropped.
    mm: Cell<Option<MmRef>>,
    /// One segment of the memory that the window was opened on. Most I/O has no other one, so it
    /// needs no other allocation.
    first: Node,
    /// The other segments.
    more: Pieces,
    /// The places to which pages have been moved. Under the lock of `mm`.
    moved: Pieces,
    is_out: Cell<bool>,
    pid: i32,
    comm: [u8; 16],
    /// In jiffies, because to read a clock would cost as much as the rest of [`Window::open`].
    opened: usize,
}

static ENTRIES: Cache = Cache::new::<Entry>(c"pin_guard_window");

// SAFETY: The cache is for this type.
unsafe impl Cached for Entry {
    fn cache() -> &'static Cache {
        &ENTRIES
    }
}

// SAFETY: The fields that are not `Send` or `Sync` themselves are used under the lock of `mm`.
unsafe impl Send for Entry {}
// SAFETY: As above.
unsafe impl Sync for Entry {}

impl Window {
    /// Opens a window on `len` bytes of the current task's user memory at `addr`.
    ///
    /// The memory need not be mapped. If a fork of the process is running, this waits for its end.
    /// May sleep. The caller must not hold the mmap lock.
    ///
    /// C: [`mmap_read_lock_killable()`](srctree/include/linux/mmap_lock.h)
    ///
    /// # Errors
    ///
    /// - `EINVAL`: `len` is 0, or the range goes beyond the address space.
    /// - `EFAULT`: the current task has no user memory (a kernel thread).
    /// - `ENOMEM`: there is no memory for the window, or its memory cgroup is at its limit.
    /// - `EINTR`: the task has been killed while it waited for a fork.
    pub fn open(addr: usize, len: usize) -> Result<Self> {
        let addr = untagged(addr);
        let end = addr.checked_add(len).filter(|_| len != 0).ok_or(EINVAL)?;
        // SAFETY: The mm of the current task is valid, and the caller holds no lock of it.
        unsafe { Self::open_in(current_mm()?, addr..end, Pieces::new(), true) }
    }

    /// Opens a window on the memory that `iter` has left. Like [`Window::open`], but if `may_wait`
    /// is false, it returns EAGAIN instead of sleeping.
    ///
    /// # Safety
    ///
    /// `iter` must be a valid, user-backed `iov_iter` on the memory of the current task, and must
    /// have at least one byte left.
    pub(crate) unsafe fn open_iter(
        iter: *const bindings::iov_iter,
        may_wait: bool,
    ) -> Result<Self> {
        // SAFETY: By the safety requirements.
        unsafe { segments(iter, flags(may_wait)) }
            .and_then(|(first, pieces)| {
                // SAFETY: The mm of the current task is valid, and the caller holds no lock of it.
                unsafe { Self::open_in(current_mm()?, first, pieces, may_wait) }
            })
            .map_err(|e| if e == ENOMEM && !may_wait { EAGAIN } else { e })
    }

    /// Opens a window on `first` and `more`, ranges of `mm` that must not be empty. Like
    /// [`Window::open`], but if `may_wait` is false, it returns EAGAIN instead of waiting for a
    /// fork, and does not sleep.
    ///
    /// # Safety
    ///
    /// `mm` must be valid, and the caller must hold no lock of it.
    #[inline]
    pub(crate) unsafe fn open_in(
        mm: *mut bindings::mm_struct,
        first: Range<usize>,
        more: Pieces,
        may_wait: bool,
    ) -> Result<Self> {
        let flags = flags(may_wait);
        let task = kernel::current!();
        // SAFETY: The current task is valid. Another thread may change the name meanwhile; a torn
        // copy of it does no harm.
        let comm = unsafe { (*task.as_ptr()).comm };
        let entry = CachedBox::pin_init(
            pin_init!(Entry {
                mm: Cell::new(None),
                first: Node::new(&first),
                more,
                moved: Pieces::new(),
                is_out: Cell::new(false),
                pid: task.pid(),
                comm,
                opened: jiffies(),
            }),
            flags,
        )?;
        let insert = |windows, state: &mut State| {
            entry.mm.set(Some(windows));
            state.opened += 1;
            entry.each_segment(|node| {
                node.set_entry(&*entry);
                // SAFETY: The node is new, and in a box, so it does not move. `drop` removes it.
                unsafe { state.tree.insert(node) };
            });
        };
        // SAFETY: By the safety requirements.
        unsafe { MmRef::open(mm, flags, insert) }?;
        entry.each_segment(|node| {
            let range = node.range();
            // SAFETY: A tracepoint may be hit in any context.
            unsafe { pin_guard_trace_window_open(mm.cast(), range.start, range.end) };
        });
        // INVARIANT: All nodes of the window are in the tree.
        let window = Self(entry);
        // SAFETY: By the safety requirements.
        unsafe { wait_for_fork(mm, may_wait) }?;
        Ok(window)
    }
}

impl Entry {
    /// Calls `f` with each segment of the memory that the window was opened on. This is no
    /// iterator, because a loop over one would cost more than the one segment that most windows
    /// have.
    #[inline(always)]
    fn each_segment(&self, mut f: impl FnMut(&Node)) {
        f(&self.first);
        for node in self.more.iter() {
            f(node);
        }
    }

    /// Calls `f` with each node. Under the lock of `mm`.
    #[inline(always)]
    fn each_node(&self, mut f: impl FnMut(&Node)) {
        self.each_segment(&mut f);
        for node in self.moved.iter() {
            f(node);
        }
    }

    /// Removes the window from the tree, unless it is out already. `state` must be that of `mm`.
    fn take_out(&self, state: &mut State) {
        if !self.is_out.replace(true) {
            // SAFETY: By the type invariants.
            self.each_node(|node| unsafe { state.remove(node) });
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let entry = &*self.0;
        let Some(windows) = entry.mm.take() else {
            return;
        };
        let mm = windows.mm();
        windows.leave(|state| entry.take_out(state));
        entry.each_segment(|node| {
            let range = node.range();
            // SAFETY: A tracepoint may be hit in any context.
            unsafe {
                pin_guard_trace_window_close(mm.cast(), range.start, range.end, entry.opened)
            };
        });
    }
}

/// Returns the flags for allocations of the I/O that the task starts: they are charged to its
/// memory cgroup.
pub(crate) fn flags(may_wait: bool) -> Flags {
    if may_wait {
        GFP_KERNEL_ACCOUNT
    } else {
        GFP_NOWAIT | (GFP_KERNEL_ACCOUNT & !GFP_KERNEL)
    }
}

fn jiffies() -> usize {
    // SAFETY: Anybody may read `jiffies`.
    unsafe { (&raw const bindings::jiffies).read_volatile() }
}

fn current_mm() -> Result<*mut bindings::mm_struct> {
    Ok(kernel::current!().mm().ok_or(EFAULT)?.as_raw())
}

/// Removes the tag of a user pointer (x86 LAM, arm64 TBI): the addresses of VMAs have no tags.
fn untagged(addr: usize) -> usize {
    // SAFETY: Any address is valid here.
    unsafe { pin_guard_untagged_addr(addr) }
}

/// Returns the memory that `iter` has left: one range, and the others. Segments that follow or
/// overlap each other become one range.
///
/// # Safety
///
/// `iter` must be a valid, user-backed `iov_iter`, and must have at least one byte left.
#[inline]
unsafe fn segments(
    iter: *const bindings::iov_iter,
    flags: Flags,
) -> Result<(Range<usize>, Pieces)> {
    // SAFETY: By the safety requirements. `iter` has bytes left, so it is not beyond its last
    // segment.
    let (range, len, left) = unsafe { first_segment(iter) };
    if len == left {
        return Ok((range, Pieces::new()));
    }
    // SAFETY: By the safety requirements.
    unsafe { many_segments(iter, flags) }
}

/// Returns the part of the first segment of `iter` that is left, the length of this part, and the
/// length of all that `iter` has left.
///
/// # Safety
///
/// `iter` must be a valid, user-backed `iov_iter`, and must not be beyond its last segment.
#[inline(always)]
unsafe fn first_segment(iter: *const bindings::iov_iter) -> (Range<usize>, usize, usize) {
    // SAFETY: By the safety requirements.
    let (addr, len, left) = unsafe {
        (
            untagged(pin_guard_iter_iov_addr(iter) as usize),
            pin_guard_iter_iov_len(iter),
            (*iter).__bindgen_anon_1.__bindgen_anon_1.as_ref().count,
        )
    };
    let len = len.min(left);
    (addr..addr.saturating_add(len), len, left)
}

/// # Safety
///
/// As for [`segments`].
#[inline(never)]
unsafe fn many_segments(
    iter: *const bindings::iov_iter,
    flags: Flags,
) -> Result<(Range<usize>, Pieces)> {
    // SAFETY: By the safety requirements. To advance the copy does not change `iter`. The copy
    // refers to the segments of `iter`, but only in this function.
    let mut at = unsafe { iter.read() };
    let pieces = Pieces::new();
    let mut last = 0..0;
    loop {
        // SAFETY: `at` is a valid, user-backed `iov_iter`. It has bytes left, or the loop would
        // have ended, so it is not beyond its last segment.
        let (range, len, left) = unsafe { first_segment(&at) };
        if !range.is_empty() {
            if last.is_empty() {
                last = range;
            } else if range.start <= last.end && last.start <= range.end {
                last = last.start.min(range.start)..last.end.max(range.end);
            } else {
                pieces.push_new(Node::new(&last), flags)?;
                last = range;
            }
        }
        if len == left {
            return Ok((last, pieces));
        }
        // SAFETY: `at` has more than `len` bytes left. This steps over empty segments, too.
        unsafe { bindings::iov_iter_advance(&mut at, len) };
    }
}

/// Returns the sequence count of the mmap lock of `mm`, which the caller must hold for write. No
/// two holders get the same odd count; without CONFIG_PER_VMA_LOCK all get 0.
///
/// # Safety
///
/// `mm` must be valid.
unsafe fn lock_sequence(mm: *mut bindings::mm_struct) -> u32 {
    let mut seq = 0;
    // SAFETY: By the safety requirements.
    unsafe { pin_guard_mmap_lock_speculate_try_begin(mm, &mut seq) };
    seq
}

/// S2 and S3 of the proof above: waits for a fork of `mm` that may have missed a new window.
///
/// # Errors
///
/// - `EAGAIN`: there may be such a fork, and `may_wait` is false.
/// - `EINTR`: the task has been killed while it waited.
///
/// # Safety
///
/// `mm` must be valid, and the caller must hold no lock of it.
unsafe fn wait_for_fork(mm: *mut bindings::mm_struct, may_wait: bool) -> Result {
    smp_mb();
    let mut seq = 0;
    // SAFETY: By the safety requirements.
    if unsafe { pin_guard_mmap_lock_speculate_try_begin(mm, &mut seq) } {
        return Ok(());
    }
    if !may_wait {
        return Err(EAGAIN);
    }
    SUBMISSIONS_WAITED.add(1, Relaxed);
    // SAFETY: By the safety requirements.
    unsafe {
        to_result(pin_guard_mmap_read_lock_killable(mm))?;
        bindings::mmap_read_unlock(mm);
    }
    Ok(())
}

/// Returns whether windows of `mm`, whose mmap lock must be held for write, touch `area`. Runs in
/// an ftrace callback.
#[inline(always)]
pub(crate) fn touch(mm: *const bindings::mm_struct, area: impl FnOnce() -> Range<usize>) -> bool {
    // F2 of the proof above.
    smp_mb();
    // `may_have` is false for nearly all calls.
    mm::may_have(mm) && touch_within(mm, area())
}

#[inline(never)]
fn touch_within(mm: *const bindings::mm_struct, area: Range<usize>) -> bool {
    !area.is_empty()
        && mm::with(mm, |state| state.tree.first_within(&area).is_some()).unwrap_or(false)
}

/// Returns the first pages of `area` that a window of `mm` covers, up to the end of that window.
/// `area` must be whole pages.
pub(crate) fn first_within(
    mm: *const bindings::mm_struct,
    area: &Range<usize>,
) -> Option<Range<usize>> {
    if area.is_empty() {
        return None;
    }
    mm::with(mm, |state| {
        let range = state.tree.first_within(area)?.range();
        pages_within(&range, area)
    })?
}

/// Returns the pages of `area`, which must be whole pages, that `range` touches.
fn pages_within(range: &Range<usize>, area: &Range<usize>) -> Option<Range<usize>> {
    let start = (range.start & !(PAGE_SIZE - 1)).max(area.start);
    // Compared before it is rounded up, which could overflow: a range may end at the end of the
    // address space.
    let end = if range.end >= area.end {
        area.end
    } else {
        (range.end + PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
    };
    (start < end).then_some(start..end)
}

/// Records that the fork of `mm` into `child` has found windows in the VMA at `start`. Returns
/// whether this is the first such VMA of this fork.
///
/// A fork copies VMAs in ascending order, so the same child at a lower address is a new fork.
pub(crate) fn first_copy(mm: *const bindings::mm_struct, child: usize, start: usize) -> bool {
    mm::with(mm, |state| {
        let (last_child, last_start) = state.last_copy;
        state.last_copy = (child, start);
        last_child != child || start <= last_start
    })
    .unwrap_or(true)
}

/// Writes the counters of the windows, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (opened, users) = mm::count();
    f.write_fmt(fmt!("windows_opened {opened}\n"))?;
    f.write_fmt(fmt!("windows_open {users}\n"))?;
    f.write_fmt(fmt!(
        "submissions_waited {}\n",
        SUBMISSIONS_WAITED.load(Relaxed)
    ))
}
