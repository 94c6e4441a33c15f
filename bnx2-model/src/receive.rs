// SPDX-License-Identifier: MIT OR Apache-2.0
//! The receive side: from frames to buffers.

use crate::bytes::{be16, put};
use crate::context::RINGS;
use crate::device::Device;
use crate::headers::{Packet, TCP, VLAN};
use crate::host::{DmaFault, Host};
use crate::mac::MacAddress;
use crate::registers::{bit, reg, Blocks, SortRule};
use crate::ring::{BufferChain, DESCRIPTOR};
use crate::rss;
use crate::transmit::{RingIndices, SHORTEST};
use bitflags::bitflags;
use log::warn;
use std::collections::VecDeque;

/// Bytes of the frame check sequence.
const FCS: usize = 4;
/// Bytes from the start of a buffer to that of the frame.
const FRAME: usize = 18;
/// Bytes of a buffer of the page ring.
const PAGE: usize = 4096;
/// Bytes of the longest frame that comes in from anywhere.
pub const LONGEST: usize = 0x2800;

bitflags! {
    /// What has been found out about a frame.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct FrameStatus: u32 {
        /// A tag was taken out.
        const VLAN = 1 << 6;
        /// The hash is there.
        const HASH = 1 << 8;
        /// It is an IP packet.
        const IP = 1 << 13;
        /// It is a TCP segment.
        const TCP = 1 << 14;
        /// It is a UDP datagram.
        const UDP = 1 << 15;
        /// The TCP checksum is wrong.
        const BAD_TCP = 1 << 28;
        /// The UDP checksum is wrong.
        const BAD_UDP = 1 << 31;
    }
}

/// What is in a buffer before the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameHeader {
    /// What has been found out.
    pub status: FrameStatus,
    /// Hash of the flow.
    pub hash: u32,
    /// The tag that was taken out.
    pub vlan: u16,
    /// Bytes of the frame with its FCS.
    pub length: u16,
    /// The checksum's complement, or what is wrong with it.
    pub checksum: u16,
}

impl FrameHeader {
    /// The header as it is in memory, up to where the frame begins.
    pub fn to_bytes(self) -> [u8; FRAME] {
        let mut header = [0; FRAME];
        put(&mut header, 0, &self.status.bits().to_le_bytes());
        put(&mut header, 4, &self.hash.to_le_bytes());
        put(&mut header, 8, &self.vlan.to_le_bytes());
        put(&mut header, 10, &self.length.to_le_bytes());
        put(&mut header, 12, &self.checksum.to_le_bytes());
        header
    }
}

/// A frame on its way into a buffer, with header and FCS.
struct Received {
    buffer: Vec<u8>,
}

/// What has become of a frame.
enum Outcome {
    Stored,
    /// There is no buffer now.
    NoBuffer,
    /// It fits into no buffer there is.
    TooLong,
}

/// A receive ring.
#[derive(Default)]
pub struct ReceiveRing {
    buffers: BufferChain,
    pages: BufferChain,
    waiting: VecDeque<Received>,
}

impl ReceiveRing {
    /// Indices for a state dump.
    pub fn indices(&self) -> RingIndices {
        let consumer = self.buffers.consumer();
        RingIndices {
            consumer: consumer.value(),
            producer: self.buffers.producer(),
        }
    }
}

impl<H: Host> Device<H> {
    /// Consumer of a receive ring.
    pub(crate) fn receive_consumer(&self, ring: usize) -> u16 {
        self.receive
            .get(ring)
            .map_or(0, |ring| ring.buffers.consumer().value())
    }

    /// The ring has been put somewhere else.
    pub(crate) fn receive_moved(&mut self, ring: usize) {
        let page = self.context.receive_ring(ring);
        if let Some(ring) = self.receive.get_mut(ring) {
            ring.buffers = BufferChain::at(page);
        }
    }

    /// The page ring has been put somewhere else.
    pub(crate) fn pages_moved(&mut self, ring: usize) {
        let page = self.context.page_ring(ring);
        if let Some(ring) = self.receive.get_mut(ring) {
            ring.pages = BufferChain::at(page);
        }
    }

    /// A doorbell: software has put in buffers.
    pub(crate) fn receive_produced(&mut self, ring: usize, index: u16) {
        if let Some(ring) = self.receive.get_mut(ring) {
            ring.buffers.produce(index);
        }
    }

    /// A doorbell: software has put in pages.
    pub(crate) fn pages_produced(&mut self, ring: usize, index: u16) {
        if let Some(ring) = self.receive.get_mut(ring) {
            ring.pages.produce(index);
        }
    }

    /// Whether sent frames come back in.
    pub(crate) fn loopback(&self) -> bool {
        self.phy.loopback() || self.registers.load(reg::EMAC_MODE) & bit::EMAC_MODE_LOOPBACK != 0
    }

    /// Frames that have come from the wire.
    pub fn receive(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        let listening = self.phy.link() && !self.loopback();
        for frame in frames {
            if listening {
                self.receive_frame(frame);
            } else {
                self.activity.received_without_link =
                    self.activity.received_without_link.wrapping_add(1);
            }
        }
        self.publish();
    }

    fn sort_rule(&self) -> SortRule {
        SortRule::from_bits_retain(self.registers.load(reg::RPM_SORT_USER0))
    }

    /// Whether a frame may come in by its destination.
    fn accepts(&self, destination: MacAddress) -> bool {
        let rule = self.sort_rule();
        if rule.contains(SortRule::PROMISCUOUS) {
            true
        } else if destination.is_broadcast() {
            rule.contains(SortRule::BROADCAST)
        } else if destination.is_group() {
            rule.contains(SortRule::ALL_MULTICAST)
                || (rule.contains(SortRule::MULTICAST_HASH) && self.in_hash(destination))
        } else {
            (0..16).any(|place: u32| {
                let register = reg::EMAC_MAC_MATCH.wrapping_add(place.wrapping_mul(8));
                rule.bits() >> place & 1 != 0
                    && self.registers.load(register) & 0xffff == destination.upper()
                    && self.registers.load(register.wrapping_add(4)) == destination.lower()
            })
        }
    }

    fn in_hash(&self, destination: MacAddress) -> bool {
        let crc = !crc32fast::hash(&destination.0);
        let register = reg::EMAC_MULTICAST_HASH.wrapping_add((crc >> 5 & 7).wrapping_mul(4));
        self.registers.load(register) >> (crc & 31) & 1 != 0
    }

    /// Takes a frame in.
    pub(crate) fn receive_frame(&mut self, mut frame: Vec<u8>) {
        let open = self.enabled.contains(Blocks::EMAC)
            && self.sort_rule().contains(SortRule::ENABLE)
            && self.dma_open();
        let Some(&destination) = frame.first_chunk::<6>().filter(|_| open) else {
            self.activity.received_while_shut = self.activity.received_while_shut.wrapping_add(1);
            return;
        };
        if !self.accepts(MacAddress(destination)) {
            self.statistics.filter_discards = self.statistics.filter_discards.wrapping_add(1);
            return;
        }
        if frame.len() < SHORTEST {
            frame.resize(SHORTEST, 0);
        }
        // The driver relies on this limit: it does not check for more pages
        // than it has room for.
        let limit = (self.registers.load(reg::EMAC_RX_MTU_SIZE) & 0xffff) as usize;
        let tagged = be16(&frame, 12) == Some(VLAN);
        let untagged = frame.len().wrapping_sub(if tagged { 4 } else { 0 });
        if untagged.wrapping_add(FCS) > limit || frame.len() > LONGEST {
            self.statistics.oversize = self.statistics.oversize.wrapping_add(1);
            return;
        }
        self.statistics.received.count(&frame);

        let mut header = FrameHeader::default();
        let keep = self.registers.load(reg::EMAC_RX_MODE) & bit::EMAC_RX_KEEP_VLAN != 0;
        if tagged && !keep {
            header.vlan = be16(&frame, 14).unwrap_or(0);
            header.status |= FrameStatus::VLAN;
            frame.drain(12..16);
        }
        let ring = self.classify(&frame, &mut header);
        header.length = u16::try_from(frame.len().wrapping_add(FCS)).unwrap_or(u16::MAX);

        let mut buffer = Vec::with_capacity(frame.len().wrapping_add(FRAME).wrapping_add(FCS));
        buffer.extend_from_slice(&header.to_bytes());
        buffer.append(&mut frame);
        // Software looks at the length of the FCS only.
        buffer.extend_from_slice(&[0; FCS]);
        self.store_or_wait(ring, Received { buffer });
    }

    /// Finds out about a frame, and the ring it goes to.
    fn classify(&self, frame: &[u8], header: &mut FrameHeader) -> usize {
        let Some(packet) = Packet::parse(frame) else {
            return 0;
        };
        if let Some(good) = packet.verify_checksum(frame) {
            let (kind, bad) = if packet.protocol == TCP {
                (FrameStatus::TCP, FrameStatus::BAD_TCP)
            } else {
                (FrameStatus::UDP, FrameStatus::BAD_UDP)
            };
            header.status |= FrameStatus::IP | kind;
            if good {
                header.checksum = 0xffff;
            } else {
                header.status |= bad;
            }
        }
        if self.registers.load(reg::RLUP_RSS_CONFIG) == 0 {
            return 0;
        }
        let Some(hash) = rss::hash(frame, &packet) else {
            return 0;
        };
        header.hash = hash;
        header.status |= FrameStatus::HASH;
        // Ring 0 is for what has no hash.
        let ring = self.indirection.ring(hash).wrapping_add(1);
        if ring < RINGS {
            ring
        } else {
            0
        }
    }

    fn store_or_wait(&mut self, ring: usize, frame: Received) {
        let behind = self
            .receive
            .get(ring)
            .is_some_and(|ring| !ring.waiting.is_empty());
        if !behind && !matches!(self.try_store(ring, &frame), Outcome::NoBuffer) {
            return;
        }
        let size = self.waiting_bytes.saturating_add(frame.buffer.len());
        match self.receive.get_mut(ring) {
            Some(ring) if size <= self.fifo => {
                self.waiting_bytes = size;
                ring.waiting.push_back(frame);
            }
            _ => {
                self.statistics.buffer_discards = self.statistics.buffer_discards.wrapping_add(1);
            }
        }
    }

    /// Whether the other end of the wire should not send for a while: half of the
    /// room for frames that wait is taken, and not yet given back but for an eighth.
    pub fn congested(&mut self) -> bool {
        let limit = if self.was_congested {
            self.fifo / 8
        } else {
            self.fifo / 2
        };
        self.was_congested = self.waiting_bytes > limit;
        self.was_congested
    }

    /// Stores frames that wait for buffers.
    pub(crate) fn receive_waiting(&mut self, ring: usize) {
        if !self.dma_open() {
            return;
        }
        self.check_shared(ring);
        while let Some(frame) = self
            .receive
            .get_mut(ring)
            .and_then(|ring| ring.waiting.pop_front())
        {
            if matches!(self.try_store(ring, &frame), Outcome::NoBuffer) {
                if let Some(ring) = self.receive.get_mut(ring) {
                    ring.waiting.push_front(frame);
                }
                return;
            }
            self.waiting_bytes = self.waiting_bytes.saturating_sub(frame.buffer.len());
        }
    }

    /// Looks at the first descriptor that software says it has written. QEMU gives
    /// a file for memory that it maps privately, too, and that stays zero.
    fn check_shared(&mut self, ring: usize) {
        let Some(ring) = self.receive.get(ring).filter(|_| !self.looked_at_memory) else {
            return;
        };
        if let Ok(Some(raw)) = ring.buffers.peek(&mut self.host) {
            self.looked_at_memory = true;
            if raw == [0; DESCRIPTOR] {
                warn!(
                    "descriptors are all zero, so guest memory is not shared, and there will be \
                     no packets and no interrupts; fix: share=on for QEMU's memory backend"
                );
            }
        }
    }

    /// Stores a frame, and counts what went wrong if it is lost by that.
    fn try_store(&mut self, ring: usize, frame: &Received) -> Outcome {
        match self.store(ring, frame) {
            Ok(outcome) => {
                match outcome {
                    Outcome::Stored => self.consumer_moved(ring),
                    Outcome::TooLong => {
                        self.activity.too_long = self.activity.too_long.wrapping_add(1);
                    }
                    Outcome::NoBuffer => {}
                }
                outcome
            }
            Err(fault) => {
                self.fault(fault);
                Outcome::TooLong
            }
        }
    }

    fn store(&mut self, number: usize, frame: &Received) -> Result<Outcome, DmaFault> {
        let page_mode = self.context.page_mode(number);
        let Some(ring) = self.receive.get_mut(number) else {
            return Ok(Outcome::TooLong);
        };
        let buffer = frame.buffer.as_slice();
        let (main, rest) = match page_mode {
            Some(size) if size >= FRAME => buffer.split_at_checked(size).unwrap_or((buffer, &[])),
            _ => (buffer, &[][..]),
        };
        // Software must not see a buffer gone that has nothing in it, so the
        // rings move on when all is written.
        let (mut buffers, mut pages) = (ring.buffers, ring.pages);
        let count = rest.len().div_ceil(PAGE);
        if pages.available() < count {
            return Ok(Outcome::NoBuffer);
        }
        let Some(descriptor) = buffers.take(&mut self.host)? else {
            return Ok(Outcome::NoBuffer);
        };
        if main.len() > descriptor.length as usize {
            return Ok(Outcome::TooLong);
        }
        for piece in rest.chunks(PAGE) {
            let Some(page) = pages.take(&mut self.host)? else {
                return Ok(Outcome::NoBuffer);
            };
            self.host.write(page.address, piece)?;
        }
        self.host.write(descriptor.address, main)?;
        ring.buffers = buffers;
        ring.pages = pages;
        Ok(Outcome::Stored)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use crate::bytes::le32;
    use crate::host::InterruptMode;
    use crate::testing::{self, ipv4, ipv6, Rig, RX_PAGES, RX_RING, STATUS};

    const BDIDX: u64 = 0x1_0004;
    const BSEQ: u64 = 0x1_0008;
    const PAGE_BDIDX: u64 = 0x1_0044;
    const BUFFERS: u64 = 0x20_0000;
    const PAGES: u64 = 0x40_0000;

    /// An open device with `count` buffers of 1,540 bytes, 2 KiB apart.
    fn rig(count: u16) -> Rig {
        let mut rig = testing::open(InterruptMode::Msi);
        for slot in 0..255 {
            let address = BUFFERS + u64::from(slot) * 2048;
            rig.device
                .host_mut()
                .put_descriptor(RX_RING, slot, address, 1540, 12);
            let page = PAGES + u64::from(slot) * 4096;
            rig.device
                .host_mut()
                .put_descriptor(RX_PAGES, slot, page, 4096, 12);
        }
        for ring in [RX_RING, RX_PAGES] {
            rig.device.host_mut().put_descriptor(ring, 255, ring, 0, 0);
        }
        doorbell(&mut rig, count);
        rig
    }

    fn doorbell(rig: &mut Rig, producer: u16) {
        rig.write16(BDIDX, producer);
        rig.write32(BSEQ, 0);
    }

    fn consumer(rig: &mut Rig) -> u16 {
        rig.memory16(STATUS + 18)
    }

    fn status(rig: &mut Rig, buffer: u64) -> u32 {
        le32(&rig.get(BUFFERS + buffer * 2048, 4), 0).unwrap()
    }

    fn length(rig: &mut Rig, buffer: u64) -> u16 {
        rig.memory16(BUFFERS + buffer * 2048 + 10)
    }

    #[test]
    fn a_frame_is_stored_padded_behind_its_header() {
        let mut rig = rig(4);
        let mut frame = testing::udp(ipv4(), &[], 0);
        frame.truncate(42);
        rig.device.receive([frame.clone()]);
        assert_eq!(consumer(&mut rig), 1);
        assert_eq!(length(&mut rig, 0), 64);
        frame.resize(64, 0);
        assert_eq!(rig.get(BUFFERS + 18, 64), frame);
        assert_eq!(rig.device.statistics().received.unicast, 1);
    }

    #[test]
    fn checksums_are_told() {
        let mut rig = rig(10);
        for ip in [ipv4(), ipv6()] {
            for make in [testing::tcp, testing::udp] {
                let mut frame = make(ip, &[], 100);
                crate::headers::Packet::parse(&frame)
                    .unwrap()
                    .fill_checksum(&mut frame);
                let last = frame.len() - 1;
                let mut bad = frame.clone();
                bad[last] ^= 1;
                rig.device.receive([frame, bad]);
            }
        }
        // A fragment and a datagram without checksum.
        let mut fragment = testing::udp(ipv4(), &[], 100);
        fragment[20] = 0x20;
        rig.device.receive([fragment, testing::udp(ipv4(), &[], 9)]);
        let found: Vec<u32> = (0..10).map(|buffer| status(&mut rig, buffer)).collect();
        let (tcp, udp) = (0x6000, 0xa000);
        let (bad_tcp, bad_udp) = (tcp | 1 << 28, udp | 1 << 31);
        let once = [tcp, bad_tcp, udp, bad_udp];
        assert_eq!(found, [&once[..], &once, &[0, 0]].concat());
    }

    #[test]
    fn tags_are_taken_out_unless_they_are_to_be_kept() {
        let mut rig = rig(4);
        let mut frame = testing::tcp(ipv4(), &[], 100);
        frame.splice(12..12, [0x81, 0, 0x60, 5]);
        rig.device.receive([frame.clone()]);
        assert_eq!(status(&mut rig, 0) & 0x40, 0x40);
        assert_eq!(rig.memory16(BUFFERS + 8), 0x6005);
        assert_eq!(length(&mut rig, 0), 154 + 4);
        rig.write32(0x14c8, 1 << 10);
        rig.device.receive([frame]);
        assert_eq!(status(&mut rig, 1) & 0x40, 0);
        assert_eq!(length(&mut rig, 1), 158 + 4);
    }

    #[test]
    fn the_filter_lets_in_what_its_rule_says() {
        let frame = |mac: [u8; 6]| [&mac[..], &[0; 54]].concat();
        let own = [2, 0, 0, 0, 0, 1];
        let cases: &[(u32, [u8; 6], bool)] = &[
            (1 << 31 | 1, own, true),
            (1 << 31 | 1, [2, 0, 0, 0, 0, 2], false),
            (1 << 31 | 1, [0xff; 6], false),
            (1 << 31 | 1 << 16, [0xff; 6], true),
            (1 << 31 | 1 << 16, own, false),
            (1 << 31 | 1 << 4, own, false),
            (1 << 31 | 1 << 19, [2, 0, 0, 0, 0, 2], true),
            (1 << 31 | 1 << 17, [0x33, 0x33, 0, 0, 0, 1], true),
            (1 << 31 | 1 << 18, [0x33, 0x33, 0, 0, 0, 1], true),
            (1 << 31 | 1 << 18, [0x33, 0x33, 0, 0, 0, 2], false),
            (1 << 19, own, false),
        ];
        for &(rule, mac, taken) in cases {
            let mut rig = rig(4);
            rig.write32(0x1820, rule);
            // As the driver computes it for 33:33:00:00:00:01: bits 7 to 0 of
            // the little-endian CRC without its final inversion.
            let crc = !crc32fast::hash(&[0x33, 0x33, 0, 0, 0, 1]) & 0xff;
            rig.write32(0x14d0 + u64::from(crc >> 5) * 4, 1 << (crc & 31));
            rig.device.receive([frame(mac)]);
            assert_eq!(consumer(&mut rig) == 1, taken, "{rule:#x} {mac:x?}");
        }
    }

    #[test]
    fn the_first_hash_register_is_for_crc_bits_of_zero() {
        // CRC of 01:00:5e:00:00:01 by hand, bit by bit.
        let mac = [0x01, 0x00, 0x5e, 0x00, 0x00, 0x01];
        let mut crc = !0u32;
        for byte in mac {
            for bit in 0..8 {
                let flip = (crc ^ u32::from(byte >> bit)) & 1 != 0;
                crc = crc >> 1 ^ if flip { 0xedb8_8320 } else { 0 };
            }
        }
        let mut rig = rig(4);
        rig.write32(0x1820, 1 << 31 | 1 << 18);
        rig.write32(0x14d0 + u64::from(crc >> 5 & 7) * 4, 1 << (crc & 31));
        rig.device.receive([[&mac[..], &[0; 54]].concat()]);
        assert_eq!(consumer(&mut rig), 1);
    }

    #[test]
    fn frames_wait_for_buffers_in_order_and_what_does_not_fit_is_counted() {
        let mut rig = rig(1);
        let frames = (0..100u8).map(|number| {
            let mut frame = testing::udp(ipv4(), &[], 1400);
            frame[42] = number;
            frame
        });
        rig.device.receive(frames);
        assert_eq!(consumer(&mut rig), 1);
        let lost = rig.device.statistics().buffer_discards;
        // 64 KiB take 44 frames of 1,464 bytes.
        assert_eq!(lost, 100 - 1 - 44);
        doorbell(&mut rig, 0x100);
        assert_eq!(consumer(&mut rig), 45);
        for number in 0..45 {
            let place = BUFFERS + u64::from(number) * 2048 + 18 + 42;
            assert_eq!(rig.get(place, 1), [number]);
        }
        rig.device.receive([testing::udp(ipv4(), &[], 1400)]);
        assert_eq!(consumer(&mut rig), 46);
    }

    #[test]
    fn congestion_begins_at_half_and_ends_at_an_eighth() {
        let mut rig = rig(1);
        let frames = |count| (0..count).map(|_| testing::udp(ipv4(), &[], 1400));
        rig.device.receive(frames(1 + 22));
        assert!(!rig.device.congested());
        rig.device.receive(frames(1));
        assert!(rig.device.congested());
        doorbell(&mut rig, 18);
        assert!(rig.device.congested());
        doorbell(&mut rig, 19);
        assert!(!rig.device.congested());
    }

    #[test]
    fn frames_longer_than_the_mtu_or_the_buffer_are_dropped() {
        let mut rig = rig(4);
        let frame = |length: usize| {
            let mut frame = vec![0; length];
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
            frame
        };
        rig.device.receive([frame(1514), frame(1515)]);
        assert_eq!(consumer(&mut rig), 1);
        assert_eq!(rig.device.statistics().oversize, 1);
        // A tag does not count.
        let mut tagged = frame(1518);
        tagged[12..14].copy_from_slice(&[0x81, 0]);
        rig.device.receive([tagged]);
        assert_eq!(consumer(&mut rig), 2);
        rig.write32(0x149c, 9018);
        rig.device.receive([frame(1540 - 22), frame(1541 - 22)]);
        assert_eq!(consumer(&mut rig), 3);
        rig.device.receive([frame(60)]);
        assert_eq!(consumer(&mut rig), 4);
        assert!(rig.device.faults().is_empty());
    }

    #[test]
    fn page_mode_splits_at_the_threshold() {
        // Bytes of frame, then pages that it takes.
        for (bytes, pages) in [
            (124, 0u16),
            (125, 1),
            (128 + 4096 - 4, 1),
            (128 + 4096 - 3, 2),
            (128 + 8192 - 4, 2),
            (9014, 3),
        ] {
            let mut rig = rig(4);
            rig.write32(0x149c, 9018);
            rig.context(0x48, 146 << 16 | 4096);
            rig.write16(PAGE_BDIDX, 0x100);
            let mut frame: Vec<u8> = (0..bytes).map(|i| (i / 7) as u8).collect();
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
            rig.device.receive([frame.clone()]);
            assert_eq!(consumer(&mut rig), 1);
            assert_eq!(length(&mut rig, 0), bytes as u16 + 4);
            frame.extend([0; 4]);
            let head = frame.len().min(if pages == 0 { 10_000 } else { 128 });
            assert_eq!(rig.get(BUFFERS + 18, head), frame[..head]);
            assert_eq!(rig.get(PAGES, frame.len() - head), frame[head..]);
            // The next frame begins at the page after.
            if bytes > 3000 {
                rig.device.receive([frame[..3000].to_vec()]);
                let next = PAGES + u64::from(pages) * 4096;
                assert_eq!(rig.get(next, 3000 - 128), frame[128..3000]);
            }
        }
    }

    #[test]
    fn a_frame_waits_for_all_its_pages() {
        let mut rig = rig(4);
        rig.write32(0x149c, 9018);
        rig.context(0x48, 146 << 16 | 4096);
        rig.write16(PAGE_BDIDX, 2);
        let mut frame = vec![7; 9000];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        rig.device.receive([frame]);
        assert_eq!(consumer(&mut rig), 0);
        rig.write16(PAGE_BDIDX, 3);
        rig.write32(BSEQ, 0);
        assert_eq!(consumer(&mut rig), 1);
    }

    #[test]
    fn a_fault_takes_no_buffer() {
        let mut rig = rig(4);
        rig.device
            .host_mut()
            .put_descriptor(RX_RING, 0, u64::MAX - 20, 1540, 12);
        rig.device.receive([testing::udp(ipv4(), &[], 100)]);
        assert_eq!(consumer(&mut rig), 0);
        assert_eq!(rig.device.faults().len(), 1);
    }

    #[test]
    fn loopback_brings_frames_back_and_keeps_others_out() {
        for how in [(0x1400, 0x10), (0x14ac, 0x2420_0000 | 0x4140)] {
            let mut rig = rig(4);
            let frame = testing::udp(ipv4(), &[], 100);
            rig.put(0x30_0000, &frame);
            rig.write32(how.0, how.1);
            rig.device.receive([frame.clone()]);
            assert_eq!(consumer(&mut rig), 0);
            rig.device.host_mut().put_descriptor(
                testing::TX_RING,
                0,
                0x30_0000,
                frame.len() as u32,
                0xc0,
            );
            rig.write16(0x1_1088, 1);
            rig.write32(0x1_1090, 0);
            assert_eq!(consumer(&mut rig), 1, "{how:x?}");
            assert_eq!(rig.memory16(STATUS + 10), 1);
            assert!(rig.sent().is_empty());
            assert_eq!(rig.get(BUFFERS + 18, frame.len()), frame);
        }
    }

    #[test]
    fn flows_are_spread_over_the_rings_of_the_table() {
        let mut rig = testing::open(InterruptMode::Msix);
        for row in 0..16 {
            rig.write32(0x204c, 0x1010_1010);
            rig.write32(0x2048, row | 0xff0 | 1 << 12 | 7 << 14);
        }
        assert_eq!(rig.read32(0x2048) >> 12 & 3, 0);
        rig.write32(0x201c, 5);
        for ring in 1..3u64 {
            let cid = 3 + ring;
            let page = 0x18_0000 + ring * 0x1_0000;
            rig.context((cid * 0x80 + 0x14) as u32, page as u32);
            for slot in 0..200 {
                rig.device
                    .host_mut()
                    .put_descriptor(page, slot, BUFFERS, 1540, 12);
            }
            rig.write16(0x1_0004 + cid * 0x100, 200);
        }
        for port in 0..100u16 {
            let mut frame = testing::tcp(ipv4(), &[], 10);
            frame[34..36].copy_from_slice(&port.to_be_bytes());
            rig.device.receive([frame]);
        }
        let one = rig.memory16(STATUS + 128);
        let two = rig.memory16(STATUS + 256);
        assert_eq!(one + two, 100);
        assert!(one > 20 && two > 20, "{one} {two}");
        assert_eq!(le32(&rig.get(BUFFERS, 4), 0).unwrap() & 0x100, 0x100);
    }

    #[test]
    fn nothing_is_written_after_a_reset_until_all_is_set_up_anew() {
        let mut rig = rig(4);
        rig.write32(0x800, 0x10);
        rig.device.receive([testing::udp(ipv4(), &[], 100)]);
        doorbell(&mut rig, 4);
        rig.write32(0x810, 0x17ff_ffff);
        rig.write32(0x8c8, 1 << 16);
        rig.write32(0x1820, 1 << 31 | 1 << 19);
        rig.write32(0x149c, 1518);
        rig.device.receive([testing::udp(ipv4(), &[], 100)]);
        assert_eq!(rig.get(BUFFERS, 64), [0; 64]);
        assert!(rig.device.faults().is_empty());
    }
}
