// SPDX-License-Identifier: GPL-2.0

//! The send guard: pages that a socket sends stay pinned until the last skb that refers to them has
//! been freed. Then the sender gets a notification.
//!
//! An skb that takes pages takes a reference on the `ubuf_info` that came with them
//! (`skb_zcopy_set()`). It drops the reference when its data is freed: the data has been
//! acknowledged or given up, and qdisc and NIC have freed their clones. It also drops the reference
//! when the stack has copied the pages, as for a packet tap (`skb_copy_ubufs()`). So the last
//! reference is the end, whatever was retransmitted.
//!
//! An skb can hold only one `ubuf_info`. A send that begins in the skb of another send joins the
//! *chain* of that send, instead of breaking the TCP segment in two. All sends of a chain complete
//! together.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod notif;
mod notify;
mod skb;
mod socket;

pub(crate) use notif::counters;
pub use notify::{HasNotifier, Notifier, Notify};
pub use socket::Socket;

use crate::{
    ffi::*,
    pin::{Charge, PinGuard, Run, Source},
};
use core::{ops::Range, ptr};
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{Acquire, Relaxed},
        Arc,
    },
    time::Jiffies,
};
use notif::{Buffer, Notif, Part, Parts};
use socket::Protocol;

/// A send that the socket has taken. Clones of the value stand for the same send.
///
/// The pages stay pinned until [`InFlight::is_complete`]: the peer has acknowledged the data, and
/// no queue, no NIC and no retransmission refers to the pages. If the peer is gone, this takes
/// until TCP gives up: minutes, perhaps longer than the sender lives. [`InFlight::abort`] makes TCP
/// give up at once.
///
/// Drop the value in task context. The drop does not affect the send.
///
/// C: [`struct ubuf_info`](srctree/include/linux/skbuff.h),
/// [`skb_release_data()`](srctree/net/core/skbuff.c)
///
/// # Examples
///
/// ```
/// use kernel::{prelude::*, time::msecs_to_jiffies};
/// use pin_guard::InFlight;
///
/// fn finish(send: &InFlight) -> Result<usize> {
///     if let Err(e) = send.wait(msecs_to_jiffies(1000)) {
///         send.abort()?;
///         // The pages are in use until the send is complete.
///         return Err(e);
///     }
///     Ok(send.sent())
/// }
/// ```
#[derive(Clone)]
pub struct InFlight {
    notif: Arc<Notif>,
    sent: usize,
}

impl InFlight {
    /// Returns the number of bytes that the socket took.
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Returns the number of pages that the send still holds: 0 if it is complete. Any context.
    pub fn pages(&self) -> usize {
        self.notif.pages.load(Acquire)
    }

    /// Returns whether the memory may be reused, because nothing refers to the pages any more. Any
    /// context.
    pub fn is_complete(&self) -> bool {
        self.pages() == 0
    }

    /// Returns whether the stack has copied data of this send, or of one in its chain. Any context.
    ///
    /// The stack does so for a receiver on this machine, for a packet tap, for a NIC without
    /// checksums, and for a UDP datagram of several fragments.
    pub fn copied(&self) -> bool {
        self.notif.copied.load(Relaxed)
    }

    /// Waits until the send is complete, at most `limit` jiffies. Sleeps.
    ///
    /// C: [`wait_for_completion_killable_timeout()`](srctree/kernel/sched/completion.c)
    ///
    /// # Errors
    ///
    /// After an error the send is still in flight.
    ///
    /// - `ETIMEDOUT`: `limit` jiffies have passed.
    /// - `EINTR`: the task has been killed.
    pub fn wait(&self, limit: Jiffies) -> Result {
        // SAFETY: The completion is initialised.
        let ret = unsafe {
            bindings::wait_for_completion_killable_timeout(
                self.notif.done.get(),
                limit.min(c_long::MAX as Jiffies),
            )
        };
        match ret {
            0 => Err(ETIMEDOUT),
            n if n < 0 => Err(EINTR),
            _ => Ok(()),
        }
    }

    /// Resets the TCP connection of the send, unless the send is complete. May sleep.
    ///
    /// The send completes as soon as qdisc and NIC have freed their clones, which may be after this
    /// function has returned.
    ///
    /// The connection is the one that the socket has now: if user space has connected the socket
    /// again, this resets the new connection.
    ///
    /// C: [`tcp_abort()`](srctree/net/ipv4/tcp.c), as `ss -K` does
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the socket is UDP, which has no connection to reset and keeps no data for a
    /// peer.
    pub fn abort(&self) -> Result {
        if self.is_complete() {
            self.notif.sock.can_abort()
        } else {
            self.notif.sock.abort()
        }
    }
}

/// Options of a send. By default all are off.
#[derive(Clone, Copy, Default)]
pub struct SendOptions {
    /// If the socket has no room, return `EAGAIN` or send a part instead of waiting (MSG_DONTWAIT).
    /// A file with O_NONBLOCK does not wait either.
    pub dont_wait: bool,
    /// More data will follow: send no small segment for now (MSG_MORE). Only for TCP.
    pub more: bool,
    /// On a socket that cannot send without a copy (kTLS and other ULPs, sockmap, TCP with MTU
    /// probing), let the stack copy. Without this option the send fails with `EOPNOTSUPP`.
    pub copy_ok: bool,
}

impl Socket {
    /// Sends the memory of `guard`, and releases the guard when the send is complete.
    ///
    /// The socket may take fewer bytes than the guard has, as with send(2); see [`InFlight::sent`].
    /// The guard then releases the pins of the other bytes.
    ///
    /// While the pages are in flight, they count as locked memory of the current user
    /// (RLIMIT_MEMLOCK), as with MSG_ZEROCOPY, unless they already do ([`PinGuard::long_term`]).
    ///
    /// `notify` is called once when the send is complete, unless this function fails.
    ///
    /// May sleep, for memory, for the lock of the socket, and for room in it
    /// ([`SendOptions::dont_wait`]).
    ///
    /// C: [`sock_sendmsg()`](srctree/net/socket.c),
    /// [`tcp_sendmsg_locked()`](srctree/net/ipv4/tcp.c),
    /// [`ip_append_data()`](srctree/net/ipv4/ip_output.c)
    ///
    /// # Errors
    ///
    /// After an error nothing has been sent, and no page is pinned, or not for long: a workqueue
    /// releases what has more than 1024 runs. But if a netfilter rule or tc has duplicated the
    /// datagram that failed, the copy is sent, and the pages stay pinned until it is freed, which
    /// nobody is told, as with MSG_ZEROCOPY. The errors are those of send(2) on
    /// that socket, among them `EAGAIN`, `ENOTCONN`, `EDESTADDRREQ`, `EPIPE` (without a signal)
    /// and `ERESTARTSYS` (a signal came while the send waited for room), and:
    ///
    /// - `ENOBUFS`: the user is over RLIMIT_MEMLOCK.
    /// - `EOPNOTSUPP`: the socket cannot send without a copy; see [`SendOptions::copy_ok`].
    /// - `EINVAL`: the datagram is corked, by [`SendOptions::more`] or UDP_CORK. Each send is one
    ///   datagram.
    /// - `EMSGSIZE`: the datagram does not fit, or has more than 17 runs (MAX_SKB_FRAGS).
    /// - `ENOMEM`: there is no memory for the send.
    /// - `ENODEV`: the module of `notify` is being unloaded.
    ///
    /// # Examples
    ///
    /// ```
    /// # use kernel::prelude::*;
    /// # use pin_guard::{InFlight, PinGuard, SendOptions, Socket, Source};
    /// fn send(fd: i32, addr: usize, len: usize) -> Result<InFlight> {
    ///     let guard = PinGuard::<Source>::new(addr, len)?;
    ///     Socket::from_fd(fd)?.send(guard, SendOptions::default(), None)
    /// }
    /// ```
    pub fn send(
        &self,
        guard: PinGuard<Source>,
        options: SendOptions,
        notify: Option<Notifier>,
    ) -> Result<InFlight> {
        let mut batch = self.batch();
        batch.add(guard)?;
        batch.send(options, notify)
    }

    /// Like [`Socket::send`], for the bytes `range` of a guard that several sends share.
    ///
    /// The pins live until the last of the sends is complete and the caller has dropped the guard.
    /// Use a [`PinGuard::long_term`]: if the guard is not charged yet, each send is charged all of
    /// it.
    ///
    /// # Errors
    ///
    /// As [`Socket::send`], and `EINVAL` if `range` is empty or goes beyond the guard. The guard
    /// keeps its pins.
    ///
    /// # Examples
    ///
    /// ```
    /// # use kernel::{prelude::*, sync::Arc};
    /// # use pin_guard::{PinGuard, SendOptions, Socket, Source};
    /// fn send_in_two_parts(socket: &Socket, buffer: &Arc<PinGuard<Source>>) -> Result {
    ///     let (middle, end) = (buffer.len() / 2, buffer.len());
    ///     let options = SendOptions::default();
    ///     socket.send_shared(buffer, 0..middle, options, None)?;
    ///     socket.send_shared(buffer, middle..end, options, None)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn send_shared(
        &self,
        guard: &Arc<PinGuard<Source>>,
        range: Range<usize>,
        options: SendOptions,
        notify: Option<Notifier>,
    ) -> Result<InFlight> {
        let mut batch = self.batch();
        batch.add_shared(guard, range)?;
        batch.send(options, notify)
    }

    /// Begins a batch. Nothing is sent before [`Batch::send`].
    pub fn batch(&self) -> Batch<'_> {
        Batch {
            socket: self,
            parts: Parts::default(),
        }
    }
}

/// Several pieces of memory for one send, which costs less than a send for each piece.
///
/// On a TCP socket the pieces follow each other in the stream, as those of writev(2). On a UDP
/// socket each piece is a datagram, as those of sendmmsg(2).
///
/// # Examples
///
/// ```
/// # use kernel::prelude::*;
/// # use pin_guard::{InFlight, PinGuard, SendOptions, Socket, Source};
/// fn send_all(socket: &Socket, pieces: &[(usize, usize)]) -> Result<InFlight> {
///     let mut batch = socket.batch();
///     for &(addr, len) in pieces {
///         batch.add(PinGuard::new(addr, len)?)?;
///     }
///     batch.send(SendOptions::default(), None)
/// }
/// ```
pub struct Batch<'a> {
    socket: &'a Socket,
    parts: Parts,
}

impl Batch<'_> {
    /// Adds the memory of `guard`. May sleep.
    ///
    /// # Errors
    ///
    /// - `E2BIG`: there are 256 pieces already.
    /// - `ENOMEM`: there is no memory for the list of the pieces.
    pub fn add(&mut self, guard: PinGuard<Source>) -> Result {
        let range = 0..guard.len();
        let buffer = Buffer::Own(guard);
        // INVARIANT: A guard has at least one byte.
        self.parts.push(Part { buffer, range })
    }

    /// Adds the bytes `range` of a guard that several sends share; see [`Socket::send_shared`]. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// As [`Batch::add`], and `EINVAL` if `range` is empty or goes beyond the guard.
    pub fn add_shared(&mut self, guard: &Arc<PinGuard<Source>>, range: Range<usize>) -> Result {
        if range.is_empty() || range.end > guard.len() {
            return Err(EINVAL);
        }
        let buffer = Buffer::Shared(guard.clone());
        // INVARIANT: The range has been checked above.
        self.parts.push(Part { buffer, range })
    }

    /// Sends all pieces, and releases the guards when the send is complete.
    ///
    /// The socket may take fewer bytes than the pieces have; see [`InFlight::sent`]. The guards of
    /// the other bytes are released at once, except the guard of a UDP datagram that failed, which
    /// is released when the send is complete. Otherwise as [`Socket::send`].
    ///
    /// # Errors
    ///
    /// As [`Socket::send`], for the first datagram of UDP, and `EINVAL` if there is no piece.
    pub fn send(self, options: SendOptions, notify: Option<Notifier>) -> Result<InFlight> {
        let Self { socket, parts } = self;
        let zerocopy = socket.can_zerocopy();
        if !zerocopy && !options.copy_ok {
            return Err(error(bindings::EOPNOTSUPP));
        }
        // A datagram can hold the pages of only one send (`__ip_append_data()`).
        if (options.more && socket.protocol() == Protocol::Udp) || socket.is_corked() {
            return Err(EINVAL);
        }
        let mut flags = 0;
        if options.dont_wait {
            flags |= bindings::MSG_DONTWAIT;
        }
        if options.more {
            flags |= bindings::MSG_MORE;
        }
        let charge = match parts.uncharged() {
            pages @ 1.. if zerocopy => {
                Some(Charge::new(pages).map_err(|_| error(bindings::ENOBUFS))?)
            }
            _ => None,
        };
        let notify = notify.map(Notifier::hold).transpose()?;

        let notif = Notif::new(socket, parts, charge)?;
        let ubuf = notif.ubuf.get();
        // INVARIANT: `ubuf` owns this reference.
        let _ = Arc::into_raw(notif.clone());

        // SAFETY: By the invariants of `Notif`, only the sender uses `load` until it drops its
        // reference on `ubuf`.
        let load = unsafe { &mut *notif.load.get() };
        // SAFETY: `notif` holds the pins until the last reference on `ubuf` is dropped.
        let sent = unsafe {
            let ubuf = if zerocopy { ubuf } else { ptr::null_mut() };
            socket.transmit_parts(&load.parts, flags, ubuf)
        };
        if let Ok((_, tried)) = sent {
            notif.took(load, tried, notify);
        }
        // SAFETY: The sender owns this reference.
        unsafe { Notif::put(ptr::null_mut(), ubuf, true) };
        let (sent, _) = sent?;
        Ok(InFlight { notif, sent })
    }
}

impl Socket {
    /// Sends the parts like [`Socket::transmit`]: a datagram for each on UDP, the next bytes of the
    /// stream on TCP. Returns the number of bytes that the socket took, and the number of bytes
    /// that were tried: the first fragments of a datagram that failed may be on their way.
    ///
    /// # Safety
    ///
    /// `ubuf` must be null; or valid, and the caller must own a reference on it. `parts` must live
    /// until the last reference on `ubuf` is dropped.
    unsafe fn transmit_parts(
        &self,
        parts: &Parts,
        flags: u32,
        ubuf: *mut bindings::ubuf_info,
    ) -> Result<(usize, usize)> {
        let mut iter = parts.iter();
        let first = iter.next().ok_or(EINVAL)?;
        let one = |part: &Part| {
            let (runs, start) = part.buffer.guard().runs_at(part.range.start);
            // SAFETY: By the safety requirements and the invariants of `Part`.
            unsafe { self.transmit(Run::as_bio_vecs(runs), start, part.range.len(), flags, ubuf) }
        };
        if self.protocol() == Protocol::Udp {
            let mut sent = one(first)?;
            let mut tried = sent;
            for part in iter {
                tried += part.range.len();
                match one(part) {
                    Ok(bytes) => sent += bytes,
                    Err(_) => break,
                }
            }
            return Ok((sent, tried));
        }
        let sent = if iter.next().is_none() {
            one(first)?
        } else {
            let bvecs = parts.bio_vecs()?;
            // SAFETY: As above. The array has all bytes of the parts.
            unsafe { self.transmit(&bvecs, 0, parts.bytes(), flags, ubuf) }?
        };
        Ok((sent, sent))
    }
}

#[kunit_tests(pin_guard_send)]
mod tests {
    use super::{
        kunit::{socket, Skb},
        notif::RUNS_AT_ONCE,
        socket::{IPPROTO_TCP, IPPROTO_UDP},
        *,
    };
    use crate::{
        counters::Counter,
        impl_has_notifier,
        kunit::{self, eventually, Page, Pages},
    };
    use core::mem;
    use kernel::{page::PAGE_SIZE, sync::atomic::Atomic};

    const P: usize = PAGE_SIZE;
    const EEXIST: c_int = -(bindings::EEXIST as c_int);

    /// A socket, and 512 KiB of user memory in one folio to send from.
    struct Stage {
        socket: Socket,
        pages: Pages,
        addr: usize,
        idle: usize,
    }

    impl Stage {
        fn new() -> Result<Self> {
            Self::on(socket(bindings::sock_type_SOCK_STREAM, IPPROTO_TCP)?)
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

        /// Begins a send of `len` bytes, which the socket has not taken yet.
        fn begin(&self, len: usize) -> Result<Sender> {
            self.begin_with(Buffer::Own(self.guard(len)?), 0..len)
        }

        fn begin_with(&self, buffer: Buffer, range: Range<usize>) -> Result<Sender> {
            self.begin_parts(self.parts(buffer, range)?)
        }

        fn parts(&self, buffer: Buffer, range: Range<usize>) -> Result<Parts> {
            let mut parts = Parts::default();
            parts.push(Part { buffer, range })?;
            Ok(parts)
        }

        fn begin_parts(&self, parts: Parts) -> Result<Sender> {
            let len = parts.bytes();
            let notif = Notif::new(&self.socket, parts, None)?;
            // INVARIANT: `ubuf` owns this reference.
            let _ = Arc::into_raw(notif.clone());
            Ok(Sender { notif, len })
        }
    }

    /// The sender's reference on a `ubuf`, as `Batch::send` has it.
    struct Sender {
        notif: Arc<Notif>,
        len: usize,
    }

    impl Sender {
        fn took(&self, sent: usize, notify: Option<Notifier>) -> InFlight {
            let notify = notify.and_then(|notify| notify.hold().ok());
            // SAFETY: The sender has not dropped its reference on `ubuf` yet.
            let load = unsafe { &mut *self.notif.load.get() };
            self.notif.took(load, sent, notify);
            InFlight {
                notif: self.notif.clone(),
                sent,
            }
        }

        fn took_all(&self) -> InFlight {
            self.took(self.len, None)
        }

        /// Puts the pages into an skb of their own.
        fn attach(&self) -> Result<Skb> {
            // SAFETY: `notif` keeps the `ubuf` valid, and the sender owns a reference on it.
            unsafe { Skb::holding(self.notif.ubuf.get()) }
        }

        /// Puts the pages into an skb that may have the pages of other sends. Returns 0 or an
        /// errno.
        fn join(&self, skb: &Skb) -> c_int {
            // SAFETY: Only this thread uses the socket, so it needs no lock.
            unsafe { Notif::link_skb(skb.as_raw(), self.notif.ubuf.get()) }
        }
    }

    impl Drop for Sender {
        fn drop(&mut self) {
            // SAFETY: The sender owns this reference.
            unsafe { Notif::put(ptr::null_mut(), self.notif.ubuf.get(), true) };
        }
    }

    /// A notifier that counts its calls, and stores the thread that drops it.
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

    impl_has_notifier! {
        impl HasNotifier for Told
    }

    impl Notify for Told {
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
        let in_flight_before = Counter::SendsInFlight.sum();
        let sender = stage.begin(3 * P)?;
        let (first, second) = (sender.attach()?, sender.attach()?);
        let sent = first.try_clone()?;
        let send = sender.took_all();
        let waits = || send.wait(1) == Err(ETIMEDOUT) && send.pages() == 3;
        assert_eq!(send.sent(), 3 * P);
        assert_eq!(Counter::SendsInFlight.sum(), in_flight_before + 1);
        drop(sender);
        assert!(waits());
        drop(first);
        assert!(waits());
        drop(second);
        assert!(waits() && !send.is_complete());
        assert_eq!(stage.pinned(), 3);
        drop(sent);
        assert!(send.is_complete());
        assert_eq!(send.pages(), 0);
        assert_eq!(send.wait(1), Ok(()));
        assert_eq!(send.wait(1), Ok(()));
        assert_eq!(stage.pinned(), 0);
        assert!(!send.copied());
        assert_eq!(Counter::SendsInFlight.sum(), in_flight_before);
        Ok(())
    }

    #[test]
    fn the_sender_may_be_the_last() -> Result {
        let stage = Stage::new()?;
        let sender = stage.begin(P)?;
        drop(sender.attach()?);
        let send = sender.took_all();
        assert!(!send.is_complete());
        assert_eq!(stage.pinned(), 1);
        drop(sender);
        assert!(send.is_complete() && !send.copied());
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    #[test]
    fn what_is_copied_is_said_so() -> Result {
        let stage = Stage::new()?;
        // The stack has copied at once: no skb ever held the pages.
        let sender = stage.begin(P)?;
        let send = sender.took_all();
        drop(sender);
        assert!(send.is_complete() && send.copied());

        // The stack copies one of two skbs; the other still has the pages.
        let sender = stage.begin(P)?;
        let (first, second) = (sender.attach()?, sender.attach()?);
        let send = sender.took_all();
        drop(sender);
        first.copy()?;
        drop(first);
        assert!(!send.is_complete());
        assert_eq!(stage.pinned(), 1);
        drop(second);
        assert!(send.is_complete() && send.copied());
        assert_eq!(stage.pinned(), 0);
        Ok(())
    }

    #[test]
    fn a_send_that_fails_tells_nobody() -> Result {
        let stage = Stage::new()?;
        let counters = || (Counter::Sends.sum(), Counter::SendsInFlight.sum());
        let before = counters();
        let told = Told::new(None)?;
        let options = SendOptions::default();
        let send = |guard| stage.socket.send(guard, options, Some(told.clone().into()));
        // The socket is not connected.
        assert_eq!(send(stage.guard(P)?).err(), Some(EPIPE));
        assert_eq!(stage.pinned(), 0);
        let guard = Arc::new(stage.guard(2 * P)?, GFP_KERNEL)?;
        for range in [0..0, 1..1, 0..2 * P + 1, 2 * P..2 * P + 1, 5..usize::MAX] {
            let sent = stage
                .socket
                .send_shared(&guard, range, options, Some(told.clone().into()));
            assert_eq!(sent.err(), Some(EINVAL));
        }
        let sent = stage
            .socket
            .send_shared(&guard, 1..2 * P, options, Some(told.clone().into()));
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
        let stage = Stage::on(socket(bindings::sock_type_SOCK_DGRAM, IPPROTO_UDP)?)?;
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
            let send = sender.took(sent, None);
            drop(sender);
            assert_eq!(
                (send.sent(), send.pages(), stage.pinned()),
                (sent, pages, pages)
            );
            drop(skb);
            assert!(send.is_complete());
            assert_eq!(stage.pinned(), 0);
        }
        Ok(())
    }

    #[test]
    fn a_short_batch_keeps_what_was_taken() -> Result {
        let stage = Stage::new()?;
        let shared = Arc::new(stage.guard(4 * P)?, GFP_KERNEL)?;
        // The parts touch one page, two pages of the shared guard, and three pages.
        for (sent, pages, pinned) in [
            (1, 1, 4 + 1),
            (P, 1, 4 + 1),
            (P + 1, 2, 4 + 1),
            (2 * P + 1, 3, 4 + 1),
            (2 * P + 2, 4, 4 + 1 + 1),
            (4 * P + 1, 5, 4 + 1 + 2),
            (5 * P + 1, 6, 4 + 1 + 3),
        ] {
            let mut parts = stage.parts(Buffer::Own(stage.guard(P)?), 0..P)?;
            let (buffer, range) = (Buffer::Shared(shared.clone()), P - 1..2 * P);
            parts.push(Part { buffer, range })?;
            let (buffer, range) = (Buffer::Own(stage.guard(3 * P)?), 0..3 * P);
            parts.push(Part { buffer, range })?;
            let sender = stage.begin_parts(parts)?;
            let skb = sender.attach()?;
            let send = sender.took(sent, None);
            drop(sender);
            assert_eq!((send.pages(), stage.pinned()), (pages, pinned));
            drop(skb);
            assert!(send.is_complete());
            assert_eq!(stage.pinned(), 4);
        }
        Ok(())
    }

    #[test]
    fn parts_are_one_array_of_runs() -> Result {
        let stage = Stage::new()?;
        let pages = Pages::folios(2)?;
        let mut all = KVec::new();
        for page in pages.all() {
            all.push(page, GFP_KERNEL)?;
        }
        let small = Arc::new(
            PinGuard::new(kunit::map(&all)? + 10, 4 * P - 20)?,
            GFP_KERNEL,
        )?;
        let mut parts = stage.parts(Buffer::Own(stage.guard(3 * P)?), 0..3 * P)?;
        for range in [
            0..1,
            P - 10..P - 9,
            P - 11..3 * P - 10,
            4 * P - 21..4 * P - 20,
        ] {
            let buffer = Buffer::Shared(small.clone());
            parts.push(Part { buffer, range })?;
        }
        let bvecs = parts.bio_vecs()?;
        let expected = [
            (stage.pages.at(0), 0, 3 * P),
            (pages.at(0), 10, 1),
            (pages.at(1), 0, 1),
            (pages.at(0), P - 1, 1),
            (pages.at(1), 0, P),
            (pages.at(2), 0, P),
            (pages.at(3), P - 11, 1),
        ];
        let place = |bvec: &bindings::bio_vec| {
            (bvec.bv_page, bvec.bv_offset as usize, bvec.bv_len as usize)
        };
        assert!(bvecs.iter().map(place).eq(expected));
        assert_eq!(parts.bytes(), bvecs.iter().map(|bvec| place(bvec).2).sum());
        Ok(())
    }

    #[test]
    fn a_batch_ends_at_256_pieces() -> Result {
        let stage = Stage::new()?;
        let mut batch = stage.socket.batch();
        assert_eq!(
            stage
                .socket
                .batch()
                .send(SendOptions::default(), None)
                .err(),
            Some(EINVAL)
        );
        for _ in 0..256 {
            batch.add(stage.guard(P)?)?;
        }
        assert_eq!(batch.add(stage.guard(P)?), Err(E2BIG));
        assert_eq!(stage.pinned(), 256);
        // The socket is not connected.
        assert_eq!(batch.send(SendOptions::default(), None).err(), Some(EPIPE));
        assert_eq!(stage.pinned(), 0);
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

    /// A holder of references in a chain.
    enum Holder {
        Sender(#[expect(dead_code)] Sender),
        Skb(#[expect(dead_code)] Skb),
    }

    #[test]
    fn a_chain_is_complete_when_all_have_let_go_in_any_order() -> Result {
        let stage = Stage::new()?;
        // The digits of `order` are the order in which the holders drop their references.
        for order in 0..5usize.pow(5) {
            let order: [usize; 5] = core::array::from_fn(|i| order / 5usize.pow(i as u32) % 5);
            if (0..5).any(|who| !order.contains(&who)) {
                continue;
            }
            let senders = [stage.begin(3)?, stage.begin(P)?, stage.begin(2 * P)?];
            let skb = senders[0].attach()?;
            assert_eq!(senders[1].join(&skb), 0);
            assert_eq!(senders[2].join(&skb), 0);
            // The last send also has pages in another skb.
            let more = senders[2].attach()?;
            let sends = [0, 1, 2].map(|i: usize| senders[i].took_all());
            let [a, b, c] = senders.map(Holder::Sender);
            let mut holders = [a, b, c, Holder::Skb(skb), Holder::Skb(more)].map(Some);
            for (i, who) in order.into_iter().enumerate() {
                assert!(sends.iter().all(|send| !send.is_complete()));
                assert_eq!(stage.pinned(), 4);
                holders[who] = None;
                assert_eq!(sends[0].is_complete(), i == 4);
            }
            assert!(sends
                .iter()
                .all(|send| send.is_complete() && !send.copied()));
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
        let mut sends = KVec::new();
        let head = stage.begin(1)?;
        let skb = head.attach()?;
        sends.push(head.took(1, Some(told.clone().into())), GFP_KERNEL)?;
        for _ in 1..256 {
            let sender = stage.begin(1)?;
            assert_eq!(sender.join(&skb), 0);
            sends.push(sender.took(1, Some(told.clone().into())), GFP_KERNEL)?;
        }
        let sender = stage.begin(1)?;
        assert_eq!(sender.join(&skb), EEXIST);
        let alone = sender.took_all();
        drop(head);
        // This send does not wait for the chain.
        drop(sender);
        assert!(alone.is_complete());
        assert!(sends.iter().all(|send| !send.is_complete()));
        assert_eq!(told.times(), 0);
        drop(skb);
        assert!(sends.iter().all(|send| send.is_complete()));
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
        // One byte too many.
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
        // The skb has no `ubuf_info` yet, or that of the send itself.
        assert_eq!(a.join(&Skb::new()?), 0);
        let (mut skb, other) = (a.attach()?, c.attach()?);
        assert_eq!(a.join(&skb), 0);
        // Two chains do not join: neither through a head nor through a follower.
        assert_eq!(b.join(&skb), 0);
        assert_eq!(a.join(&other), EEXIST);
        assert_eq!(b.join(&other), EEXIST);
        // The skb has no room for the pages.
        let frags = mem::replace(&mut skb.shared().nr_frags, bindings::MAX_SKB_FRAGS as u8);
        let result = d.join(&skb);
        skb.shared().nr_frags = frags;
        assert_eq!(result, EEXIST);
        // The `ubuf_info` of somebody else.
        static OTHERS: bindings::ubuf_info_ops = bindings::ubuf_info_ops {
            complete: Some(ignore),
            link_skb: None,
        };
        let mut others = bindings::ubuf_info {
            ops: &OTHERS,
            flags: bindings::SKBFL_ZEROCOPY_ENABLE as u8,
            ..Default::default()
        };
        // SAFETY: `others` is valid, and nobody else uses it yet.
        unsafe { bindings::refcount_set(&raw mut others.refcnt, 1) };
        // SAFETY: `others` is valid for longer than the skb lives.
        let foreign = unsafe { Skb::holding(&mut others) }?;
        assert_eq!(d.join(&foreign), EEXIST);
        drop(foreign);
        // `d` is still alone in its chain.
        let send = d.took_all();
        drop(d);
        assert!(send.is_complete());
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
    fn last_notifier_is_dropped_in_task_context() -> Result {
        static DROPPED_BY: Atomic<i32> = Atomic::new(0);
        DROPPED_BY.store(0, Relaxed);
        let stage = Stage::new()?;
        let told = Told::new(Some(&DROPPED_BY))?;
        let sender = stage.begin(P)?;
        let skb = sender.attach()?;
        let send = sender.took(P, Some(told.into()));
        drop(sender);
        let lock = Arc::pin_init(kernel::new_spinlock!(()), GFP_KERNEL)?;
        let atomic = lock.lock();
        drop(skb);
        drop(atomic);
        assert!(send.is_complete());
        assert!(eventually(|| DROPPED_BY.load(Relaxed) != 0));
        assert!(DROPPED_BY.load(Relaxed) != kernel::current!().pid());
        Ok(())
    }

    /// Maps two pages in turn, so that each of `runs` pages is a run. Returns them and the address.
    fn many_runs(runs: usize) -> Result<(Pages, usize)> {
        let pages = Pages::folios(1)?;
        let mut all: KVec<Page> = KVec::new();
        for i in 0..runs {
            all.push(pages.at(i % 2), GFP_KERNEL)?;
        }
        let addr = kunit::map(&all)?;
        Ok((pages, addr))
    }

    #[test]
    fn many_runs_are_let_go_by_a_workqueue() -> Result {
        let stage = Stage::new()?;
        let (pages, addr) = many_runs(RUNS_AT_ONCE + 1)?;
        let before = pages.references(0);
        for runs in [RUNS_AT_ONCE, RUNS_AT_ONCE + 1] {
            let guard = PinGuard::new(addr, runs * P)?;
            let sender = stage.begin_with(Buffer::Own(guard), 0..runs * P)?;
            let skb = sender.attach()?;
            let send = sender.took_all();
            assert_eq!(send.pages(), runs);
            drop((sender, skb));
            assert!(send.is_complete());
            assert_eq!(send.wait(1), Ok(()));
            drop(send);
            if runs == RUNS_AT_ONCE {
                assert_eq!(pages.references(0), before);
            }
            assert!(eventually(|| pages.references(0) == before));
        }
        Ok(())
    }

    #[test]
    fn a_chain_of_many_runs_is_let_go_by_a_workqueue() -> Result {
        let stage = Stage::new()?;
        let runs = RUNS_AT_ONCE / 2 + 1;
        let (pages, addr) = many_runs(runs)?;
        let before = pages.references(0);
        let begin = || {
            let guard = PinGuard::new(addr, runs * P)?;
            stage.begin_with(Buffer::Own(guard), 0..P)
        };
        let (a, b) = (begin()?, begin()?);
        let skb = a.attach()?;
        assert_eq!(b.join(&skb), 0);
        let sends = (a.took_all(), b.took_all());
        drop((a, b));
        let held = pages.references(0) - before;
        let lock = Arc::pin_init(kernel::new_spinlock!(()), GFP_KERNEL)?;
        // The work is bound to this processor, so it cannot run meanwhile.
        let atomic = lock.lock();
        drop(skb);
        let left = pages.references(0) - before;
        drop(atomic);
        assert_eq!(left, held / 2);
        assert!(sends.0.is_complete() && sends.1.is_complete());
        drop(sends);
        assert!(eventually(|| pages.references(0) == before));

        // A guard that sends share counts once.
        let shared = Arc::new(PinGuard::new(addr, runs * P)?, GFP_KERNEL)?;
        let begin = || stage.begin_with(Buffer::Shared(shared.clone()), 0..P);
        let (a, b) = (begin()?, begin()?);
        let skb = a.attach()?;
        assert_eq!(b.join(&skb), 0);
        let sends = (a.took_all(), b.took_all());
        drop((a, b, shared));
        let atomic = lock.lock();
        drop(skb);
        let left = pages.references(0) - before;
        drop(atomic);
        assert_eq!(left, 0);
        drop(sends);
        Ok(())
    }

    #[test]
    fn guards_that_others_hold_do_not_count() -> Result {
        let stage = Stage::new()?;
        let runs = RUNS_AT_ONCE / 2 + 1;
        let (pages, addr) = many_runs(runs)?;
        let before = pages.references(0);
        let lock = Arc::pin_init(kernel::new_spinlock!(()), GFP_KERNEL)?;
        let guard = || -> Result<_> { Ok(Arc::new(PinGuard::new(addr, runs * P)?, GFP_KERNEL)?) };
        let guards = [guard()?, guard()?];
        let begin = |i: usize| stage.begin_with(Buffer::Shared(guards[i].clone()), 0..P);
        let (a, b) = (begin(0)?, begin(1)?);
        let skb = a.attach()?;
        assert_eq!(b.join(&skb), 0);
        let sends = (a.took_all(), b.took_all());
        drop((a, b));
        let atomic = lock.lock();
        drop(skb);
        let held_by_us = guards.map(|guard| Arc::into_unique_or_drop(guard).is_some());
        drop(atomic);
        assert_eq!(held_by_us, [true, true]);
        assert_eq!(pages.references(0), before);
        drop(sends);
        Ok(())
    }

    #[test]
    fn a_part_without_room_keeps_no_other() -> Result {
        let stage = Stage::new()?;
        let runs = RUNS_AT_ONCE / 2 + 1;
        let (pages, addr) = many_runs(runs)?;
        let before = pages.references(0);
        let lock = Arc::pin_init(kernel::new_spinlock!(()), GFP_KERNEL)?;
        // The second guard, which nobody else holds, is too much; the third is not.
        let kept = Arc::new(stage.guard(P)?, GFP_KERNEL)?;
        let pinned = stage.pinned();
        let mut parts = stage.parts(Buffer::Own(PinGuard::new(addr, runs * P)?), 0..P)?;
        let second = Arc::new(PinGuard::new(addr, runs * P)?, GFP_KERNEL)?;
        for guard in [second, kept.clone()] {
            let buffer = Buffer::Shared(guard);
            parts.push(Part {
                buffer,
                range: 0..P,
            })?;
        }
        let sender = stage.begin_parts(parts)?;
        let skb = sender.attach()?;
        let send = sender.took_all();
        drop(sender);
        let held = pages.references(0) - before;
        let atomic = lock.lock();
        drop(skb);
        let left = pages.references(0) - before;
        let kept = Arc::into_unique_or_drop(kept).is_some();
        drop(atomic);
        assert_eq!((left, kept), (held / 2, true));
        assert!(send.is_complete());
        assert_eq!(stage.pinned(), pinned - 1);
        drop(send);
        assert!(eventually(|| pages.references(0) == before));
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
            let stage = Stage::on(socket(kind, protocol)?)?;
            let sender = stage.begin(P)?;
            let skb = sender.attach()?;
            let send = sender.took_all();
            drop((sender, stage.socket));
            assert_eq!(send.abort(), expected);
            // An abort does not complete the send while an skb has its pages.
            assert!(!send.is_complete());
            drop(skb);
            assert!(send.is_complete());
            assert_eq!(send.abort(), expected);
        }
        Ok(())
    }
}
