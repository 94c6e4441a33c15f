// SPDX-License-Identifier: GPL-2.0

//! The send guard: pages handed to a socket stay pinned until the last skb that refers to them is gone,
//! and the sender is told then.
//!
//! An skb that takes pages holds a reference on the `ubuf_info` that came with them
//! (`skb_zcopy_set()` in `include/linux/skbuff.h`). It drops it when its data is freed: acknowledged, or
//! given up, and let go of by qdisc and NIC; or when somebody copied the pages, as for a packet tap
//! (`skb_copy_ubufs()`). So the last reference is the end, whatever was retransmitted.
//!
//! An skb can hold one `ubuf_info` only. A send that begins in an skb of another joins that one's *chain*
//! instead of breaking the TCP segment in two: all of a chain end together.

use crate::{
    ffi::*,
    module_ref::ModuleRef,
    pin::{Charge, PinGuard, Source},
    socket::{Protocol, Sock, Socket},
};
use core::{cell::UnsafeCell, mem, ops::Range, ptr};
use kernel::{
    bindings, fmt, impl_has_work, new_work,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc,
    },
    time::Jiffies,
    types::Opaque,
    workqueue::{self, Work, WorkItem},
};

static SENDS: Atomic<usize> = Atomic::new(0);
static SENDS_COPIED: Atomic<isize> = Atomic::new(0);
static SENDS_IN_FLIGHT: Atomic<isize> = Atomic::new(0);

/// The counters of this file, for debugfs `counters`.
pub(crate) fn counters(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_fmt(fmt!("sends {}\n", SENDS.load(Relaxed)))?;
    f.write_fmt(fmt!("sends_copied {}\n", SENDS_COPIED.load(Relaxed)))?;
    f.write_fmt(fmt!("sends_in_flight {}\n", SENDS_IN_FLIGHT.load(Relaxed)))
}

/// A chain takes so many bytes, which is what MSG_ZEROCOPY puts into one notification
/// (`msg_zerocopy_realloc()` in `net/core/skbuff.c`): with more, the first would wait too long for the last.
const CHAIN_BYTES: usize = 512 << 10;

/// And so many sends: all are completed in one softirq, and what is appended to an skb is not held against the
/// room in the socket.
const CHAIN_SENDS: usize = 256;

/// A guard of more runs is released by a workqueue, as that takes long for a softirq.
const RUNS_AT_ONCE: usize = 1024;

/// How to send.
#[derive(Clone, Copy, Default)]
pub struct SendOptions {
    /// EAGAIN, or a short send, where the socket has no room (MSG_DONTWAIT). O_NONBLOCK does it too.
    pub dont_wait: bool,
    /// There is more to come: no small segment for now (MSG_MORE). TCP only.
    pub more: bool,
    /// Have the stack copy on a socket that cannot send without: kTLS and other ULPs, sockmap, TCP with MTU
    /// probing. Else such a send fails with EOPNOTSUPP.
    pub copy_ok: bool,
}

/// Somebody who wants to know when a send is complete.
pub trait Notify: Send + Sync + 'static {
    /// The module of this code, its `THIS_MODULE`: it is kept loaded until the send has let go of `self`.
    fn owner(&self) -> &'static ThisModule;

    /// Called once for each send that it came with and that did not fail, when the memory may be reused;
    /// that may be before [`Socket::send`] returns.
    ///
    /// In softirq or task context, with the socket locked or not: it must not sleep, nor send, nor take a lock
    /// that is not safe there. The send then drops its reference, in task context if it is the last, so what
    /// this drops may sleep, and may have the [`InFlight`] in it.
    fn complete(&self);
}

/// Where the pins of a send are.
enum Buffer {
    Own(PinGuard<Source>),
    Shared(Arc<PinGuard<Source>>),
}

impl Buffer {
    fn guard(&self) -> &PinGuard<Source> {
        match self {
            Self::Own(guard) => guard,
            Self::Shared(guard) => guard,
        }
    }
}

/// What a send holds until it is complete.
#[derive(Default)]
struct Load {
    buffer: Option<Buffer>,
    charge: Option<Charge>,
    notify: Option<Arc<dyn Notify>>,
}

/// The place in a chain.
struct Link {
    /// The one whose end is the end of all; null if this is it.
    head: *const Flight,
    next: *const Flight,
    /// Of a head: how many bytes and sends the chain has.
    bytes: usize,
    sends: usize,
}

/// A send, as the stack knows it.
///
/// # Invariants
///
/// - The sender and the skbs hold `ubuf`, and `ubuf` holds a reference on this (an `Arc`). A link holds the
///   `ubuf` of its head.
/// - `load` belongs to the sender until it has put its reference on `ubuf`, then to who puts the last
///   one of the chain, and then to `work`.
/// - `link` is changed under the lock of the socket by who appends to an skb that holds the `ubuf` of the
///   chain, and read alone by who puts the chain's last reference.
#[pin_data]
struct Flight {
    ubuf: Opaque<bindings::ubuf_info>,
    len: usize,
    link: UnsafeCell<Link>,
    load: UnsafeCell<Load>,
    /// Held for this send; none when it is complete.
    pages: Atomic<usize>,
    /// Some skb held its pages.
    attached: Atomic<bool>,
    copied: Atomic<bool>,
    #[pin]
    done: Opaque<bindings::completion>,
    sock: Sock,
    #[pin]
    work: Work<Self>,
    // Last, and in this order: they keep the code of `load.notify`, and this code.
    _owner: Option<ModuleRef>,
    _module: ModuleRef,
}

// SAFETY: All that it holds may be released by any thread.
unsafe impl Send for Flight {}
// SAFETY: By the type invariants, the cells have one user at a time.
unsafe impl Sync for Flight {}

impl_has_work! {
    impl HasWork<Self> for Flight { self.work }
}

impl WorkItem for Flight {
    type Pointer = Arc<Self>;

    /// What `complete` leaves: it may sleep, or take long.
    fn run(flight: Arc<Self>) {
        // SAFETY: By the type invariants.
        drop(unsafe { mem::take(&mut *flight.load.get()) });
    }
}

static OPS: bindings::ubuf_info_ops = bindings::ubuf_info_ops {
    complete: Some(Flight::put),
    link_skb: Some(Flight::link_skb),
};

impl Flight {
    fn new(
        socket: &Socket,
        len: usize,
        buffer: Buffer,
        charge: Option<Charge>,
        owner: Option<ModuleRef>,
    ) -> Result<Arc<Self>> {
        let link = Link {
            head: ptr::null(),
            next: ptr::null(),
            bytes: len,
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
                len,
                link: UnsafeCell::new(link),
                load: UnsafeCell::new(Load {
                    buffer: Some(buffer),
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
                _owner: owner,
                _module: ModuleRef::for_client(),
            }),
            GFP_KERNEL,
        )
    }

    /// The socket took `sent` bytes of `range`: what an own guard has behind them is let go.
    fn took(
        &self,
        load: &mut Load,
        range: Range<usize>,
        sent: usize,
        notify: Option<Arc<dyn Notify>>,
    ) {
        let Some(buffer) = &mut load.buffer else {
            return;
        };
        if let Buffer::Own(guard) = buffer {
            if sent < range.len() {
                guard.truncate(sent);
                if let Some(charge) = &mut load.charge {
                    charge.shrink(guard.pages());
                }
            }
        }
        let pages = buffer.guard().pages_in(range.start..range.start + sent);
        self.pages.store(pages, Relaxed);
        SENDS.add(1, Relaxed);
        SENDS_IN_FLIGHT.add(1, Relaxed);
        load.notify = notify;
    }

    /// # Safety
    ///
    /// `ubuf` is that of a `Flight`, and held.
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
    /// `ubuf` is that of a `Flight`, and the caller gives up a reference on it.
    unsafe extern "C" fn put(
        skb: *mut bindings::sk_buff,
        ubuf: *mut bindings::ubuf_info,
        zerocopy_success: bool,
    ) {
        // SAFETY: By the safety requirements.
        let flight = unsafe { Self::from_ubuf(ubuf) };
        if !skb.is_null() {
            flight.attached.store(true, Relaxed);
        }
        if !zerocopy_success {
            flight.copied.store(true, Relaxed);
        }
        // SAFETY: By the safety requirements; the last reference makes `link` ours to read, and with it
        // goes the one that a link has on its head.
        unsafe {
            if flight.put_ubuf() {
                match (*flight.link.get()).head.as_ref() {
                    None => Self::finish(flight),
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
    /// Called by `skb_zerocopy_iter_stream()`, with the socket of `skb` locked, and `ubuf` a `Flight`'s.
    unsafe extern "C" fn link_skb(
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
        // SAFETY: Both are ours and held. By the invariants of `Flight`, the lock of the socket makes the
        // chain of `prev`, which its skb keeps from its end, and that of a new send ours to change.
        unsafe {
            let (flight, prev) = (Self::from_ubuf(ubuf), Self::from_ubuf(prev));
            let (link, prev_link) = (flight.link.get(), prev.link.get());
            // Two chains are not joined.
            if !(*link).head.is_null() || !(*link).next.is_null() {
                return no;
            }
            let head = (*prev_link).head.as_ref().unwrap_or(prev);
            let chain = head.link.get();
            if (*chain).bytes + flight.len > CHAIN_BYTES || (*chain).sends == CHAIN_SENDS {
                return no;
            }
            (*chain).bytes += flight.len;
            (*chain).sends += 1;
            bindings::refcount_inc(&raw mut (*head.ubuf.get()).refcnt);
            flight.attached.store(true, Relaxed);
            (*link).head = head;
            (*link).next = (*prev_link).next;
            (*prev_link).next = flight;
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
            while let Some(flight) = at.as_ref() {
                copied |= flight.copied.load(Relaxed) || !flight.attached.load(Relaxed);
                at = (*flight.link.get()).next;
            }
            let mut at = head;
            while let Some(flight) = at.as_ref() {
                let next = (*flight.link.get()).next;
                Self::complete(Arc::from_raw(flight), copied);
                at = next;
            }
        }
    }

    /// Lets go of the pages and tells everybody.
    fn complete(flight: Arc<Self>, copied: bool) {
        // SAFETY: By the type invariants: called by who put the chain's last reference.
        let load = unsafe { &mut *flight.load.get() };
        let runs = |buffer: &Buffer| buffer.guard().runs().len();
        let long = load.buffer.as_ref().map_or(0, runs) > RUNS_AT_ONCE;
        if !long {
            load.buffer = None;
            load.charge = None;
        }
        flight.copied.store(copied, Relaxed);
        // None were held for a send that failed.
        if flight.pages.load(Relaxed) != 0 {
            SENDS_IN_FLIGHT.add(-1, Relaxed);
            SENDS_COPIED.add(isize::from(copied), Relaxed);
        }
        flight.pages.store(0, Release);
        // SAFETY: It is initialised.
        unsafe { bindings::complete_all(flight.done.get()) };
        if let Some(notify) = load.notify.take() {
            notify.complete();
            load.notify = Arc::into_unique_or_drop(notify).map(Arc::from);
        }
        let last = if long || load.notify.is_some() {
            Some(flight)
        } else {
            Arc::into_unique_or_drop(flight).map(Arc::from)
        };
        if let Some(last) = last {
            // It is in no queue, so this succeeds.
            let _ = workqueue::system_long().enqueue(last);
        }
    }
}

/// A send that the socket has taken, and its clones are the same. Dropping it changes nothing for the send; in
/// task context.
///
/// The pages are held until [`InFlight::is_complete`]: the peer has acknowledged the data, and no queue, NIC
/// or retransmission refers to them. A peer that is gone delays that until TCP gives up, which can take
/// minutes, and longer than the sender lives; [`InFlight::abort`] does not wait for that.
///
/// C: `struct ubuf_info` in `include/linux/skbuff.h`, `skb_release_data()` in `net/core/skbuff.c`.
#[derive(Clone)]
pub struct InFlight {
    flight: Arc<Flight>,
    sent: usize,
}

impl InFlight {
    /// How many bytes the socket took.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// How many pages the socket holds for it now.
    pub fn pages(&self) -> usize {
        self.flight.pages.load(Acquire)
    }

    /// Whether nobody refers to the pages any more: the memory may be reused.
    pub fn is_complete(&self) -> bool {
        self.pages() == 0
    }

    /// Whether the stack has copied something of it, or of what shared an skb with it: for a receiver on this
    /// machine, a tap, a NIC without checksums; or at once, as for a UDP datagram of more than one
    /// fragment.
    pub fn copied(&self) -> bool {
        self.flight.copied.load(Relaxed)
    }

    /// Waits until it is complete, for `limit` jiffies at most. Sleeps.
    ///
    /// Errors, with the send still in flight: ETIMEDOUT; EINTR if the task is killed.
    pub fn wait(&self, limit: Jiffies) -> Result {
        // SAFETY: It is initialised.
        let ret = unsafe {
            bindings::wait_for_completion_killable_timeout(
                self.flight.done.get(),
                limit.min(c_long::MAX as Jiffies),
            )
        };
        match ret {
            0 => Err(ETIMEDOUT),
            n if n < 0 => Err(EINTR),
            _ => Ok(()),
        }
    }

    /// Resets the connection that it was sent on, unless it is complete. Then the pages come back as soon
    /// as qdisc and NIC have let go of them. May sleep.
    ///
    /// If the socket has been connected anew since, it is that connection.
    ///
    /// Errors: EOPNOTSUPP for UDP, which keeps nothing for a peer.
    ///
    /// C: `tcp_abort()` in `net/ipv4/tcp.c`, which `ss -K` calls.
    pub fn abort(&self) -> Result {
        if self.is_complete() {
            self.flight.sock.can_abort()
        } else {
            self.flight.sock.abort()
        }
    }
}

impl Socket {
    /// Sends the memory of `guard`, and lets go of it when the stack has. May sleep.
    ///
    /// The socket may take less than that ([`InFlight::sent`]), as send(2) does; what it did not take is
    /// not pinned any more. The pages are charged to RLIMIT_MEMLOCK while in flight, as MSG_ZEROCOPY does it,
    /// unless the guard is already ([`PinGuard::long_term`]).
    ///
    /// A datagram is one send: there is no corking, by `more` or UDP_CORK.
    ///
    /// Errors, with nothing sent and nothing pinned: what send(2) says on that socket, among it EAGAIN,
    /// EPIPE (without a signal), ENOTCONN, EDESTADDRREQ, ERESTARTSYS (while it waited for room);
    /// ENOBUFS over RLIMIT_MEMLOCK; EOPNOTSUPP if the socket cannot send without a copy
    /// ([`SendOptions::copy_ok`]); EINVAL for a corked datagram; EMSGSIZE for one that does not fit, or is of
    /// more than 17 runs (MAX_SKB_FRAGS); ENOMEM; ENODEV if the module to notify is being unloaded.
    ///
    /// C: `sock_sendmsg()` in `net/socket.c`, `tcp_sendmsg_locked()` in `net/ipv4/tcp.c`, `ip_append_data()`
    /// in `net/ipv4/ip_output.c`.
    pub fn send(
        &self,
        guard: PinGuard<Source>,
        options: SendOptions,
        notify: Option<Arc<dyn Notify>>,
    ) -> Result<InFlight> {
        let range = 0..guard.len();
        self.send_buffer(Buffer::Own(guard), range, options, notify)
    }

    /// As [`Socket::send`], of the bytes `range` of a guard that other sends may use as well. The pins live
    /// until the last of them, and the caller, have let go. Such a guard should be charged already, or each send
    /// is charged all of it.
    ///
    /// Errors: also EINVAL for a range that is empty or beyond the guard.
    pub fn send_shared(
        &self,
        guard: &Arc<PinGuard<Source>>,
        range: Range<usize>,
        options: SendOptions,
        notify: Option<Arc<dyn Notify>>,
    ) -> Result<InFlight> {
        if range.is_empty() || range.end > guard.len() {
            return Err(EINVAL);
        }
        self.send_buffer(Buffer::Shared(guard.clone()), range, options, notify)
    }

    fn send_buffer(
        &self,
        buffer: Buffer,
        range: Range<usize>,
        options: SendOptions,
        notify: Option<Arc<dyn Notify>>,
    ) -> Result<InFlight> {
        let zerocopy = self.can_zerocopy();
        if !zerocopy && !options.copy_ok {
            return Err(error(bindings::EOPNOTSUPP));
        }
        // Pages of two sends cannot be in one datagram (`__ip_append_data()`).
        if (options.more && self.protocol() == Protocol::Udp) || self.is_corked() {
            return Err(EINVAL);
        }
        let mut flags = 0;
        if options.dont_wait {
            flags |= bindings::MSG_DONTWAIT;
        }
        if options.more {
            flags |= bindings::MSG_MORE;
        }
        let charge = if zerocopy && !buffer.guard().is_charged() {
            let pages = buffer.guard().pages();
            Some(Charge::new(pages).map_err(|_| error(bindings::ENOBUFS))?)
        } else {
            None
        };
        let owner = match &notify {
            Some(notify) => Some(ModuleRef::try_get(notify.owner()).ok_or(ENODEV)?),
            None => None,
        };

        let flight = Flight::new(self, range.len(), buffer, charge, owner)?;
        let ubuf = flight.ubuf.get();
        // INVARIANT: The reference that `ubuf` holds.
        let _ = Arc::into_raw(flight.clone());

        // SAFETY: By the invariants of `Flight`, this is ours until the reference on `ubuf` is put.
        let load = unsafe { &mut *flight.load.get() };
        let sent = match &load.buffer {
            // SAFETY: The range was checked, and `flight` holds the pins until `ubuf` is gone.
            Some(buffer) => unsafe {
                let ubuf = if zerocopy { ubuf } else { ptr::null_mut() };
                self.transmit(buffer.guard(), range.clone(), flags, ubuf)
            },
            None => Err(EINVAL),
        };
        if let Ok(sent) = sent {
            flight.took(load, range, sent, notify);
        }
        // SAFETY: This is the sender's reference.
        unsafe { Flight::put(ptr::null_mut(), ubuf, true) };
        Ok(InFlight {
            flight,
            sent: sent?,
        })
    }
}

#[kunit_tests(pin_guard_send)]
mod tests {
    use super::*;
    use crate::{
        kunit::{self, eventually, Page, Pages, Skb},
        this_module, Module,
    };
    use kernel::page::PAGE_SIZE;

    const P: usize = PAGE_SIZE;
    const EEXIST: c_int = -(bindings::EEXIST as c_int);
    const IPPROTO_TCP: u16 = 6;
    const IPPROTO_UDP: u16 = 17;

    /// A socket, and 512 KiB of one folio to send from.
    struct Stage {
        socket: Socket,
        pages: Pages,
        addr: usize,
        idle: usize,
    }

    impl Stage {
        fn new() -> Result<Self> {
            Self::on(kunit::socket(bindings::sock_type_SOCK_STREAM, IPPROTO_TCP)?)
        }

        fn on(socket: Socket) -> Result<Self> {
            let pages = Pages::one_folio(7)?;
            let mut all = KVec::new();
            for page in pages.all() {
                all.push(page, GFP_KERNEL)?;
            }
            let addr = kunit::map(&all)?;
            let idle = pages.references(0);
            Ok(Self {
                socket,
                pages,
                addr,
                idle,
            })
        }

        fn pinned(&self) -> usize {
            self.pages.references(0) - self.idle
        }

        fn guard(&self, len: usize) -> Result<PinGuard<Source>> {
            PinGuard::new(self.addr, len)
        }

        /// A send of `len` bytes, that the socket has not taken yet.
        fn begin(&self, len: usize) -> Result<Sender> {
            self.begin_with(Buffer::Own(self.guard(len)?), 0..len)
        }

        fn begin_with(&self, buffer: Buffer, range: Range<usize>) -> Result<Sender> {
            let owner = ModuleRef::try_get(this_module!(Module));
            let flight = Flight::new(&self.socket, range.len(), buffer, None, owner)?;
            // INVARIANT: The reference that `ubuf` holds.
            let _ = Arc::into_raw(flight.clone());
            Ok(Sender { flight, range })
        }
    }

    /// The sender's reference on a `ubuf`, as `send_buffer` has it.
    struct Sender {
        flight: Arc<Flight>,
        range: Range<usize>,
    }

    impl Sender {
        fn took(&self, sent: usize, notify: Option<Arc<dyn Notify>>) -> InFlight {
            // SAFETY: The reference on `ubuf` is not put yet.
            let load = unsafe { &mut *self.flight.load.get() };
            self.flight.took(load, self.range.clone(), sent, notify);
            InFlight {
                flight: self.flight.clone(),
                sent,
            }
        }

        fn took_all(&self) -> InFlight {
            self.took(self.range.len(), None)
        }

        /// The pages get into an skb of their own.
        fn attach(&self) -> Result<Skb> {
            // SAFETY: The `ubuf` is held.
            unsafe { Skb::holding(self.flight.ubuf.get()) }
        }

        /// The pages get into an skb that may have others. An errno.
        fn join(&self, skb: &Skb) -> c_int {
            // SAFETY: The socket is that of this thread alone.
            unsafe { Flight::link_skb(skb.as_raw(), self.flight.ubuf.get()) }
        }
    }

    impl Drop for Sender {
        fn drop(&mut self) {
            // SAFETY: This is the sender's reference.
            unsafe { Flight::put(ptr::null_mut(), self.flight.ubuf.get(), true) };
        }
    }

    /// Counts how often it was told, and says which thread has dropped it.
    struct Told {
        times: Atomic<usize>,
        dropped_by: Option<&'static Atomic<i32>>,
    }

    impl Told {
        fn new(dropped_by: Option<&'static Atomic<i32>>) -> Result<Arc<Self>> {
            let told = Self {
                times: Atomic::new(0),
                dropped_by,
            };
            Ok(Arc::new(told, GFP_KERNEL)?)
        }

        fn times(&self) -> usize {
            self.times.load(Relaxed)
        }
    }

    impl Notify for Told {
        fn owner(&self) -> &'static ThisModule {
            this_module!(Module)
        }

        fn complete(&self) {
            self.times.add(1, Relaxed);
        }
    }

    impl Drop for Told {
        fn drop(&mut self) {
            if let Some(dropped_by) = self.dropped_by {
                dropped_by.store(kernel::current!().pid(), Relaxed);
            }
        }
    }

    #[test]
    fn the_last_skb_completes_a_send() -> Result {
        let stage = Stage::new()?;
        let in_flight_before = SENDS_IN_FLIGHT.load(Relaxed);
        let sender = stage.begin(3 * P)?;
        let (first, second) = (sender.attach()?, sender.attach()?);
        let sent = first.try_clone()?;
        let flight = sender.took_all();
        let waits = || flight.wait(1) == Err(ETIMEDOUT) && flight.pages() == 3;
        assert_eq!(flight.sent(), 3 * P);
        assert_eq!(SENDS_IN_FLIGHT.load(Relaxed), in_flight_before + 1);
        drop(sender);
        assert!(waits());
        drop(first);
        assert!(waits());
        drop(second);
        assert!(waits() && !flight.is_complete());
        assert_eq!(stage.pinned(), 3);
        drop(sent);
        assert!(flight.is_complete());
        assert_eq!(flight.pages(), 0);
        assert_eq!(flight.wait(1), Ok(()));
        assert_eq!(flight.wait(1), Ok(()));
        assert_eq!(stage.pinned(), 0);
        assert!(!flight.copied());
        assert_eq!(SENDS_IN_FLIGHT.load(Relaxed), in_flight_before);
        Ok(())
    }

    #[test]
    fn the_sender_may_be_the_last() -> Result {
        let stage = Stage::new()?;
        let sender = stage.begin(P)?;
        drop(sender.attach()?);
        let flight = sender.took_all();
        assert!(!flight.is_complete());
        assert_eq!(stage.pinned(), 1);
        drop(sender);
        assert!(flight.is_complete() && !flight.copied());
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    #[test]
    fn what_is_copied_is_said_so() -> Result {
        let stage = Stage::new()?;
        // At once: no skb ever held the pages.
        let sender = stage.begin(P)?;
        let flight = sender.took_all();
        drop(sender);
        assert!(flight.is_complete() && flight.copied());

        // One of two skbs: the other still has the pages.
        let sender = stage.begin(P)?;
        let (first, second) = (sender.attach()?, sender.attach()?);
        let flight = sender.took_all();
        drop(sender);
        first.copy()?;
        drop(first);
        assert!(!flight.is_complete());
        assert_eq!(stage.pinned(), 1);
        drop(second);
        assert!(flight.is_complete() && flight.copied());
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    #[test]
    fn a_send_that_fails_tells_nobody() -> Result {
        let stage = Stage::new()?;
        let counters = || (SENDS.load(Relaxed), SENDS_IN_FLIGHT.load(Relaxed));
        let before = counters();
        let told = Told::new(None)?;
        let options = SendOptions::default();
        let send = |guard| stage.socket.send(guard, options, Some(told.clone()));
        // Not connected.
        assert_eq!(send(stage.guard(P)?).err(), Some(EPIPE));
        assert_eq!(stage.pinned(), 0);
        let guard = Arc::new(stage.guard(2 * P)?, GFP_KERNEL)?;
        for range in [0..0, 1..1, 0..2 * P + 1, 2 * P..2 * P + 1, 5..usize::MAX] {
            let sent = stage
                .socket
                .send_shared(&guard, range, options, Some(told.clone()));
            assert_eq!(sent.err(), Some(EINVAL));
        }
        let sent = stage
            .socket
            .send_shared(&guard, 1..2 * P, options, Some(told.clone()));
        assert_eq!(sent.err(), Some(EPIPE));
        assert_eq!(stage.pinned(), 2);
        drop(guard);
        assert_eq!(stage.pinned(), 0);
        assert_eq!(told.times(), 0);
        assert_eq!(counters(), before);
        Ok(())
    }

    #[test]
    fn a_datagram_is_one_send() -> Result {
        let stage = Stage::on(kunit::socket(bindings::sock_type_SOCK_DGRAM, IPPROTO_UDP)?)?;
        let more = SendOptions {
            more: true,
            ..SendOptions::default()
        };
        assert_eq!(
            stage.socket.send(stage.guard(P)?, more, None).err(),
            Some(EINVAL)
        );
        let sent = stage
            .socket
            .send(stage.guard(P)?, SendOptions::default(), None);
        assert_eq!(sent.err(), Some(error(bindings::EDESTADDRREQ)));
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    #[test]
    fn a_short_send_keeps_what_was_taken() -> Result {
        let stage = Stage::new()?;
        for (sent, pages) in [(1, 1), (P, 1), (P + 1, 2), (5 * P - 1, 5), (5 * P, 5)] {
            let sender = stage.begin(5 * P)?;
            let skb = sender.attach()?;
            let flight = sender.took(sent, None);
            drop(sender);
            assert_eq!(
                (flight.sent(), flight.pages(), stage.pinned()),
                (sent, pages, pages)
            );
            drop(skb);
            assert!(flight.is_complete());
            assert_eq!(stage.pinned(), 0);
        }
        Ok(())
    }

    #[test]
    fn sends_share_the_pins_of_a_guard() -> Result {
        let stage = Stage::new()?;
        let guard = Arc::new(stage.guard(8 * P)?, GFP_KERNEL)?;
        let begin = |range| stage.begin_with(Buffer::Shared(guard.clone()), range);
        let (a, b) = (begin(P - 1..3 * P + 1)?, begin(0..P)?);
        let skbs = (a.attach()?, b.attach()?);
        let (first, second) = (a.took(P + 2, None), b.took_all());
        drop((a, b));
        assert_eq!((first.pages(), second.pages()), (3, 1));
        drop(guard);
        assert_eq!(stage.pinned(), 8);
        drop(skbs.0);
        assert!(first.is_complete() && !second.is_complete());
        assert_eq!(stage.pinned(), 8);
        drop(skbs.1);
        assert!(second.is_complete());
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    /// Who holds a part of a chain.
    enum Holder {
        Sender(#[expect(dead_code)] Sender),
        Skb(#[expect(dead_code)] Skb),
    }

    #[test]
    fn a_chain_is_complete_when_all_have_let_go_in_any_order() -> Result {
        let stage = Stage::new()?;
        // The digits of `order` say who is next.
        for order in 0..5usize.pow(5) {
            let order: [usize; 5] = core::array::from_fn(|i| order / 5usize.pow(i as u32) % 5);
            if (0..5).any(|who| !order.contains(&who)) {
                continue;
            }
            let senders = [stage.begin(3)?, stage.begin(P)?, stage.begin(2 * P)?];
            let skb = senders[0].attach()?;
            assert_eq!(senders[1].join(&skb), 0);
            assert_eq!(senders[2].join(&skb), 0);
            // The last has more than that skb has room for.
            let more = senders[2].attach()?;
            let flights = [0, 1, 2].map(|i: usize| senders[i].took_all());
            let [a, b, c] = senders.map(Holder::Sender);
            let mut holders = [a, b, c, Holder::Skb(skb), Holder::Skb(more)].map(Some);
            for (i, who) in order.into_iter().enumerate() {
                assert!(flights.iter().all(|flight| !flight.is_complete()));
                assert_eq!(stage.pinned(), 4);
                holders[who] = None;
                assert_eq!(flights[0].is_complete(), i == 4);
            }
            assert!(flights
                .iter()
                .all(|flight| flight.is_complete() && !flight.copied()));
            assert_eq!(stage.pinned(), 0);
        }
        Ok(())
    }

    #[test]
    fn a_copy_of_one_is_a_copy_of_all_in_its_chain() -> Result {
        let stage = Stage::new()?;
        let (a, b) = (stage.begin(P)?, stage.begin(P)?);
        let skb = a.attach()?;
        assert_eq!(b.join(&skb), 0);
        let (first, second) = (a.took_all(), b.took_all());
        drop((a, b));
        skb.copy()?;
        assert!(first.is_complete() && first.copied());
        assert!(second.is_complete() && second.copied());
        Ok(())
    }

    #[test]
    fn a_chain_ends_at_256_sends() -> Result {
        let stage = Stage::new()?;
        let told = Told::new(None)?;
        let mut flights = KVec::new();
        let head = stage.begin(1)?;
        let skb = head.attach()?;
        flights.push(head.took(1, Some(told.clone())), GFP_KERNEL)?;
        for _ in 1..256 {
            let sender = stage.begin(1)?;
            assert_eq!(sender.join(&skb), 0);
            flights.push(sender.took(1, Some(told.clone())), GFP_KERNEL)?;
        }
        let sender = stage.begin(1)?;
        assert_eq!(sender.join(&skb), EEXIST);
        let alone = sender.took_all();
        drop(head);
        // It does not wait for the others.
        drop(sender);
        assert!(alone.is_complete());
        assert!(flights.iter().all(|flight| !flight.is_complete()));
        assert_eq!(told.times(), 0);
        drop(skb);
        assert!(flights.iter().all(|flight| flight.is_complete()));
        assert_eq!(told.times(), 256);
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    #[test]
    fn a_chain_ends_at_512_kib() -> Result {
        let stage = Stage::new()?;
        let (a, b, c) = (
            stage.begin(300 << 10)?,
            stage.begin(212 << 10)?,
            stage.begin(1)?,
        );
        let skb = a.attach()?;
        assert_eq!(b.join(&skb), 0);
        assert_eq!(c.join(&skb), EEXIST);
        drop((a, b, c));
        // One byte more than there is room for.
        let (a, b) = (stage.begin(300 << 10)?, stage.begin((212 << 10) + 1)?);
        let other = a.attach()?;
        assert_eq!(b.join(&other), EEXIST);
        drop((a, b, skb, other));
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    #[test]
    fn what_does_not_join_a_chain() -> Result {
        let stage = Stage::new()?;
        let begin = || stage.begin(P);
        let (a, b, c, d) = (begin()?, begin()?, begin()?, begin()?);
        // Nobody is there yet, or the send itself.
        assert_eq!(a.join(&Skb::new()?), 0);
        let (mut skb, other) = (a.attach()?, c.attach()?);
        assert_eq!(a.join(&skb), 0);
        // Two chains are not joined: by a head, nor by a follower.
        assert_eq!(b.join(&skb), 0);
        assert_eq!(a.join(&other), EEXIST);
        assert_eq!(b.join(&other), EEXIST);
        // No room for its pages.
        let frags = mem::replace(&mut skb.shared().nr_frags, bindings::MAX_SKB_FRAGS as u8);
        let result = d.join(&skb);
        skb.shared().nr_frags = frags;
        assert_eq!(result, EEXIST);
        // Somebody else's.
        static OTHERS: bindings::ubuf_info_ops = bindings::ubuf_info_ops {
            complete: Some(ignore),
            link_skb: None,
        };
        let mut others = bindings::ubuf_info {
            ops: &OTHERS,
            flags: bindings::SKBFL_ZEROCOPY_ENABLE as u8,
            ..Default::default()
        };
        // SAFETY: It lives longer than the skb.
        unsafe { bindings::refcount_set(&raw mut others.refcnt, 1) };
        // SAFETY: It is valid.
        let foreign = unsafe { Skb::holding(&mut others) }?;
        assert_eq!(d.join(&foreign), EEXIST);
        drop(foreign);
        // So it is alone.
        let flight = d.took_all();
        drop(d);
        assert!(flight.is_complete());
        drop((a, b, c, skb, other));
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    /// # Safety
    ///
    /// None.
    unsafe extern "C" fn ignore(
        _skb: *mut bindings::sk_buff,
        _ubuf: *mut bindings::ubuf_info,
        _zerocopy_success: bool,
    ) {
    }

    #[test]
    fn who_is_told_last_is_let_go_where_it_may_sleep() -> Result {
        static DROPPED_BY: Atomic<i32> = Atomic::new(0);
        DROPPED_BY.store(0, Relaxed);
        let stage = Stage::new()?;
        let told = Told::new(Some(&DROPPED_BY))?;
        let sender = stage.begin(P)?;
        let skb = sender.attach()?;
        let flight = sender.took(P, Some(told));
        drop(sender);
        let lock = Arc::pin_init(kernel::new_spinlock!(()), GFP_KERNEL)?;
        let atomic = lock.lock();
        drop(skb);
        drop(atomic);
        assert!(flight.is_complete());
        assert!(eventually(|| DROPPED_BY.load(Relaxed) != 0));
        assert!(DROPPED_BY.load(Relaxed) != kernel::current!().pid());
        Ok(())
    }

    #[test]
    fn many_runs_are_let_go_by_a_workqueue() -> Result {
        let stage = Stage::new()?;
        let pages = Pages::folios(1)?;
        let mut all: KVec<Page> = KVec::new();
        for i in 0..=RUNS_AT_ONCE {
            all.push(pages.at(i % 2), GFP_KERNEL)?;
        }
        let addr = kunit::map(&all)?;
        let before = pages.references(0);
        for runs in [RUNS_AT_ONCE, RUNS_AT_ONCE + 1] {
            let guard = PinGuard::new(addr, runs * P)?;
            let sender = stage.begin_with(Buffer::Own(guard), 0..runs * P)?;
            let skb = sender.attach()?;
            let flight = sender.took_all();
            assert_eq!(flight.pages(), runs);
            drop((sender, skb));
            assert!(flight.is_complete());
            assert_eq!(flight.wait(1), Ok(()));
            drop(flight);
            if runs == RUNS_AT_ONCE {
                assert_eq!(pages.references(0), before);
            }
            assert!(eventually(|| pages.references(0) == before));
        }
        Ok(())
    }

    #[test]
    fn only_a_connection_is_aborted() -> Result {
        for (kind, protocol, expected) in [
            (bindings::sock_type_SOCK_STREAM, IPPROTO_TCP, Ok(())),
            (
                bindings::sock_type_SOCK_DGRAM,
                IPPROTO_UDP,
                Err(error(bindings::EOPNOTSUPP)),
            ),
        ] {
            let stage = Stage::on(kunit::socket(kind, protocol)?)?;
            let sender = stage.begin(P)?;
            let skb = sender.attach()?;
            let flight = sender.took_all();
            drop((sender, stage.socket));
            assert_eq!(flight.abort(), expected);
            // An abort is no end: an skb has the pages.
            assert!(!flight.is_complete());
            drop(skb);
            assert!(flight.is_complete());
            assert_eq!(flight.abort(), expected);
        }
        Ok(())
    }
}
