// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counters that the chip writes to memory, and the layout of that block.

use crate::bytes;
use crate::mac::MacAddress;
use serde::Serialize;

/// Bytes of the block that the chip writes. What follows is the driver's.
pub const BLOCK: usize = 0x140;

/// Bytes of the frame check sequence, which counters count and buffers lack.
const FCS: usize = 4;

/// Frames and octets of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Direction {
    /// Octets of good frames, FCS included.
    pub octets: u64,
    /// Unicast frames.
    pub unicast: u64,
    /// Multicast frames without broadcast.
    pub multicast: u64,
    /// Broadcast frames.
    pub broadcast: u64,
    /// Frames by length with FCS: up to 64, 127, 255, 511, 1023, 1522, 9022.
    pub sizes: [u32; 7],
}

impl Direction {
    /// Counts a frame.
    pub fn count(&mut self, frame: &[u8]) {
        let length = frame.len().wrapping_add(FCS);
        self.octets = self.octets.wrapping_add(length as u64);
        let destination = frame.first_chunk::<6>().copied().map(MacAddress);
        let counter = match destination {
            Some(mac) if mac.is_broadcast() => &mut self.broadcast,
            Some(mac) if mac.is_group() => &mut self.multicast,
            _ => &mut self.unicast,
        };
        *counter = counter.wrapping_add(1);
        let bin = [64, 127, 255, 511, 1023, 1522]
            .iter()
            .take_while(|&&limit| length > limit)
            .count();
        if let Some(bin) = self.sizes.get_mut(bin) {
            *bin = bin.wrapping_add(1);
        }
    }
}

/// All that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Frames that were taken from the wire.
    pub received: Direction,
    /// Frames that were put on the wire.
    pub sent: Direction,
    /// Frames that were longer than allowed.
    pub oversize: u32,
    /// Frames that the filter did not let in.
    pub filter_discards: u32,
    /// Frames that found neither a buffer nor room to wait.
    pub buffer_discards: u32,
}

/// Byte offsets in the block.
mod at {
    pub const IN_OCTETS: usize = 0x00;
    pub const OUT_OCTETS: usize = 0x10;
    pub const IN_PACKETS: usize = 0x20;
    pub const OUT_PACKETS: usize = 0x38;
    pub const OVERSIZE: usize = 0x84;
    pub const IN_SIZES: usize = 0x88;
    pub const OUT_SIZES: usize = 0xa4;
    pub const FILTER_DISCARDS: usize = 0xdc;
    pub const BUFFER_DISCARDS: usize = 0xe8;
}

impl Statistics {
    /// The block as it is in memory: 64-bit counters with their high half first.
    pub fn to_bytes(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut wide = |offset: usize, value: u64| {
            bytes::put(&mut block, offset, &((value >> 32) as u32).to_le_bytes());
            bytes::put(
                &mut block,
                offset.wrapping_add(4),
                &(value as u32).to_le_bytes(),
            );
        };
        wide(at::IN_OCTETS, self.received.octets);
        wide(at::OUT_OCTETS, self.sent.octets);
        for (offset, direction) in [
            (at::IN_PACKETS, &self.received),
            (at::OUT_PACKETS, &self.sent),
        ] {
            wide(offset, direction.unicast);
            wide(offset.wrapping_add(8), direction.multicast);
            wide(offset.wrapping_add(16), direction.broadcast);
        }
        let mut narrow =
            |offset: usize, value: u32| bytes::put(&mut block, offset, &value.to_le_bytes());
        for (start, direction) in [(at::IN_SIZES, &self.received), (at::OUT_SIZES, &self.sent)] {
            for (offset, &value) in (start..).step_by(4).zip(&direction.sizes) {
                narrow(offset, value);
            }
        }
        narrow(at::OVERSIZE, self.oversize);
        narrow(at::FILTER_DISCARDS, self.filter_discards);
        narrow(at::BUFFER_DISCARDS, self.buffer_discards);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::le32;

    #[test]
    fn frames_are_counted_by_kind_and_length() {
        let mut direction = Direction::default();
        for (first, length) in [
            (0x02, 60),
            (0x02, 61),
            (0x33, 1514),
            (0xff, 1518),
            (0x02, 9018),
        ] {
            let mut frame = vec![0; length];
            if first == 0xff {
                frame.fill(0xff);
            }
            if let Some(byte) = frame.first_mut() {
                *byte = first;
            }
            direction.count(&frame);
        }
        assert_eq!(
            (direction.unicast, direction.multicast, direction.broadcast),
            (3, 1, 1)
        );
        assert_eq!(direction.sizes, [1, 1, 0, 0, 0, 2, 1]);
        assert_eq!(direction.octets, 60 + 61 + 1514 + 1518 + 9018 + 20);
    }

    #[test]
    fn the_block_has_the_high_half_first() {
        let statistics = Statistics {
            received: Direction {
                octets: 0x1_0000_0002,
                broadcast: 3,
                sizes: [7, 0, 0, 0, 0, 0, 8],
                ..Default::default()
            },
            sent: Direction {
                octets: 4,
                unicast: 5,
                sizes: [0, 0, 0, 0, 0, 0, 9],
                ..Default::default()
            },
            buffer_discards: 6,
            filter_discards: 10,
            oversize: 11,
        };
        let block = statistics.to_bytes();
        for (offset, value) in [
            (0x00, 1),
            (0x04, 2),
            (0x14, 4),
            (0x34, 3),
            (0x3c, 5),
            (0x84, 11),
            (0x88, 7),
            (0xa0, 8),
            (0xbc, 9),
            (0xdc, 10),
            (0xe8, 6),
        ] {
            assert_eq!(le32(&block, offset), Some(value), "{offset:#x}");
        }
    }
}
