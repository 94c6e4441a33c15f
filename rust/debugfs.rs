// SPDX-License-Identifier: GPL-2.0

//! The files `counters` and `windows` in debugfs `pin_guard/`. The third file, `targets`, is in
//! `hook/mod.rs`.

use crate::{hook, in_use, send, window};
use kernel::{
    debugfs::{Dir, File, Writer},
    fmt,
    prelude::*,
};

struct Counters;

impl Writer for Counters {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        window::counters(f)?;
        hook::counters(f)?;
        send::counters(f)?;
        in_use::counters(f)
    }
}

#[pin_data]
pub(crate) struct Debugfs {
    #[pin]
    counters: File<Counters>,
    #[pin]
    windows: window::List,
}

impl Debugfs {
    /// Creates the files in the directory `dir`, which has the name `name`.
    pub(crate) fn new<'a>(dir: &'a Dir, name: &'static CStr) -> impl PinInit<Self> + 'a {
        pin_init!(Self {
            counters <- dir.read_only_file(c"counters", Counters),
            windows <- window::List::new(name),
        })
    }
}
