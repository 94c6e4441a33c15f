// SPDX-License-Identifier: GPL-2.0

//! The hooks: where this module stands in front of a function of the kernel.

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

/// A parameter comes by value or by reference, as the kernel has it.
fn enabled(parameter: impl Borrow<u8>) -> bool {
    *parameter.borrow() != 0
}

macro_rules! hooks {
    ($($field:ident: $target:ty $(, if $parameter:ident)?;)*) => {
        mod all {
            #![allow(dead_code)] // a projection that `pin_data` makes
            use super::*;

            /// All hooks; debugfs `targets` says whether they protect, and has a line for each.
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

// What reads windows first: without it they protect nothing.
hooks! {
    fork: fork::CopyPageRange;
    remap: remap::MovePageTables;
    uffd: uffd::UserfaultfdIoctl;
    nfs: direct_io::NfsFileRead, if nfs;
    ceph: direct_io::CephReadIter, if ceph;
}
