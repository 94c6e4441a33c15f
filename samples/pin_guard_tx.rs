// SPDX-License-Identifier: GPL-2.0

//! A sender from user memory: `/dev/pin_guard_tx`.
//!
//! It sends a range of the caller's memory over the caller's TCP or UDP socket in one of three
//! ways: by a copy, as send(2) does; by MSG_SPLICE_PAGES, where the stack does not report when it
//! has finished with the pages; or by the send guard, which reports it. The receiver sees what was
//! sent if the memory was reused. The interface is in `samples/pin_guard_tx.h`. A program that
//! uses it, as root, after `tc qdisc add dev lo root netem delay 200ms`:
//!
//! ```python
//! import ctypes, fcntl, os, socket, struct
//!
//! COPY, SPLICE, GUARD = range(3)
//! libc = ctypes.CDLL(None)
//! dev = os.open("/dev/pin_guard_tx", os.O_RDWR)
//! libc.aligned_alloc.restype = ctypes.c_void_p
//! addr = libc.aligned_alloc(4096, 4096)
//! server = socket.create_server(("127.0.0.1", 0))
//!
//! for mode, name in (COPY, "copy"), (SPLICE, "splice"), (GUARD, "guard"):
//!     client = socket.create_connection(server.getsockname())
//!     peer, _ = server.accept()
//!     ctypes.memset(addr, ord("."), 4096)
//!     fd = client.fileno()
//!     # addr, len, buffer, fd, mode, flags, reserved, id (out), sent (out)
//!     send = bytearray(struct.pack("=QQQiIIIQQ", addr, 4096, 0, fd, mode, 0, 0, 0, 0))
//!     fcntl.ioctl(dev, 0xC03850D8, send)
//!     # id, sent (out), pinned (out), requests (out), in_flight (out), copied (out), timeout_ms
//!     wait = bytearray(send[40:48] + struct.pack("=QQIIII", 0, 0, 0, 0, 0, 10000))
//!     fcntl.ioctl(dev, 0xC02850DC, wait)
//!     ctypes.memset(addr, ord("!"), 4096)  # the request is complete: reuse the memory
//!     print(name, peer.recv(4096, socket.MSG_WAITALL)[:8])
//! ```
//!
//! It prints `!!!!!!!!` for splice: the data left after the buffer was reused.
//!
//! A copy or a splice is complete at once. poll(2), and SIGIO with O_ASYNC, also report the
//! completion of a send by the guard. Sends go on when the file is closed. Most of the cost of a
//! small send is that of its call and its completion. PIN_GUARD_TX_BATCH needs one of each for up
//! to 256 pieces.

mod plain_send;
mod polled_device;

use core::{mem, ops::RangeInclusive};
use kernel::{
    fs::File,
    ioctl::{_IOW, _IOWR},
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    new_mutex, new_poll_condvar,
    prelude::*,
    sync::{
        poll::{PollCondVar, PollTable},
        Arc, ArcBorrow, Mutex,
    },
    time::{msecs_to_jiffies, Instant, Monotonic},
    transmute::{AsBytes, FromBytes},
    uaccess::{UserPtr, UserSlice},
    InPlaceModule,
};
use pin_guard::{
    impl_has_notifier, Batch, InFlight, Notify, PinGuard, Quiesce, SendOptions, Socket, Source,
};
use plain_send::PlainSend;
use polled_device::{FasyncQueue, PolledDevice, PolledDeviceRegistration};

module! {
    type: TxModule,
    name: "pin_guard_tx",
    authors: ["The pin_guard developers"],
    description: "A sender from user memory, to see what becomes of memory that is reused too early",
    license: "GPL",
}

const SEND: u32 = _IOWR::<SendArg>('P' as u32, 0xd8);
const REGISTER: u32 = _IOWR::<BufferArg>('P' as u32, 0xd9);
const UNREGISTER: u32 = _IOW::<u64>('P' as u32, 0xda);
const STATUS: u32 = _IOWR::<Status>('P' as u32, 0xdb);
const WAIT: u32 = _IOWR::<Status>('P' as u32, 0xdc);
const ABORT: u32 = _IOW::<u64>('P' as u32, 0xdd);
const BATCH: u32 = _IOWR::<BatchArg>('P' as u32, 0xde);

const COPY: u32 = 0;
const SPLICE: u32 = 1;
const GUARD: u32 = 2;

const DONTWAIT: u32 = 0x1;
const MORE: u32 = 0x2;
const COPY_OK: u32 = 0x4;

const MAX_LEN: u64 = 64 << 20;
const MAX_PARTS: u32 = 256;

/// `struct pin_guard_tx_send`
#[repr(C)]
struct SendArg {
    addr: u64,
    len: u64,
    buffer: u64,
    fd: i32,
    mode: u32,
    flags: u32,
    reserved: u32,
    id: u64,
    sent: u64,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for SendArg {}
// SAFETY: There is no padding and no interior mutability.
unsafe impl AsBytes for SendArg {}

/// `struct pin_guard_tx_part`
#[repr(C)]
struct Part {
    addr: u64,
    len: u64,
    buffer: u64,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for Part {}

/// `struct pin_guard_tx_batch`
#[repr(C)]
struct BatchArg {
    parts: u64,
    nr: u32,
    fd: i32,
    flags: u32,
    reserved: u32,
    id: u64,
    sent: u64,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for BatchArg {}
// SAFETY: There is no padding and no interior mutability.
unsafe impl AsBytes for BatchArg {}

/// `struct pin_guard_tx_buffer`
#[repr(C)]
struct BufferArg {
    addr: u64,
    len: u64,
    buffer: u64,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for BufferArg {}
// SAFETY: There is no padding and no interior mutability.
unsafe impl AsBytes for BufferArg {}

/// `struct pin_guard_tx_status`
#[repr(C)]
#[derive(Default)]
struct Status {
    id: u64,
    sent: u64,
    pinned: u64,
    requests: u32,
    in_flight: u32,
    copied: u32,
    timeout_ms: u32,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for Status {}
// SAFETY: There is no padding and no interior mutability.
unsafe impl AsBytes for Status {}

/// Checks a length from user space.
fn check_len(len: u64) -> Result<usize> {
    match len {
        0 => Err(EINVAL),
        1..=MAX_LEN => Ok(len as usize),
        _ => Err(E2BIG),
    }
}

/// Returns the options of the flags of an ioctl, or EINVAL if there is an unknown flag.
fn options(flags: u32) -> Result<SendOptions> {
    if flags & !(DONTWAIT | MORE | COPY_OK) != 0 {
        return Err(EINVAL);
    }
    Ok(SendOptions {
        dont_wait: flags & DONTWAIT != 0,
        more: flags & MORE != 0,
        copy_ok: flags & COPY_OK != 0,
    })
}

/// A send that has been made; a batch is one send.
#[derive(Clone)]
struct Request {
    id: u64,
    sent: usize,
    copied: bool,
    /// `None` for a copy or a splice, which is complete at once.
    in_flight: Option<InFlight>,
}

impl Request {
    fn is_complete(&self) -> bool {
        self.in_flight.as_ref().is_none_or(InFlight::is_complete)
    }

    fn pages(&self) -> usize {
        self.in_flight.as_ref().map_or(0, InFlight::pages)
    }

    fn copied(&self) -> bool {
        self.copied || self.in_flight.as_ref().is_some_and(InFlight::copied)
    }
}

/// The requests and the buffers of an open file. The ids of both grow, so both lists are sorted.
#[derive(Default)]
struct Known {
    last_id: u64,
    requests: KVec<Request>,
    /// Number of sends that tasks are making now. `requests` has room for them.
    sending: usize,
    last_buffer: u64,
    buffers: KVec<(u64, Arc<PinGuard<Source>>)>,
}

impl Known {
    fn request(&self, id: u64) -> Result<&Request> {
        let at = self
            .requests
            .binary_search_by_key(&id, |request| request.id);
        Ok(&self.requests[at.map_err(|_| ENOENT)?])
    }

    fn buffer(&self, id: u64) -> Result<usize> {
        self.buffers
            .binary_search_by_key(&id, |(buffer, _)| *buffer)
            .map_err(|_| ENOENT)
    }
}

/// An open file, which is a sender with requests and buffers of its own.
///
/// The sends in flight refer to it as their notifier.
#[pin_data]
struct Tx {
    #[pin]
    known: Mutex<Known>,
    #[pin]
    done: PollCondVar,
    fasync: FasyncQueue,
}

impl Tx {
    /// Adds the memory of `part` to a batch. May sleep.
    fn add(&self, batch: &mut Batch<'_>, part: &Part) -> Result {
        let (addr, len) = (part.addr as usize, check_len(part.len)?);
        if part.buffer == 0 {
            return batch.add(PinGuard::new(addr, len)?);
        }
        let guard = {
            let known = self.known.lock();
            known.buffers[known.buffer(part.buffer)?].1.clone()
        };
        let end = addr.checked_add(len).ok_or(EINVAL)?;
        batch.add_shared(&guard, addr..end)
    }

    /// Sends the memory that `add` adds to a batch, by the send guard. May sleep.
    fn guarded(
        tx: ArcBorrow<'_, Self>,
        fd: i32,
        flags: u32,
        add: impl FnOnce(&mut Batch<'_>) -> Result,
    ) -> Result<Request> {
        let options = options(flags)?;
        let socket = Socket::from_fd(fd)?;
        let mut batch = socket.batch();
        add(&mut batch)?;
        let notify: Arc<Self> = tx.into();
        let in_flight = batch.send(options, Some(notify.into()))?;
        Ok(Request {
            id: 0,
            sent: in_flight.sent(),
            copied: false,
            in_flight: Some(in_flight),
        })
    }

    /// Makes the send of `PIN_GUARD_TX_SEND`. May sleep.
    fn transmit(tx: ArcBorrow<'_, Self>, send: &SendArg) -> Result<Request> {
        let &SendArg {
            addr, len, buffer, ..
        } = send;
        if send.reserved != 0 || (buffer != 0 && send.mode != GUARD) {
            return Err(EINVAL);
        }
        if send.mode == GUARD {
            let part = Part { addr, len, buffer };
            return Self::guarded(tx, send.fd, send.flags, |batch| tx.add(batch, &part));
        }
        let (addr, len) = (addr as usize, check_len(len)?);
        let options = options(send.flags)?;
        let socket = Socket::from_fd(send.fd)?;
        let sent = match send.mode {
            COPY => socket.copy(addr, len, options)?,
            SPLICE => socket.splice(addr, len, options)?,
            _ => return Err(EINVAL),
        };
        Ok(Request {
            id: 0,
            sent,
            copied: send.mode == COPY,
            in_flight: None,
        })
    }

    /// Makes a request by `transmit`. Returns its id, and the number of bytes that it sent.
    fn make(&self, transmit: impl FnOnce() -> Result<Request>) -> Result<(u64, usize)> {
        // This can fail, so it comes before the send: each send that has been made is in
        // `requests`.
        {
            let mut known = self.known.lock();
            let sending = known.sending + 1;
            known.requests.reserve(sending, GFP_KERNEL)?;
            known.sending = sending;
        }
        let made = transmit();
        let (id, sent, complete) = {
            let mut known = self.known.lock();
            known.sending -= 1;
            let made = made?;
            known.last_id += 1;
            let id = known.last_id;
            let (sent, complete) = (made.sent, made.is_complete());
            // There is room.
            let _ = known.requests.push_within_capacity(Request { id, ..made });
            (id, sent, complete)
        };
        // If it was complete before it was in `requests`, `poll` could not see it.
        if complete {
            self.complete();
        }
        Ok((id, sent))
    }

    fn send(tx: ArcBorrow<'_, Self>, arg: UserPtr) -> Result {
        let (mut reader, mut writer) =
            UserSlice::new(arg, mem::size_of::<SendArg>()).reader_writer();
        let mut send: SendArg = reader.read()?;
        let (id, sent) = tx.make(|| Self::transmit(tx, &send))?;
        send.id = id;
        send.sent = sent as u64;
        // The data is on its way. If this write fails, the request stays, and user space finds it
        // by id 0.
        writer.write(&send)
    }

    fn send_batch(tx: ArcBorrow<'_, Self>, arg: UserPtr) -> Result {
        let (mut reader, mut writer) =
            UserSlice::new(arg, mem::size_of::<BatchArg>()).reader_writer();
        let mut arg: BatchArg = reader.read()?;
        if arg.nr == 0 || arg.nr > MAX_PARTS || arg.reserved != 0 {
            return Err(EINVAL);
        }
        let (parts, nr) = (UserPtr::from_addr(arg.parts as usize), arg.nr as usize);
        let mut parts = UserSlice::new(parts, nr * mem::size_of::<Part>()).reader();
        let (id, sent) = tx.make(|| {
            Self::guarded(tx, arg.fd, arg.flags, |batch| {
                (0..nr).try_for_each(|_| tx.add(batch, &parts.read()?))
            })
        })?;
        arg.id = id;
        arg.sent = sent as u64;
        // As in `send`.
        writer.write(&arg)
    }

    fn register(&self, arg: UserPtr) -> Result {
        let (mut reader, mut writer) =
            UserSlice::new(arg, mem::size_of::<BufferArg>()).reader_writer();
        let mut buffer: BufferArg = reader.read()?;
        let guard = PinGuard::<Source>::long_term(buffer.addr as usize, check_len(buffer.len)?)?;
        let guard = Arc::new(guard, GFP_KERNEL)?;
        {
            let mut known = self.known.lock();
            known.last_buffer += 1;
            buffer.buffer = known.last_buffer;
            known.buffers.push((buffer.buffer, guard), GFP_KERNEL)?;
        }
        writer.write(&buffer).inspect_err(|_| {
            let _ = self.unregister(buffer.buffer);
        })
    }

    fn unregister(&self, id: u64) -> Result {
        let mut known = self.known.lock();
        let at = known.buffer(id)?;
        let removed = known.buffers.remove(at);
        // Dropped without the lock, because the buffer may have many pins.
        drop(known);
        drop(removed);
        Ok(())
    }

    /// Reports the state of the request `id`, or of all requests if `id` is 0. If `wait`, first
    /// waits for them, and afterwards forgets them.
    fn status(&self, arg: UserPtr, wait: bool) -> Result {
        let (mut reader, mut writer) =
            UserSlice::new(arg, mem::size_of::<Status>()).reader_writer();
        let Status { id, timeout_ms, .. } = reader.read()?;
        let ids = {
            let known = self.known.lock();
            match id {
                0 => 1..=known.last_id,
                id => {
                    known.request(id)?;
                    id..=id
                }
            }
        };
        if wait {
            self.wait(&ids, timeout_ms)?;
        }
        let mut status = Status {
            id,
            timeout_ms,
            ..Status::default()
        };
        for request in self.known.lock().requests.iter() {
            if ids.contains(&request.id) {
                status.requests += 1;
                status.sent += request.sent as u64;
                // In this order, so that the three agree: a complete request has no pages, and the
                // stack copies nothing more of it.
                status.in_flight += u32::from(!request.is_complete());
                status.pinned += request.pages() as u64;
                status.copied += u32::from(request.copied());
            }
        }
        writer.write(&status)?;
        if wait {
            let mut known = self.known.lock();
            known.requests.retain(|request| !ids.contains(&request.id));
        }
        Ok(())
    }

    /// Waits for the requests `ids`. Does not hold the lock while it sleeps.
    fn wait(&self, ids: &RangeInclusive<u64>, timeout_ms: u32) -> Result {
        let start = Instant::<Monotonic>::now();
        loop {
            // The last one first: usually the others are complete when it is.
            let in_flight = {
                let known = self.known.lock();
                let mut requests = known.requests.iter();
                let last = requests.rfind(|r| ids.contains(&r.id) && !r.is_complete());
                match last.and_then(|request| request.in_flight.clone()) {
                    Some(in_flight) => in_flight,
                    None => return Ok(()),
                }
            };
            let left = match timeout_ms {
                u32::MAX => u32::MAX,
                _ => timeout_ms.saturating_sub(start.elapsed().as_millis() as u32),
            };
            in_flight.wait(msecs_to_jiffies(left))?;
        }
    }

    fn abort(&self, id: u64) -> Result {
        let request = self.known.lock().request(id)?.clone();
        match &request.in_flight {
            Some(in_flight) => in_flight.abort(),
            // The request is complete.
            None => Ok(()),
        }
    }
}

impl_has_notifier! {
    impl HasNotifier for Tx
}

impl Notify for Tx {
    fn complete(&self) {
        self.done.notify_all();
        self.fasync.notify();
    }
}

#[vtable]
impl MiscDevice for Tx {
    type Ptr = Arc<Self>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                known <- new_mutex!(Known::default()),
                done <- new_poll_condvar!(),
                fasync: FasyncQueue::new(),
            }),
            GFP_KERNEL,
        )
    }

    fn release(tx: Arc<Self>, _file: &File) {
        // Sends in flight go on.
        let known = mem::take(&mut *tx.known.lock());
        drop(known);
    }

    fn ioctl(tx: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let arg = UserPtr::from_addr(arg);
        let id = || UserSlice::new(arg, mem::size_of::<u64>()).reader().read();
        match cmd {
            SEND => Self::send(tx, arg)?,
            BATCH => Self::send_batch(tx, arg)?,
            REGISTER => tx.register(arg)?,
            UNREGISTER => tx.unregister(id()?)?,
            STATUS => tx.status(arg, false)?,
            WAIT => tx.status(arg, true)?,
            ABORT => tx.abort(id()?)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

// SAFETY: The queue of a file is in its `Tx`, and there is no other.
unsafe impl PolledDevice for Tx {
    fn poll(tx: ArcBorrow<'_, Self>, file: &File, table: PollTable<'_>) -> bool {
        table.register_wait(file, &tx.done);
        let known = tx.known.lock();
        known.requests.iter().any(|request| request.is_complete())
    }

    fn fasync_queue<'a>(tx: &'a ArcBorrow<'_, Self>) -> Option<&'a FasyncQueue> {
        Some(&tx.fasync)
    }
}

#[pin_data]
struct TxModule {
    #[pin]
    _device: PolledDeviceRegistration<Tx>,
    _quiesce: Quiesce,
}

impl InPlaceModule for TxModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _device <- PolledDeviceRegistration::register(c"pin_guard_tx"),
            _quiesce: Quiesce,
        })
    }
}
