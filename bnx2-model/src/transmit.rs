// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transmit side: from descriptors to frames.

use crate::context::RINGS;
use crate::device::Device;
use crate::headers::{Packet, ETHERNET, VLAN};
use crate::host::Host;
use crate::registers::Blocks;
use crate::ring::{fetch, RingIndex, TransmitDescriptor, TransmitFlags};
use crate::segmentation;
use serde::Serialize;
use std::time::Duration;

/// Descriptors that are walked for a doorbell at most: what a ring holds.
const DESCRIPTORS_PER_DOORBELL: usize = 255;
/// Frames that a doorbell sends at most, all segments counted.
const FRAMES_PER_DOORBELL: usize = 0x4000;
/// Bytes that are sent before the other end of the wire is looked at again.
const SLICE: usize = 128 << 10;
/// How long a pause lasts at most. Who does not listen does not stop the sender.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that the descriptors of one frame have together at most: the longest
/// IP packet with its Ethernet header and tags.
const LONGEST: usize = 0x1_0100;
/// Bytes of the shortest frame, without FCS.
pub const SHORTEST: usize = 60;

/// A transmit ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransmitRing {
    consumer: RingIndex,
    producer: Option<RingIndex>,
}

impl TransmitRing {
    /// Indices for a state dump.
    pub fn indices(&self) -> RingIndices {
        RingIndices {
            consumer: self.consumer.value(),
            producer: self.producer.map(RingIndex::value),
        }
    }
}

/// How far the work of a doorbell is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Rings that have more to send, as a bit each.
    unfinished: u32,
    /// Descriptors that may still be walked.
    descriptors: usize,
    /// Frames that may still be sent.
    frames: usize,
    /// Bytes that were sent since the last look at the other end.
    bytes: usize,
    /// The other end has no room until then.
    paused: Option<Duration>,
}

impl Progress {
    /// As after a chip reset. What the other end says still holds.
    pub(crate) fn reset(&mut self) {
        *self = Progress {
            paused: self.paused,
            ..Progress::default()
        };
    }

    fn begin(&mut self) {
        self.descriptors = DESCRIPTORS_PER_DOORBELL;
        self.frames = FRAMES_PER_DOORBELL;
        self.bytes = 0;
    }

    fn postpone(&mut self, ring: usize) {
        self.unfinished |= 1u32.wrapping_shl(ring as u32);
    }

    /// When the pause ends.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.paused
    }
}

/// Indices of a ring, for a state dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RingIndices {
    /// How far the device is.
    pub consumer: u16,
    /// How far software is, once it has said so.
    pub producer: Option<u16>,
}

/// A frame whose descriptors are being walked.
struct Gathered {
    first: TransmitDescriptor,
    data: Vec<u8>,
    /// Not to be sent.
    bad: bool,
}

impl<H: Host> Device<H> {
    /// Consumer of a transmit ring.
    pub(crate) fn transmit_consumer(&self, ring: usize) -> u16 {
        self.transmit
            .get(ring)
            .map_or(0, |ring| ring.consumer.value())
    }

    /// The ring has been put somewhere else.
    pub(crate) fn transmit_moved(&mut self, ring: usize) {
        if let Some(ring) = self.transmit.get_mut(ring) {
            *ring = TransmitRing::default();
        }
    }

    /// A doorbell: how far software is.
    pub(crate) fn transmit_produced(&mut self, ring: usize, index: u16) {
        if let Some(ring) = self.transmit.get_mut(ring) {
            ring.producer = Some(RingIndex::new(index));
        }
    }

    /// Swallows doorbells from now on, or does what has piled up.
    pub fn set_swallow(&mut self, swallow: bool) {
        self.swallow = swallow;
        if !swallow {
            self.transmit_all();
        }
    }

    fn transmit_all(&mut self) {
        self.progress.begin();
        for ring in 0..RINGS {
            self.send_slice(ring);
        }
        self.publish();
    }

    /// The other end of the wire has no room for more frames, or has it again.
    pub fn set_paused(&mut self, paused: bool) {
        if paused {
            self.activity.pauses = self.activity.pauses.wrapping_add(1);
            self.progress.paused = Some(self.now().saturating_add(LONGEST_PAUSE));
        } else if self.progress.paused.take().is_some() {
            self.transmit_all();
        }
    }

    /// Ends a pause that has lasted too long.
    pub(crate) fn advance_pause(&mut self) {
        if self.progress.paused.is_some_and(|end| end <= self.now()) {
            self.activity.pauses_expired = self.activity.pauses_expired.wrapping_add(1);
            self.set_paused(false);
        }
    }

    /// Whether there is more to send, once what has been sent is on the wire.
    pub fn unfinished(&self) -> bool {
        self.progress.unfinished != 0 && self.progress.paused.is_none()
    }

    /// Sends more of what a doorbell has asked for.
    pub fn resume(&mut self) {
        self.progress.bytes = 0;
        let rings = std::mem::take(&mut self.progress.unfinished);
        for ring in 0..RINGS {
            if rings & 1u32.wrapping_shl(ring as u32) != 0 {
                self.send_slice(ring);
            }
        }
        self.publish();
    }

    /// A doorbell: there is something in a ring.
    pub(crate) fn transmit(&mut self, ring: usize) {
        self.progress.begin();
        self.send_slice(ring);
    }

    /// Sends what is in a ring, or a part of it.
    fn send_slice(&mut self, ring: usize) {
        let base = self.context.transmit_ring(ring);
        if self.swallow || !self.dma_open() || !self.enabled.contains(Blocks::TRANSMIT) || base == 0
        {
            return;
        }
        if self.progress.paused.is_some() {
            self.progress.postpone(ring);
            return;
        }
        let Some(&TransmitRing {
            consumer: before,
            producer: Some(producer),
        }) = self.transmit.get(ring)
        else {
            return;
        };
        let mut at = before;
        let mut done = before;
        let mut frame: Option<Gathered> = None;
        while at != producer {
            let Some(left) = self.progress.descriptors.checked_sub(1) else {
                break;
            };
            if self.progress.bytes >= SLICE && frame.is_none() {
                self.progress.postpone(ring);
                break;
            }
            self.progress.descriptors = left;
            let raw = fetch(&mut self.host, base, at.slot());
            at = at.next();
            match raw {
                Ok(raw) => {
                    let descriptor = TransmitDescriptor::from_bytes(&raw);
                    self.gather(descriptor, &mut frame);
                    if descriptor.flags.contains(TransmitFlags::END) {
                        self.finish(frame.take());
                        done = at;
                    }
                }
                Err(fault) => {
                    self.fault(fault);
                    frame = None;
                    done = at;
                }
            }
        }
        if self.progress.descriptors == 0 && done == before {
            // A whole ring without an end is no frame.
            self.malformed();
            done = at;
        }
        if done != before {
            if let Some(ring) = self.transmit.get_mut(ring) {
                ring.consumer = done;
            }
            self.consumer_moved(ring);
        }
    }

    fn malformed(&mut self) {
        self.activity.malformed = self.activity.malformed.wrapping_add(1);
    }

    /// Adds the bytes of a descriptor to its frame.
    fn gather(&mut self, descriptor: TransmitDescriptor, frame: &mut Option<Gathered>) {
        if descriptor.flags.contains(TransmitFlags::START) {
            if frame.is_some() {
                self.malformed();
            }
            *frame = Some(Gathered {
                first: descriptor,
                data: Vec::new(),
                bad: false,
            });
        }
        let Some(frame) = frame else {
            self.malformed();
            return;
        };
        let old = frame.data.len();
        let new = old.wrapping_add(descriptor.length.into());
        if frame.bad || new > LONGEST {
            frame.bad = true;
            return;
        }
        frame.data.resize(new, 0);
        if let Some(place) = frame.data.get_mut(old..) {
            if let Err(fault) = self.host.read(descriptor.address, place) {
                frame.bad = true;
                self.fault(fault);
            }
        }
    }

    /// A frame is complete: does what its flags say, and sends it.
    fn finish(&mut self, frame: Option<Gathered>) {
        let Some(Gathered {
            first,
            mut data,
            bad: false,
        }) = frame.filter(|frame| frame.data.len() >= ETHERNET)
        else {
            self.malformed();
            return;
        };
        let vlan = first
            .flags
            .contains(TransmitFlags::VLAN)
            .then_some(first.vlan);
        if first.flags.contains(TransmitFlags::SEGMENT) {
            self.activity.segmented = self.activity.segmented.wrapping_add(1);
            let cut = segmentation::segment(&data, first.mss.into(), |segment| {
                self.emit(segment, vlan);
            });
            if !cut {
                self.malformed();
            }
            return;
        }
        if first
            .flags
            .intersects(TransmitFlags::L4_CHECKSUM | TransmitFlags::IP_CHECKSUM)
        {
            if let Some(packet) = Packet::parse(&data) {
                if first.flags.contains(TransmitFlags::IP_CHECKSUM) {
                    packet.fill_ip_checksum(&mut data);
                }
                if first.flags.contains(TransmitFlags::L4_CHECKSUM) {
                    packet.fill_checksum(&mut data);
                }
            }
        }
        self.emit(data, vlan);
    }

    /// Puts a frame on the wire, or on the way back in.
    fn emit(&mut self, mut frame: Vec<u8>, vlan: Option<u16>) {
        let Some(left) = self.progress.frames.checked_sub(1) else {
            self.malformed();
            return;
        };
        self.progress.frames = left;
        self.progress.bytes = self.progress.bytes.saturating_add(frame.len());
        if let Some(tag) = vlan {
            if let Some((addresses, rest)) = frame.split_at_checked(12) {
                let mut tagged = Vec::with_capacity(frame.len().wrapping_add(4));
                tagged.extend_from_slice(addresses);
                tagged.extend_from_slice(&VLAN.to_be_bytes());
                tagged.extend_from_slice(&tag.to_be_bytes());
                tagged.extend_from_slice(rest);
                frame = tagged;
            }
        }
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        if self.loopback() {
            self.statistics.sent.count(&frame);
            self.receive_frame(frame);
        } else if self.phy.link() {
            self.statistics.sent.count(&frame);
            self.host.send(frame);
        } else {
            self.activity.sent_without_link = self.activity.sent_without_link.wrapping_add(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use crate::bytes::put_be16;
    use crate::headers::Packet;
    use crate::host::InterruptMode;
    use crate::testing::{self, ipv4, ipv6, Rig, STATUS, TX_RING};

    const BIDX: u64 = 0x1_1088;
    const BSEQ: u64 = 0x1_1090;
    const DATA: u64 = 0x20_0000;
    const START: u32 = 0x80;
    const END: u32 = 0x40;
    const CHECKSUM: u32 = 0x02;
    const TAG: u32 = 0x08;
    const LSO: u32 = 0x8000;

    fn rig() -> Rig {
        testing::open(InterruptMode::Msi)
    }

    fn doorbell(rig: &mut Rig, producer: u16) {
        rig.write16(BIDX, producer);
        rig.write32(BSEQ, 0);
        while rig.device.unfinished() {
            rig.device.resume();
        }
    }

    fn consumer(rig: &mut Rig) -> u16 {
        rig.memory16(STATUS + 10)
    }

    fn descriptor(rig: &mut Rig, slot: u16, address: u64, size: usize, mss: u32, flags: u32) {
        let size = mss << 16 | size as u32;
        rig.device
            .host_mut()
            .put_descriptor(TX_RING, slot, address, size, flags);
    }

    #[test]
    fn a_frame_is_gathered_padded_and_completed() {
        let mut rig = rig();
        rig.put(DATA, &[1; 20]);
        rig.put(DATA + 0x5000, &[2; 10]);
        descriptor(&mut rig, 0, DATA, 20, 0, START);
        descriptor(&mut rig, 1, DATA + 0x5000, 10, 0, END);
        doorbell(&mut rig, 2);
        let frames = rig.sent();
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].len(), 60);
        assert_eq!(frames[0][..31], [&[1; 20][..], &[2; 10], &[0]].concat());
        assert_eq!(consumer(&mut rig), 2);
        assert_eq!(rig.device.statistics().sent.sizes[0], 1);
    }

    #[test]
    fn the_link_slot_is_skipped() {
        let mut rig = rig();
        rig.put(DATA, &[1; 60]);
        for slot in 0..=255 {
            descriptor(&mut rig, slot, DATA, 60, 0, START | END);
        }
        // Were it used, this would fault.
        descriptor(&mut rig, 255, u64::MAX - 100, 60, 0, START | END);
        doorbell(&mut rig, 254);
        assert_eq!(rig.sent().len(), 254);
        doorbell(&mut rig, 258);
        assert_eq!(rig.sent().len(), 3);
        assert_eq!(consumer(&mut rig), 258);
        assert!(rig.device.faults().is_empty());
    }

    #[test]
    fn half_a_frame_waits_for_its_end() {
        let mut rig = rig();
        rig.put(DATA, &[1; 60]);
        descriptor(&mut rig, 0, DATA, 60, 0, START);
        doorbell(&mut rig, 1);
        assert!(rig.sent().is_empty());
        assert_eq!(consumer(&mut rig), 0);
        descriptor(&mut rig, 1, DATA, 40, 0, END);
        doorbell(&mut rig, 2);
        assert_eq!(rig.sent()[0].len(), 100);
        assert_eq!(consumer(&mut rig), 2);
    }

    #[test]
    fn checksums_are_filled_in_when_asked_for() {
        for ip in [ipv4(), ipv6()] {
            let mut rig = rig();
            let frame = testing::udp(ip, &[], 333);
            rig.put(DATA, &frame);
            descriptor(&mut rig, 0, DATA, frame.len(), 0, START | END);
            descriptor(&mut rig, 1, DATA, frame.len(), 0, START | END | CHECKSUM);
            doorbell(&mut rig, 2);
            let sent = rig.sent();
            assert_eq!(sent[0], frame);
            let packet = Packet::parse(&sent[1]).unwrap();
            assert_eq!(packet.verify_checksum(&sent[1]), Some(true));
        }
    }

    #[test]
    fn each_segment_gets_the_tag_and_the_option_bits_do_not_matter() {
        let mut rig = rig();
        let frame = testing::tcp(ipv6(), &[60], 4410);
        rig.put(DATA, &frame);
        let flags = 100 << 16 | 0x3f00 | START | END | LSO | TAG;
        descriptor(&mut rig, 0, DATA, frame.len(), 1448, flags);
        doorbell(&mut rig, 1);
        let sent = rig.sent();
        assert_eq!(sent.len(), 4);
        for segment in &sent {
            assert_eq!(segment[12..16], [0x81, 0, 0, 100]);
            let packet = Packet::parse(segment).unwrap();
            assert_eq!(packet.verify_checksum(segment), Some(true));
        }
        assert_eq!(rig.device.activity().segmented, 1);
    }

    #[test]
    fn a_fault_drops_the_frame_and_not_the_ring() {
        let mut rig = rig();
        rig.put(DATA, &[1; 60]);
        descriptor(&mut rig, 0, u64::MAX - 10, 60, 0, START | END);
        descriptor(&mut rig, 1, DATA, 60, 0, START | END);
        doorbell(&mut rig, 2);
        assert_eq!(rig.sent().len(), 1);
        assert_eq!(consumer(&mut rig), 2);
        assert_eq!(rig.device.faults().len(), 1);
    }

    #[test]
    fn frames_without_start_or_end_or_of_any_length_do_no_harm() {
        let mut rig = rig();
        rig.put(DATA, &[1; 0xffff]);
        for slot in 0..255 {
            descriptor(&mut rig, slot, DATA, 0xffff, 0, 0);
        }
        doorbell(&mut rig, 0x100);
        assert_eq!(consumer(&mut rig), 0x100);
        for slot in 0..255 {
            descriptor(&mut rig, slot, DATA, 0xffff, 0, START);
        }
        doorbell(&mut rig, 0x200);
        assert_eq!(consumer(&mut rig), 0x200);
        descriptor(&mut rig, 0, DATA, 0xffff, 0, START);
        descriptor(&mut rig, 1, DATA, 0xffff, 0, 0);
        descriptor(&mut rig, 2, DATA, 0xffff, 0, END);
        descriptor(&mut rig, 3, DATA, 13, 0, START | END);
        doorbell(&mut rig, 0x204);
        assert_eq!(consumer(&mut rig), 0x204);
        assert!(rig.sent().is_empty());
        // A producer that the ring does not reach: as much as a ring holds.
        doorbell(&mut rig, 0xff00);
        assert_ne!(consumer(&mut rig), 0xff00);
    }

    #[test]
    fn segments_are_bounded() {
        let mut rig = rig();
        let mut frame = testing::tcp(ipv4(), &[], 65000);
        put_be16(&mut frame, 16, 40);
        rig.put(DATA, &frame);
        for slot in 0..255 {
            descriptor(&mut rig, slot, DATA, frame.len(), 1, START | END | LSO);
        }
        doorbell(&mut rig, 0x100);
        assert_eq!(rig.sent().len(), super::FRAMES_PER_DOORBELL);
        assert_eq!(consumer(&mut rig), 0x100);
    }

    #[test]
    fn a_burst_is_sent_in_slices_and_a_pause_holds_it_for_a_while() {
        let mut rig = rig();
        rig.put(DATA, &[1; 60_000]);
        for slot in 0..100 {
            descriptor(&mut rig, slot, DATA, 60_000, 0, START | END);
        }
        rig.write16(BIDX, 100);
        rig.write32(BSEQ, 0);
        assert_eq!((rig.sent().len(), consumer(&mut rig)), (3, 3));
        rig.device.set_paused(true);
        assert!(!rig.device.unfinished());
        rig.write32(BSEQ, 0);
        assert_eq!(rig.sent().len(), 0);
        rig.device.set_paused(false);
        assert_eq!((rig.sent().len(), consumer(&mut rig)), (3, 6));
        assert!(rig.device.unfinished());
        rig.device.resume();
        assert_eq!(rig.sent().len(), 3);
        rig.device.set_paused(true);
        let due = rig.device.deadline().unwrap();
        rig.device.advance(due);
        while rig.device.unfinished() {
            rig.device.resume();
        }
        assert_eq!((rig.sent().len(), consumer(&mut rig)), (91, 100));
    }

    #[test]
    fn swallowed_doorbells_are_done_later() {
        let mut rig = rig();
        rig.put(DATA, &[1; 60]);
        descriptor(&mut rig, 0, DATA, 60, 0, START | END);
        rig.device.set_swallow(true);
        doorbell(&mut rig, 1);
        assert!(rig.sent().is_empty());
        assert_eq!(consumer(&mut rig), 0);
        rig.device.set_swallow(false);
        assert_eq!(rig.sent().len(), 1);
        assert_eq!(consumer(&mut rig), 1);
    }

    #[test]
    fn nothing_is_read_after_a_reset() {
        let mut rig = rig();
        rig.put(DATA, &[1; 60]);
        descriptor(&mut rig, 0, DATA, 60, 0, START | END);
        rig.write16(BIDX, 1);
        rig.write32(0x800, 0x10);
        rig.write32(BSEQ, 0);
        rig.write32(0x810, 0x17ff_ffff);
        rig.write32(0x8c8, 1 << 16);
        rig.write32(BSEQ, 0);
        doorbell(&mut rig, 1);
        assert!(rig.sent().is_empty());
    }

    #[test]
    fn without_a_link_frames_are_completed_and_go_nowhere() {
        let mut rig = rig();
        rig.put(DATA, &[1; 60]);
        descriptor(&mut rig, 0, DATA, 60, 0, START | END);
        rig.device.set_cable(false);
        doorbell(&mut rig, 1);
        assert!(rig.sent().is_empty());
        assert_eq!(consumer(&mut rig), 1);
    }

    #[test]
    fn rings_of_other_vectors_have_their_own_consumers() {
        let mut rig = testing::open(InterruptMode::Msix);
        rig.put(DATA, &[1; 60]);
        rig.context(32 * 0x80 + 0x25c, 0x18_0000);
        rig.device
            .host_mut()
            .put_descriptor(0x18_0000, 0, DATA, 60, START | END);
        rig.write32(0x84, 0x0101_0001);
        rig.messages();
        rig.write16(0x1_0000 + 32 * 0x100 + 0x88, 1);
        rig.write32(0x1_0000 + 32 * 0x100 + 0x90, 0);
        assert_eq!(rig.sent().len(), 1);
        assert_eq!(rig.memory16(STATUS + 128 + 2), 1);
        assert_eq!(rig.messages(), [0, 1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
