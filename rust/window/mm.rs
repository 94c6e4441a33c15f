// SPDX-License-Identifier: GPL-2.0

//! The open windows of each mm.
//!
//! A hash table finds the [`MmWindows`] of an mm by the address of the mm. Its chains are read
//! under RCU, so a fork learns without a lock that its mm has no windows. Whoever uses an
//! `MmWindows` holds an [`MmRef`], or does not sleep meanwhile. If an `MmWindows` loses its last
//! user, it can stay in its chain for the next mm of that chain. So a process that reads one block
//! after the other allocates it once, and takes no lock but its own.

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
/// - It is in the hash chain of the bucket of `mm`, from when it is first given to an mm until it
///   `is_gone`.
/// - `mm`, `users` and `is_gone` change under the lock of `state`. `mm` and `is_gone` change only
///   while there are no users, and also under the lock of the bucket.
/// - While there are users, it holds a reference on the `mm_struct`. Each window in `state` is a
///   user.
/// - Without users, it is the one that the bucket keeps, or somebody is about to pass it to
///   `Bucket::retire`.
#[pin_data]
pub(super) struct MmWindows {
    next: Atomic<*mut MmWindows>,
    mm: Atomic<*mut bindings::mm_struct>,
    users: Atomic<usize>,
    rcu: Opaque<bindings::callback_head>,
    #[pin]
    pub(super) state: SpinLock<State>,
}

/// The data that the lock of an [`MmWindows`] protects.
pub(super) struct State {
    pub(super) tree: Tree,
    /// Whether the [`MmWindows`] has left its chain.
    is_gone: bool,
    /// Number of opened windows that are not yet in `opened` of the bucket.
    pub(super) opened: usize,
    /// The cursors of the readers of debugfs `windows` that are at this mm.
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

    /// Removes `node` from the tree, and moves the cursors on it to the next node.
    ///
    /// # Safety
    ///
    /// `node` must be in the tree.
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
    /// The first [`MmWindows`] of the chain. It is in `pin_guard_chain`, where the fork hook looks.
    head: &'static Atomic<*mut MmWindows>,
    opened: Atomic<usize>,
    /// The [`MmWindows`] that stays in the chain without users, for the next mm; or null. It
    /// changes under `lock`. It changes from one [`MmWindows`] to another only while the former has
    /// users, and also under the former's lock.
    kept: Atomic<*mut MmWindows>,
    /// Protects the chain against other writers. Taken before the lock of an [`MmWindows`].
    #[pin]
    lock: SpinLock<()>,
}

/// PIN_GUARD_CHAIN_BITS in helpers.h.
const BUCKET_BITS: u32 = 8;
pub(super) const BUCKETS: usize = 1 << BUCKET_BITS;

/// # Invariants
///
/// Initialised by [`Registry::new`] before anything else in this file runs.
struct Buckets(Opaque<[Bucket; BUCKETS]>);

// SAFETY: A bucket consists of atomics and a lock.
unsafe impl Sync for Buckets {}

static BUCKET: Buckets = Buckets(Opaque::uninit());

/// The hash table, from the module's init to its exit.
pub(crate) struct Registry {
    _entries: Created,
}

impl Registry {
    /// Initialises the hash table. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the slab cache of the windows.
    ///
    /// # Safety
    ///
    /// The caller must call this once, before anybody opens or looks for a window. It must drop the
    /// value when nobody can do so any more.
    pub(crate) unsafe fn new() -> Result<Self> {
        // SAFETY: By the safety requirements. Whoever has a window holds a reference on the module.
        let entries = unsafe { ENTRIES.create() }?;
        // SAFETY: The array has as many pointers, which are null at first, and only this file
        // writes to them.
        let heads: &[Atomic<*mut MmWindows>; BUCKETS] =
            unsafe { &*(&raw const pin_guard_chain).cast() };
        for (i, head) in heads.iter().enumerate() {
            let bucket = pin_init!(Bucket {
                head,
                opened: Atomic::new(0),
                kept: Atomic::new(ptr::null_mut()),
                lock <- new_spinlock!((), "pin_guard_bucket"),
            });
            // SAFETY: The static does not move, and by the safety requirements nobody uses it yet.
            // `i` is in bounds.
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
                // SAFETY: It is from `KBox::into_raw`, and nobody uses it: whoever has a window
                // holds a reference on the module.
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
    // SAFETY: By the invariants of `Buckets`. `pin_guard_chain_of()` returns a number of
    // `BUCKET_BITS` bits.
    unsafe { &*BUCKET.0.get().cast::<Bucket>().add(pin_guard_chain_of(mm)) }
}

/// Reads a pointer like rcu_dereference(). Not `Atomic::load()`, which calls a C helper.
#[inline(always)]
fn read<T>(pointer: &Atomic<*mut T>) -> *mut T {
    // SAFETY: The pointer is valid, and an atomic may be read at any time.
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
    // SAFETY: The pointer is valid, and an atomic may be written at any time.
    unsafe { number.as_ptr().write_volatile(value) };
}

impl Bucket {
    /// Returns an iterator over the chain.
    ///
    /// # Safety
    ///
    /// The caller must be under RCU for as long as it uses the iterator and its items, or must hold
    /// the lock of the bucket.
    unsafe fn chain<'a>(&self) -> impl Iterator<Item = &'a MmWindows> {
        let mut at = read(self.head);
        core::iter::from_fn(move || {
            // SAFETY: A value of the chain is freed only when it has left the chain, and after a
            // grace period.
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
    /// The caller must hold the lock of the bucket, and `gone` must be in the chain.
    unsafe fn unlink(&self, gone: *const MmWindows) {
        let mut link = self.head;
        loop {
            let at = link.load(Relaxed);
            // SAFETY: `gone` is in the chain, so this does not reach the end of the chain.
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

    /// Adds a user. `state` must be that of `self`.
    fn join(&self, _state: &mut State) -> MmRef {
        set(&self.users, get(&self.users) + 1);
        // INVARIANT: The user has been counted above.
        MmRef(NonNull::from(self))
    }

    /// Adds a user, perhaps the first one, if `self` is still that of `mm`. `state` must be that of
    /// `self`.
    ///
    /// # Safety
    ///
    /// `mm` must be valid.
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

    /// Adds a user if there is one already, and if `self` is still that of `mm`.
    fn try_use(&self, mm: *const bindings::mm_struct) -> Option<MmRef> {
        let mut state = self.state.lock();
        (get(&self.users) != 0 && ptr::eq(self.mm(), mm)).then(|| self.join(&mut state))
    }
}

/// A user of an [`MmWindows`]. While it lives, the [`MmWindows`] is not freed, and stays that of
/// its mm.
///
/// # Invariants
///
/// `users` counts this value.
pub(super) struct MmRef(NonNull<MmWindows>);

// SAFETY: A user is only counted, so any thread may drop it.
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
    /// Becomes a user of the windows of `mm`, and calls `f` with this user, under the lock of the
    /// windows. Sleeps if `flags` allow it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for an [`MmWindows`].
    ///
    /// # Safety
    ///
    /// `mm` must be valid.
    #[inline]
    pub(super) unsafe fn open<R>(
        mm: *mut bindings::mm_struct,
        flags: Flags,
        f: impl FnOnce(Self, &mut State) -> R,
    ) -> Result<R> {
        {
            let _rcu = rcu::read_lock();
            // SAFETY: `_rcu` is held.
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
        // SAFETY: By the type invariants. A user leaves only under the lock, so the value is valid
        // until this function has released the lock.
        let windows = unsafe { &*user.0.as_ptr() };
        let mut state = windows.state.lock();
        Ok(f(user, &mut state))
    }

    /// The slow path of `open`: the chain had no [`MmWindows`] for `mm`, or that has gone since.
    ///
    /// # Safety
    ///
    /// `mm` must be valid.
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
            // SAFETY: The kept value is in the chain, and the bucket is locked.
            if let Some(windows) = unsafe { read(&bucket.kept).as_ref() } {
                let mut state = windows.state.lock();
                if get(&windows.users) == 0 {
                    // SAFETY: By the safety requirements.
                    return Ok(unsafe { windows.give_to(&mut state, mm) });
                }
            }
            if let Some(new) = new.take() {
                // SAFETY: The value does not move.
                let new = KBox::into_raw(unsafe { Pin::into_inner_unchecked(new) });
                // SAFETY: The value is valid until `retire` or the drop of the registry frees it.
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

    /// Calls `f` under the lock, and then drops the user.
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
    /// Gives the value to `mm`, and adds the first user. `state` must be that of `self`.
    ///
    /// # Safety
    ///
    /// `mm` must be valid, the caller must hold the lock of its bucket, and there must be no users.
    unsafe fn give_to(&self, state: &mut State, mm: *mut bindings::mm_struct) -> MmRef {
        // SAFETY: By the safety requirements.
        unsafe { bindings::mmgrab(mm) };
        self.mm.store(mm, Relaxed);
        self.join(state)
    }

    /// Ends the use by the current mm, when the last user has gone. `state` must be that of `self`.
    fn end(&self, mut state: Guard<'_, State, SpinLockBackend>) {
        let mm = self.mm();
        let bucket = bucket(mm);
        // The next mm may have the same addresses.
        state.last_copy = (0, 0);
        state.last_move = (0, 0, 0);
        // After the unlock others may use the value, and retire it.
        let _rcu = rcu::read_lock();
        let kept = ptr::eq(read(&bucket.kept), self);
        drop(state);
        if !kept {
            bucket.retire(self);
        }
        // SAFETY: By the invariants of `MmWindows`, it held a reference on the mm.
        unsafe { bindings::mmdrop(mm) };
    }
}

#[cfg(CONFIG_KUNIT = "y")]
impl MmWindows {
    /// Returns whether the value would stay in its chain without users.
    pub(super) fn is_kept(&self) -> bool {
        ptr::eq(read(&bucket(self.mm()).kept), self)
    }

    /// Retires the value as a last user would who is late: others have used the value since. The
    /// caller must be under RCU.
    pub(super) fn retire_late(&self) {
        bucket(self.mm()).retire(self);
    }
}

impl Bucket {
    /// Keeps `windows`, which had no users a moment ago, or frees it. The caller must be under RCU.
    #[cold]
    fn retire(&self, windows: &MmWindows) {
        let _locked = self.lock.lock();
        let this = ptr::from_ref(windows).cast_mut();
        // A later last user has retired it. From here on nobody can, because the bucket is locked.
        if windows.state.lock().is_gone {
            return;
        }
        // SAFETY: The kept value is in the chain, and the bucket is locked.
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
                // SAFETY: The bucket is locked, and `this` is in its chain. Nobody finds it there
                // any more, and whoever has found it before is under RCU. It has no field that must
                // be dropped.
                unsafe {
                    self.unlink(this);
                    bindings::kvfree_call_rcu((*this).rcu.get().cast(), this.cast());
                }
                return;
            }
            // This still holds the lock of the value that was kept, so its last user will see the
            // change.
            self.kept.store(this, Relaxed);
            return;
        }
        self.kept.store(this, Relaxed);
    }
}

impl Drop for MmRef {
    fn drop(&mut self) {
        // SAFETY: `self` is not used again.
        unsafe { ptr::read(self) }.leave(|_| ());
    }
}

/// Returns whether both mms have the same chain.
#[cfg(CONFIG_KUNIT = "y")]
pub(super) fn share_a_chain(a: *const bindings::mm_struct, b: *const bindings::mm_struct) -> bool {
    ptr::eq(bucket(a), bucket(b))
}

/// Returns whether an mm of the chain of `mm` has, or had, windows. This is the fast answer to
/// whether `mm` has windows.
#[inline(always)]
pub(super) fn may_have(mm: *const bindings::mm_struct) -> bool {
    !read(bucket(mm).head).is_null()
}

/// Calls `f` with the windows of `mm`, if it has any. `f` must not sleep.
pub(super) fn with<R>(
    mm: *const bindings::mm_struct,
    f: impl FnOnce(&mut State) -> R,
) -> Option<R> {
    let bucket = bucket(mm);
    let _rcu = rcu::read_lock();
    // SAFETY: `_rcu` is held.
    let windows = unsafe { bucket.find(mm) }?;
    if get(&windows.users) == 0 {
        return None;
    }
    let mut state = windows.state.lock();
    // The value may have been given to another mm before the lock was taken. While it is locked and
    // has users, that cannot happen.
    (ptr::eq(windows.mm(), mm) && get(&windows.users) != 0).then(|| f(&mut state))
}

/// Returns the windows of the mm with the lowest address above `after` in the bucket with number
/// `bucket`.
pub(super) fn next_mm(bucket: usize, after: usize) -> Option<MmRef> {
    let bucket = &buckets()[bucket];
    loop {
        let _rcu = rcu::read_lock();
        // SAFETY: `_rcu` is held.
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

/// Returns the number of windows that have been opened, and the number of users.
pub(super) fn count() -> (usize, usize) {
    let (mut opened, mut users) = (0, 0);
    for bucket in buckets() {
        opened += bucket.opened.load(Relaxed);
        let _rcu = rcu::read_lock();
        // SAFETY: `_rcu` is held.
        for windows in unsafe { bucket.chain() } {
            opened += windows.state.lock().opened;
            users += get(&windows.users);
        }
    }
    (opened, users)
}
