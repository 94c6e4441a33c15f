// SPDX-License-Identifier: GPL-2.0

//! The hooks: functions of this module that run instead of kernel functions.

mod direct_io;
mod fork;
mod present;
mod redirect;
mod remap;
mod symbol;
mod uffd;

pub(crate) use direct_io::READS;
pub(crate) use fork::counters;
pub(crate) use redirect::arm;

use crate::module_parameters;
use core::borrow::Borrow;
use kernel::{
    debugfs::Writer,
    fmt,
    prelude::*,
    time::{BootTime, Instant},
};
use redirect::{Entrance, Function, Redirect};

/// Returns whether a module parameter is on. Some kernels return its value, others a reference to
/// it.
fn enabled(parameter: impl Borrow<u8>) -> bool {
    *parameter.borrow() != 0
}

macro_rules! hooks {
    ($($field:ident: $target:ty $(, if $parameter:ident)?;)*) => {
        mod all {
            #![allow(dead_code)] // `pin_data` makes a projection that nobody uses
            use super::*;

            /// All hooks. They write debugfs `targets`: the first line says whether all of them
            /// protect, and each hook has a line.
            #[pin_data]
            pub(crate) struct Hooks {
                #[pin]
                swap_cache: Entrance<present::SwapCacheHasFolio>,
                $(
                    #[pin]
                    $field: Redirect<$target>,
                )*
                since: Instant<BootTime>,
            }

            impl Hooks {
                pub(crate) fn new() -> impl PinInit<Self, Error> {
                    try_pin_init!(Self {
                        swap_cache <- Entrance::new(),
                        $(
                            $field <- Redirect::new(
                                true $(&& enabled(module_parameters::$parameter.value()))?
                            ),
                        )*
                        since: Instant::now(),
                    })
                }
            }

            impl Writer for Hooks {
                fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_fmt(fmt!("protected for {} s", self.since.elapsed().as_millis() / 1000))?;
                    let mut but = ", but not";
                    for (name, protects) in [$((<$target>::NAME, self.$field.protects())),*] {
                        if !protects {
                            f.write_fmt(fmt!("{but} {name}"))?;
                            but = "";
                        }
                    }
                    f.write_str("\n")?;
                    $(self.$field.describe(f)?;)*
                    Ok(())
                }
            }
        }
        pub(crate) use all::Hooks;
    };
}

// The hooks that read windows come first: without them, a window protects nothing.
hooks! {
    fork: fork::CopyPageRange;
    remap: remap::MovePageTables;
    uffd: uffd::UserfaultfdIoctl;
    nfs: direct_io::NfsFileRead, if nfs;
    ceph: direct_io::CephReadIter, if ceph;
}
