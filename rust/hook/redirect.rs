// SPDX-License-Identifier: GPL-2.0

//! Redirection of a kernel function to a function of this module, through ftrace.
//!
//! Two `ftrace_ops` change the instruction pointer (`FTRACE_OPS_FL_IPMODIFY`), as those of
//! `kernel/livepatch/patch.c` do:
//!
//! - The ops of a [`Redirect`] are on the *target*. They send the calls that [`Replace::applies`]
//!   picks to the *replacement*. All other calls go on into the target.
//! - The ops of an [`Entrance`] are on the *stand-in*, a C function of this module with the
//!   signature of the target. They send its calls into the target, behind the target's own ftrace
//!   hook. So the replacement calls the original by calling the stand-in. An entrance alone makes
//!   it possible to call a function that the kernel does not export.
//!
//! ftrace reaches both by a return, not by an indirect branch. That matters with IBT: nobody takes
//! the address of `copy_page_range()`, so the kernel seals its ENDBR at boot, and a call through a
//! pointer faults. The call does not pass the target's hook again, so no code has to tell a
//! recursive call from a first one, even if the compiler makes tail calls in the replacement.
//!
//! On arm64, `ftrace_caller` (`arch/arm64/kernel/entry-ftrace.S`) also returns to the instruction
//! pointer that the callback has set, with the link register of the function's caller, so it needs
//! no `BTI C` either. `ip` is the address of the hook's second instruction, the BL; the body of the
//! function begins behind it.
//!
//! C header: [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h)

use super::symbol::{self, Home};
use crate::{ffi::*, in_use::InUse};
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
    time::{delay::fsleep, Delta},
    types::Opaque,
};

/// Whether the ops may redirect calls; see [`arm`].
static ARMED: Atomic<i32> = Atomic::new(0);

/// Allows every [`Redirect`] to redirect calls from now on. Any context.
///
/// The module calls this as the last step of its init. If the init of a module fails, the kernel
/// frees the module without regard to its references, so no redirected call may run in the module
/// before that.
pub(crate) fn arm() {
    ARMED.store(1, Release);
}

/// The registers of a call, as the ftrace callback sees them.
pub(super) struct Args(*mut bindings::ftrace_regs);

impl Args {
    /// Returns the `n`th argument.
    #[inline(always)]
    pub(super) fn number(&self, n: u32) -> usize {
        // SAFETY: `self.0` is valid during the callback (`enter()`).
        unsafe {
            match n {
                0 => pin_guard_ftrace_regs_get_argument0(self.0),
                1 => pin_guard_ftrace_regs_get_argument1(self.0),
                n => pin_guard_ftrace_regs_get_argument(self.0, n),
            }
        }
    }

    /// Returns the `n`th argument, cast to the type of the target's parameter.
    #[inline(always)]
    pub(super) fn pointer<T>(&self, n: u32) -> *mut T {
        self.number(n) as *mut T
    }
}

/// A function of the kernel, and the stand-in through which the module calls it; see [`Entrance`].
///
/// # Safety
///
/// - `Pointer` must be the type of the kernel function called `NAME`.
/// - `STAND_IN` must be a traceable function of this module, and only a holder of an [`Entrance`]
///   for it, or of an [`Original`], may call it.
pub(super) unsafe trait Function: 'static + Send + Sync {
    /// The type of the function: an `extern "C" fn` pointer.
    type Pointer: Copy + 'static;
    const NAME: &'static CStr;
    /// The kernel module that has the function, and may come and go; `None` if the kernel itself
    /// has it.
    const MODULE: Option<&'static CStr>;
    const STAND_IN: Self::Pointer;
}

/// A function to redirect. [`replace!`] implements this trait.
///
/// # Safety
///
/// - `REPLACEMENTS` must adopt the use of the module that [`Redirect::redirect`] leaves, as an
///   [`Original`], and keep it, or a clone of it, until its last call of the stand-in has returned.
/// - `ENTER` must be [`Redirect::enter`] of this type, or must call that with its own arguments or
///   not at all.
pub(super) unsafe trait Replace: Function {
    /// The functions of this module that run instead: the second one if the use is counted apart
    /// (see [`InUse`]).
    const REPLACEMENTS: [Self::Pointer; 2];

    /// A function beside the target, in the kernel or in the same module, that exists only in
    /// kernels whose target needs no protection.
    const UNLESS: Option<&'static CStr>;

    /// The ftrace callback: [`Redirect::enter`], or a function that calls it if `applies` may be
    /// true.
    const ENTER: Callback;

    /// Returns whether to redirect this call, and has no side effect.
    ///
    /// It runs in an ftrace callback on every call of the function, in the context of the caller,
    /// so it must not sleep.
    fn applies(args: &Args) -> bool;
}

/// The kernel's own function, for its replacement. It keeps this module loaded.
pub(super) struct Original<T: Replace> {
    in_use: InUse,
    target: PhantomData<T>,
}

impl<T: Replace> Original<T> {
    /// Adopts the use of this call.
    ///
    /// # Safety
    ///
    /// The caller must be the replacement for calls with that `apart`, and must do this once.
    pub(super) unsafe fn adopt(apart: bool) -> Self {
        Self {
            // SAFETY: `redirect` has left the use to this call.
            in_use: unsafe { InUse::adopt(apart) },
            target: PhantomData,
        }
    }

    /// Returns the function. It must not be called after `self` and all uses from
    /// [`Original::in_use`] are gone.
    pub(super) fn function(&self) -> T::Pointer {
        T::STAND_IN
    }

    /// Returns a use of the module for work that outlives this call.
    pub(super) fn in_use(&self) -> InUse {
        self.in_use.clone()
    }
}

/// Declares `$target`, which replaces a function of the kernel.
///
/// `$target::applies()` picks calls. For these calls `$target::call()` runs, with an [`Original`]
/// before the arguments. `$enter` is [`Replace::ENTER`], if that is not [`Redirect::enter`];
/// `$unless` is [`Replace::UNLESS`].
macro_rules! replace {
    (
        $(#[$doc:meta])*
        $target:ident: $name:literal $(in $module:literal)? $(unless $unless:literal)?,
        fn($($arg:ident: $type:ty),*) -> $ret:ty, by $stand_in:path $(, through $enter:path)?
    ) => {
        $(#[$doc])*
        pub(super) struct $target;

        // SAFETY: The type is that of the kernel's function and of the stand-in, which helpers.c
        // declares for this purpose.
        unsafe impl $crate::hook::redirect::Function for $target {
            type Pointer = unsafe extern "C" fn($($type),*) -> $ret;
            const NAME: &'static CStr = $name;
            const MODULE: Option<&'static CStr> = {
                #[allow(unused_mut, unused_assignments)]
                let mut module: Option<&'static CStr> = None;
                $(module = Some($module);)?
                module
            };
            const STAND_IN: Self::Pointer = $stand_in;
        }

        // SAFETY: The replacement makes an `Original` first.
        unsafe impl $crate::hook::redirect::Replace for $target {
            const REPLACEMENTS: [Self::Pointer; 2] = {
                /// # Safety
                ///
                /// The arguments are those of the target, and `redirect` has redirected the call.
                unsafe extern "C" fn replacement<const APART: bool>($($arg: $type),*) -> $ret {
                    use $crate::hook::redirect::Original;

                    // SAFETY: This is the replacement.
                    let original = unsafe { Original::<$target>::adopt(APART) };
                    // SAFETY: The arguments are those of the target.
                    unsafe { $target::call(&original, $($arg),*) }
                }
                [replacement::<false>, replacement::<true>]
            };
            const UNLESS: Option<&'static CStr> = {
                #[allow(unused_mut, unused_assignments)]
                let mut unless: Option<&'static CStr> = None;
                $(unless = Some($unless);)?
                unless
            };
            const ENTER: $crate::hook::redirect::Callback = {
                #[allow(unused_mut, unused_assignments)]
                let mut enter: $crate::hook::redirect::Callback =
                    $crate::hook::redirect::Redirect::<$target>::enter;
                $(enter = $enter;)?
                enter
            };

            #[inline(always)]
            fn applies(args: &$crate::hook::redirect::Args) -> bool {
                $target::applies(args)
            }
        }
    };
}
pub(super) use replace;

pub(super) type Callback =
    unsafe extern "C" fn(usize, usize, *mut bindings::ftrace_ops, *mut bindings::ftrace_regs);

fn ops(func: Callback) -> impl PinInit<Opaque<bindings::ftrace_ops>> {
    Opaque::ffi_init(move |slot: *mut bindings::ftrace_ops| {
        // PERMANENT: `sysctl kernel.ftrace_enabled=0` must fail, not turn the protection off.
        // SAFETY: `slot` is valid for writes; ftrace initialises an `ftrace_ops` that is zero.
        unsafe {
            slot.write_bytes(0, 1);
            (*slot).func = Some(func);
            (*slot).flags =
                (bindings::FTRACE_OPS_FL_IPMODIFY | bindings::FTRACE_OPS_FL_PERMANENT) as usize;
            #[cfg(not(CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS))]
            {
                (*slot).flags |= bindings::FTRACE_OPS_FL_SAVE_REGS as usize;
            }
        }
    })
}

/// Has ftrace call `ops` for the function at `addr`. May sleep.
///
/// C: [`ftrace_set_filter_ip()`, `register_ftrace_function()`](srctree/kernel/trace/ftrace.c)
///
/// # Errors
///
/// As [`Redirect::new`].
///
/// # Safety
///
/// `ops` must be initialised and not registered, and must stay where it is until [`unregister`].
unsafe fn register(ops: *mut bindings::ftrace_ops, addr: usize) -> Result {
    // SAFETY: By the safety requirements.
    let result = match unsafe { bindings::ftrace_set_filter_ip(ops, addr, 0, 1) } {
        0 => (0..ATTEMPTS)
            .find_map(|_| {
                // SAFETY: As above.
                match to_result(unsafe { bindings::register_ftrace_function(ops) }) {
                    // A BPF trampoline of the same function is being updated
                    // (`prepare_direct_functions_for_ipmodify()`).
                    Err(EAGAIN) => {
                        fsleep(Delta::from_millis(10));
                        None
                    }
                    result => Some(result),
                }
            })
            .unwrap_or(Err(EBUSY)),
        // ftrace returns EINVAL if it cannot trace the address.
        e if e == EINVAL.to_errno() => Err(ENOENT),
        e => to_result(e),
    };
    if result.is_err() {
        // SAFETY: `ops` is not registered.
        unsafe { bindings::ftrace_free_filter(ops) };
    }
    result
}

/// How many times to try while ftrace returns EAGAIN, 10 ms apart.
const ATTEMPTS: usize = 200;

/// Undoes [`register`]. When it returns, no callback runs any more (`ftrace_shutdown()`
/// synchronises). Sleeps.
///
/// # Safety
///
/// `ops` must be registered.
unsafe fn unregister(ops: *mut bindings::ftrace_ops) {
    // SAFETY: By the safety requirements.
    unsafe {
        bindings::unregister_ftrace_function(ops);
        bindings::ftrace_free_filter(ops);
    }
}

fn report(name: &CStr, e: Error) {
    match e {
        EBUSY => pr_err!(
            "{name}: not protected: redirected already (a livepatch?), or kernel.ftrace_enabled=0\n"
        ),
        ENOENT => pr_err!("{name}: not protected: no such function to trace in this kernel\n"),
        e => pr_err!("{name}: not protected: ftrace cannot redirect it here ({e:?})\n"),
    }
}

/// Sends calls of the stand-in to the kernel's function, from creation to drop.
///
/// # Invariants
///
/// `ops` is registered with ftrace exactly if `on`.
#[pin_data(PinnedDrop)]
pub(super) struct Entrance<T: Function> {
    #[pin]
    ops: Opaque<bindings::ftrace_ops>,
    on: Atomic<i32>,
    /// The address that calls go to.
    body: Atomic<usize>,
    function: PhantomData<T>,
}

// SAFETY: ftrace may be called from any thread.
unsafe impl<T: Function> Send for Entrance<T> {}
// SAFETY: As above.
unsafe impl<T: Function> Sync for Entrance<T> {}

impl<T: Function> Entrance<T> {
    /// Opens an entrance to a function of the kernel itself. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Redirect::new`].
    pub(super) fn new() -> impl PinInit<Self, Error> {
        Self::closed().pin_chain(|this| {
            let addr = symbol::address(T::NAME, None);
            addr.and_then(|addr| {
                this.body.store(addr, Relaxed);
                this.open()
            })
            .inspect_err(|&e| report(T::NAME, e))
        })
    }

    fn closed() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- ops(Self::pass),
            on: Atomic::new(0),
            body: Atomic::new(0),
            function: PhantomData,
        })
    }

    fn open(&self) -> Result {
        // SAFETY: `Pointer` is a function pointer.
        let stand_in = unsafe { mem::transmute_copy(&T::STAND_IN) };
        // SAFETY: The ops are initialised, not registered, and stay where they are. `drop`
        // unregisters them.
        unsafe { register(self.ops.get(), stand_in) }?;
        self.on.store(1, Relaxed);
        Ok(())
    }

    /// The ftrace callback on the stand-in.
    ///
    /// # Safety
    ///
    /// ftrace must call this, with the ops of an `Entrance<T>`.
    unsafe extern "C" fn pass(
        _ip: usize,
        _parent_ip: usize,
        ops: *mut bindings::ftrace_ops,
        fregs: *mut bindings::ftrace_regs,
    ) {
        // SAFETY: `ops` is the field of an `Entrance<T>` that outlives its registration.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(ops), Self, ops) };
        // SAFETY: `body` is set before anybody calls the stand-in, which has the type of the
        // function. The function cannot move while a call is on its way to it.
        unsafe { pin_guard_ftrace_regs_set_instruction_pointer(fregs, this.body.load(Relaxed)) };
    }
}

#[pinned_drop]
impl<T: Function> PinnedDrop for Entrance<T> {
    fn drop(self: Pin<&mut Self>) {
        if self.on.load(Relaxed) != 0 {
            // SAFETY: By the type invariants.
            unsafe { unregister(self.ops.get()) };
        }
    }
}

/// The state of a redirection.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Turned off by a module parameter.
    Off,
    /// The module of the target is not loaded.
    Waiting,
    Attached,
    /// This kernel has [`Replace::UNLESS`].
    Needless,
    Failed(Error),
}

/// Redirects a function from creation to drop.
///
/// If the target is in a module, the redirection attaches when that module comes and detaches when
/// it goes. ftrace does neither for `IPMODIFY` users: it emits a WARN, and in the end shuts itself
/// down.
///
/// C: [`ftrace_module_enable()`, `__ftrace_hash_rec_update()`](srctree/kernel/trace/ftrace.c)
///
/// # Invariants
///
/// `ops` is registered with ftrace exactly in [`State::Attached`].
#[pin_data(PinnedDrop)]
pub(super) struct Redirect<T: Replace> {
    #[pin]
    ops: Opaque<bindings::ftrace_ops>,
    #[pin]
    entrance: Entrance<T>,
    #[pin]
    notifier: Opaque<bindings::notifier_block>,
    #[pin]
    state: Mutex<State>,
    /// Whether `notifier` is registered.
    notifier_on: Atomic<i32>,
}

// SAFETY: The C objects are used under the mutex of the state, or by ftrace and the notifier chain,
// which any thread may call.
unsafe impl<T: Replace> Send for Redirect<T> {}
// SAFETY: As above.
unsafe impl<T: Replace> Sync for Redirect<T> {}

impl<T: Replace> Redirect<T> {
    /// Redirects the target: now, or when its module comes; not at all if `!wanted`. May sleep.
    ///
    /// # Errors
    ///
    /// Each error has a line in the kernel log.
    ///
    /// - `EBUSY`: the target is redirected already (by a livepatch), or `kernel.ftrace_enabled` is
    ///   0.
    /// - `ENOENT`: this kernel has no such function that ftrace can trace.
    /// - `ENODEV`: ftrace has shut itself down.
    /// - `ENOMEM`: there is no memory for the filter.
    pub(super) fn new(wanted: bool) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- ops(T::ENTER),
            entrance <- Entrance::closed(),
            notifier <- Opaque::ffi_init(|slot: *mut bindings::notifier_block| {
                // SAFETY: `slot` is valid for writes. All fields of a notifier block but the call
                // may be zero.
                unsafe {
                    slot.write_bytes(0, 1);
                    (*slot).notifier_call = Some(Self::module_event);
                }
            }),
            state <- new_mutex!(State::Off),
            notifier_on: Atomic::new(0),
        })
        .pin_chain(move |this| {
            if wanted {
                this.turn_on().inspect_err(|&e| report(T::NAME, e))
            } else {
                Ok(())
            }
        })
    }

    fn turn_on(&self) -> Result {
        self.entrance.open()?;
        *self.state.lock() = State::Waiting;
        let Some(name) = T::MODULE else {
            return self.attach(&mut self.state.lock(), None);
        };
        // Registered before the lookup, so that this misses no arrival. The notifier may attach
        // first.
        // SAFETY: The notifier stays where it is until `drop` unregisters it.
        to_result(unsafe { bindings::register_module_notifier(self.notifier.get()) })?;
        self.notifier_on.store(1, Relaxed);
        let home = Home::find(name);
        let mut state = self.state.lock();
        if home.is_some() {
            self.attach(&mut state, home.as_ref())
        } else if symbol::is_built_in(name) {
            self.attach(&mut state, None)
        } else {
            Ok(())
        }
    }

    fn attach(&self, state: &mut State, home: Option<&Home>) -> Result {
        if *state == State::Attached {
            return Ok(());
        }
        let result = self.try_attach(T::MODULE.zip(home));
        *state = result.unwrap_or_else(State::Failed);
        result.map(|_| ())
    }

    fn try_attach(&self, home: Option<(&CStr, &Home)>) -> Result<State> {
        if let Some(unless) = T::UNLESS {
            match symbol::address(unless, home) {
                Ok(_) => {
                    let name = T::NAME;
                    pr_info!("{name}: left alone, it pins its pages: this kernel has {unless}()\n");
                    return Ok(State::Needless);
                }
                Err(ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        let addr = symbol::address(T::NAME, home)?;
        // SAFETY: The ops are initialised, not registered, and stay where they are.
        unsafe { register(self.ops.get(), addr) }?;
        Ok(State::Attached)
    }

    fn detach(&self, state: &mut State) {
        if *state == State::Attached {
            // SAFETY: By the type invariants.
            unsafe { unregister(self.ops.get()) };
        }
        *state = State::Waiting;
    }

    /// The module notifier.
    ///
    /// # Safety
    ///
    /// The module loader must call this, with the notifier block of a `Redirect<T>`.
    unsafe extern "C" fn module_event(
        notifier: *mut bindings::notifier_block,
        event: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: `notifier` is the field of a `Redirect<T>` that outlives its registration.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(notifier), Self, notifier) };
        let module = data.cast::<bindings::module>();
        // SAFETY: The loader passes the module whose state changes.
        let name = unsafe { CStr::from_char_ptr((*module).name.as_ptr()) };
        if T::MODULE != Some(name) {
            return bindings::NOTIFY_DONE as c_int;
        }

        let mut state = this.state.lock();
        match event as u32 {
            // LIVE: the module was already COMING when this notifier was registered.
            bindings::module_state_MODULE_STATE_COMING
            | bindings::module_state_MODULE_STATE_LIVE
                if *state == State::Waiting =>
            {
                // SAFETY: The notifier chain has passed the module, and waits for this call.
                let home = unsafe { Home::of_notifier(module) };
                if let Err(e) = this.attach(&mut state, Some(&home)) {
                    report(T::NAME, e);
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
    /// ftrace must call this, with the ops of a `Redirect<T>`.
    pub(super) unsafe extern "C" fn enter(
        ip: usize,
        _parent_ip: usize,
        ops: *mut bindings::ftrace_ops,
        fregs: *mut bindings::ftrace_regs,
    ) {
        if T::applies(&Args(fregs)) {
            // SAFETY: As above.
            unsafe { Self::redirect(ip, ops, fregs) };
        }
    }

    /// Sends the call to the replacement. A function of its own, so that calls that go on into the
    /// target do not pay for its stack frame.
    ///
    /// # Safety
    ///
    /// As for `enter`, and `applies` must be true.
    #[inline(never)]
    unsafe fn redirect(
        ip: usize,
        ops: *mut bindings::ftrace_ops,
        fregs: *mut bindings::ftrace_regs,
    ) {
        if ARMED.load(Acquire) == 0 {
            return;
        }
        let Some(in_use) = InUse::try_get() else {
            return;
        };
        // SAFETY: `ops` is the field of a `Redirect<T>` that outlives its registration.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(ops), Self, ops) };
        let body = ip + bindings::MCOUNT_INSN_SIZE as usize;
        // Written once: all processors read this line on each redirected call.
        if this.entrance.body.load(Relaxed) != body {
            this.entrance.body.store(body, Relaxed);
        }
        // SAFETY: By the safety requirements of `Function` and `Replace`, the replacement has the
        // target's type, and `fregs` holds the target's arguments.
        unsafe {
            // The replacement adopts this use.
            let replacement = mem::transmute_copy(&T::REPLACEMENTS[usize::from(in_use.leave())]);
            pin_guard_ftrace_regs_set_instruction_pointer(fregs, replacement);
        }
    }

    /// Returns whether all calls that need protection are redirected. A module that is not loaded
    /// has no calls.
    pub(super) fn protects(&self) -> bool {
        !matches!(*self.state.lock(), State::Off | State::Failed(_))
    }

    /// Writes a line with the target's name and the state of the redirection.
    pub(super) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = T::NAME;
        match (*self.state.lock(), T::MODULE) {
            (State::Off, _) => f.write_fmt(fmt!("{name} off\n")),
            (State::Attached, _) => f.write_fmt(fmt!("{name} attached\n")),
            (State::Needless, _) => f.write_fmt(fmt!("{name} left alone, it pins its pages\n")),
            (State::Waiting, Some(module)) => {
                f.write_fmt(fmt!("{name} waiting for module {module}\n"))
            }
            (State::Waiting, None) => f.write_fmt(fmt!("{name} detached\n")),
            (State::Failed(e), _) => f.write_fmt(fmt!("{name} failed {}\n", e.to_errno())),
        }
    }
}

#[pinned_drop]
impl<T: Replace> PinnedDrop for Redirect<T> {
    fn drop(self: Pin<&mut Self>) {
        if self.notifier_on.load(Relaxed) != 0 {
            // SAFETY: `turn_on` has registered it.
            unsafe { bindings::unregister_module_notifier(self.notifier.get()) };
        }
        // The module's last reference is gone (or the module was never armed). So no replacement
        // runs, and nobody needs the entrance, which drops next.
        self.detach(&mut self.state.lock());
    }
}
