// SPDX-License-Identifier: GPL-2.0

//! Makes windows follow pages that mremap() or UFFDIO_MOVE moves to another address.
//!
//! A window continues to cover its old place, because its I/O may still look up pages there, and a
//! move that fails takes the pages back. It gets one more piece for each place to which its pages
//! move. Pages that return to their first place, or to another place where they have been before,
//! need no new piece.

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

/// Maximum pieces per window, so that no lock is held for long. It allows two moves of a read with
/// 1024 segments.
const PIECES: usize = 2048;

/// The result of an attempt to follow a move.
enum Attempt {
    Done,
    /// The stock has so many pieces too few.
    Missing(usize),
    /// A window has the maximum number of pieces.
    Full,
}

/// Makes the windows of `mm` cover the places, from `to` on, to which their pages in `from` will
/// move. May sleep.
///
/// # Errors
///
/// `ENOMEM`: there is no memory for the pieces, or a window has been moved to too many places. No
/// window has changed.
///
/// # Context
///
/// mremap() calls this before it moves a page, and holds the mmap lock for write. So no fork runs
/// in between, and no submission whose window would have to follow. If the call takes back the move
/// that was made just before, under the same lock, it does nothing: nobody can have looked up pages
/// in between.
///
/// # Safety
///
/// `mm` must be valid.
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
            // Odd, as the count is while the lock is held for write. A kernel without
            // CONFIG_PER_VMA_LOCK (that is, without SMP) has none, and says 0: the way below is
            // right for a revert, too, but may need memory.
            if sequence % 2 == 1 && state.last_move == (to, from.start, sequence) {
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

/// Returns whether the windows that touch `from` may have one more piece each.
pub(crate) fn have_room(mm: *const bindings::mm_struct, from: &Range<usize>) -> bool {
    let mut room = true;
    mm::with(mm, |state| {
        state.each(from, |_, node| {
            room &= node_entry(node).moved.len() < PIECES
        });
    });
    room
}

/// Closes `arrivals`, and makes the windows of `mm` that touch `from` cover its place instead.
/// `arrivals` must be a window of `mm` that has been open on the destination `to` while a
/// UFFDIO_MOVE of `from` ran. May sleep.
///
/// If pages have already moved on from the destination, `arrivals` has followed them, and the
/// windows now cover these places, too.
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
                // No limit: `have_room` was true before the move.
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
            // This must succeed, because the pages have moved. So the pieces are not charged to the
            // memory cgroup: at its limit, a charge of a task that the OOM killer has chosen fails
            // for good.
            Some(count) => {
                while grow(&stock, count, GFP_KERNEL).is_err() {
                    fsleep(Delta::from_millis(1));
                }
            }
        }
    }
}

/// Adds `count` pieces to the stock. [`Pieces::pop`] will replace their nodes.
fn grow(stock: &Pieces, count: usize, flags: Flags) -> Result {
    for _ in 0..count {
        stock.push_new(Node::new(&(0..1)), flags)?;
    }
    Ok(())
}

/// Returns the window of a node that is in the tree. The caller must hold the lock.
fn node_entry(node: &Node) -> &Entry {
    // SAFETY: A window is valid while its nodes are in the tree.
    unsafe { &*node.entry() }
}

/// A move of pages.
struct Move<'a> {
    from: &'a Range<usize>,
    to: usize,
    /// If the source and the destination overlap, as UFFDIO_MOVE allows, the range that covers
    /// both. In it, one UFFDIO_MOVE may move a page several times.
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

    /// Returns the destination.
    fn arrival(&self) -> Range<usize> {
        self.to..self.to.saturating_add(self.from.len())
    }

    /// Returns the place to which the moved bytes of `node` go, and their home (see [`Node`]).
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
        // SAFETY: The node is in the tree, and the lock is held. `f` removes no node.
        while let Some(node) = unsafe { at.as_ref() } {
            f(self, node);
            at = self
                .tree
                .next_within(node, range)
                .map_or(ptr::null(), ptr::from_ref);
        }
    }

    /// Adds the pieces for a move from the stock, either all or none. `limit` is the maximum number
    /// of pieces per window.
    fn follow(&mut self, from: &Range<usize>, to: usize, stock: &Pieces, limit: usize) -> Attempt {
        if from.is_empty() || to == from.start {
            return Attempt::Done;
        }
        let this = Move::new(from, to);
        // Usually no window covers any of the destination, so no window can cover `place` already.
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
                // SAFETY: The node is new, and in a box, so it does not move. The drop of the
                // window removes it.
                unsafe { state.tree.insert(node) };
            }
        });
        Attempt::Done
    }
}

impl Entry {
    /// Returns whether the window already covers `place` for the bytes whose home is `home`. Under
    /// the lock.
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
