// SPDX-License-Identifier: GPL-2.0

//! Misc devices with poll(2) and SIGIO, which `kernel::miscdevice` does not offer.

use core::{marker::PhantomData, ptr};
use kernel::{
    bindings,
    error::to_result,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions},
    prelude::*,
    sync::poll::PollTable,
    types::{ForeignOwnable, Opaque},
};
use pin_guard::this_module;

/// A misc device whose files can be polled for reading.
///
/// # Safety
///
/// `fasync_queue` must always return the same queue for a file.
pub(crate) unsafe trait PolledDevice: MiscDevice {
    /// Returns whether there is something to read. Registers the condition variable to wait on with
    /// `table`.
    fn poll(
        device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        table: PollTable<'_>,
    ) -> bool;

    /// Returns the queue of the files whose owners want SIGIO when there is something to read
    /// (O_ASYNC). If there is none, fcntl(2) returns ENOTTY to them.
    fn fasync_queue<'a>(
        _device: &'a <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
    ) -> Option<&'a FasyncQueue> {
        None
    }
}

/// Files whose owners want SIGIO.
///
/// # Invariants
///
/// The list consists of entries of open files.
pub(crate) struct FasyncQueue(Opaque<*mut bindings::fasync_struct>);

// SAFETY: Any thread may use the list.
unsafe impl Send for FasyncQueue {}
// SAFETY: The list has its own locks.
unsafe impl Sync for FasyncQueue {}

// Not every module with this file has a queue.
#[allow(dead_code)]
impl FasyncQueue {
    pub(crate) const fn new() -> Self {
        // INVARIANT: The list is empty.
        Self(Opaque::new(ptr::null_mut()))
    }

    /// Sends SIGIO to the owners of the files. Any context.
    pub(crate) fn notify(&self) {
        // SAFETY: By the type invariants.
        unsafe {
            bindings::kill_fasync(
                self.0.get(),
                bindings::SIGIO as c_int,
                bindings::POLL_IN as c_int,
            )
        };
    }
}

/// A registration of a [`PolledDevice`], from creation to drop.
///
/// # Invariants
///
/// `misc` is a registered `struct miscdevice`, and its `fops` points to the field `fops`.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct PolledDeviceRegistration<T: PolledDevice> {
    // First, and with the layout of `MiscDeviceRegistration<T>`, because `MiscDevice::open` gets it
    // as that type.
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    fops: Opaque<bindings::file_operations>,
    _device: PhantomData<T>,
}

// SAFETY: Any thread may deregister a device.
unsafe impl<T: PolledDevice> Send for PolledDeviceRegistration<T> {}
// SAFETY: `&self` allows no access.
unsafe impl<T: PolledDevice> Sync for PolledDeviceRegistration<T> {}

impl<T: PolledDevice> PolledDeviceRegistration<T> {
    /// Registers `/dev/name`, mode 0600. Open files keep this module loaded.
    pub(crate) fn register(name: &'static CStr) -> impl PinInit<Self, Error> {
        let misc = MiscDeviceOptions { name }.into_raw::<T>();
        // SAFETY: `into_raw` has set `fops` to a constant.
        let mut fops = unsafe { ptr::read(misc.fops) };
        fops.owner = this_module!().as_ptr();
        fops.poll = Some(Self::poll);
        fops.fasync = Some(Self::fasync);
        try_pin_init!(Self {
            misc: Opaque::new(bindings::miscdevice {
                mode: 0o600,
                ..misc
            }),
            fops: Opaque::new(fops),
            _device: PhantomData,
        })
        .pin_chain(|this| {
            // SAFETY: `this` is pinned and lives until `drop` deregisters it.
            to_result(unsafe {
                (*this.misc.get()).fops = this.fops.get();
                bindings::misc_register(this.misc.get())
            })
            .inspect_err(|_| {
                // `drop` also runs if this fails, and recognises it by the null pointer.
                // SAFETY: The device is not registered, so nobody else uses `misc`.
                unsafe { (*this.misc.get()).fops = ptr::null() };
            })
        })
    }

    /// # Safety
    ///
    /// The VFS must call this, on an open file of this device.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: The private data of an open file is the pointer that `MiscDevice::open` returned.
        // The arguments are valid for the call.
        let ready = unsafe {
            let device = <T::Ptr as ForeignOwnable>::borrow((*file).private_data);
            T::poll(
                device,
                File::from_raw_file(file),
                PollTable::from_raw(table),
            )
        };
        if ready {
            bindings::POLLIN | bindings::POLLRDNORM
        } else {
            0
        }
    }

    /// # Safety
    ///
    /// The VFS must call this, on an open file of this device. If the file is in the queue, the VFS
    /// must call it again before it releases the file.
    unsafe extern "C" fn fasync(fd: c_int, file: *mut bindings::file, on: c_int) -> c_int {
        // SAFETY: As for `poll`.
        let device = unsafe { <T::Ptr as ForeignOwnable>::borrow((*file).private_data) };
        match T::fasync_queue(&device) {
            // SAFETY: The arguments are those of the VFS.
            // INVARIANT: The file leaves the queue before it is released.
            Some(queue) => unsafe { bindings::fasync_helper(fd, file, on, queue.0.get()) },
            None => ENOTTY.to_errno(),
        }
    }
}

#[pinned_drop]
impl<T: PolledDevice> PinnedDrop for PolledDeviceRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, the device is registered, unless `register` has failed.
        unsafe {
            if !(*self.misc.get()).fops.is_null() {
                bindings::misc_deregister(self.misc.get());
            }
        }
    }
}
