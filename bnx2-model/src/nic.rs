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

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

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
        let deadline = micros(deadline);
        if deadline < self.expected.fetch_min(deadline, Ordering::AcqRel) {
            // Should it fail, the thread looks a little later.
            let _ = self.bell.waker.wake();
        }
    }

    /// Does what is due. Returns how long until there is more.
    pub fn serve(&self) -> Option<Duration> {
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
        // What is due by now.
        self.with(|_| ());
        // From here on, who has something earlier wakes us. We do not wake ourselves.
        self.expected.store(u64::MAX, Ordering::Release);
        let device = locked(&self.device).deadline();
        let frame = locked(&self.delayed).peek().map(|next| next.due);
        let next = device.into_iter().chain(frame).min()?;
        self.expected.fetch_min(micros(next), Ordering::AcqRel);
        Some(next.saturating_sub(self.start.elapsed()))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config_space::Layout;
    use crate::device::Settings;
    use crate::mac::MacAddress;
    use mio::{Events, Poll, Token};

    fn nic(poll: &Poll) -> Nic {
        let settings = Settings {
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            layout: Layout {
                bar_size: 1 << 25,
                msix: false,
            },
            fifo: 1 << 16,
        };
        Nic::new(
            "nic0".into(),
            PathBuf::new(),
            Device::new(VfioHost::default(), settings),
            Wire::Nothing,
            Bell {
                registry: poll.registry().try_clone().unwrap(),
                waker: Arc::new(Waker::new(poll.registry(), Token(0)).unwrap()),
                resample: Token(1),
            },
        )
    }

    /// Lets time pass, however busy the machine is.
    fn pass(nic: &mut Nic, seconds: u64) {
        nic.start -= Duration::from_secs(seconds);
    }

    fn woken(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn the_service_thread_is_woken_for_what_is_earlier_and_not_by_itself() {
        let mut poll = Poll::new().unwrap();
        let mut nic = nic(&poll);
        assert_eq!(nic.serve(), None);
        assert!(!woken(&mut poll));
        // Statistics each 10 s.
        nic.with(|device| device.write_register(0x6844, 10_000_000));
        assert!(woken(&mut poll));
        for _ in 0..3 {
            assert!(nic.serve().unwrap() > Duration::from_secs(9));
            assert!(!woken(&mut poll));
        }
        nic.with(|_| ());
        assert!(!woken(&mut poll));
        nic.with(|device| device.write_register(0x6844, 5_000_000));
        assert!(woken(&mut poll));
        assert!(nic.serve().unwrap() <= Duration::from_secs(5));
        pass(&mut nic, 5);
        assert!(nic.serve().unwrap() > Duration::ZERO);
        assert!(!woken(&mut poll));
    }

    #[test]
    fn delayed_frames_are_due_in_order() {
        let mut poll = Poll::new().unwrap();
        let mut nic = nic(&poll);
        for line in ["delay=40000 times=1", "delay=20000 times=1"] {
            nic.with_rules(|rules| rules.add(line.split(' '))).unwrap();
        }
        nic.arrive(vec![vec![1; 60], vec![2; 60], vec![3; 60]]);
        assert!(woken(&mut poll));
        let received = |nic: &Nic| nic.with(|device| device.activity().received_while_shut);
        assert_eq!(received(&nic), 1);
        assert!(nic.serve().unwrap() <= Duration::from_secs(20));
        assert_eq!(received(&nic), 1);
        pass(&mut nic, 20);
        assert!(nic.serve().unwrap() <= Duration::from_secs(20));
        assert_eq!(received(&nic), 2);
        pass(&mut nic, 20);
        assert_eq!(nic.serve(), None);
        assert_eq!(received(&nic), 3);
    }
}
