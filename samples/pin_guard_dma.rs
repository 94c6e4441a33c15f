// SPDX-License-Identifier: GPL-2.0

//! A DMA engine in software: `/dev/pin_guard_dma`.
//!
//! Like a device, it writes to user memory some time after the request, from a workqueue. Until
//! then it holds the pages in one of three ways: by plain references (the bug of 2008), by plain
//! references within a window, or by a `PinGuard`. So it shows what a fork does to memory with I/O
//! in flight, and needs no network. The interface is in `samples/pin_guard_dma.h`. A program that
//! uses it, as root:
//!
//! ```python
//! import ctypes, fcntl, os, struct
//!
//! GET, WINDOW, PIN = range(3)
//! libc = ctypes.CDLL(None)
//! dev = os.open("/dev/pin_guard_dma", os.O_RDWR)
//! libc.aligned_alloc.restype = ctypes.c_void_p
//! addr = libc.aligned_alloc(4096, 4096)
//!
//! for mode, name in (GET, "get"), (WINDOW, "window"), (PIN, "pin"):
//!     ctypes.memset(addr, ord("."), 4096)
//!     # addr, len, pattern, delay_ms, mode, op (0: fill), flags, id (out)
//!     submit = bytearray(struct.pack("=QQQIIIIQ",
//!                                    addr, 8, 0x4141414141414141, 500, mode, 0, 0, 0))
//!     fcntl.ioctl(dev, 0xC03050D0, submit)
//!     if os.fork() == 0:
//!         os._exit(0)
//!     ctypes.memset(addr + 100, ord("!"), 1)  # the parent's own write, to the same page
//!     # id, result (out), sum (out), pages (out), runs (out)
//!     wait = bytearray(submit[40:48] + bytes(24))
//!     fcntl.ioctl(dev, 0xC02050D1, wait)
//!     print(name, ctypes.string_at(addr, 8))
//! ```
//!
//! It prints `........` for get: the data went to a page that the process no longer has.
//!
//! read(2), readv(2) and the like fill their buffers at once: the byte at file position p is p %
//! 251. write(2) and the like compare the bytes, and fail with EIO if a byte differs.

mod get;
mod polled_device;

use core::mem;
use get::GetPages;
use kernel::{
    fs::{File, Kiocb},
    impl_has_delayed_work,
    ioctl::_IOWR,
    iov::{IovIterDest, IovIterSource},
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    new_delayed_work, new_mutex, new_poll_condvar,
    prelude::*,
    sync::{
        poll::{PollCondVar, PollTable},
        Arc, ArcBorrow, Mutex,
    },
    time::msecs_to_jiffies,
    transmute::{AsBytes, FromBytes},
    uaccess::{UserPtr, UserSlice},
    workqueue::{self, DelayedWork, WorkItem},
    InPlaceModule,
};
use pin_guard::{this_module, Dest, ModuleRef, PinGuard, Quiesce, Source, Window};
use polled_device::{PolledDevice, PolledDeviceRegistration};

module! {
    type: DmaModule,
    name: "pin_guard_dma",
    authors: ["The pin_guard developers"],
    description: "A DMA engine in software, to see what fork does to I/O in flight",
    license: "GPL",
}

const SUBMIT: u32 = _IOWR::<Submit>('P' as u32, 0xd0);
const WAIT: u32 = _IOWR::<Wait>('P' as u32, 0xd1);

const MAX_LEN: u64 = 64 << 20;

/// `PIN_GUARD_DMA_COUNT`
const COUNT: u32 = 1 << 0;

/// `PIN_GUARD_DMA_HELD`
const HELD: u32 = u32::MAX;

/// Number of bytes that the engine copies at a time.
const PIECE: usize = 256;

/// `struct pin_guard_dma_submit`
#[repr(C)]
struct Submit {
    addr: u64,
    len: u64,
    pattern: u64,
    delay_ms: u32,
    mode: u32,
    op: u32,
    flags: u32,
    id: u64,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for Submit {}
// SAFETY: There is no padding and no interior mutability.
unsafe impl AsBytes for Submit {}

/// `struct pin_guard_dma_wait`
#[repr(C)]
struct Wait {
    id: u64,
    result: i64,
    sum: u64,
    pages: u32,
    runs: u32,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for Wait {}
// SAFETY: There is no padding and no interior mutability.
unsafe impl AsBytes for Wait {}

/// The memory of a request, and the way in which the engine holds it. A window closes after its
/// pages have been released.
enum Memory {
    Get(GetPages),
    Window(GetPages, #[expect(dead_code)] Window),
    Dest(PinGuard<Dest>),
    Source(PinGuard<Source>),
}

impl Memory {
    /// Takes hold of the memory that `submit` names. Returns the errors of the ioctl.
    fn new(submit: &Submit) -> Result<Self> {
        let (addr, len) = (submit.addr as usize, submit.len as usize);
        if submit.flags & !COUNT != 0 || submit.len == 0 {
            return Err(EINVAL);
        }
        if submit.len > MAX_LEN {
            return Err(E2BIG);
        }
        match (submit.mode, submit.op) {
            (_, 1) if submit.flags != 0 => Err(EINVAL),
            (0, 0) => Ok(Self::Get(GetPages::new(addr, len)?)),
            (1, 0) => {
                // The window must open before the pages are looked up; see `Window`.
                let window = Window::open(addr, len)?;
                Ok(Self::Window(GetPages::new(addr, len)?, window))
            }
            (2, 0) => Ok(Self::Dest(PinGuard::<Dest>::new(addr, len)?)),
            (3, 0) => Ok(Self::Dest(PinGuard::<Dest>::long_term(addr, len)?)),
            (2, 1) => Ok(Self::Source(PinGuard::<Source>::new(addr, len)?)),
            (3, 1) => Ok(Self::Source(PinGuard::<Source>::long_term(addr, len)?)),
            _ => Err(EINVAL),
        }
    }

    fn pages_and_runs(&self) -> (usize, usize) {
        match self {
            Self::Get(pages) | Self::Window(pages, _) => (pages.count(), pages.count()),
            Self::Dest(guard) => (guard.pages(), guard.runs().len()),
            Self::Source(guard) => (guard.pages(), guard.runs().len()),
        }
    }

    /// Does the work of the device: fills the memory, or returns the sum of its bytes.
    fn transfer(&self, len: usize, mut pattern: u64, count: bool) -> Result<u64> {
        let mut piece = [0; PIECE];
        let mut sum = 0;
        for offset in (0..len).step_by(PIECE) {
            for word in piece.chunks_exact_mut(8) {
                word.copy_from_slice(&pattern.to_le_bytes());
                pattern = pattern.wrapping_add(count.into());
            }
            let piece = &mut piece[..PIECE.min(len - offset)];
            match self {
                Self::Get(pages) | Self::Window(pages, _) => pages.write(offset, piece),
                Self::Dest(guard) => guard.write(offset, piece)?,
                Self::Source(guard) => {
                    guard.read(offset, piece)?;
                    sum += piece.iter().map(|&byte| u64::from(byte)).sum::<u64>();
                }
            }
        }
        Ok(sum)
    }
}

/// A request in flight. Its file owns it while it is held, and then the workqueue until it is done.
#[pin_data]
struct Request {
    engine: Arc<Engine>,
    id: u64,
    len: usize,
    pattern: u64,
    count: bool,
    memory: Option<Memory>,
    #[pin]
    work: DelayedWork<Self>,
    // Last, because it keeps this code loaded while the other fields drop.
    _module: ModuleRef,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Request { self.work }
}

impl WorkItem for Request {
    type Pointer = Pin<KBox<Self>>;

    fn run(mut request: Pin<KBox<Self>>) {
        let this = request.as_mut().project();
        let Some(memory) = this.memory.take() else {
            return;
        };
        let (pages, runs) = memory.pages_and_runs();
        let transferred = memory.transfer(*this.len, *this.pattern, *this.count);
        // Dropped first: whoever waits for the request may reuse the memory at once.
        drop(memory);
        this.engine.finish(Wait {
            id: *this.id,
            result: match transferred {
                Ok(_) => *this.len as i64,
                Err(e) => e.to_errno().into(),
            },
            sum: transferred.unwrap_or(0),
            pages: pages as u32,
            runs: runs as u32,
        });
    }
}

impl Request {
    fn go(request: Pin<KBox<Self>>, delay_ms: u32) {
        workqueue::system_long().enqueue_delayed(request, msecs_to_jiffies(delay_ms));
    }
}

enum State {
    /// Until somebody waits for the request, or its file is closed.
    Held(Pin<KBox<Request>>),
    InFlight,
    /// The answer of `WAIT`.
    Done(Wait),
}

struct Requests {
    last_id: u64,
    known: KVec<(u64, State)>,
}

/// An open file, which is an engine with requests of its own.
#[pin_data]
struct Engine {
    #[pin]
    requests: Mutex<Requests>,
    #[pin]
    done: PollCondVar,
}

impl Engine {
    fn finish(&self, wait: Wait) {
        // The request is not known any more if the file has been closed.
        let _ = self.set_state(wait.id, State::Done(wait));
    }

    /// Returns the state if no request with this number is known.
    fn set_state(&self, id: u64, state: State) -> Result<(), State> {
        let mut requests = self.requests.lock();
        let Some((_, old)) = requests.known.iter_mut().find(|(known, _)| *known == id) else {
            return Err(state);
        };
        *old = state;
        // A thread may wait for a request that becomes held only now: it lets the request go.
        self.done.notify_all();
        Ok(())
    }

    fn submit(engine: ArcBorrow<'_, Self>, arg: UserPtr) -> Result {
        let (mut reader, mut writer) =
            UserSlice::new(arg, mem::size_of::<Submit>()).reader_writer();
        let mut submit: Submit = reader.read()?;
        let memory = Memory::new(&submit)?;

        {
            let mut requests = engine.requests.lock();
            requests.last_id += 1;
            submit.id = requests.last_id;
            requests
                .known
                .push((submit.id, State::InFlight), GFP_KERNEL)?;
        }
        let request = ModuleRef::try_get(this_module!())
            .ok_or(ENODEV)
            .and_then(|module| {
                KBox::try_pin_init(
                    try_pin_init!(Request {
                        engine: engine.into(),
                        id: submit.id,
                        len: submit.len as usize,
                        pattern: submit.pattern,
                        count: submit.flags & COUNT != 0,
                        memory: Some(memory),
                        work <- new_delayed_work!("pin_guard_dma"),
                        _module: module,
                    }),
                    GFP_KERNEL,
                )
            })
            .and_then(|request| {
                writer.write(&submit)?;
                Ok(request)
            })
            .inspect_err(|_| {
                engine
                    .requests
                    .lock()
                    .known
                    .retain(|(id, _)| *id != submit.id);
                // A thread may wait for it already: it is told that there is no such request.
                engine.done.notify_all();
            })?;
        if submit.delay_ms == HELD {
            // The file is open, so the request is known.
            let _ = engine.set_state(submit.id, State::Held(request));
        } else {
            Request::go(request, submit.delay_ms);
        }
        Ok(())
    }

    fn wait(&self, arg: UserPtr) -> Result {
        let (mut reader, mut writer) = UserSlice::new(arg, mem::size_of::<Wait>()).reader_writer();
        let wanted = reader.read::<Wait>()?.id;
        let mut requests = self.requests.lock();
        loop {
            let at = requests
                .known
                .iter()
                .position(|(id, _)| *id == wanted)
                .ok_or(ENOENT)?;
            let state = &mut requests.known[at].1;
            if let State::Done(wait) = state {
                writer.write(wait)?;
                requests.known.retain(|(id, _)| *id != wanted);
                return Ok(());
            }
            if let State::Held(request) = mem::replace(state, State::InFlight) {
                Request::go(request, 0);
            }
            if self.done.wait_interruptible(&mut requests) {
                return Err(EINTR);
            }
        }
    }
}

#[vtable]
impl MiscDevice for Engine {
    type Ptr = Arc<Self>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                requests <- new_mutex!(Requests { last_id: 0, known: KVec::new() }),
                done <- new_poll_condvar!(),
            }),
            GFP_KERNEL,
        )
    }

    fn release(engine: Arc<Self>, _file: &File) {
        // Requests in flight go on, as those of a device would.
        let known = mem::take(&mut engine.requests.lock().known);
        for (_, state) in known {
            if let State::Held(request) = state {
                Request::go(request, 0);
            }
        }
    }

    fn read_iter(mut kiocb: Kiocb<'_, Arc<Self>>, iter: &mut IovIterDest<'_>) -> Result<usize> {
        if iter.is_empty() {
            return Ok(0);
        }
        let guard = PinGuard::<Dest>::from_iter(iter, MAX_LEN as usize)?;
        at_position(&mut kiocb, guard.len(), |offset, bytes| {
            guard.write(offset, bytes)
        })
    }

    fn write_iter(mut kiocb: Kiocb<'_, Arc<Self>>, iter: &mut IovIterSource<'_>) -> Result<usize> {
        if iter.is_empty() {
            return Ok(0);
        }
        let guard = PinGuard::<Source>::from_iter(iter, MAX_LEN as usize)?;
        at_position(&mut kiocb, guard.len(), |offset, bytes| {
            let mut found = [0; PIECE];
            guard.read(offset, &mut found[..bytes.len()])?;
            (found[..bytes.len()] == *bytes).then_some(()).ok_or(EIO)
        })
    }

    fn ioctl(engine: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let arg = UserPtr::from_addr(arg);
        match cmd {
            SUBMIT => Self::submit(engine, arg)?,
            WAIT => engine.wait(arg)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

/// Calls `f` for each piece of the `len` bytes at the position of `kiocb`, with the offset of the
/// piece and the bytes that belong there. Then advances the position.
fn at_position(
    kiocb: &mut Kiocb<'_, Arc<Engine>>,
    len: usize,
    mut f: impl FnMut(usize, &[u8]) -> Result,
) -> Result<usize> {
    let position = kiocb.ki_pos();
    for offset in (0..len).step_by(PIECE) {
        let mut piece = [0; PIECE];
        for (i, byte) in piece.iter_mut().enumerate() {
            *byte = ((position as u64).wrapping_add((offset + i) as u64) % 251) as u8;
        }
        f(offset, &piece[..PIECE.min(len - offset)])?;
    }
    *kiocb.ki_pos_mut() = position.wrapping_add(len as i64);
    Ok(len)
}

// SAFETY: The device has no queue.
unsafe impl PolledDevice for Engine {
    fn poll(engine: ArcBorrow<'_, Self>, file: &File, table: PollTable<'_>) -> bool {
        table.register_wait(file, &engine.done);
        let requests = engine.requests.lock();
        requests
            .known
            .iter()
            .any(|(_, state)| matches!(state, State::Done(_)))
    }
}

#[pin_data]
struct DmaModule {
    #[pin]
    _device: PolledDeviceRegistration<Engine>,
    _quiesce: Quiesce,
}

impl InPlaceModule for DmaModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _device <- PolledDeviceRegistration::register(c"pin_guard_dma"),
            _quiesce: Quiesce,
        })
    }
}
