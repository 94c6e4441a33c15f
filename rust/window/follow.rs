// SPDX-License-Identifier: GPL-2.0

//! Windows follow pages that are moved to another address, by mremap() or UFFDIO_MOVE.
//!
//! A window goes on to cover where it was: its I/O may look up pages there yet, and a move that fails takes
//! the pages back. Each place that pages of it are moved to is one more piece. Pages that come back home, or
//! to a place where they were before, need no other.

use super::{
    flags, lock_sequence,
    mm::{self, State},
    tree::{Node, Pieces},
    Entry, Window,
};
use core::{ops::Range, ptr};
use kernel::{
    alloc::Flags,
    bindings,
    prelude::*,
    time::{delay::fsleep, Delta},
};

/// The most pieces that a window may have, so that a lock is not held for long: two moves of a read with 1024
/// segments.
const PIECES: usize = 2048;

/// What an attempt to follow came to.
enum Attempt {
    Done,
    /// So many more pieces are needed.
    Missing(usize),
    /// Some window has too many.
    Full,
}

/// Has the windows of `mm` cover what their pages in `from` are moved to, from `to` on. May sleep.
///
/// Errors: ENOMEM, with no window changed; also if some window has been moved to too many places.
///
/// For mremap(), with the mmap lock held for write, before it moves anything: no fork, and no submission that
/// would have to be followed, comes between. A call that takes back what was moved just now does nothing: nobody
/// can have looked up pages in between.
///
/// # Safety
///
/// `mm` is valid.
pub(crate) unsafe fn follow(
    mm: *mut bindings::mm_struct,
    from: &Range<usize>,
    to: usize,
) -> Result {
    // SAFETY: By the safety requirements.
    let sequence = unsafe { lock_sequence(mm) };
    if from.is_empty() {
        return Ok(());
    }
    let stock = Pieces::new();
    loop {
        let attempt = mm::with(mm, |state| {
            if state.last_move == (to, from.start, sequence) {
                return Attempt::Done;
            }
            let attempt = state.follow(from, to, &stock, PIECES);
            let followed = state.tree.first_within(from).is_some();
            if followed && matches!(attempt, Attempt::Done) {
                state.last_move = (from.start, to, sequence);
            }
            attempt
        });
        match attempt {
            None | Some(Attempt::Done) => return Ok(()),
            Some(Attempt::Full) => return Err(ENOMEM),
            Some(Attempt::Missing(count)) => grow(&stock, count, flags(true))?,
        }
    }
}

/// Whether the windows that touch `from` have room for one more move.
pub(crate) fn have_room(mm: *const bindings::mm_struct, from: &Range<usize>) -> bool {
    let mut room = true;
    mm::with(mm, |state| {
        state.each(from, |_, node| {
            room &= node_entry(node).moved.len() < PIECES
        });
    });
    room
}

/// Closes `arrivals`, a window of `mm` that has been open on the destination `to` of a UFFDIO_MOVE of `from` while
/// that ran, and has the windows that touch `from` cover it instead. May sleep.
///
/// Also where pages have gone from there already, which `arrivals` has followed.
pub(crate) fn arrive(
    mm: *const bindings::mm_struct,
    arrivals: Window,
    from: &Range<usize>,
    to: usize,
) {
    let entry = &*arrivals.0;
    let stock = Pieces::new();
    loop {
        let missing = mm::with(mm, |state| {
            let mut missing = 0;
            entry.each_node(|node| {
                let range = node.range();
                let start = from.start + (node.home() - to);
                // It has been made sure that there is room.
                if let Attempt::Missing(count) = state.follow(
                    &(start..start + range.len()),
                    range.start,
                    &stock,
                    usize::MAX,
                ) {
                    missing += count;
                }
            });
            if missing == 0 {
                entry.take_out(state);
            }
            missing
        });
        match missing {
            None | Some(0) => return,
            // It must be: not at the limit of a cgroup, whose OOM killer may be after this task.
            Some(count) => {
                while grow(&stock, count, GFP_KERNEL).is_err() {
                    fsleep(Delta::from_millis(1));
                }
            }
        }
    }
}

/// Adds `count` pieces to the stock, whose nodes will be others.
fn grow(stock: &Pieces, count: usize, flags: Flags) -> Result {
    for _ in 0..count {
        stock.push_new(Node::new(&(0..1)), flags)?;
    }
    Ok(())
}

/// The window of a node that is in the tree, with the lock held.
fn node_entry(node: &Node) -> &Entry {
    // SAFETY: A window is valid while its nodes are in the tree.
    unsafe { &*node.entry() }
}

/// A move of pages.
struct Move<'a> {
    from: &'a Range<usize>,
    to: usize,
    /// If what leaves and what arrives overlap, which UFFDIO_MOVE allows: all of both. There a page may be moved
    /// again and again.
    hull: Option<Range<usize>>,
}

impl<'a> Move<'a> {
    fn new(from: &'a Range<usize>, to: usize) -> Self {
        let end = to.saturating_add(from.len());
        let overlap = to < from.end && from.start < end;
        Self {
            from,
            to,
            hull: overlap.then(|| from.start.min(to)..from.end.max(end)),
        }
    }

    /// All that arrives.
    fn arrival(&self) -> Range<usize> {
        self.to..self.to.saturating_add(self.from.len())
    }

    /// Where what `node` has goes, and where it began.
    fn of(&self, node: &Node) -> (Range<usize>, usize) {
        let (range, from) = (node.range(), self.from);
        if let Some(hull) = &self.hull {
            let shift = self.to.wrapping_sub(from.start);
            return (hull.clone(), hull.start.wrapping_sub(shift));
        }
        let (start, end) = (range.start.max(from.start), range.end.min(from.end));
        let place = start - from.start + self.to..end - from.start + self.to;
        (place, node.home().wrapping_add(start - range.start))
    }
}

impl State {
    /// Calls `f` with each node that touches `range`.
    fn each(&mut self, range: &Range<usize>, mut f: impl FnMut(&mut Self, &Node)) {
        let mut at = self
            .tree
            .first_within(range)
            .map_or(ptr::null(), ptr::from_ref);
        // SAFETY: It is in the tree, and the lock is held. Nothing is removed meanwhile.
        while let Some(node) = unsafe { at.as_ref() } {
            f(self, node);
            at = self
                .tree
                .next_within(node, range)
                .map_or(ptr::null(), ptr::from_ref);
        }
    }

    /// Adds the pieces for a move, all or none, from the stock. `limit` is the most that a window may have.
    fn follow(&mut self, from: &Range<usize>, to: usize, stock: &Pieces, limit: usize) -> Attempt {
        if from.is_empty() || to == from.start {
            return Attempt::Done;
        }
        let this = Move::new(from, to);
        // Nothing has been there, as a rule: then nobody has to be asked.
        let fresh = this.hull.is_none() && self.tree.first_within(&this.arrival()).is_none();
        let (mut needed, mut full) = (0, false);
        self.each(from, |_, node| {
            let (place, home) = this.of(node);
            if fresh || !node_entry(node).covers(&place, home) {
                needed += 1;
                full |= node_entry(node).moved.len() >= limit;
            }
        });
        if full {
            return Attempt::Full;
        }
        if needed > stock.len() {
            return Attempt::Missing(needed - stock.len());
        }
        self.each(from, |state, node| {
            let entry = node_entry(node);
            let (place, home) = this.of(node);
            if !fresh && entry.covers(&place, home) {
                return;
            }
            if let Some(piece) = stock.pop(Node::moved(&place, home)) {
                let node = entry.moved.push(piece);
                node.set_entry(entry);
                // SAFETY: It is new, and in a box; the window's end removes it.
                unsafe { state.tree.insert(node) };
            }
        });
        Attempt::Done
    }
}

impl Entry {
    /// Whether it covers the bytes from `home` on at `place` already. Under the lock.
    fn covers(&self, place: &Range<usize>, home: usize) -> bool {
        let shift = place.start.wrapping_sub(home);
        shift == 0
            || self.moved.iter().any(|node| {
                let range = node.range();
                range.start.wrapping_sub(node.home()) == shift
                    && range.start <= place.start
                    && place.end <= range.end
            })
    }
}
