// SPDX-License-Identifier: GPL-2.0

//! Notifiers: code of a driver that runs when a send is complete.

use crate::module_ref::ModuleRef;
use kernel::{prelude::*, sync::Arc};

/// Code of a driver that runs when a send is complete. A send takes it as a [`Notifier`].
///
/// # Examples
///
/// See [`impl_has_notifier!`](crate::impl_has_notifier).
pub trait Notify: Send + Sync + 'static {
    /// Called when the memory of a send may be reused.
    ///
    /// It is called once for each send that took this notifier and did not fail, perhaps before
    /// [`Socket::send`](super::Socket::send) returns.
    ///
    /// It runs in softirq or task context, with the socket locked or not. It must not sleep, must
    /// not send, and must take only locks that are safe in softirq.
    ///
    /// Afterwards the send drops its reference on the notifier. If that is the last one, the send
    /// drops it in task context, so the destructor may sleep, and the notifier may own the
    /// [`InFlight`](super::InFlight).
    fn complete(&self);
}

/// A [`Notify`] and the module of its code.
///
/// A send keeps that module loaded until it has dropped the notifier.
///
/// `into()` makes a `Notifier` of an `Arc<T>`, if the crate of `T` has invoked
/// [`impl_has_notifier!`](crate::impl_has_notifier) for `T`.
pub struct Notifier {
    notify: Arc<dyn Notify>,
    owner: &'static ThisModule,
}

impl Notifier {
    /// Takes a reference on the module. Any context.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the module is being unloaded.
    pub(super) fn hold(self) -> Result<(Arc<dyn Notify>, ModuleRef)> {
        let owner = ModuleRef::try_get(self.owner).ok_or(ENODEV)?;
        Ok((self.notify, owner))
    }
}

impl<T: HasNotifier> From<Arc<T>> for Notifier {
    fn from(notify: Arc<T>) -> Self {
        let (notify, owner) = T::notifier(notify);
        Self { notify, owner }
    }
}

/// A type that a [`Notifier`] can be made of; [`impl_has_notifier!`](crate::impl_has_notifier)
/// implements it.
///
/// # Safety
///
/// `notifier` must return the module that has the code of the type and of `notifier` itself, where
/// the vtable is made.
#[doc(hidden)]
pub unsafe trait HasNotifier: Notify {
    fn notifier(notify: Arc<Self>) -> (Arc<dyn Notify>, &'static ThisModule);
}

/// Allows `into()` to make a [`Notifier`] of an `Arc` of a type.
///
/// The type must be one of the crate that invokes the macro, and the root of that crate must have
/// the `module!`.
///
/// # Examples
///
/// ```
/// use kernel::{
///     prelude::*,
///     sync::{poll::PollCondVar, Arc},
/// };
/// use pin_guard::{impl_has_notifier, InFlight, Notify, PinGuard, SendOptions, Socket, Source};
/// # struct Driver;
/// # module! {
/// #     type: Driver,
/// #     name: "driver",
/// #     authors: ["The author"],
/// #     description: "Sends",
/// #     license: "GPL",
/// # }
/// # impl kernel::Module for Driver {
/// #     fn init(_module: &'static ThisModule) -> Result<Self> {
/// #         Ok(Self)
/// #     }
/// # }
///
/// #[pin_data]
/// struct Device {
///     #[pin]
///     done: PollCondVar,
/// }
///
/// impl Notify for Device {
///     fn complete(&self) {
///         self.done.notify_all();
///     }
/// }
///
/// impl_has_notifier! {
///     impl HasNotifier for Device
/// }
///
/// fn send(device: &Arc<Device>, socket: &Socket, guard: PinGuard<Source>) -> Result<InFlight> {
///     let notifier = Some(device.clone().into());
///     socket.send(guard, SendOptions::default(), notifier)
/// }
/// ```
#[macro_export]
macro_rules! impl_has_notifier {
    (impl HasNotifier for $type:ty) => {
        // SAFETY: By the orphan rule the type is one of this crate, so its code is in this module.
        // So is this function, which is not inlined into another one.
        unsafe impl $crate::HasNotifier for $type {
            #[inline(never)]
            fn notifier(
                notify: ::kernel::sync::Arc<Self>,
            ) -> (
                ::kernel::sync::Arc<dyn $crate::Notify>,
                &'static ::kernel::ThisModule,
            ) {
                (notify, $crate::this_module!())
            }
        }
    };
}
