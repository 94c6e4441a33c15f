// SPDX-License-Identifier: GPL-2.0

//! debugfs `windows`: the open windows, a line for each range, in order of address within an mm.
//!
//! A reader has a *cursor* at the node that is next; a window that closes moves those that are at its nodes
//! on. So no lock is held from one line to the next, and a window that is open all the time is listed once.
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

/// Where a reader is in the windows of an mm; used under their lock.
pub(super) struct Cursor {
    /// The node that is next, or was last if `shown`; null behind the last one.
    at: Cell<*const Node>,
    shown: Cell<bool>,
    /// The cursor of another reader.
    next: Cell<*const Cursor>,
    /// Others have it while a reader is borrowed.
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

    /// Moves on if it is at `gone`, which is about to leave `tree`.
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

/// One reading of the file.
///
/// # Invariants
///
/// `cursor` is in the list of `mm`, if there is one.
struct Reader {
    bucket: usize,
    mm: Option<MmRef>,
    cursor: Cursor,
}

impl Reader {
    /// Goes to the first window of the next mm, behind the one with address `after` in the current bucket.
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
            // INVARIANT: Added just now.
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

    /// Goes to the next window, if that where it is has been shown.
    fn next(&mut self) -> bool {
        if let Some(mm) = &self.mm {
            let state = mm.state.lock();
            // SAFETY: The node that a cursor is at is in the tree.
            let at = unsafe { self.cursor.at.get().as_ref() };
            if let Some(node) = at.filter(|_| self.cursor.shown.get()) {
                self.cursor.go(state.tree.next(node));
            }
        }
        self.stay()
    }

    /// Stays at a window, or goes to the next one if there is none where it is.
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
        // SAFETY: The node that a cursor is at is in the tree, and its window open.
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
        // SAFETY: It only computes.
        let age =
            unsafe { bindings::jiffies64_to_msecs(jiffies().wrapping_sub(self.opened) as u64) };
        let Range { start, end } = range;
        seq_print!(m, "{} {comm} {start:x}-{end:x} {age}\n", self.pid);
    }
}

/// What `start` returns for the line with the names of the columns (SEQ_START_TOKEN).
const HEAD: *mut c_void = ptr::without_provenance_mut(1);

/// # Safety
///
/// `m` is an open file of [`List`].
unsafe fn reader<'a>(m: *mut bindings::seq_file) -> &'a mut Reader {
    // SAFETY: `open` has set it; the seq_file's mutex is held.
    unsafe { &mut *(*m).private.cast() }
}

/// # Safety
///
/// The arguments are those of a `seq_operations` of [`List`].
unsafe extern "C" fn start(m: *mut bindings::seq_file, pos: *mut bindings::loff_t) -> *mut c_void {
    // SAFETY: The arguments are those of a `seq_operations`.
    let (reader, pos) = unsafe { (reader(m), *pos) };
    if pos == 0 {
        reader.rewind();
        return HEAD;
    }
    // Where it was, or what came in its place.
    if reader.mm.is_some() && reader.stay() {
        ptr::from_mut(reader).cast()
    } else {
        ptr::null_mut()
    }
}

/// # Safety
///
/// The arguments are those of a `seq_operations` of [`List`].
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
/// The arguments are those of a `seq_operations` of [`List`].
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
/// The arguments are those of a `file_operations` of [`List`].
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
    // SAFETY: `file` is being opened.
    if let Err(e) = to_result(unsafe { bindings::seq_open(file, &OPERATIONS) }) {
        return e.to_errno();
    }
    // SAFETY: `seq_open()` has put a `seq_file` there.
    unsafe {
        (*(*file).private_data.cast::<bindings::seq_file>()).private = KBox::into_raw(reader).cast()
    };
    0
}

/// # Safety
///
/// The arguments are those of a `file_operations` of [`List`].
unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open` has set these, and nobody uses them any more.
    unsafe {
        let m = (*file).private_data.cast::<bindings::seq_file>();
        drop(KBox::from_raw((*m).private.cast::<Reader>()));
        bindings::seq_release(inode, file)
    }
}

/// The file, from creation to drop.
#[pin_data(PinnedDrop)]
pub(crate) struct List {
    #[pin]
    operations: Opaque<bindings::file_operations>,
    dentry: Cell<*mut bindings::dentry>,
}

// SAFETY: `dentry` is set before anybody else has it.
unsafe impl Send for List {}
// SAFETY: As above.
unsafe impl Sync for List {}

impl List {
    /// Creates the file in the directory of debugfs that is called `directory`.
    pub(crate) fn new(directory: &'static CStr) -> impl PinInit<Self> {
        pin_init!(Self {
            operations <- Opaque::ffi_init(|slot: *mut bindings::file_operations| {
                // SAFETY: `slot` is valid for writes; operations may be missing.
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
            // SAFETY: The operations stay where they are until `drop` removes the file. Without the
            // directory, or with an error for one, none is made.
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
        // SAFETY: It came from debugfs, or is null; this waits for who is in the operations.
        unsafe { bindings::debugfs_remove(self.dentry.get()) };
    }
}
