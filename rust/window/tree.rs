// SPDX-License-Identifier: GPL-2.0

//! Ranges of user memory in order of address, in an interval tree of the kernel.
//!
//! C: `include/linux/interval_tree_generic.h`, `lib/rbtree.c`.

use super::Entry;
use crate::ffi::*;
use core::{
    cell::{Cell, UnsafeCell},
    ops::Range,
    ptr,
};
use kernel::{alloc::Flags, bindings, prelude::*, types::Opaque};

/// A range of memory to which the I/O of a window may be in flight.
///
/// # Invariants
///
/// `interval` is not empty, and does not change while the node is in a tree.
#[repr(C)]
pub(super) struct Node {
    // First, because `from_raw` casts its address to that of the node.
    interval: Opaque<bindings::interval_tree_node>,
    /// The window. Set before the node is in a tree.
    entry: Cell<*const Entry>,
    /// The address that the first of these bytes had in the memory that the window was opened on.
    home: usize,
}

impl Node {
    /// Returns a node for `range`, which must not be empty, of the memory that a window is opened
    /// on.
    #[inline]
    pub(super) fn new(range: &Range<usize>) -> Self {
        Self::moved(range, range.start)
    }

    /// Returns a node for `range`, which must not be empty, and whose bytes were first at `home`.
    #[inline]
    pub(super) fn moved(range: &Range<usize>, home: usize) -> Self {
        Self {
            // All fields, because `default()` of the bindings would be a call.
            interval: Opaque::new(bindings::interval_tree_node {
                rb: bindings::rb_node {
                    __rb_parent_color: 0,
                    rb_right: ptr::null_mut(),
                    rb_left: ptr::null_mut(),
                },
                start: range.start,
                last: range.end.wrapping_sub(1),
                __subtree_last: 0,
            }),
            entry: Cell::new(ptr::null()),
            home,
        }
    }

    pub(super) fn set_entry(&self, entry: *const Entry) {
        self.entry.set(entry);
    }

    pub(super) fn entry(&self) -> *const Entry {
        self.entry.get()
    }

    pub(super) fn home(&self) -> usize {
        self.home
    }

    pub(super) fn range(&self) -> Range<usize> {
        // SAFETY: By the type invariants, nobody writes to these fields.
        unsafe {
            let interval = self.interval.get();
            (*interval).start..(*interval).last.wrapping_add(1)
        }
    }

    /// # Safety
    ///
    /// `interval` must be null, or that of a node that lives for `'a`.
    unsafe fn from_raw<'a>(interval: *mut bindings::interval_tree_node) -> Option<&'a Self> {
        // SAFETY: By the safety requirements. `interval` is the first field of a node.
        unsafe { interval.cast::<Self>().as_ref() }
    }
}

/// A node in a box of its own.
struct Piece {
    node: Node,
    next: Cell<*mut Piece>,
}

/// A list that owns pieces.
///
/// # Invariants
///
/// The list has `len` pieces from `first` on. Each is from [`KBox::into_raw`], and belongs to this
/// list alone.
pub(crate) struct Pieces {
    first: Cell<*mut Piece>,
    len: Cell<usize>,
}

/// A piece that is in no list.
pub(super) struct Loose(KBox<Piece>);

impl Pieces {
    pub(crate) fn new() -> Self {
        Self {
            first: Cell::new(ptr::null_mut()),
            len: Cell::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len.get()
    }

    /// Allocates a piece with `node`, and adds it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the piece.
    pub(super) fn push_new(&self, node: Node, flags: Flags) -> Result {
        let next = Cell::new(ptr::null_mut());
        self.push(Loose(KBox::new(Piece { node, next }, flags)?));
        Ok(())
    }

    /// Adds `piece`. From now on its node does not move.
    pub(super) fn push(&self, Loose(piece): Loose) -> &Node {
        piece.next.set(self.first.get());
        let piece = KBox::into_raw(piece);
        self.first.set(piece);
        self.len.set(self.len.get() + 1);
        // SAFETY: By the type invariants.
        unsafe { &(*piece).node }
    }

    /// Takes a piece out, and replaces its node by `node`. The old node must be in no tree.
    pub(super) fn pop(&self, node: Node) -> Option<Loose> {
        let first = self.first.get();
        if first.is_null() {
            return None;
        }
        // SAFETY: By the type invariants. The piece leaves the list below.
        let mut piece = unsafe { KBox::from_raw(first) };
        self.first.set(piece.next.get());
        self.len.set(self.len.get() - 1);
        piece.node = node;
        Some(Loose(piece))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> {
        let mut at = self.first.get();
        core::iter::from_fn(move || {
            // SAFETY: By the type invariants.
            let piece = unsafe { at.as_ref() }?;
            at = piece.next.get();
            Some(&piece.node)
        })
    }
}

impl Drop for Pieces {
    #[inline]
    fn drop(&mut self) {
        let mut at = self.first.get();
        while !at.is_null() {
            // SAFETY: By the type invariants.
            at = unsafe { KBox::from_raw(at) }.next.get();
        }
    }
}

/// Nodes in order of the starts of their ranges.
///
/// # Invariants
///
/// The nodes in the tree are valid, and stay where they are until they are removed.
pub(super) struct Tree(UnsafeCell<bindings::rb_root_cached>);

impl Tree {
    pub(super) fn new() -> Self {
        Self(UnsafeCell::new(Default::default()))
    }

    /// # Safety
    ///
    /// `node` must be in no tree. It must stay valid, and where it is, until it is removed from
    /// this tree.
    pub(super) unsafe fn insert(&mut self, node: &Node) {
        // SAFETY: By the safety requirements and the type invariants.
        unsafe { pin_guard_interval_insert(node.interval.get(), self.0.get()) };
    }

    /// # Safety
    ///
    /// `node` must be in this tree.
    pub(super) unsafe fn remove(&mut self, node: &Node) {
        // SAFETY: By the safety requirements and the type invariants.
        unsafe { pin_guard_interval_remove(node.interval.get(), self.0.get()) };
    }

    /// Returns the first node that touches `range`, which must not be empty.
    pub(super) fn first_within(&self, range: &Range<usize>) -> Option<&Node> {
        // SAFETY: By the type invariants.
        unsafe {
            Node::from_raw(pin_guard_interval_iter_first(
                self.0.get(),
                range.start,
                range.end - 1,
            ))
        }
    }

    /// Returns the next node behind `node` that touches `range`. `node` must be in this tree, and
    /// must touch `range`.
    pub(super) fn next_within(&self, node: &Node, range: &Range<usize>) -> Option<&Node> {
        // SAFETY: By the type invariants.
        unsafe {
            Node::from_raw(pin_guard_interval_iter_next(
                node.interval.get(),
                range.start,
                range.end - 1,
            ))
        }
    }

    /// Returns the first node.
    pub(super) fn first(&self) -> Option<&Node> {
        // SAFETY: By the type invariants. An `rb_node` is the first field of its interval.
        unsafe { Node::from_raw((*self.0.get()).rb_leftmost.cast()) }
    }

    /// Returns the next node behind `node`, which must be in this tree.
    pub(super) fn next(&self, node: &Node) -> Option<&Node> {
        // SAFETY: As above.
        unsafe { Node::from_raw(bindings::rb_next(node.interval.get().cast()).cast()) }
    }
}
