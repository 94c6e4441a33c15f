// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tap interface of the machine that the model runs on.

use super::BATCH;
use crate::receive::LONGEST;
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use tappers::{Interface, Tap as Device};

/// A tap interface, made for us and gone with us.
pub struct Tap {
    device: Device,
    lost: AtomicU64,
}

impl Tap {
    /// Makes the interface and sets it up.
    pub fn open(name: &str, registry: &Registry, token: Token) -> io::Result<Tap> {
        let mut device = Device::new_named(Interface::new(name)?)?;
        device.set_nonblocking(true)?;
        device.set_up()?;
        registry.register(
            &mut SourceFd(&device.as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        Ok(Tap {
            device,
            lost: AtomicU64::new(0),
        })
    }

    /// Sends frames; what the interface does not take is lost.
    pub fn send(&self, frames: &[Vec<u8>]) {
        for frame in frames {
            if self.device.send(frame).is_err() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Reads all that has come.
    pub fn event(&self, event: &Event, mut arrived: impl FnMut(Vec<Vec<u8>>)) {
        if !event.is_readable() {
            return;
        }
        let mut buffer = vec![0; LONGEST];
        loop {
            let mut frames = Vec::new();
            while frames.len() < BATCH {
                match self.device.recv(&mut buffer) {
                    Ok(length) => frames.push(buffer.get(..length).unwrap_or_default().to_vec()),
                    Err(_) => break,
                }
            }
            let more = frames.len() == BATCH;
            if !frames.is_empty() {
                arrived(frames);
            }
            if !more {
                return;
            }
        }
    }

    /// Frames that the interface did not take.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}
