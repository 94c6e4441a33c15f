// SPDX-License-Identifier: GPL-2.0

//! The open windows of each mm.
//!
//! An [`MmWindows`] is found by the address of its mm in a hash table whose chains are read under RCU, so
//! that a fork learns without a lock that its mm has none. Who uses one may not sleep meanwhile, or holds an
//! [`MmRef`]. One that has no users any more stays in the chain for the next, whatever mm that is of: a
//! process that reads one block after the other allocates it once, and takes no lock but its own.

use super::{
    list::Cursor,
    tree::{Node, Tree},
    ENTRIES,
};
use crate::{cache::Created, ffi::*, version::init_at};
use core::{mem, pin::Pin, ptr, ptr::NonNull};
use kernel::{
    alloc::Flags,
    bindings, new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed, Release},
        lock::{spinlock::SpinLockBackend, Guard},
        rcu, SpinLock,
    },
    types::Opaque,
};

/// The open windows of an mm.
///
/// # Invariants
///
/// - It is in the chain of the bucket of `mm`, from when it has been allocated until it `is_gone`.
/// - `mm`, `users` and `is_gone` change under the lock of `state`; `mm` and `is_gone` only while there are no
///   users, and under the lock of the bucket, too.
/// - While there are users, this holds a reference on the `mm_struct`; the windows in `state` are among them.
/// - Without users it is the one that the bucket keeps, or somebody is about to look at that.
#[pin_data]
pub(super) struct MmWindows {
    next: Atomic<*mut MmWindows>,
    mm: Atomic<*mut bindings::mm_struct>,
    users: Atomic<usize>,
    rcu: Opaque<bindings::callback_head>,
    #[pin]
    pub(super) state: SpinLock<State>,
}

/// What the lock of an [`MmWindows`] protects.
pub(super) struct State {
    pub(super) tree: Tree,
    /// Whether it has left the chain.
    is_gone: bool,
    /// How many windows have been opened, since `opened` of the bucket was told.
    pub(super) opened: usize,
    /// The readers of debugfs `windows` that are at this mm.
    pub(super) cursors: *const Cursor,
    /// The last VMA copy that found windows: the child's mm and the VMA's start.
    pub(super) last_copy: (usize, usize),
    /// The last mremap() that windows followed: from, to, and the sequence count of the mmap lock.
    pub(super) last_move: (usize, usize, u32),
}

// SAFETY: The nodes and cursors are used under the lock.
unsafe impl Send for State {}

impl State {
    fn new() -> Self {
        Self {
            tree: Tree::new(),
            is_gone: false,
            opened: 0,
            cursors: ptr::null(),
            last_copy: (0, 0),
            last_move: (0, 0, 0),
        }
    }

    /// Takes `node` out of the tree.
    ///
    /// # Safety
    ///
    /// `node` is in the tree.
    pub(super) unsafe fn remove(&mut self, node: &Node) {
        let mut cursor = self.cursors;
        // SAFETY: The cursors in the list are valid, and used under the lock.
        while let Some(at) = unsafe { cursor.as_ref() } {
            at.leave(node, &self.tree);
            cursor = at.next();
        }
        // SAFETY: By the safety requirements.
        unsafe { self.tree.remove(node) };
    }
}

#[pin_data]
struct Bucket {
    /// The first one of the chain: in `pin_guard_chain`, where the fork hook looks.
    head: &'static Atomic<*mut MmWindows>,
    opened: Atomic<usize>,
    /// The one of the chain that stays there without users, for the next mm, or null. Changes under `lock`; from
    /// one to another only while that one has users, and under its own lock, too.
    kept: Atomic<*mut MmWindows>,
    /// For changes of the chain. Taken before that of an [`MmWindows`].
    #[pin]
    lock: SpinLock<()>,
}

/// PIN_GUARD_CHAIN_BITS
const BUCKET_BITS: u32 = 8;
pub(super) const BUCKETS: usize = 1 << BUCKET_BITS;

/// # Invariants
///
/// Initialised by [`Registry::new`] before anything else in this file runs.
struct Buckets(Opaque<[Bucket; BUCKETS]>);

// SAFETY: A bucket is made of atomics and a lock.
unsafe impl Sync for Buckets {}

static BUCKET: Buckets = Buckets(Opaque::uninit());

/// The table, from the module's init to its exit.
pub(crate) struct Registry {
    _entries: Created,
}

impl Registry {
    /// Errors: ENOMEM. May sleep.
    ///
    /// # Safety
    ///
    /// Once, before any window is opened or looked for; dropped when nobody can do so any more.
    pub(crate) unsafe fn new() -> Result<Self> {
        // SAFETY: By the safety requirements; each window holds a reference on the module.
        let entries = unsafe { ENTRIES.create() }?;
        // SAFETY: An array of as many pointers, null at first, that only this file writes to.
        let heads: &[Atomic<*mut MmWindows>; BUCKETS] =
            unsafe { &*(&raw const pin_guard_chain).cast() };
        for (i, head) in heads.iter().enumerate() {
            let bucket = pin_init!(Bucket {
                head,
                opened: Atomic::new(0),
                kept: Atomic::new(ptr::null_mut()),
                lock <- new_spinlock!((), "pin_guard_bucket"),
            });
            // SAFETY: The static is pinned, in bounds, and by the safety requirements not yet in use.
            unsafe { init_at(BUCKET.0.get().cast::<Bucket>().add(i), bucket) };
        }
        Ok(Self { _entries: entries })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for bucket in buckets() {
            let mut at = bucket.head.load(Relaxed);
            while !at.is_null() {
                // SAFETY: It was allocated as such, and nobody has it: each window holds a reference on
                // the module.
                let windows = unsafe { KBox::from_raw(at) };
                at = windows.next.load(Relaxed);
            }
        }
    }
}

fn buckets() -> &'static [Bucket; BUCKETS] {
    // SAFETY: By the invariants of `Buckets`.
    unsafe { &*BUCKET.0.get() }
}

fn bucket(mm: *const bindings::mm_struct) -> &'static Bucket {
    // SAFETY: By the invariants of `Buckets`; the chain has a number of `BUCKET_BITS`.
    unsafe { &*BUCKET.0.get().cast::<Bucket>().add(pin_guard_chain_of(mm)) }
}

/// Reads a pointer as rcu_dereference() does: `Atomic` makes a call of it.
#[inline(always)]
fn read<T>(pointer: &Atomic<*mut T>) -> *mut T {
    // SAFETY: An atomic may be read at any time.
    unsafe { pointer.as_ptr().read_volatile() }
}

/// READ_ONCE(), as above.
#[inline(always)]
fn get(number: &Atomic<usize>) -> usize {
    // SAFETY: As above.
    unsafe { number.as_ptr().read_volatile() }
}

/// WRITE_ONCE(), as above.
#[inline(always)]
fn set(number: &Atomic<usize>, value: usize) {
    // SAFETY: An atomic may be written at any time.
    unsafe { number.as_ptr().write_volatile(value) };
}

impl Bucket {
    /// All of the chain.
    ///
    /// # Safety
    ///
    /// Under RCU, for as long as the iterator and what comes of it lives; or the bucket is locked.
    unsafe fn chain<'a>(&self) -> impl Iterator<Item = &'a MmWindows> {
        let mut at = read(self.head);
        core::iter::from_fn(move || {
            // SAFETY: What is in the chain is freed after a grace period.
            let windows = unsafe { at.as_ref() }?;
            at = read(&windows.next);
            Some(windows)
        })
    }

    /// # Safety
    ///
    /// As for `chain`.
    #[inline]
    unsafe fn find<'a>(&self, mm: *const bindings::mm_struct) -> Option<&'a MmWindows> {
        // SAFETY: By the safety requirements.
        unsafe { self.chain() }.find(|windows| ptr::eq(read(&windows.mm), mm))
    }

    /// # Safety
    ///
    /// The bucket is locked, and `gone` is in the chain.
    unsafe fn unlink(&self, gone: *const MmWindows) {
        let mut link = self.head;
        loop {
            let at = link.load(Relaxed);
            // SAFETY: `gone` is in the chain, so the end of it is not met.
            let windows = unsafe { &*at };
            if ptr::eq(at, gone) {
                link.store(windows.next.load(Relaxed), Release);
                return;
            }
            link = &windows.next;
        }
    }
}

impl MmWindows {
    fn new(flags: Flags) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                next: Atomic::new(ptr::null_mut()),
                mm: Atomic::new(ptr::null_mut()),
                users: Atomic::new(0),
                rcu: Opaque::zeroed(),
                state <- new_spinlock!(
                    State::new(),
                    "pin_guard_windows"
                ),
            }),
            flags,
        )
    }

    pub(super) fn mm(&self) -> *mut bindings::mm_struct {
        read(&self.mm)
    }

    /// Becomes one more user; `state` is its own.
    fn join(&self, _state: &mut State) -> MmRef {
        set(&self.users, get(&self.users) + 1);
        // INVARIANT: Counted just now.
        MmRef(NonNull::from(self))
    }

    /// Becomes a user, if it is of `mm` still, and may be the first; `state` is its own.
    ///
    /// # Safety
    ///
    /// `mm` is valid.
    #[inline]
    unsafe fn join_for(&self, state: &mut State, mm: *mut bindings::mm_struct) -> Option<MmRef> {
        if !ptr::eq(self.mm(), mm) || state.is_gone {
            return None;
        }
        if get(&self.users) == 0 {
            // SAFETY: By the safety requirements.
            unsafe { bindings::mmgrab(mm) };
        }
        Some(self.join(state))
    }

    /// Becomes one more user, if there is one and `mm` is still the one that is meant.
    fn try_use(&self, mm: *const bindings::mm_struct) -> Option<MmRef> {
        let mut state = self.state.lock();
        (get(&self.users) != 0 && ptr::eq(self.mm(), mm)).then(|| self.join(&mut state))
    }
}

/// Keeps an [`MmWindows`] with its mm.
///
/// # Invariants
///
/// One of its users.
pub(super) struct MmRef(NonNull<MmWindows>);

// SAFETY: Users are counted, not told apart.
unsafe impl Send for MmRef {}
// SAFETY: As above.
unsafe impl Sync for MmRef {}

impl core::ops::Deref for MmRef {
    type Target = MmWindows;

    fn deref(&self) -> &MmWindows {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl MmRef {
    /// Becomes a user of the windows of `mm`, and calls `f` with that, under their lock. Errors: ENOMEM. Sleeps
    /// if `flags` may.
    ///
    /// # Safety
    ///
    /// `mm` is valid.
    #[inline]
    pub(super) unsafe fn open<R>(
        mm: *mut bindings::mm_struct,
        flags: Flags,
        f: impl FnOnce(Self, &mut State) -> R,
    ) -> Result<R> {
        {
            let _rcu = rcu::read_lock();
            // SAFETY: Under RCU.
            if let Some(windows) = unsafe { bucket(mm).find(mm) } {
                let mut state = windows.state.lock();
                // SAFETY: By the safety requirements.
                if let Some(user) = unsafe { windows.join_for(&mut state, mm) } {
                    return Ok(f(user, &mut state));
                }
            }
        }
        // SAFETY: By the safety requirements.
        let user = unsafe { Self::first(mm, flags) }?;
        // SAFETY: By the type invariants; whatever `f` does with it, it is under the lock.
        let windows = unsafe { &*user.0.as_ptr() };
        let mut state = windows.state.lock();
        Ok(f(user, &mut state))
    }

    /// The same, if nobody has it, or nobody had when one looked.
    ///
    /// # Safety
    ///
    /// `mm` is valid.
    #[cold]
    unsafe fn first(mm: *mut bindings::mm_struct, flags: Flags) -> Result<Self> {
        let bucket = bucket(mm);
        let mut new: Option<Pin<KBox<MmWindows>>> = None;
        loop {
            let locked = bucket.lock.lock();
            // SAFETY: The bucket is locked.
            if let Some(windows) = unsafe { bucket.find(mm) } {
                // SAFETY: By the safety requirements.
                let user = unsafe { windows.join_for(&mut windows.state.lock(), mm) };
                if let Some(user) = user {
                    return Ok(user);
                }
            }
            // SAFETY: What is kept is in the chain, and the bucket is locked.
            if let Some(windows) = unsafe { read(&bucket.kept).as_ref() } {
                let mut state = windows.state.lock();
                if get(&windows.users) == 0 {
                    // SAFETY: By the safety requirements.
                    return Ok(unsafe { windows.give_to(&mut state, mm) });
                }
            }
            if let Some(new) = new.take() {
                // SAFETY: It does not move.
                let new = KBox::into_raw(unsafe { Pin::into_inner_unchecked(new) });
                // SAFETY: It is valid until it is freed, by `retire` or with the registry.
                let windows = unsafe { &*new };
                // SAFETY: By the safety requirements.
                let user = unsafe { windows.give_to(&mut windows.state.lock(), mm) };
                windows.next.store(read(bucket.head), Relaxed);
                bucket.head.store(new, Release);
                return Ok(user);
            }
            drop(locked);
            new = Some(MmWindows::new(flags)?);
        }
    }

    /// Calls `f` under the lock, and is no user any more.
    #[inline]
    pub(super) fn leave(self, f: impl FnOnce(&mut State)) {
        let this = mem::ManuallyDrop::new(self);
        // SAFETY: By the type invariants.
        let windows = unsafe { this.0.as_ref() };
        let mut state = windows.state.lock();
        f(&mut state);
        let users = get(&windows.users) - 1;
        set(&windows.users, users);
        if users == 0 {
            windows.end(state);
        }
    }
}

impl MmWindows {
    /// Becomes the first user, for `mm`; `state` is its own.
    ///
    /// # Safety
    ///
    /// The bucket is locked, and is that of `mm`, which is valid; there are no users.
    unsafe fn give_to(&self, state: &mut State, mm: *mut bindings::mm_struct) -> MmRef {
        // SAFETY: By the safety requirements.
        unsafe { bindings::mmgrab(mm) };
        self.mm.store(mm, Relaxed);
        self.join(state)
    }

    /// What is left to do when there are no users; `state` is its own.
    fn end(&self, mut state: Guard<'_, State, SpinLockBackend>) {
        let mm = self.mm();
        let bucket = bucket(mm);
        // The next mm may have the same addresses.
        state.last_copy = (0, 0);
        state.last_move = (0, 0, 0);
        // From here on others may use it, and have it retire.
        let _rcu = rcu::read_lock();
        let kept = ptr::eq(read(&bucket.kept), self);
        drop(state);
        if !kept {
            bucket.retire(self);
        }
        // SAFETY: By the invariants of `MmWindows` it held a reference.
        unsafe { bindings::mmdrop(mm) };
    }
}

#[cfg(CONFIG_KUNIT = "y")]
impl MmWindows {
    /// Whether it stays in its chain without users.
    pub(super) fn is_kept(&self) -> bool {
        ptr::eq(read(&bucket(self.mm()).kept), self)
    }

    /// What the last user does who was not the last one to get there. Under RCU.
    pub(super) fn retire_late(&self) {
        bucket(self.mm()).retire(self);
    }
}

impl Bucket {
    /// Keeps `windows`, which had no users a moment ago, or frees it. Under RCU.
    #[cold]
    fn retire(&self, windows: &MmWindows) {
        let _locked = self.lock.lock();
        let this = ptr::from_ref(windows).cast_mut();
        // By somebody else who was the last user meanwhile. Nobody can now.
        if windows.state.lock().is_gone {
            return;
        }
        // SAFETY: What is kept is in the chain, and the bucket is locked.
        if let Some(kept) = unsafe { read(&self.kept).as_ref() } {
            let state = kept.state.lock();
            if ptr::eq(kept, this) {
                return;
            }
            if get(&kept.users) == 0 {
                drop(state);
                let mut state = windows.state.lock();
                if get(&windows.users) != 0 {
                    return;
                }
                state.is_gone = true;
                self.opened.add(mem::take(&mut state.opened), Relaxed);
                drop(state);
                // SAFETY: The bucket is locked, and this is in its chain. Nobody finds it there any more, and
                // who found it before is under RCU. There is nothing in it to be dropped.
                unsafe {
                    self.unlink(this);
                    bindings::kvfree_call_rcu((*this).rcu.get().cast(), this.cast());
                }
                return;
            }
            // Under its lock: when its users leave they see it.
            self.kept.store(this, Relaxed);
            return;
        }
        self.kept.store(this, Relaxed);
    }
}

impl Drop for MmRef {
    fn drop(&mut self) {
        // SAFETY: It is not used any more.
        unsafe { ptr::read(self) }.leave(|_| ());
    }
}

/// Whether both mms have the same chain.
#[cfg(CONFIG_KUNIT = "y")]
pub(super) fn share_a_chain(a: *const bindings::mm_struct, b: *const bindings::mm_struct) -> bool {
    ptr::eq(bucket(a), bucket(b))
}

/// Whether some mm of the chain of `mm` has, or had, windows: for an answer at once.
#[inline(always)]
pub(super) fn may_have(mm: *const bindings::mm_struct) -> bool {
    !read(bucket(mm).head).is_null()
}

/// Calls `f` with the windows of `mm`, if it has any. `f` may not sleep.
pub(super) fn with<R>(
    mm: *const bindings::mm_struct,
    f: impl FnOnce(&mut State) -> R,
) -> Option<R> {
    let bucket = bucket(mm);
    let _rcu = rcu::read_lock();
    // SAFETY: Under RCU.
    let windows = unsafe { bucket.find(mm) }?;
    if get(&windows.users) == 0 {
        return None;
    }
    let mut state = windows.state.lock();
    // It may have been given to another mm. Not from now on: its windows hold it, if it has some.
    (ptr::eq(windows.mm(), mm) && get(&windows.users) != 0).then(|| f(&mut state))
}

/// The windows of the mm with the lowest address above `after` in the bucket with number `bucket`.
pub(super) fn next_mm(bucket: usize, after: usize) -> Option<MmRef> {
    let bucket = &buckets()[bucket];
    loop {
        let _rcu = rcu::read_lock();
        // SAFETY: Under RCU.
        let (mm, next) = unsafe { bucket.chain() }
            .filter(|windows| get(&windows.users) != 0)
            .map(|windows| (windows.mm(), windows))
            .filter(|(mm, _)| *mm as usize > after)
            .min_by_key(|(mm, _)| *mm as usize)?;
        // It may have lost its users since.
        if let Some(windows) = next.try_use(mm) {
            return Some(windows);
        }
    }
}

/// How many windows were opened, and how many users there are.
pub(super) fn count() -> (usize, usize) {
    let (mut opened, mut users) = (0, 0);
    for bucket in buckets() {
        opened += bucket.opened.load(Relaxed);
        let _rcu = rcu::read_lock();
        // SAFETY: Under RCU.
        for windows in unsafe { bucket.chain() } {
            opened += windows.state.lock().opened;
            users += get(&windows.users);
        }
    }
    (opened, users)
}
