// SPDX-License-Identifier: MIT OR Apache-2.0
//! Context memory: per connection ("CID"), where its rings are.

/// Bytes of context memory.
const SIZE: usize = 0x1_0000;

/// Bytes between two CIDs.
const STRIDE: u32 = 0x80;

/// Rings of each direction.
pub const RINGS: usize = 8;

/// CID of a receive ring.
pub fn receive_cid(ring: usize) -> u32 {
    match ring {
        0 => 0,
        ring => 3 + ring as u32,
    }
}

/// CID of a transmit ring.
pub fn transmit_cid(ring: usize) -> u32 {
    match ring {
        0 => 16,
        ring => 31 + ring as u32,
    }
}

/// Words of a context, as byte offsets from where its CID begins.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Field {
    ReceiveRingHigh = 0x10,
    ReceiveRingLow = 0x14,
    PageBufferSize = 0x48,
    PageRingHigh = 0x50,
    PageRingLow = 0x54,
    TransmitRingHigh = 0x258,
    TransmitRingLow = 0x25c,
}

/// A ring whose place a context write has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// Transmit ring of this number.
    Transmit(usize),
    /// Receive ring of this number.
    Receive(usize),
    /// Page ring of the receive ring of this number.
    Page(usize),
}

/// Context memory.
pub struct ContextMemory {
    words: Vec<u32>,
}

impl Default for ContextMemory {
    fn default() -> Self {
        ContextMemory {
            words: vec![0; SIZE / 4],
        }
    }
}

fn address(cid: u32, field: Field) -> u32 {
    cid.wrapping_mul(STRIDE).wrapping_add(field as u32)
}

impl ContextMemory {
    /// All to zero.
    pub fn reset(&mut self) {
        self.words.fill(0);
    }

    /// The word at a byte address.
    pub fn load(&self, address: u32) -> u32 {
        self.words.get((address / 4) as usize).copied().unwrap_or(0)
    }

    /// Stores a word, and says which ring has moved by that.
    pub fn store(&mut self, address: u32, value: u32) -> Option<Moved> {
        if let Some(word) = self.words.get_mut((address / 4) as usize) {
            *word = value;
        }
        (0..RINGS).find_map(|ring| {
            let receive = |field| self::address(receive_cid(ring), field) == address;
            let transmit = |field| self::address(transmit_cid(ring), field) == address;
            if transmit(Field::TransmitRingHigh) || transmit(Field::TransmitRingLow) {
                Some(Moved::Transmit(ring))
            } else if receive(Field::ReceiveRingHigh) || receive(Field::ReceiveRingLow) {
                Some(Moved::Receive(ring))
            } else if receive(Field::PageRingHigh) || receive(Field::PageRingLow) {
                Some(Moved::Page(ring))
            } else {
                None
            }
        })
    }

    fn pair(&self, cid: u32, high: Field, low: Field) -> u64 {
        u64::from(self.load(address(cid, high))) << 32 | u64::from(self.load(address(cid, low)))
    }

    /// Bus address of a transmit ring.
    pub fn transmit_ring(&self, ring: usize) -> u64 {
        self.pair(
            transmit_cid(ring),
            Field::TransmitRingHigh,
            Field::TransmitRingLow,
        )
    }

    /// Bus address of the first page of a receive ring.
    pub fn receive_ring(&self, ring: usize) -> u64 {
        self.pair(
            receive_cid(ring),
            Field::ReceiveRingHigh,
            Field::ReceiveRingLow,
        )
    }

    /// Bus address of the first page of a page ring.
    pub fn page_ring(&self, ring: usize) -> u64 {
        self.pair(receive_cid(ring), Field::PageRingHigh, Field::PageRingLow)
    }

    /// Bytes of a main buffer if what does not fit goes to the page ring.
    pub fn page_mode(&self, ring: usize) -> Option<usize> {
        let value = self.load(address(receive_cid(ring), Field::PageBufferSize));
        (value != 0).then_some((value >> 16) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_a_ring_address_tells_which_ring() {
        let mut context = ContextMemory::default();
        assert_eq!(context.store(0xa5c, 0x1000), Some(Moved::Transmit(0)));
        assert_eq!(context.store(0xa58, 0x1), Some(Moved::Transmit(0)));
        assert_eq!(context.transmit_ring(0), 0x1_0000_1000);
        assert_eq!(context.store(0x14, 0x2000), Some(Moved::Receive(0)));
        assert_eq!(context.receive_ring(0), 0x2000);
        assert_eq!(context.store(0x54, 0x3000), Some(Moved::Page(0)));
        assert_eq!(context.page_ring(0), 0x3000);
        assert_eq!(context.store(4 * 0x80 + 0x14, 1), Some(Moved::Receive(1)));
        assert_eq!(
            context.store(38 * 0x80 + 0x25c, 1),
            Some(Moved::Transmit(7))
        );
        assert_eq!(context.store(0x880, 0x1006_0000), None);
    }

    #[test]
    fn page_mode_is_on_when_a_size_is_set() {
        let mut context = ContextMemory::default();
        assert_eq!(context.page_mode(0), None);
        context.store(0x48, 0x0092_1000);
        assert_eq!(context.page_mode(0), Some(146));
    }

    #[test]
    fn past_the_end_is_nothing() {
        let mut context = ContextMemory::default();
        assert_eq!(context.store(0x1f_fffc, 1), None);
        assert_eq!(context.load(0x1f_fffc), 0);
    }
}
