// SPDX-License-Identifier: GPL-2.0

//! A misc device that can be polled: what `kernel::miscdevice` leaves out.

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

/// A misc device whose files can be polled for reading.
pub(crate) trait PolledDevice: MiscDevice {
    /// Whether there is something to read. Registers the condition variable to wait on with `table`.
    fn poll(
        device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        table: PollTable<'_>,
    ) -> bool;
}

/// A registration of a [`PolledDevice`], from creation to drop.
///
/// # Invariants
///
/// `misc` is a registered `struct miscdevice` whose `fops` points to `fops`.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct PolledDeviceRegistration<T: PolledDevice> {
    // First, and layout compatible with `MiscDeviceRegistration<T>`: `MiscDevice::open` gets it as that.
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    fops: Opaque<bindings::file_operations>,
    _device: PhantomData<T>,
}

// SAFETY: A device may be deregistered by any thread.
unsafe impl<T: PolledDevice> Send for PolledDeviceRegistration<T> {}
// SAFETY: `&self` gives nothing.
unsafe impl<T: PolledDevice> Sync for PolledDeviceRegistration<T> {}

impl<T: PolledDevice> PolledDeviceRegistration<T> {
    /// Registers `/dev/name`, mode 0600. Open files keep `module` loaded.
    pub(crate) fn register(
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> impl PinInit<Self, Error> {
        let misc = MiscDeviceOptions { name }.into_raw::<T>();
        // SAFETY: `into_raw` points it to a constant.
        let mut fops = unsafe { ptr::read(misc.fops) };
        fops.owner = module.as_ptr();
        fops.poll = Some(Self::poll);
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
                // For `drop`, which also runs if this fails.
                // SAFETY: It is not registered.
                unsafe { (*this.misc.get()).fops = ptr::null() };
            })
        })
    }

    /// # Safety
    ///
    /// Called by the VFS on an open file of this device.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: An open file's private data is what `MiscDevice::open` returned, and the arguments
        // are valid for the call.
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
}

#[pinned_drop]
impl<T: PolledDevice> PinnedDrop for PolledDeviceRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants, it is registered, but for a failed `register`.
        unsafe {
            if !(*self.misc.get()).fops.is_null() {
                bindings::misc_deregister(self.misc.get());
            }
        }
    }
}
