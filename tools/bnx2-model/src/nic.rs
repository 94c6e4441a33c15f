// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device with its wire: who may lock what, and when frames move.
//!
//! Frames that the device sends are collected while its lock is held and go out
//! after it was released, so no two devices are locked at a time.

use crate::device::Device;
use crate::locked::locked;
use crate::rules::{Rules, Verdict, Way};
use crate::transport::VfioHost;
use crate::wire::Wire;
use mio::{Registry, Waker};
use std::collections::BinaryHeap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Frames that are delayed at the same time at most.
const DELAYED: usize = 4096;

/// A frame that goes on later.
struct Delayed {
    due: Duration,
    order: u64,
    way: Way,
    frame: Vec<u8>,
}

impl Ord for Delayed {
    /// The earliest is the greatest, for the heap.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Delayed {}

/// How a NIC gets the service thread to look at it.
pub struct Bell {
    /// Where file descriptors are registered.
    pub registry: Registry,
    /// Ends the thread's wait.
    pub waker: Arc<Waker>,
    /// The token of the NIC's resample eventfd.
    pub resample: mio::Token,
}

/// A device, its wire, and what is between them.
pub struct Nic {
    /// What the control socket calls it.
    pub name: String,
    /// Where QEMU finds it.
    pub socket: PathBuf,
    device: Mutex<Device<VfioHost>>,
    /// The other end of the cable.
    pub wire: Wire,
    rules: Mutex<Rules>,
    has_rules: AtomicBool,
    delayed: Mutex<BinaryHeap<Delayed>>,
    order: AtomicU64,
    start: Instant,
    /// The other NIC of the pair has been told to pause.
    congested: AtomicBool,
    /// When the service thread will look, in microseconds.
    expected: AtomicU64,
    /// The bell of the service thread.
    pub bell: Bell,
    /// The eventfd that says when the guest has handled INTx, with KVM.
    pub resample: Mutex<Option<File>>,
}

impl Nic {
    /// A NIC at the end of a wire.
    pub fn new(
        name: String,
        socket: PathBuf,
        device: Device<VfioHost>,
        wire: Wire,
        bell: Bell,
    ) -> Nic {
        Nic {
            name,
            socket,
            device: Mutex::new(device),
            wire,
            rules: Mutex::default(),
            has_rules: AtomicBool::new(false),
            delayed: Mutex::default(),
            order: AtomicU64::new(0),
            start: Instant::now(),
            congested: AtomicBool::new(false),
            expected: AtomicU64::new(u64::MAX),
            bell,
            resample: Mutex::new(None),
        }
    }

    /// Does something with the device. What it sends by that is on the wire
    /// when this returns.
    pub fn with<R>(&self, act: impl FnOnce(&mut Device<VfioHost>) -> R) -> R {
        let (result, mut unfinished) = self.turn(act);
        while unfinished {
            ((), unfinished) = self.turn(Device::resume);
        }
        result
    }

    /// One hold of the lock, and what has to follow it. Also says whether the
    /// device has more to send.
    fn turn<R>(&self, act: impl FnOnce(&mut Device<VfioHost>) -> R) -> (R, bool) {
        let mut device = locked(&self.device);
        device.advance(self.start.elapsed());
        let result = act(&mut device);
        let frames = device.host_mut().take_frames();
        let deadline = device.deadline();
        let congested = device.congested();
        drop(device);

        self.expect(deadline);
        if congested != self.congested.swap(congested, Ordering::AcqRel) {
            if let Some(peer) = self.wire.peer() {
                peer.set_paused(congested);
            }
        }
        if !frames.is_empty() {
            let frames = self.judge(Way::Tx, frames);
            self.wire.send(frames);
        }
        // Only now: the other end may have had us paused.
        (result, locked(&self.device).unfinished())
    }

    fn set_paused(&self, paused: bool) {
        self.with(|device| device.set_paused(paused));
    }

    /// Frames have come from the wire.
    pub fn arrive(&self, frames: Vec<Vec<u8>>) {
        let frames = self.judge(Way::Rx, frames);
        if !frames.is_empty() {
            self.with(|device| device.receive(frames));
        }
    }

    /// Has the service thread look at `deadline`.
    fn expect(&self, deadline: Option<Duration>) {
        let Some(deadline) = deadline else { return };
        let micros = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        if micros < self.expected.fetch_min(micros, Ordering::AcqRel) {
            // Should it fail, the thread looks a little later.
            let _ = self.bell.waker.wake();
        }
    }

    /// Does what is due. Returns how long until there is more.
    pub fn serve(&self) -> Option<Duration> {
        self.expected.store(u64::MAX, Ordering::Release);
        let now = self.start.elapsed();
        let mut due = Vec::new();
        {
            let mut delayed = locked(&self.delayed);
            while delayed.peek().is_some_and(|next| next.due <= now) {
                due.extend(delayed.pop());
            }
        }
        for Delayed { way, frame, .. } in due {
            match way {
                Way::Tx => self.wire.send(vec![frame]),
                Way::Rx => self.with(|device| device.receive([frame])),
            }
        }
        let device = self.with(|device| device.deadline());
        let frame = locked(&self.delayed).peek().map(|next| next.due);
        device
            .into_iter()
            .chain(frame)
            .min()
            .map(|due| due.saturating_sub(self.start.elapsed()))
    }

    /// Does something with the rules.
    pub fn with_rules<R>(&self, act: impl FnOnce(&mut Rules) -> R) -> R {
        let mut rules = locked(&self.rules);
        let result = act(&mut rules);
        self.has_rules
            .store(!rules.list().is_empty(), Ordering::Release);
        result
    }

    /// Frames that go on now.
    fn judge(&self, way: Way, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        if !self.has_rules.load(Ordering::Acquire) {
            return frames;
        }
        let mut passed = Vec::new();
        let mut rules = locked(&self.rules);
        for mut frame in frames {
            match rules.judge(way, &mut frame) {
                Verdict::Pass => passed.push(frame),
                Verdict::Drop => {}
                Verdict::Delay(by) => self.delay(way, frame, by),
            }
        }
        passed
    }

    fn delay(&self, way: Way, frame: Vec<u8>, by: Duration) {
        let due = self.start.elapsed().saturating_add(by);
        let order = self.order.fetch_add(1, Ordering::Relaxed);
        let mut delayed = locked(&self.delayed);
        if delayed.len() < DELAYED {
            delayed.push(Delayed {
                due,
                order,
                way,
                frame,
            });
        }
        drop(delayed);
        self.expect(Some(due));
    }
}
