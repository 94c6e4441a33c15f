// SPDX-License-Identifier: GPL-2.0

//! Notifiers: the code of a driver that runs when a send is complete.

use crate::module_ref::ModuleRef;
use kernel::{prelude::*, sync::Arc};

/// What a driver does when a send is complete. A send takes it as a [`Notifier`].
pub trait Notify: Send + Sync + 'static {
    /// Called once for each send that it came with and that did not fail, when the memory may be reused;
    /// that may be before [`Socket::send`](super::Socket::send) returns.
    ///
    /// In softirq or task context, with the socket locked or not: it must not sleep, nor send, nor take a lock
    /// that is not safe there. The send then drops its reference, in task context if it is the last, so the
    /// destructor may sleep, and the notifier may own the [`InFlight`](super::InFlight).
    fn complete(&self);
}

/// A [`Notify`] and the module of its code, which a send keeps loaded until it has dropped the notifier.
///
/// `into()` makes it of an `Arc`, for a type that its crate has invoked
/// [`impl_has_notifier!`](crate::impl_has_notifier) for.
pub struct Notifier {
    notify: Arc<dyn Notify>,
    owner: &'static ThisModule,
}

impl Notifier {
    /// Takes the reference on its module. Errors: ENODEV if that is being unloaded.
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

/// # Safety
///
/// `notifier` gives the module that has the code of the type, and itself: it makes the vtable there.
#[doc(hidden)]
pub unsafe trait HasNotifier: Notify {
    fn notifier(notify: Arc<Self>) -> (Arc<dyn Notify>, &'static ThisModule);
}

/// Makes a type of the invoking crate, and no other, one that a [`Notifier`] can be made of.
///
/// ```ignore
/// impl_has_notifier! {
///     impl HasNotifier for Device
/// }
/// ```
#[macro_export]
macro_rules! impl_has_notifier {
    (impl HasNotifier for $type:ty) => {
        // SAFETY: By the orphan rule the type is one of this crate, so its code is in this module. So is this
        // function, which is not inlined into another one.
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
