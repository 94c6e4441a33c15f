// SPDX-License-Identifier: GPL-2.0

//! Redirection of a kernel function to one of ours, through ftrace.
//!
//! A [`Redirect`] with a [`Route`] uses two `ftrace_ops` that may change the instruction pointer
//! (`FTRACE_OPS_FL_IPMODIFY`, as `kernel/livepatch/patch.c` does):
//!
//! - `enter` sits on the *target* and sends the calls that [`Target::wants`] picks to the
//!   *replacement*. All others go on into the target.
//! - `resume` sits on the *stand-in*, a C function of this module with the target's signature, and
//!   sends its calls into the target, behind the target's own ftrace hook. So the replacement calls
//!   the original by calling the stand-in.
//!
//! ftrace reaches both by a return, not by an indirect branch. That matters with IBT: a function
//! whose address nobody takes (`copy_page_range()`) has its ENDBR sealed at boot and cannot be called
//! through a pointer. And as the call does not pass the target's hook again, there is no recursion to
//! tell apart, whatever the compiler makes of the replacement's calls.

use crate::{ffi::*, module_ref::ModuleRef, this_module, Module};
use core::{marker::PhantomData, mem};
use kernel::{
    bindings,
    error::to_result,
    fmt, new_mutex,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Mutex,
    },
    types::Opaque,
};

/// Whether redirection is in force; see [`arm`].
static ARMED: Atomic<i32> = Atomic::new(0);

/// Lets every [`Redirect`] act. Called when nothing can fail any more: a module whose init fails is
/// freed without regard to its references, so no call may be inside it until then.
pub(crate) fn arm() {
    ARMED.store(1, Release);
}

/// The registers of a call, as the ftrace callback sees them.
pub(crate) struct Args(*mut bindings::ftrace_regs);

impl Args {
    /// The `n`th argument.
    #[inline(always)]
    pub(crate) fn number(&self, n: u32) -> usize {
        // SAFETY: `self.0` is valid during the callback (`enter()`).
        unsafe {
            match n {
                0 => pin_guard_ftrace_regs_get_argument0(self.0),
                1 => pin_guard_ftrace_regs_get_argument1(self.0),
                n => pin_guard_ftrace_regs_get_argument(self.0, n),
            }
        }
    }

    /// The `n`th argument, cast to the type of the target's parameter.
    #[inline(always)]
    pub(crate) fn pointer<T>(&self, n: u32) -> *mut T {
        self.number(n) as *mut T
    }
}

/// Where calls of a target go.
pub(crate) struct Route<F> {
    /// What runs instead.
    pub(crate) replacement: F,
    /// What the replacement calls to run the original.
    pub(crate) stand_in: F,
}

/// A function to redirect, or, without a [`Target::ROUTE`], only to observe.
///
/// # Safety
///
/// If there is a route:
///
/// - `Function` is the type of the kernel function called `NAME`.
/// - The stand-in is a traceable function of this module that nobody calls but the replacement.
/// - The replacement starts with [`ModuleRef::adopt`] and keeps the reference, or a clone of it, until its
///   last call of the stand-in has returned.
pub(crate) unsafe trait Target: 'static + Send + Sync {
    /// The type of the function: an `extern "C" fn` pointer.
    type Function: Copy + 'static;
    /// The name of the function.
    const NAME: &'static CStr;
    /// The module that it is in, which may come and go; `None` if it is in the kernel proper.
    const MODULE: Option<&'static CStr>;
    /// Where its calls go.
    const ROUTE: Option<Route<Self::Function>>;

    /// Whether to redirect this call. Runs in an ftrace callback on every call of the function, in its
    /// caller's context: must not sleep.
    fn wants(args: &Args) -> bool;
}

/// What has become of a redirection.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Turned off by a module parameter.
    Off,
    /// Its module is not loaded.
    Waiting,
    Attached,
    Failed(Error),
}

/// A function, redirected from creation to drop.
///
/// For a target in a module, attaches when that module comes and detaches when it goes: ftrace does
/// neither for `IPMODIFY` users and ends in a WARN and a dead ftrace otherwise
/// (`kernel/trace/ftrace.c`, `ftrace_module_enable()`, `__ftrace_hash_rec_update()`).
///
/// # Invariants
///
/// `enter` is registered with ftrace exactly in [`State::Attached`], `resume` exactly if `resume_on`.
#[pin_data(PinnedDrop)]
pub(crate) struct Redirect<T: Target> {
    #[pin]
    enter: Opaque<bindings::ftrace_ops>,
    #[pin]
    resume: Opaque<bindings::ftrace_ops>,
    #[pin]
    notifier: Opaque<bindings::notifier_block>,
    /// Where the target goes on behind its ftrace hook; set by `enter`, used by `resume`.
    body: Atomic<usize>,
    #[pin]
    state: Mutex<State>,
    /// Whether `resume` is registered.
    resume_on: Atomic<i32>,
    /// Whether `notifier` is registered.
    notifier_on: Atomic<i32>,
    _target: PhantomData<T>,
}

// SAFETY: The C objects are used under the state's mutex or by ftrace and the notifier chain, which
// are safe from any thread.
unsafe impl<T: Target> Send for Redirect<T> {}
// SAFETY: As above.
unsafe impl<T: Target> Sync for Redirect<T> {}

impl<T: Target> Redirect<T> {
    /// Redirects the target from now on, or from when its module comes; not at all if `!wanted`.
    ///
    /// Errors, each with a line in the log: EBUSY if the target is redirected already (livepatch) or
    /// `kernel.ftrace_enabled` is 0; ENOENT if this kernel has no such function to trace; ENODEV if
    /// ftrace is dead. May sleep.
    pub(crate) fn new(wanted: bool) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            enter <- Self::ops(
                Self::enter,
                if T::ROUTE.is_some() { bindings::FTRACE_OPS_FL_IPMODIFY } else { 0 },
            ),
            resume <- Self::ops(Self::resume, bindings::FTRACE_OPS_FL_IPMODIFY),
            notifier <- Opaque::ffi_init(|slot: *mut bindings::notifier_block| {
                // SAFETY: `slot` is valid for writes; a notifier block may be zero but for the call.
                unsafe {
                    slot.write_bytes(0, 1);
                    (*slot).notifier_call = Some(Self::module_event);
                }
            }),
            body: Atomic::new(0),
            state <- new_mutex!(State::Off),
            resume_on: Atomic::new(0),
            notifier_on: Atomic::new(0),
            _target: PhantomData,
        })
        .pin_chain(move |this| if wanted { this.turn_on() } else { Ok(()) })
    }

    fn ops(
        func: unsafe extern "C" fn(
            usize,
            usize,
            *mut bindings::ftrace_ops,
            *mut bindings::ftrace_regs,
        ),
        flags: u32,
    ) -> impl PinInit<Opaque<bindings::ftrace_ops>> {
        Opaque::ffi_init(move |slot: *mut bindings::ftrace_ops| {
            // PERMANENT: `sysctl kernel.ftrace_enabled=0` must fail, not turn the protection off.
            // SAFETY: `slot` is valid for writes; ftrace initialises an `ftrace_ops` that is zero.
            unsafe {
                slot.write_bytes(0, 1);
                (*slot).func = Some(func);
                (*slot).flags = (flags | bindings::FTRACE_OPS_FL_PERMANENT) as usize;
                #[cfg(not(CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS))]
                {
                    (*slot).flags |= bindings::FTRACE_OPS_FL_SAVE_REGS as usize;
                }
            }
        })
    }

    fn turn_on(&self) -> Result {
        if let Some(route) = T::ROUTE {
            // SAFETY: `T::Function` is a function pointer.
            self.turn_on_resume(unsafe { mem::transmute_copy(&route.stand_in) })
                .inspect_err(|&e| self.report(e))?;
        }

        *self.state.lock() = State::Waiting;
        if T::MODULE.is_some() {
            // SAFETY: The notifier stays where it is until it is unregistered by `drop`.
            to_result(unsafe { bindings::register_module_notifier(self.notifier.get()) })?;
            self.notifier_on.store(1, Relaxed);
        }
        let mut state = self.state.lock();
        match self.attach(&mut state) {
            // There is no telling "module not loaded" from "no such function"; the latter is
            // reported when the module comes.
            Err(ENOENT) if T::MODULE.is_some() => {
                *state = State::Waiting;
                Ok(())
            }
            Err(e) => {
                self.report(e);
                Err(e)
            }
            Ok(()) => Ok(()),
        }
    }

    fn turn_on_resume(&self, stand_in: usize) -> Result {
        // SAFETY: `resume` is an initialised `ftrace_ops`, not registered; it stays where it is until it
        // is unregistered by `drop`.
        unsafe {
            to_result(bindings::ftrace_set_filter_ip(
                self.resume.get(),
                stand_in,
                0,
                1,
            ))
            .and_then(|()| to_result(bindings::register_ftrace_function(self.resume.get())))
            .inspect_err(|_| bindings::ftrace_free_filter(self.resume.get()))?;
        }
        self.resume_on.store(1, Relaxed);
        Ok(())
    }

    fn report(&self, e: Error) {
        let name = T::NAME;
        match e {
            EBUSY => pr_err!(
                "{name}: not protected: redirected already (a livepatch?), or kernel.ftrace_enabled=0\n"
            ),
            ENOENT => pr_err!("{name}: not protected: no such function to trace in this kernel\n"),
            e => pr_err!("{name}: not protected: ftrace cannot redirect it here ({e:?})\n"),
        }
    }

    fn attach(&self, state: &mut State) -> Result {
        if *state == State::Attached {
            return Ok(());
        }
        let result = self.try_attach();
        *state = match result {
            Ok(()) => State::Attached,
            Err(e) => State::Failed(e),
        };
        result
    }

    fn try_attach(&self) -> Result {
        // ftrace parses the name in place.
        let mut name = [0u8; 64];
        let bytes = T::NAME.to_bytes();
        name[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: `enter` is an initialised `ftrace_ops`, not registered.
        let nothing = unsafe { self.empty_filter() };
        // SAFETY: As above; `name` is valid for its length and a NUL.
        let found = to_result(unsafe {
            bindings::ftrace_set_filter(
                self.enter.get(),
                name.as_mut_ptr(),
                bytes.len() as c_int,
                1,
            )
        });
        let result = match found {
            // EINVAL is ftrace's word for "nothing matches".
            Err(EINVAL) => Err(ENOENT),
            Err(e) => Err(e),
            // It says so as well if it had no memory for the match (`match_records()`). The filter is
            // then as if it had never been set: all functions, or with IPMODIFY EINVAL.
            // SAFETY: As above.
            Ok(()) if unsafe { (*(*self.enter.get()).func_hash).filter_hash } == nothing => {
                Err(ENOMEM)
            }
            // SAFETY: As above; it stays where it is until `detach`.
            Ok(()) => to_result(unsafe { bindings::register_ftrace_function(self.enter.get()) }),
        };
        if result.is_err() {
            // SAFETY: `enter` is not registered.
            unsafe { bindings::ftrace_free_filter(self.enter.get()) };
        }
        result
    }

    /// Clears the filter of `enter`, and returns what an empty one is to ftrace (`EMPTY_HASH`).
    ///
    /// # Safety
    ///
    /// `enter` is not registered.
    unsafe fn empty_filter(&self) -> *mut bindings::ftrace_hash {
        // SAFETY: By the safety requirements. This initialises `func_hash`, too.
        unsafe {
            bindings::ftrace_free_filter(self.enter.get());
            (*(*self.enter.get()).func_hash).filter_hash
        }
    }

    fn detach(&self, state: &mut State) {
        if *state == State::Attached {
            // SAFETY: By the type invariants, `enter` is registered. On return nobody is in its
            // callback (`ftrace_shutdown()` synchronises).
            unsafe {
                bindings::unregister_ftrace_function(self.enter.get());
                bindings::ftrace_free_filter(self.enter.get());
            }
        }
        *state = State::Waiting;
    }

    /// The module notifier.
    ///
    /// # Safety
    ///
    /// Called by the module loader with our notifier block.
    unsafe extern "C" fn module_event(
        notifier: *mut bindings::notifier_block,
        event: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: `notifier` is the field of a `Redirect<T>` that outlives its registration.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(notifier), Self, notifier) };
        // SAFETY: The loader passes the module that comes or goes.
        let module =
            unsafe { CStr::from_char_ptr((*data.cast::<bindings::module>()).name.as_ptr()) };
        if T::MODULE != Some(module) {
            return bindings::NOTIFY_DONE as c_int;
        }

        let mut state = this.state.lock();
        match event as u32 {
            bindings::module_state_MODULE_STATE_COMING => {
                if let Err(e) = this.attach(&mut state) {
                    this.report(e);
                }
            }
            bindings::module_state_MODULE_STATE_GOING => this.detach(&mut state),
            _ => {}
        }
        bindings::NOTIFY_DONE as c_int
    }

    /// The ftrace callback on the target.
    ///
    /// # Safety
    ///
    /// Called by ftrace with the `enter` ops of a `Redirect<T>`.
    unsafe extern "C" fn enter(
        ip: usize,
        _parent_ip: usize,
        ops: *mut bindings::ftrace_ops,
        fregs: *mut bindings::ftrace_regs,
    ) {
        if ARMED.load(Acquire) == 0 || !T::wants(&Args(fregs)) {
            return;
        }
        let Some(route) = T::ROUTE else {
            return;
        };
        let Some(module) = ModuleRef::try_get(this_module!(Module)) else {
            return;
        };
        // The replacement adopts it.
        mem::forget(module);
        // SAFETY: `ops` is the field of a `Redirect<T>` that outlives its registration.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(ops), Self, enter) };
        this.body
            .store(ip + bindings::MCOUNT_INSN_SIZE as usize, Relaxed);
        // SAFETY: By the safety requirements of `Target`, the replacement has the target's type, and
        // `fregs` holds the target's arguments.
        unsafe {
            let replacement = mem::transmute_copy(&route.replacement);
            pin_guard_ftrace_regs_set_instruction_pointer(fregs, replacement);
        }
    }

    /// The ftrace callback on the stand-in.
    ///
    /// # Safety
    ///
    /// Called by ftrace with the `resume` ops of a `Redirect<T>`.
    unsafe extern "C" fn resume(
        _ip: usize,
        _parent_ip: usize,
        ops: *mut bindings::ftrace_ops,
        fregs: *mut bindings::ftrace_regs,
    ) {
        // SAFETY: `ops` is the field of a `Redirect<T>` that outlives its registration.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(ops), Self, resume) };
        // SAFETY: Only the replacement calls the stand-in, and it runs only after `enter` has stored
        // `body` in this task. The target cannot move while a call is on its way to it.
        unsafe { pin_guard_ftrace_regs_set_instruction_pointer(fregs, this.body.load(Relaxed)) };
    }
}

impl<T: Target> Redirect<T> {
    /// Writes the target's name and what has become of it.
    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = T::NAME;
        match (*self.state.lock(), T::MODULE) {
            (State::Off, _) => f.write_fmt(fmt!("{name} off\n")),
            (State::Attached, _) => f.write_fmt(fmt!("{name} attached\n")),
            (State::Waiting, Some(module)) => {
                f.write_fmt(fmt!("{name} waiting for module {module}\n"))
            }
            (State::Waiting, None) => f.write_fmt(fmt!("{name} detached\n")),
            (State::Failed(e), _) => f.write_fmt(fmt!("{name} failed {}\n", e.to_errno())),
        }
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Redirect<T> {
    fn drop(self: Pin<&mut Self>) {
        if self.notifier_on.load(Relaxed) != 0 {
            // SAFETY: Registered by `turn_on`.
            unsafe { bindings::unregister_module_notifier(self.notifier.get()) };
        }
        self.detach(&mut self.state.lock());
        // The module's last reference is gone (or it was never armed), so no replacement runs and
        // nobody needs the stand-in any more.
        if self.resume_on.load(Relaxed) != 0 {
            // SAFETY: By the type invariants, `resume` is registered.
            unsafe {
                bindings::unregister_ftrace_function(self.resume.get());
                bindings::ftrace_free_filter(self.resume.get());
            }
        }
    }
}
