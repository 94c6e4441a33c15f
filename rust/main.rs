// SPDX-License-Identifier: GPL-2.0

//! pin_guard makes sure that a process keeps the pages on which a device works, even if the process
//! forks.
//!
//! A fork write-protects the pages of the parent. If a kernel path holds a page only by a plain
//! reference (FOLL_GET) while a device writes to it, the parent's next write to that page gives the
//! parent a *new* page. The data of the device stays in the old page and is lost. If the page is
//! pinned (FOLL_PIN), the fork copies it for the child at once, and the parent keeps it.
//!
//! - [`PinGuard`] owns pinned user pages, for drivers in Rust.
//! - [`Window`] protects pages that other code holds by plain references. It marks user memory that
//!   has I/O in flight. During a fork, the *fork hook* pins the pages in the windows of the
//!   process.
//! - [`Socket`] and [`InFlight`] are the *send guard*. It sends pinned pages without a copy, and
//!   holds the pins until the network stack has released the pages.
//! - [`ModuleRef`] and [`Quiesce`] keep the code of a driver loaded while its I/O is in flight.
//! - The *direct I/O watch* opens windows around the O_DIRECT reads of NFS and Ceph. A driver has
//!   no part in this.
//!
//! A driver needs no unsafe code to use the crate. `Documentation/api.rst` introduces it by
//! example; `samples/pin_guard_dma.rs` and `samples/pin_guard_tx.rs` are complete drivers.
//!
//! The crate uses these terms: a *run* is physically contiguous memory within one folio; a *target*
//! is a kernel function whose calls the module redirects; a *chain* is a list of sends that share
//! skbs and so complete together.

// For `rustdoc --test`. It does not get kbuild's -Zcrate-attr=no_std. With no_std it compiles an
// example as the items of a crate, not as the body of a main().
#![cfg_attr(doctest, no_std)]
#![doc(test(attr(no_std, no_main, allow(unused))))]

// The ftrace callbacks of the hooks take a spin lock.
#[cfg(CONFIG_PREEMPT_RT)]
compile_error!("pin_guard: PREEMPT_RT kernels are not supported");

mod cache;
mod counters;
mod debugfs;
mod ffi;
mod hook;
mod in_use;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod module_ref;
mod pin;
mod send;
mod version;
mod window;

// The examples of api.rst are indented by four columns, so they are Rust code in Markdown, too.
#[cfg(doctest)]
#[doc = include_str!("../Documentation/api.rst")]
mod api_rst {}

pub use module_ref::{ModuleRef, Quiesce};
pub use pin::{Dest, Direction, PinGuard, Run, Source};
pub use send::{Batch, HasNotifier, InFlight, Notifier, Notify, SendOptions, Socket};
pub use window::Window;

use cache::Created;
use debugfs::Debugfs;
use hook::Hooks;
use in_use::Counted;
use kernel::{debugfs::File, prelude::*, InPlaceModule};
use window::Registry;

module! {
    type: Module,
    name: "pin_guard",
    authors: ["The pin_guard developers"],
    description: "Keeps direct I/O and fork from losing data",
    license: "GPL",
    params: {
        nfs: u8 {
            default: 1,
            description: "Protect O_DIRECT reads of NFS (nfs_file_read): 1 yes, 0 no",
        },
        ceph: u8 {
            default: 1,
            description: "Protect O_DIRECT reads of Ceph (ceph_read_iter): 1 yes, 0 no",
        },
    },
}

/// The fields drop in this order. The debugfs files and the redirections go first. Then [`Quiesce`]
/// waits for the last call that still runs in this module. The caches and the registry, which such
/// a call may use, go last.
#[pin_data]
struct Module {
    #[pin]
    _debugfs: Debugfs,
    #[pin]
    _hooks: File<Hooks>,
    _quiesce: Quiesce,
    _counted: Counted,
    _reads: Created,
    _runs: Created,
    _registry: Registry,
}

impl InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let dir = kernel::debugfs::Dir::new(c"pin_guard");
        try_pin_init!(Self {
            // SAFETY: Nothing has opened or looked for a window before this, and nothing does so
            // when the registry drops.
            _registry: unsafe { Registry::new() }?,
            // SAFETY: As above. Whoever owns a guard holds a reference on the module.
            _runs: unsafe { pin::CACHE.create() }?,
            // SAFETY: As above.
            _reads: unsafe { hook::READS.create() }?,
            // SAFETY: As above: nothing uses the module before this, nor when all hooks are gone.
            _counted: unsafe { Counted::new() }?,
            _quiesce: Quiesce,
            _hooks <- dir.read_only_file(c"targets", Hooks::new()),
            _debugfs <- Debugfs::new(&dir, c"pin_guard"),
        })
        .pin_chain(|_| {
            hook::arm();
            pr_info!("O_DIRECT reads are safe from fork: see debugfs pin_guard/targets\n");
            Ok(())
        })
    }
}
