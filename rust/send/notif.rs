// SPDX-License-Identifier: GPL-2.0

//! The `ubuf_info` of a send, alone or in a chain. `io_uring/notif.c` is the model.

use super::{
    socket::{Sock, Socket},
    Notify,
};
use crate::{
    counters::Counter,
    ffi::*,
    in_use::InUse,
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

/// Writes the counters of this file, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("sends {}\n", Counter::Sends.sum()))?;
    f.write_fmt(fmt!("sends_copied {}\n", Counter::SendsCopied.sum()))?;
    f.write_fmt(fmt!("sends_in_flight {}\n", Counter::SendsInFlight.sum()))
}

/// Maximum bytes per chain, as per notification of MSG_ZEROCOPY (`msg_zerocopy_realloc()` in
/// `net/core/skbuff.c`): with more bytes, the first send would wait too long for the last.
const CHAIN_BYTES: usize = 512 << 10;

/// Maximum sends per chain. All complete in one softirq, and data appended to an existing skb is
/// not charged to the send buffer, so the number must be bounded.
const CHAIN_SENDS: usize = 256;

/// Maximum parts per send.
pub(super) const MAX_PARTS: usize = 256;

/// Maximum runs of a chain that a softirq releases, and references on shared guards, which count as
/// one each. A workqueue releases what is beyond that, because it takes long.
pub(super) const RUNS_AT_ONCE: usize = 1024;

/// The guard that has the pins of a part.
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

/// Bytes to send, and the guard that has their pins. If the send owns the guard, the range begins
/// at 0.
///
/// # Invariants
///
/// `range` is not empty, and is within the guard.
pub(super) struct Part {
    pub(super) buffer: Buffer,
    pub(super) range: Range<usize>,
}

impl Part {
    /// Releases the part, and takes from `room` the runs of its guard, or 1 if somebody else still
    /// holds the guard, which then releases none. Returns `false` if there is not so much room: the
    /// part stays. Any context.
    #[inline]
    fn release(part: &mut Option<Self>, room: &mut usize) -> bool {
        if *room == 0 {
            return part.is_none();
        }
        let shared = part.take_if(|part| matches!(part.buffer, Buffer::Shared(_)));
        if let Some(Self {
            buffer: Buffer::Shared(guard),
            range,
        }) = shared
        {
            let Some(guard) = Arc::into_unique_or_drop(guard) else {
                *room -= 1;
                return true;
            };
            // INVARIANT: This is the same guard and the same range.
            *part = Some(Self {
                buffer: Buffer::Shared(guard.into()),
                range,
            });
        }
        let Some(Self { buffer, .. }) = part else {
            return true;
        };
        let Some(rest) = room.checked_sub(buffer.guard().runs().len()) else {
            return false;
        };
        *room = rest;
        *part = None;
        true
    }
}

/// The parts of a send, in order. The first one needs no allocation.
#[derive(Default)]
pub(super) struct Parts {
    first: Option<Part>,
    others: KVec<Option<Part>>,
}

impl Parts {
    /// Adds a part. May sleep.
    ///
    /// # Errors
    ///
    /// - `E2BIG`: there are [`MAX_PARTS`] already.
    /// - `ENOMEM`: there is no memory for the list.
    pub(super) fn push(&mut self, part: Part) -> Result {
        if self.first.is_none() {
            self.first = Some(part);
            return Ok(());
        }
        if self.others.len() == MAX_PARTS - 1 {
            return Err(E2BIG);
        }
        Ok(self.others.push(Some(part), GFP_KERNEL)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        Iterator::chain(self.first.iter(), self.others.iter().flatten())
    }

    pub(super) fn bytes(&self) -> usize {
        self.iter().map(|part| part.range.len()).sum()
    }

    /// Returns the number of pages that are not yet charged to a user.
    pub(super) fn uncharged(&self) -> usize {
        let guards = self.iter().map(|part| part.buffer.guard());
        let uncharged = guards.filter(|guard| !guard.is_charged());
        uncharged.map(PinGuard::pages).sum()
    }

    fn pages(&self) -> usize {
        let pages = |part: &Part| part.buffer.guard().pages_in(part.range.clone());
        self.iter().map(pages).sum()
    }

    /// Returns the bytes of all parts as one array. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory for the array.
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

    /// Releases the parts for which there is `room`, by [`Part::release`]. Returns whether none is
    /// left. Any context.
    fn release(&mut self, room: &mut usize) -> bool {
        let mut all = Part::release(&mut self.first, room);
        for part in &mut self.others {
            all &= Part::release(part, room);
        }
        all
    }

    /// Releases the parts behind the first `bytes` bytes, which must be at least 1, and at most the
    /// bytes of all parts.
    fn truncate(&mut self, bytes: usize) {
        let (mut left, mut keep) = (bytes, 0);
        for part in Iterator::chain(self.first.iter_mut(), self.others.iter_mut().flatten()) {
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

/// Everything that a send holds until it is complete.
#[derive(Default)]
pub(super) struct Load {
    pub(super) parts: Parts,
    charge: Option<Charge>,
    /// The notifier, and the reference on the module of its code, which is dropped after it.
    notify: Option<(Arc<dyn Notify>, ModuleRef)>,
}

/// A send's place in its chain.
struct Chain {
    /// Head of the chain; null if this send is the head.
    head: *const Notif,
    next: *const Notif,
    /// Number of bytes and of sends: of the whole chain if this send is the head, else of this
    /// send.
    bytes: usize,
    sends: usize,
}

/// A send, in the form that the network stack knows: a `ubuf_info`.
///
/// # Invariants
///
/// - The sender and the skbs hold references on `ubuf`, and `ubuf` holds one on this value (an
///   `Arc`). A send in a chain holds one on the `ubuf` of its head.
/// - Until the sender drops its reference on `ubuf`, only the sender accesses `load`; after that,
///   whoever drops the chain's last reference, then `work`.
/// - `chain` changes under the lock of the socket. The thread that changes it appends to an skb
///   that holds `ubuf`, or, if this send is a head, the `ubuf` of a send in its chain. It is read
///   once the last reference on `ubuf` is dropped.
#[pin_data]
pub(super) struct Notif {
    pub(super) ubuf: Opaque<bindings::ubuf_info>,
    chain: UnsafeCell<Chain>,
    pub(super) load: UnsafeCell<Load>,
    /// Number of pins that the send needs; 0 when it is complete.
    pub(super) pages: Atomic<usize>,
    /// Whether an skb has held pages of this send.
    attached: Atomic<bool>,
    pub(super) copied: Atomic<bool>,
    #[pin]
    pub(super) done: Opaque<bindings::completion>,
    pub(super) sock: Sock,
    #[pin]
    work: Work<Self>,
    // Last, because it keeps this code loaded while the other fields drop.
    _in_use: InUse,
}

// SAFETY: Any thread may release everything that this value holds.
unsafe impl Send for Notif {}
// SAFETY: By the type invariants, the cells have one user at a time.
unsafe impl Sync for Notif {}

impl_has_work! {
    impl HasWork<Self> for Notif { self.work }
}

impl WorkItem for Notif {
    type Pointer = Arc<Self>;

    /// Releases what `complete` has left, because that may sleep or take long.
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
                    // Without DONT_ORPHAN, the stack copies the pages for the first clone, that is
                    // for the first transmission, and nothing protects the data that the congestion
                    // window holds back.
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
                    // SAFETY: `slot` is valid for a completion.
                    unsafe { bindings::init_completion(slot) }
                }),
                sock: socket.sock(),
                work <- new_work!("pin_guard_send"),
                _in_use: InUse::for_client(),
            }),
            GFP_KERNEL,
        )
    }

    /// Records that the socket took the first `bytes` bytes, at least 1, and releases the others.
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
        Counter::Sends.add(1);
        Counter::SendsInFlight.add(1);
        load.notify = notify;
    }

    /// # Safety
    ///
    /// `ubuf` must be that of a `Notif` that lives for `'a`.
    unsafe fn from_ubuf<'a>(ubuf: *mut bindings::ubuf_info) -> &'a Self {
        // SAFETY: By the safety requirements. An `Opaque` has the layout of its value.
        unsafe { &*kernel::container_of!(ubuf.cast::<Opaque<_>>(), Self, ubuf) }
    }

    /// # Safety
    ///
    /// The caller must own a reference on `ubuf`, and gives it up.
    unsafe fn put_ubuf(&self) -> bool {
        // SAFETY: By the safety requirements.
        unsafe { bindings::refcount_dec_and_test(&raw mut (*self.ubuf.get()).refcnt) }
    }

    /// `ubuf_info_ops.complete`: drops one reference. Softirq or task context.
    ///
    /// # Safety
    ///
    /// `ubuf` must be that of a `Notif`. The caller must own a reference on it, and gives it up.
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
        // SAFETY: By the safety requirements. Whoever drops the last reference may read `chain`,
        // and also drops the reference that this send has on its head.
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

    /// `ubuf_info_ops.link_skb`: decides whether the pages of `ubuf` may go into `skb`, too.
    /// Returns 0, or EEXIST, for which the stack takes another skb.
    ///
    /// # Safety
    ///
    /// `skb_zerocopy_iter_stream()` must call this, with the socket of `skb` locked, and `ubuf`
    /// must be that of a `Notif`.
    pub(super) unsafe extern "C" fn link_skb(
        skb: *mut bindings::sk_buff,
        ubuf: *mut bindings::ubuf_info,
    ) -> c_int {
        let no = -(bindings::EEXIST as c_int);
        // SAFETY: The skb is valid, and holds a reference on its `ubuf_info`.
        let prev = unsafe { pin_guard_skb_zcopy(skb) };
        if prev.is_null() || prev == ubuf {
            return 0;
        }
        // If a send joined and then found no room, it would have to wait for the others, even if it
        // failed.
        // SAFETY: The skb is valid.
        let frags = unsafe { (*pin_guard_skb_shinfo(skb)).nr_frags };
        if u32::from(frags) >= bindings::MAX_SKB_FRAGS {
            return no;
        }
        // SAFETY: As above.
        if !ptr::eq(unsafe { (*prev).ops }, &OPS) {
            return no;
        }
        // SAFETY: Both belong to a `Notif`, and references on both are held. By the invariants of
        // `Notif`, the lock of the socket allows this to change the chain of `prev`, which is not
        // complete because the skb holds `prev`, and the chain of a new send.
        unsafe {
            let (notif, prev) = (Self::from_ubuf(ubuf), Self::from_ubuf(prev));
            let (chain, prev_chain) = (notif.chain.get(), prev.chain.get());
            // Two chains do not join.
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

    /// Completes all sends of a chain.
    ///
    /// # Safety
    ///
    /// Nobody may have a reference on the `ubuf` of `head` or of another send of its chain any
    /// more.
    unsafe fn finish(head: *const Self) {
        // SAFETY: By the safety requirements and the type invariants, nobody else uses the chain,
        // and each send of it has the `Arc` of its `ubuf` until `complete`.
        unsafe {
            let mut copied = false;
            let mut at = head;
            while let Some(notif) = at.as_ref() {
                copied |= notif.copied.load(Relaxed) || !notif.attached.load(Relaxed);
                at = (*notif.chain.get()).next;
            }
            let mut at = head;
            let mut room = RUNS_AT_ONCE;
            while let Some(notif) = at.as_ref() {
                let next = (*notif.chain.get()).next;
                Self::complete(Arc::from_raw(notif), copied, &mut room);
                at = next;
            }
        }
    }

    /// Completes a send: releases the pages, wakes up waiters and calls the notifier. A workqueue
    /// releases that for which there is no `room`.
    fn complete(notif: Arc<Self>, copied: bool, room: &mut usize) {
        // SAFETY: By the type invariants. The caller has dropped the chain's last reference.
        let load = unsafe { &mut *notif.load.get() };
        let long = !load.parts.release(room);
        if !long {
            load.parts = Parts::default();
            load.charge = None;
        }
        notif.copied.store(copied, Relaxed);
        // `took` has set `pages`, unless the send failed.
        if notif.pages.load(Relaxed) != 0 {
            Counter::SendsInFlight.add(-1);
            Counter::SendsCopied.add(isize::from(copied));
        }
        notif.pages.store(0, Release);
        // SAFETY: The completion is initialised.
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
            // The work is in no queue yet, so this succeeds.
            let _ = workqueue::system_long().enqueue(last);
        }
    }
}
