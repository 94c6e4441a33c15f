// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spreading of flows over receive rings.

use crate::headers::{Packet, TCP, UDP};

/// The driver sets no key, so this is the one that NICs come up with.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Entries in the table from hash to ring.
const ENTRIES: usize = 128;

/// The Toeplitz hash of addresses and ports, in wire order, source first.
fn toeplitz(input: impl IntoIterator<Item = u8>) -> u32 {
    let mut key = KEY.into_iter();
    let mut window = 0u64;
    for byte in key.by_ref().take(8) {
        window = window << 8 | u64::from(byte);
    }
    let mut hash = 0;
    for byte in input {
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
        window |= u64::from(key.next().unwrap_or(0));
    }
    hash
}

/// The hash of a TCP or UDP packet, as the frame's l2_fhdr has it.
pub fn hash(frame: &[u8], packet: &Packet) -> Option<u32> {
    if packet.protocol != TCP && packet.protocol != UDP {
        return None;
    }
    let ports = frame.get(packet.payload..packet.payload.checked_add(4)?)?;
    let addresses = packet.addresses(frame)?;
    Some(toeplitz(addresses.iter().chain(ports).copied()))
}

/// The table from hash to ring.
#[derive(Clone)]
pub struct Indirection {
    rings: [u8; ENTRIES],
}

impl Default for Indirection {
    fn default() -> Self {
        Indirection {
            rings: [0; ENTRIES],
        }
    }
}

impl Indirection {
    /// Stores eight entries, the first in the lowest nibble.
    pub fn set_row(&mut self, row: u32, entries: u32) {
        for (ring, shift) in self
            .rings
            .iter_mut()
            .skip((row as usize & 0xf).wrapping_mul(8))
            .zip((0..32).step_by(4))
        {
            *ring = (entries >> shift & 0xf) as u8;
        }
    }

    /// The ring for a hash, counted from the first of those that share.
    pub fn ring(&self, hash: u32) -> usize {
        self.rings
            .get(hash as usize % ENTRIES)
            .copied()
            .unwrap_or(0)
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_test_vectors() {
        let v4 = |source: [u8; 4], from: u16, to: [u8; 4], port: u16| {
            toeplitz(
                [source, to]
                    .concat()
                    .into_iter()
                    .chain([from, port].map(u16::to_be_bytes).concat()),
            )
        };
        assert_eq!(
            v4([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766),
            0x51cc_c178
        );
        assert_eq!(
            v4([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739),
            0xc626_b0ea
        );
        let v6 = |source: &str, from: u16, to: &str, port: u16| {
            let address = |text: &str| {
                text.parse::<std::net::Ipv6Addr>()
                    .map(|address| address.octets())
                    .unwrap_or_default()
            };
            toeplitz(
                [address(source), address(to)]
                    .concat()
                    .into_iter()
                    .chain([from, port].map(u16::to_be_bytes).concat()),
            )
        };
        assert_eq!(
            v6("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766),
            0x4020_7d3d
        );
    }

    #[test]
    fn rows_hold_eight_nibbles() {
        let mut table = Indirection::default();
        table.set_row(15, 0x7654_3210);
        assert_eq!(table.ring(120), 0);
        assert_eq!(table.ring(127), 7);
        assert_eq!(table.ring(0xffff_ff80 + 125), 5);
        assert_eq!(table.ring(119), 0);
    }
}
