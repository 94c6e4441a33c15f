// SPDX-License-Identifier: GPL-2.0

//! debugfs `windows`: the open windows, with a line for each range, in order of address within an
//! mm.
//!
//! Each reader has a *cursor* at the node that it shows next. A window that closes moves the
//! cursors at its nodes to the next node. So a reader holds no lock from one line to the next, and
//! a window that is open all the time is listed once.
//!
//! C: `fs/seq_file.c`.

use super::{
    jiffies,
    mm::{self, MmRef, State, BUCKETS},
    tree::{Node, Tree},
    Entry,
};
use crate::this_module;
use core::{cell::Cell, marker::PhantomPinned, ops::Range, ptr};
use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_void},
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::BStr,
    types::Opaque,
};

/// The position of a reader in the windows of an mm. Used under the lock of these windows.
pub(super) struct Cursor {
    /// The node to show next, or if `shown`, the node shown last; null behind the last node.
    at: Cell<*const Node>,
    shown: Cell<bool>,
    /// The cursor of another reader of the same mm.
    next: Cell<*const Cursor>,
    /// Others access the cursor while its reader is borrowed mutably.
    _pin: PhantomPinned,
}

impl Cursor {
    pub(super) fn next(&self) -> *const Cursor {
        self.next.get()
    }

    fn go(&self, to: Option<&Node>) {
        self.at.set(to.map_or(ptr::null(), ptr::from_ref));
        self.shown.set(false);
    }

    /// Moves to the next node if the cursor is at `gone`, which is about to leave `tree`.
    pub(super) fn leave(&self, gone: &Node, tree: &Tree) {
        if ptr::eq(self.at.get(), gone) {
            self.go(tree.next(gone));
        }
    }

    fn add(&self, state: &mut State) {
        self.go(state.tree.first());
        self.next.set(state.cursors);
        state.cursors = self;
    }

    fn remove(&self, state: &mut State) {
        if ptr::eq(state.cursors, self) {
            state.cursors = self.next.get();
            return;
        }
        let mut at = state.cursors;
        // SAFETY: The cursors in the list are valid, and used under the lock.
        while let Some(cursor) = unsafe { at.as_ref() } {
            at = cursor.next.get();
            if ptr::eq(at, self) {
                cursor.next.set(self.next.get());
            }
        }
    }
}

/// The position in an open file.
///
/// # Invariants
///
/// If `mm` is `Some`, `cursor` is in the list of its cursors.
struct Reader {
    bucket: usize,
    mm: Option<MmRef>,
    cursor: Cursor,
}

impl Reader {
    /// Goes to the first window of the next mm: that of the next higher address than `after` in the
    /// current bucket, or the first one in a later bucket. Returns whether there is one.
    fn next_mm(&mut self, mut after: usize) -> bool {
        self.leave();
        while self.bucket < BUCKETS {
            let Some(mm) = mm::next_mm(self.bucket, after) else {
                self.bucket += 1;
                after = 0;
                continue;
            };
            after = mm.mm() as usize;
            let found = {
                let mut state = mm.state.lock();
                self.cursor.add(&mut state);
                !self.cursor.at.get().is_null()
            };
            // INVARIANT: The cursor has been added above.
            self.mm = Some(mm);
            if found {
                return true;
            }
            self.leave();
        }
        false
    }

    fn leave(&mut self) {
        if let Some(mm) = self.mm.take() {
            self.cursor.remove(&mut mm.state.lock());
        }
    }

    fn rewind(&mut self) {
        self.leave();
        self.bucket = 0;
    }

    /// Goes to the next window, if that at the cursor has been shown. Returns whether there is one.
    fn next(&mut self) -> bool {
        if let Some(mm) = &self.mm {
            let state = mm.state.lock();
            // SAFETY: A cursor points to a node in the tree, or is null.
            let at = unsafe { self.cursor.at.get().as_ref() };
            if let Some(node) = at.filter(|_| self.cursor.shown.get()) {
                self.cursor.go(state.tree.next(node));
            }
        }
        self.stay()
    }

    /// Stays at the cursor, or goes to the next mm if the cursor is behind the last window. Returns
    /// whether there is a window.
    fn stay(&mut self) -> bool {
        let Some(mm) = &self.mm else {
            return self.next_mm(0);
        };
        let there = {
            let _state = mm.state.lock();
            !self.cursor.at.get().is_null()
        };
        let mm = mm.mm() as usize;
        there || self.next_mm(mm)
    }

    fn show(&self, m: &SeqFile) {
        let Some(mm) = &self.mm else {
            return;
        };
        let _state = mm.state.lock();
        // SAFETY: A cursor points to a node in the tree, whose window is open, or is null.
        if let Some(node) = unsafe { self.cursor.at.get().as_ref() } {
            // SAFETY: As above.
            unsafe { &*node.entry() }.show(m, node.range());
            self.cursor.shown.set(true);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Entry {
    fn show(&self, m: &SeqFile, range: Range<usize>) {
        let comm = BStr::from_bytes(self.comm.split(|&c| c == 0).next().unwrap_or_default());
        // SAFETY: This function only computes.
        let age =
            unsafe { bindings::jiffies64_to_msecs(jiffies().wrapping_sub(self.opened) as u64) };
        let Range { start, end } = range;
        seq_print!(m, "{} {comm} {start:x}-{end:x} {age}\n", self.pid);
    }
}

/// `start` returns this for the line with the names of the columns (SEQ_START_TOKEN).
const HEAD: *mut c_void = ptr::without_provenance_mut(1);

/// # Safety
///
/// `m` must be that of an open file of [`List`], and its mutex must be held.
unsafe fn reader<'a>(m: *mut bindings::seq_file) -> &'a mut Reader {
    // SAFETY: `open` has set `private`. The mutex is held, so nobody else uses the reader.
    unsafe { &mut *(*m).private.cast() }
}

/// # Safety
///
/// The arguments must be those of a `seq_operations` of [`List`].
unsafe extern "C" fn start(m: *mut bindings::seq_file, pos: *mut bindings::loff_t) -> *mut c_void {
    // SAFETY: The arguments are those of a `seq_operations`.
    let (reader, pos) = unsafe { (reader(m), *pos) };
    if pos == 0 {
        reader.rewind();
        return HEAD;
    }
    // Continue at the cursor, which may have moved to the next node since.
    if reader.mm.is_some() && reader.stay() {
        ptr::from_mut(reader).cast()
    } else {
        ptr::null_mut()
    }
}

/// # Safety
///
/// The arguments must be those of a `seq_operations` of [`List`].
unsafe extern "C" fn next(
    m: *mut bindings::seq_file,
    _at: *mut c_void,
    pos: *mut bindings::loff_t,
) -> *mut c_void {
    // SAFETY: The arguments are those of a `seq_operations`.
    let reader = unsafe {
        *pos += 1;
        reader(m)
    };
    if reader.next() {
        ptr::from_mut(reader).cast()
    } else {
        ptr::null_mut()
    }
}

extern "C" fn stop(_m: *mut bindings::seq_file, _at: *mut c_void) {}

/// # Safety
///
/// The arguments must be those of a `seq_operations` of [`List`].
unsafe extern "C" fn show(m: *mut bindings::seq_file, at: *mut c_void) -> c_int {
    // SAFETY: The arguments are those of a `seq_operations`.
    let (reader, m) = unsafe { (reader(m), SeqFile::from_raw(m)) };
    if at == HEAD {
        seq_print!(m, "pid comm start-end age_ms\n");
    } else {
        reader.show(m);
    }
    0
}

static OPERATIONS: bindings::seq_operations = bindings::seq_operations {
    start: Some(start),
    stop: Some(stop),
    next: Some(next),
    show: Some(show),
};

/// # Safety
///
/// The arguments must be those of a `file_operations` of [`List`].
unsafe extern "C" fn open(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    let reader = Reader {
        bucket: 0,
        mm: None,
        cursor: Cursor {
            at: Cell::new(ptr::null()),
            shown: Cell::new(false),
            next: Cell::new(ptr::null()),
            _pin: PhantomPinned,
        },
    };
    let reader = match KBox::new(reader, GFP_KERNEL_ACCOUNT) {
        Ok(reader) => reader,
        Err(_) => return ENOMEM.to_errno(),
    };
    // SAFETY: The VFS is opening `file`.
    if let Err(e) = to_result(unsafe { bindings::seq_open(file, &OPERATIONS) }) {
        return e.to_errno();
    }
    // SAFETY: `seq_open()` has set `private_data` to a `seq_file`.
    unsafe {
        (*(*file).private_data.cast::<bindings::seq_file>()).private = KBox::into_raw(reader).cast()
    };
    0
}

/// # Safety
///
/// The arguments must be those of a `file_operations` of [`List`].
unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open` has set both, and nobody uses them any more.
    unsafe {
        let m = (*file).private_data.cast::<bindings::seq_file>();
        drop(KBox::from_raw((*m).private.cast::<Reader>()));
        bindings::seq_release(inode, file)
    }
}

/// The file, which exists from creation to drop.
#[pin_data(PinnedDrop)]
pub(crate) struct List {
    #[pin]
    operations: Opaque<bindings::file_operations>,
    dentry: Cell<*mut bindings::dentry>,
}

// SAFETY: `dentry` is set before another thread has the value.
unsafe impl Send for List {}
// SAFETY: As above.
unsafe impl Sync for List {}

impl List {
    /// Creates the file in the debugfs directory that is called `directory`.
    pub(crate) fn new(directory: &'static CStr) -> impl PinInit<Self> {
        pin_init!(Self {
            operations <- Opaque::ffi_init(|slot: *mut bindings::file_operations| {
                // SAFETY: `slot` is valid for writes. Operations may be null.
                unsafe {
                    slot.write_bytes(0, 1);
                    (*slot).owner = this_module!().as_ptr();
                    (*slot).open = Some(open);
                    (*slot).read = Some(bindings::seq_read);
                    (*slot).llseek = Some(bindings::seq_lseek);
                    (*slot).release = Some(release);
                }
            }),
            dentry: Cell::new(ptr::null_mut()),
        })
        .pin_chain(move |this| {
            // SAFETY: The operations stay where they are until `drop` removes the file. If there is
            // no directory, no file is created; `drop` passes an error of debugfs back to debugfs,
            // which ignores it.
            unsafe {
                let parent = bindings::debugfs_lookup(directory.as_char_ptr(), ptr::null_mut());
                if parent.is_null() {
                    return Ok(());
                }
                this.dentry.set(bindings::debugfs_create_file_full(
                    c"windows".as_char_ptr(),
                    0o400,
                    parent,
                    ptr::null_mut(),
                    ptr::null(),
                    this.operations.get(),
                ));
                bindings::dput(parent);
            }
            Ok(())
        })
    }
}

#[pinned_drop]
impl PinnedDrop for List {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The dentry came from debugfs, or is null. This waits for calls that are in the
        // operations.
        unsafe { bindings::debugfs_remove(self.dentry.get()) };
    }
}
