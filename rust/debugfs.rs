// SPDX-License-Identifier: GPL-2.0

//! The state to look at, in debugfs `pin_guard/`.

use crate::{
    fork::{self, CopyPageRange},
    redirect::Redirect,
    remap::CopyVma,
    send,
    watch::{CephReadIter, NfsFileRead},
    window,
};
use kernel::{
    debugfs::{Dir, File, Writer},
    fmt,
    prelude::*,
};

/// All redirections; `targets` has a line for each.
#[pin_data]
pub(crate) struct Targets {
    // What reads windows first: without it they protect nothing.
    #[pin]
    fork: Redirect<CopyPageRange>,
    #[pin]
    remap: Redirect<CopyVma>,
    #[pin]
    nfs: Redirect<NfsFileRead>,
    #[pin]
    ceph: Redirect<CephReadIter>,
}

impl Targets {
    pub(crate) fn new(nfs: bool, ceph: bool) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            fork <- Redirect::new(true),
            remap <- Redirect::new(true),
            nfs <- Redirect::new(nfs),
            ceph <- Redirect::new(ceph),
        })
    }
}

impl Writer for Targets {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fork.describe(f)?;
        self.remap.describe(f)?;
        self.nfs.describe(f)?;
        self.ceph.describe(f)
    }
}

struct Counters;

impl Writer for Counters {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        window::counters(f)?;
        fork::counters(f)?;
        send::counters(f)
    }
}

struct Windows;

impl Writer for Windows {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        window::list(f)
    }
}

#[pin_data]
pub(crate) struct Debugfs {
    #[pin]
    counters: File<Counters>,
    #[pin]
    windows: File<Windows>,
}

impl Debugfs {
    pub(crate) fn new(dir: &Dir) -> impl PinInit<Self> + '_ {
        pin_init!(Self {
            counters <- dir.read_only_file(c"counters", Counters),
            windows <- dir.read_only_file(c"windows", Windows),
        })
    }
}
