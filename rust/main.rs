// SPDX-License-Identifier: GPL-2.0

//! pin_guard: user pages that a device works on stay with the process that owns them, whatever it
//! forks.
//!
//! A fork write-protects the pages of the parent. Where a kernel path holds a page by a plain reference
//! (FOLL_GET) while a device writes to it, the parent's next write gives it a *new* page, and the data
//! lands in the old one. Pages that are pinned (FOLL_PIN) are copied for the child at once instead.
//!
//! - [`PinGuard`] is the owning type for pinned user pages, for drivers in Rust.
//! - [`Window`] is for paths that hold plain references: user memory that has I/O in flight. The *fork
//!   hook* pins what the windows of the forking process cover, while the fork copies it.
//! - [`Socket`] and [`InFlight`] are the *send guard*: they hold pinned pages that were handed to a socket
//!   until the stack has let go of them.
//! - The *direct I/O watch* opens windows around the O_DIRECT reads of NFS and Ceph.
//!
//! The words of its own: a *window* is user memory of an mm with I/O in flight that holds no pins; a
//! *run* is physically contiguous memory within one folio; a *target* is a kernel function that is
//! redirected to one of ours; a *chain* is sends that share skbs, so are complete together.

// The ftrace callback of `remap.rs` takes a spin lock.
#[cfg(CONFIG_PREEMPT_RT)]
compile_error!("pin_guard: PREEMPT_RT kernels are not supported");

mod debugfs;
mod ffi;
mod folio;
mod fork;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod module_ref;
mod pin;
mod redirect;
mod remap;
mod send;
mod skb;
mod socket;
mod version;
mod watch;
mod window;

pub use module_ref::{ModuleRef, Quiesce};
pub use pin::{Dest, Direction, PinGuard, Run, Source};
pub use send::{InFlight, Notify, SendOptions};
pub use socket::Socket;
pub use window::Window;

use core::borrow::Borrow;
use debugfs::{Debugfs, Targets};
use kernel::{debugfs::File, prelude::*, InPlaceModule};

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

/// The fields drop in this order: what user space sees, the redirections, then the wait for the last
/// caller.
#[pin_data]
struct Module {
    #[pin]
    _debugfs: Debugfs,
    #[pin]
    _targets: File<Targets>,
    _quiesce: Quiesce,
}

/// A parameter comes by value or by reference, as the kernel has it.
fn enabled(parameter: impl Borrow<u8>) -> bool {
    *parameter.borrow() != 0
}

impl InPlaceModule for Module {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Nothing of the module has run before.
        unsafe { window::init() };
        let dir = kernel::debugfs::Dir::new(c"pin_guard");
        try_pin_init!(Self {
            _targets <- dir.read_only_file(
                c"targets",
                Targets::new(
                    enabled(module_parameters::nfs.value()),
                    enabled(module_parameters::ceph.value()),
                ),
            ),
            _debugfs <- Debugfs::new(&dir),
            _quiesce: Quiesce,
        })
        .pin_chain(|_| {
            redirect::arm();
            pr_info!("O_DIRECT reads are safe from fork: see debugfs pin_guard/targets\n");
            Ok(())
        })
    }
}
