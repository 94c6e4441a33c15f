// SPDX-License-Identifier: GPL-2.0

//! A send, as the stack knows it: a `ubuf_info`, alone or in a chain. `io_uring/notif.c` is its model.

use super::{
    socket::{Sock, Socket},
    Notify,
};
use crate::{
    ffi::*,
    module_ref::ModuleRef,
    pin::{Charge, PinGuard, Run, Source},
};
use core::{cell::UnsafeCell, mem, ops::Range, ptr};
use kernel::{
    bindings, fmt, impl_has_work, new_work,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed, Release},
        Arc,
    },
    types::Opaque,
    workqueue::{self, Work, WorkItem},
};

pub(super) static SENDS: Atomic<usize> = Atomic::new(0);
static SENDS_COPIED: Atomic<isize> = Atomic::new(0);
pub(super) static SENDS_IN_FLIGHT: Atomic<isize> = Atomic::new(0);

/// The counters of this file, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("sends {}\n", SENDS.load(Relaxed)))?;
    f.write_fmt(fmt!("sends_copied {}\n", SENDS_COPIED.load(Relaxed)))?;
    f.write_fmt(fmt!("sends_in_flight {}\n", SENDS_IN_FLIGHT.load(Relaxed)))
}

/// Maximum bytes per chain, as MSG_ZEROCOPY has it for a notification (`msg_zerocopy_realloc()` in
/// `net/core/skbuff.c`): with more, the first send would wait too long for the last.
const CHAIN_BYTES: usize = 512 << 10;

/// Maximum sends per chain. All complete in one softirq, and data appended to an existing skb is
/// not charged to the send buffer, so the number must be bounded.
const CHAIN_SENDS: usize = 256;

/// Maximum parts per send. One softirq releases them all.
pub(super) const MAX_PARTS: usize = 256;

/// A send of more runs is released by a workqueue, as that takes long for a softirq.
pub(super) const RUNS_AT_ONCE: usize = 1024;

/// Where the pins of a send are.
pub(super) enum Buffer {
    Own(PinGuard<Source>),
    Shared(Arc<PinGuard<Source>>),
}

impl Buffer {
    pub(super) fn guard(&self) -> &PinGuard<Source> {
        match self {
            Self::Own(guard) => guard,
            Self::Shared(guard) => guard,
        }
    }
}

/// Bytes that are sent, and where their pins are. The range of an own guard begins at 0.
///
/// # Invariants
///
/// `range` is not empty, and within the guard.
pub(super) struct Part {
    pub(super) buffer: Buffer,
    pub(super) range: Range<usize>,
}

/// What a send consists of, in order: one part, which needs no allocation, or more.
#[derive(Default)]
pub(super) struct Parts {
    first: Option<Part>,
    others: KVec<Part>,
}

impl Parts {
    /// Errors: E2BIG if there are [`MAX_PARTS`]; ENOMEM. May sleep.
    pub(super) fn push(&mut self, part: Part) -> Result {
        if self.first.is_none() {
            self.first = Some(part);
            return Ok(());
        }
        if self.others.len() == MAX_PARTS - 1 {
            return Err(E2BIG);
        }
        Ok(self.others.push(part, GFP_KERNEL)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        Iterator::chain(self.first.iter(), self.others.iter())
    }

    pub(super) fn bytes(&self) -> usize {
        self.iter().map(|part| part.range.len()).sum()
    }

    /// The pages that are not charged to the user yet.
    pub(super) fn uncharged(&self) -> usize {
        let guards = self.iter().map(|part| part.buffer.guard());
        let uncharged = guards.filter(|guard| !guard.is_charged());
        uncharged.map(PinGuard::pages).sum()
    }

    fn pages(&self) -> usize {
        let pages = |part: &Part| part.buffer.guard().pages_in(part.range.clone());
        self.iter().map(pages).sum()
    }

    /// How many runs are let go at most: of a guard that parts in a row share it is once.
    fn runs(&self) -> usize {
        let mut last = ptr::null();
        let mut runs = 0;
        for guard in self.iter().map(|part| part.buffer.guard()) {
            if !ptr::eq(guard, last) {
                runs += guard.runs().len();
            }
            last = guard;
        }
        runs
    }

    /// The bytes of all parts, as one array. Errors: ENOMEM. May sleep.
    pub(super) fn bio_vecs(&self) -> Result<KVVec<bindings::bio_vec>> {
        let room = |part: &Part| {
            let guard = part.buffer.guard();
            guard.runs().len().min(guard.pages_in(part.range.clone()))
        };
        let mut bvecs = KVVec::with_capacity(self.iter().map(room).sum(), GFP_KERNEL)?;
        for Part { buffer, range } in self.iter() {
            let (runs, mut skip) = buffer.guard().runs_at(range.start);
            let mut left = range.len();
            for bvec in runs.iter().map(Run::as_bio_vec) {
                let len = bvec.bv_len as usize;
                if skip >= len {
                    skip -= len;
                    continue;
                }
                let part = left.min(len - skip);
                let mut bvec = *bvec;
                bvec.bv_offset += skip as u32;
                bvec.bv_len = part as u32;
                bvecs.push(bvec, GFP_KERNEL)?;
                (skip, left) = (0, left - part);
                if left == 0 {
                    break;
                }
            }
        }
        Ok(bvecs)
    }

    /// Lets go of what is behind the first `bytes`: not zero, and no more than there are.
    fn truncate(&mut self, bytes: usize) {
        let (mut left, mut keep) = (bytes, 0);
        for part in Iterator::chain(self.first.iter_mut(), self.others.iter_mut()) {
            if left == 0 {
                break;
            }
            if part.range.len() > left {
                // INVARIANT: `left` is not zero.
                part.range.end = part.range.start + left;
                if let Buffer::Own(guard) = &mut part.buffer {
                    guard.truncate(left);
                }
            }
            left -= part.range.len();
            keep += 1;
        }
        self.others.truncate(keep - 1);
    }
}

/// What a send holds until it is complete.
#[derive(Default)]
pub(super) struct Load {
    pub(super) parts: Parts,
    charge: Option<Charge>,
    /// With what keeps its code loaded, which is dropped after it.
    notify: Option<(Arc<dyn Notify>, ModuleRef)>,
}

/// A send's place in its chain.
struct Chain {
    /// Head of the chain; null if this send is the head.
    head: *const Notif,
    next: *const Notif,
    /// Bytes and sends: of the whole chain if this send is the head, else of this send.
    bytes: usize,
    sends: usize,
}

/// A send, as the stack knows it.
///
/// # Invariants
///
/// - The sender and the skbs hold references on `ubuf`, and `ubuf` holds one on this (an `Arc`). A send in a
///   chain holds one on the `ubuf` of its head.
/// - Until the sender drops its reference on `ubuf`, only the sender accesses `load`; after that, whoever drops
///   the chain's last reference, then `work`.
/// - `chain` is changed under the lock of the socket, by whoever appends to an skb that holds `ubuf`, or, of a
///   head, the `ubuf` of a send in its chain. It is read once the last reference on `ubuf` is dropped.
#[pin_data]
pub(super) struct Notif {
    pub(super) ubuf: Opaque<bindings::ubuf_info>,
    chain: UnsafeCell<Chain>,
    pub(super) load: UnsafeCell<Load>,
    /// Held for this send; none when it is complete.
    pub(super) pages: Atomic<usize>,
    /// Some skb held its pages.
    attached: Atomic<bool>,
    pub(super) copied: Atomic<bool>,
    #[pin]
    pub(super) done: Opaque<bindings::completion>,
    pub(super) sock: Sock,
    #[pin]
    work: Work<Self>,
    // Last: it keeps this code loaded.
    _module: ModuleRef,
}

// SAFETY: All that it holds may be released by any thread.
unsafe impl Send for Notif {}
// SAFETY: By the type invariants, the cells have one user at a time.
unsafe impl Sync for Notif {}

impl_has_work! {
    impl HasWork<Self> for Notif { self.work }
}

impl WorkItem for Notif {
    type Pointer = Arc<Self>;

    /// What `complete` leaves: it may sleep, or take long.
    fn run(notif: Arc<Self>) {
        // SAFETY: By the type invariants.
        drop(unsafe { mem::take(&mut *notif.load.get()) });
    }
}

static OPS: bindings::ubuf_info_ops = bindings::ubuf_info_ops {
    complete: Some(Notif::put),
    link_skb: Some(Notif::link_skb),
};

impl Notif {
    pub(super) fn new(socket: &Socket, parts: Parts, charge: Option<Charge>) -> Result<Arc<Self>> {
        let chain = Chain {
            head: ptr::null(),
            next: ptr::null(),
            bytes: parts.bytes(),
            sends: 1,
        };
        Arc::pin_init(
            pin_init!(Self {
                ubuf: Opaque::new(bindings::ubuf_info {
                    ops: &OPS,
                    refcnt: bindings::refcount_t {
                        refs: bindings::atomic_t { counter: 1 },
                    },
                    // Without DONT_ORPHAN the first clone, so any transmission, is a copy, and what the
                    // congestion window holds back is not even that.
                    flags: (bindings::SKBFL_ZEROCOPY_ENABLE
                        | bindings::SKBFL_SHARED_FRAG
                        | bindings::SKBFL_DONT_ORPHAN) as u8,
                }),
                chain: UnsafeCell::new(chain),
                load: UnsafeCell::new(Load {
                    parts,
                    charge,
                    notify: None,
                }),
                pages: Atomic::new(0),
                attached: Atomic::new(false),
                copied: Atomic::new(false),
                done <- Opaque::ffi_init(|slot| {
                    // SAFETY: `slot` is for a completion.
                    unsafe { bindings::init_completion(slot) }
                }),
                sock: socket.sock(),
                work <- new_work!("pin_guard_send"),
                _module: ModuleRef::for_client(),
            }),
            GFP_KERNEL,
        )
    }

    /// The socket took the first `bytes`: not zero. Lets go of the others.
    pub(super) fn took(
        &self,
        load: &mut Load,
        bytes: usize,
        notify: Option<(Arc<dyn Notify>, ModuleRef)>,
    ) {
        if bytes < load.parts.bytes() {
            load.parts.truncate(bytes);
            if let Some(charge) = &mut load.charge {
                charge.shrink(load.parts.uncharged());
            }
        }
        self.pages.store(load.parts.pages(), Relaxed);
        SENDS.add(1, Relaxed);
        SENDS_IN_FLIGHT.add(1, Relaxed);
        load.notify = notify;
    }

    /// # Safety
    ///
    /// `ubuf` is that of a `Notif`, and held.
    unsafe fn from_ubuf<'a>(ubuf: *mut bindings::ubuf_info) -> &'a Self {
        // SAFETY: By the safety requirements; an `Opaque` is what it holds.
        unsafe { &*kernel::container_of!(ubuf.cast::<Opaque<_>>(), Self, ubuf) }
    }

    /// # Safety
    ///
    /// The caller owns a reference on `ubuf`, and gives it up.
    unsafe fn put_ubuf(&self) -> bool {
        // SAFETY: By the safety requirements.
        unsafe { bindings::refcount_dec_and_test(&raw mut (*self.ubuf.get()).refcnt) }
    }

    /// `ubuf_info_ops.complete`: puts one reference. Softirq or task context.
    ///
    /// # Safety
    ///
    /// `ubuf` is that of a `Notif`, and the caller gives up a reference on it.
    pub(super) unsafe extern "C" fn put(
        skb: *mut bindings::sk_buff,
        ubuf: *mut bindings::ubuf_info,
        zerocopy_success: bool,
    ) {
        // SAFETY: By the safety requirements.
        let notif = unsafe { Self::from_ubuf(ubuf) };
        if !skb.is_null() {
            notif.attached.store(true, Relaxed);
        }
        if !zerocopy_success {
            notif.copied.store(true, Relaxed);
        }
        // SAFETY: By the safety requirements; the last reference makes `chain` ours to read, and with
        // it goes the one that this send has on its head.
        unsafe {
            if notif.put_ubuf() {
                match (*notif.chain.get()).head.as_ref() {
                    None => Self::finish(notif),
                    Some(head) if head.put_ubuf() => Self::finish(head),
                    Some(_) => {}
                }
            }
        }
    }

    /// `ubuf_info_ops.link_skb`: whether the pages of `ubuf` may go into `skb`, too. 0, or EEXIST for "take
    /// another skb".
    ///
    /// # Safety
    ///
    /// Called by `skb_zerocopy_iter_stream()`, with the socket of `skb` locked, and `ubuf` a `Notif`'s.
    pub(super) unsafe extern "C" fn link_skb(
        skb: *mut bindings::sk_buff,
        ubuf: *mut bindings::ubuf_info,
    ) -> c_int {
        let no = -(bindings::EEXIST as c_int);
        // SAFETY: The skb is valid and holds its ubuf.
        let prev = unsafe { pin_guard_skb_zcopy(skb) };
        if prev.is_null() || prev == ubuf {
            return 0;
        }
        // A send that joins and finds no room would have to wait for the others, even if it fails.
        // SAFETY: The skb is valid.
        let frags = unsafe { (*pin_guard_skb_shinfo(skb)).nr_frags };
        if u32::from(frags) >= bindings::MAX_SKB_FRAGS {
            return no;
        }
        // SAFETY: As above.
        if !ptr::eq(unsafe { (*prev).ops }, &OPS) {
            return no;
        }
        // SAFETY: Both are ours and held. By the invariants of `Notif`, the lock of the socket makes the
        // chain of `prev`, which its skb keeps from its end, and that of a new send ours to change.
        unsafe {
            let (notif, prev) = (Self::from_ubuf(ubuf), Self::from_ubuf(prev));
            let (chain, prev_chain) = (notif.chain.get(), prev.chain.get());
            // Two chains are not joined.
            if !(*chain).head.is_null() || !(*chain).next.is_null() {
                return no;
            }
            let head = (*prev_chain).head.as_ref().unwrap_or(prev);
            let whole = head.chain.get();
            if (*whole).bytes + (*chain).bytes > CHAIN_BYTES || (*whole).sends == CHAIN_SENDS {
                return no;
            }
            (*whole).bytes += (*chain).bytes;
            (*whole).sends += 1;
            bindings::refcount_inc(&raw mut (*head.ubuf.get()).refcnt);
            notif.attached.store(true, Relaxed);
            (*chain).head = head;
            (*chain).next = (*prev_chain).next;
            (*prev_chain).next = notif;
        }
        0
    }

    /// The chain is complete.
    ///
    /// # Safety
    ///
    /// Nobody has a reference on the `ubuf` of `head` or of its chain any more.
    unsafe fn finish(head: *const Self) {
        // SAFETY: By the safety requirements and the type invariants, the chain is ours alone, and each
        // has the `Arc` of its ubuf until `complete`.
        unsafe {
            let mut copied = false;
            let mut at = head;
            while let Some(notif) = at.as_ref() {
                copied |= notif.copied.load(Relaxed) || !notif.attached.load(Relaxed);
                at = (*notif.chain.get()).next;
            }
            let mut at = head;
            while let Some(notif) = at.as_ref() {
                let next = (*notif.chain.get()).next;
                Self::complete(Arc::from_raw(notif), copied);
                at = next;
            }
        }
    }

    /// Lets go of the pages and tells everybody.
    fn complete(notif: Arc<Self>, copied: bool) {
        // SAFETY: By the type invariants: called by who put the chain's last reference.
        let load = unsafe { &mut *notif.load.get() };
        let long = load.parts.runs() > RUNS_AT_ONCE;
        if !long {
            load.parts = Parts::default();
            load.charge = None;
        }
        notif.copied.store(copied, Relaxed);
        // None were held for a send that failed.
        if notif.pages.load(Relaxed) != 0 {
            SENDS_IN_FLIGHT.add(-1, Relaxed);
            SENDS_COPIED.add(isize::from(copied), Relaxed);
        }
        notif.pages.store(0, Release);
        // SAFETY: It is initialised.
        unsafe { bindings::complete_all(notif.done.get()) };
        if let Some((notify, owner)) = load.notify.take() {
            notify.complete();
            load.notify = Arc::into_unique_or_drop(notify).map(|notify| (Arc::from(notify), owner));
        }
        let last = if long || load.notify.is_some() {
            Some(notif)
        } else {
            Arc::into_unique_or_drop(notif).map(Arc::from)
        };
        if let Some(last) = last {
            // It is in no queue, so this succeeds.
            let _ = workqueue::system_long().enqueue(last);
        }
    }
}
