// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rings of buffer descriptors: indices, layout, and the chain of pages.
//!
//! Guests with pages of 4 KiB only: 256 descriptors to a page.

use crate::bytes::le32;
use crate::host::{DmaFault, GuestMemory};
use bitflags::bitflags;

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;

/// Slot of a page that has the address of the next page and no buffer.
const LINK_SLOT: u16 = 255;

/// A free-running index that skips the link slot of each page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingIndex(u16);

impl RingIndex {
    /// An index as software gives it. One at a link slot means the slot after.
    pub fn new(value: u16) -> Self {
        RingIndex(if value & LINK_SLOT == LINK_SLOT {
            value.wrapping_add(1)
        } else {
            value
        })
    }

    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        RingIndex::new(self.0.wrapping_add(1))
    }

    /// The slot within its page.
    pub fn slot(self) -> u16 {
        self.0 & LINK_SLOT
    }

    /// As the status block has it.
    pub fn value(self) -> u16 {
        self.0
    }

    /// Descriptors from this index up to `to`, going forward.
    pub fn distance(self, to: RingIndex) -> usize {
        // An index has a link slot behind it for each page that it has passed.
        let difference = usize::from(to.0.wrapping_sub(self.0));
        let links = usize::from((to.0 >> 8).wrapping_sub(self.0 >> 8) & 0xff);
        difference.saturating_sub(links)
    }
}

/// Bus address of `slot` in the page at `page`.
fn slot_address(page: u64, slot: u16) -> u64 {
    page.wrapping_add(u64::from(slot).wrapping_mul(DESCRIPTOR as u64))
}

fn address(raw: &[u8; DESCRIPTOR]) -> u64 {
    u64::from(le32(raw, 0).unwrap_or(0)) << 32 | u64::from(le32(raw, 4).unwrap_or(0))
}

bitflags! {
    /// What is to be done with a frame that is sent.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TransmitFlags: u16 {
        /// Fill in the TCP or UDP checksum.
        const L4_CHECKSUM = 1 << 1;
        /// Fill in the IPv4 header's checksum.
        const IP_CHECKSUM = 1 << 2;
        /// Insert a VLAN tag.
        const VLAN = 1 << 3;
        /// Last descriptor of a frame.
        const END = 1 << 6;
        /// First descriptor of a frame.
        const START = 1 << 7;
        /// Cut a TCP packet in segments.
        const SEGMENT = 1 << 15;
        const _ = !0;
    }
}

/// A transmit descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransmitDescriptor {
    /// Bus address of the bytes.
    pub address: u64,
    /// How many there are.
    pub length: u16,
    /// Bytes of TCP payload to a segment.
    pub mss: u16,
    /// What to do.
    pub flags: TransmitFlags,
    /// VLAN tag control information.
    pub vlan: u16,
}

impl TransmitDescriptor {
    /// From guest memory.
    pub fn from_bytes(raw: &[u8; DESCRIPTOR]) -> Self {
        let size = le32(raw, 8).unwrap_or(0);
        let flags = le32(raw, 12).unwrap_or(0);
        TransmitDescriptor {
            address: address(raw),
            length: size as u16,
            mss: (size >> 16) as u16 & 0x3fff,
            flags: TransmitFlags::from_bits_retain(flags as u16),
            vlan: (flags >> 16) as u16,
        }
    }
}

/// A receive descriptor: an empty buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveDescriptor {
    /// Bus address of the buffer.
    pub address: u64,
    /// Its size in bytes.
    pub length: u32,
}

impl ReceiveDescriptor {
    /// From guest memory.
    pub fn from_bytes(raw: &[u8; DESCRIPTOR]) -> Self {
        ReceiveDescriptor {
            address: address(raw),
            length: le32(raw, 8).unwrap_or(0),
        }
    }
}

/// Reads the descriptor in `slot` of the page at `page`.
pub fn fetch(
    memory: &mut impl GuestMemory,
    page: u64,
    slot: u16,
) -> Result<[u8; DESCRIPTOR], DmaFault> {
    let mut raw = [0; DESCRIPTOR];
    memory.read(slot_address(page, slot), &mut raw)?;
    Ok(raw)
}

/// A ring of receive buffers: pages of descriptors, each with the address of
/// the next in its link slot.
#[derive(Clone, Copy, Debug, Default)]
pub struct BufferChain {
    page: u64,
    consumer: RingIndex,
    /// None until software has told it.
    producer: Option<RingIndex>,
}

impl BufferChain {
    /// A ring whose first page is at `page`.
    pub fn at(page: u64) -> Self {
        BufferChain {
            page,
            ..Default::default()
        }
    }

    /// Sets how far software has put buffers in.
    pub fn produce(&mut self, index: u16) {
        self.producer = Some(RingIndex::new(index));
    }

    /// How far buffers were taken out.
    pub fn consumer(&self) -> RingIndex {
        self.consumer
    }

    /// How far software has put buffers in, once it has said so.
    pub fn producer(&self) -> Option<u16> {
        self.producer.map(RingIndex::value)
    }

    /// Buffers that can be taken.
    pub fn available(&self) -> usize {
        match self.producer {
            Some(producer) if self.page != 0 => self.consumer.distance(producer),
            _ => 0,
        }
    }

    /// The next descriptor as it is in memory, if there is one.
    pub fn peek(
        &self,
        memory: &mut impl GuestMemory,
    ) -> Result<Option<[u8; DESCRIPTOR]>, DmaFault> {
        if self.available() == 0 {
            return Ok(None);
        }
        fetch(memory, self.page, self.consumer.slot()).map(Some)
    }

    /// Takes the next buffer. The ring stays as it was if that fails.
    pub fn take(
        &mut self,
        memory: &mut impl GuestMemory,
    ) -> Result<Option<ReceiveDescriptor>, DmaFault> {
        let Some(raw) = self.peek(memory)? else {
            return Ok(None);
        };
        let next = self.consumer.next();
        if next.slot() == 0 {
            self.page = address(&fetch(memory, self.page, LINK_SLOT)?);
        }
        self.consumer = next;
        Ok(Some(ReceiveDescriptor::from_bytes(&raw)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;

    #[test]
    fn indices_skip_the_link_slot_of_each_page() {
        let mut index = RingIndex::default();
        let mut seen = vec![];
        for _ in 0..512 {
            seen.push(index.value());
            index = index.next();
        }
        assert_eq!(seen[254..257], [254, 256, 257]);
        assert!(seen.iter().all(|value| value & 255 != 255));
        assert_eq!(RingIndex(0xfffe).next().value(), 0);
        assert_eq!(RingIndex::new(255).value(), 256);
    }

    #[test]
    fn distance_counts_buffers_and_no_link_slots() {
        assert_eq!(RingIndex(0).distance(RingIndex(0)), 0);
        assert_eq!(RingIndex(0).distance(RingIndex(0x100)), 255);
        assert_eq!(RingIndex(10).distance(RingIndex(0x10a)), 255);
        assert_eq!(RingIndex(254).distance(RingIndex(256)), 1);
        assert_eq!(RingIndex(0xfffe).distance(RingIndex(1)), 2);
        // As a walk would count it.
        let (mut walk, mut steps) = (RingIndex(0xfe03), 0);
        while walk != RingIndex(0x0207) {
            walk = walk.next();
            steps += 1;
        }
        assert_eq!(RingIndex(0xfe03).distance(RingIndex(0x0207)), steps);
    }

    #[test]
    fn transmit_descriptor_layout() {
        let mut raw = [0; 16];
        raw[0..4].copy_from_slice(&1u32.to_le_bytes());
        raw[4..8].copy_from_slice(&0x2000u32.to_le_bytes());
        raw[8..12].copy_from_slice(&(0xc000_0000u32 | 1448 << 16 | 4410).to_le_bytes());
        raw[12..16].copy_from_slice(&(100u32 << 16 | 0x8088).to_le_bytes());
        let descriptor = TransmitDescriptor::from_bytes(&raw);
        assert_eq!(descriptor.address, 0x1_0000_2000);
        assert_eq!((descriptor.length, descriptor.mss), (4410, 1448));
        assert_eq!(descriptor.vlan, 100);
        assert_eq!(
            descriptor.flags,
            TransmitFlags::SEGMENT | TransmitFlags::START | TransmitFlags::VLAN
        );
    }

    #[test]
    fn a_chain_goes_from_page_to_page_and_round() {
        let mut host = FakeHost::default();
        let pages = [0x1_0000u64, 0x3_0000];
        for (number, &page) in pages.iter().enumerate() {
            for slot in 0..255 {
                host.put_descriptor(
                    page,
                    slot,
                    (number as u64) << 16 | u64::from(slot),
                    1540,
                    12,
                );
            }
            host.put_descriptor(page, 255, pages[1 - number], 0, 0);
        }
        let mut chain = BufferChain::at(pages[0]);
        assert_eq!(chain.available(), 0);
        assert_eq!(chain.take(&mut host).unwrap(), None);
        chain.produce(0x1ff);
        assert_eq!(chain.available(), 510);
        let taken: Vec<u64> =
            std::iter::from_fn(|| chain.take(&mut host).unwrap().map(|bd| bd.address)).collect();
        assert_eq!(taken.len(), 510);
        assert_eq!(taken[254..256], [254, 0x1_0000]);
        assert_eq!(chain.consumer().value(), 0x200);
        chain.produce(0x201);
        assert_eq!(chain.take(&mut host).unwrap().map(|bd| bd.address), Some(0));
        assert_eq!(chain.take(&mut host).unwrap(), None);
    }

    #[test]
    fn a_fault_leaves_the_chain_as_it_was() {
        let mut host = FakeHost::default();
        let mut chain = BufferChain::at(u64::MAX - 7);
        chain.produce(1);
        assert!(chain.take(&mut host).is_err());
        assert_eq!(chain.consumer().value(), 0);
    }
}
