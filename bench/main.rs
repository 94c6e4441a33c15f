// SPDX-License-Identifier: GPL-2.0

//! `/dev/pin_guard_bench`, mode 0600: measures [`PinGuard`] against the same work in C, and
//! [`Window`], inside the kernel.
//!
//! One ioctl pins and releases a range of the caller's memory in a loop, in Rust or in C, or opens
//! and closes a window on it, and returns the time that the loop took. Another ioctl opens windows
//! that stay open. The interface is in `pin_guard_bench.h`.

use core::mem;
use kernel::{
    bindings,
    error::to_result,
    ffi::{c_int, c_uint, c_ulong},
    fs::File,
    ioctl::{_IOW, _IOWR},
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    new_mutex,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::{Arc, ArcBorrow, Mutex},
    time::{Instant, Monotonic},
    transmute::{AsBytes, FromBytes},
    uaccess::{UserPtr, UserSlice},
    InPlaceModule,
};
use pin_guard::{Dest, Direction, PinGuard, Source, Window};

module! {
    type: BenchModule,
    name: "pin_guard_bench",
    authors: ["The pin_guard developers"],
    description: "Times PinGuard against pin_user_pages_fast() in C, and windows",
    license: "GPL",
}

// As in the bindings: some C structs are empty in some configurations.
#[allow(improper_ctypes)]
extern "C" {
    /// `reference.c`. `pages` must have room for the pages of the range.
    fn pin_guard_bench_reference(
        addr: c_ulong,
        len: c_ulong,
        gup_flags: c_uint,
        loops: c_uint,
        pages: *mut *mut bindings::page,
    ) -> c_int;
}

const RUN: u32 = _IOWR::<Run>('P' as u32, 0xd8);
const HOLD: u32 = _IOW::<Hold>('P' as u32, 0xd9);
const MAX_LEN: u64 = 512 << 12;

/// `struct pin_guard_bench`
#[repr(C)]
struct Run {
    addr: u64,
    len: u64,
    op: u32,
    loops: u32,
    ns: u64,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for Run {}
// SAFETY: There is no padding and no interior mutability.
unsafe impl AsBytes for Run {}

/// `struct pin_guard_bench_hold`
#[repr(C)]
struct Hold {
    addr: u64,
    count: u64,
}

// SAFETY: All bit patterns are valid.
unsafe impl FromBytes for Hold {}

fn reference(run: &Run, gup_flags: u32, pages: &mut KVVec<*mut bindings::page>) -> Result {
    // SAFETY: `pages` has room for `MAX_LEN`, and the caller has checked the length.
    to_result(unsafe {
        pin_guard_bench_reference(
            run.addr as usize,
            run.len as usize,
            gup_flags,
            run.loops,
            pages.as_mut_ptr(),
        )
    })
}

fn guard<D: Direction>(run: &Run) -> Result {
    for _ in 0..run.loops {
        drop(PinGuard::<D>::new(run.addr as usize, run.len as usize)?);
    }
    Ok(())
}

fn window(run: &Run) -> Result {
    for _ in 0..run.loops {
        drop(Window::open(run.addr as usize, run.len as usize)?);
    }
    Ok(())
}

/// An open file, and the windows that it holds.
#[pin_data]
struct Bench {
    #[pin]
    held: Mutex<KVVec<Window>>,
}

impl Bench {
    fn run(arg: UserPtr) -> Result {
        let (mut reader, mut writer) = UserSlice::new(arg, mem::size_of::<Run>()).reader_writer();
        let mut run: Run = reader.read()?;
        // The address need not be aligned, so the offset in the page counts, too.
        if run.len == 0 || run.addr % 4096 + run.len > MAX_LEN {
            return Err(EINVAL);
        }
        // Its own, because several threads may measure at once.
        let mut pages = KVVec::with_capacity((MAX_LEN >> PAGE_SHIFT) as usize, GFP_KERNEL)?;
        let start: Instant<Monotonic> = Instant::now();
        match run.op {
            0 => reference(&run, bindings::FOLL_WRITE, &mut pages),
            1 => guard::<Dest>(&run),
            2 => reference(&run, 0, &mut pages),
            3 => guard::<Source>(&run),
            4 => window(&run),
            _ => Err(EINVAL),
        }?;
        run.ns = start.elapsed().as_nanos() as u64;
        writer.write(&run)
    }

    fn hold(&self, arg: UserPtr) -> Result {
        let hold: Hold = UserSlice::new(arg, mem::size_of::<Hold>())
            .reader()
            .read()?;
        let mut windows = KVVec::with_capacity(hold.count as usize, GFP_KERNEL)?;
        for i in 0..hold.count as usize {
            let window = Window::open(hold.addr as usize + i * PAGE_SIZE, PAGE_SIZE)?;
            windows.push(window, GFP_KERNEL)?;
        }
        // The windows that were open before close without the lock.
        let before = mem::replace(&mut *self.held.lock(), windows);
        drop(before);
        Ok(())
    }
}

#[vtable]
impl MiscDevice for Bench {
    type Ptr = Arc<Self>;

    fn open(_file: &File, _device: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self { held <- new_mutex!(KVVec::new()) }),
            GFP_KERNEL,
        )
    }

    fn ioctl(bench: ArcBorrow<'_, Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let arg = UserPtr::from_addr(arg);
        match cmd {
            RUN => Self::run(arg)?,
            HOLD => bench.hold(arg)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}

#[pin_data]
struct BenchModule {
    #[pin]
    _device: MiscDeviceRegistration<Bench>,
}

impl InPlaceModule for BenchModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"pin_guard_bench"
            }),
        })
    }
}
