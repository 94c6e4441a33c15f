// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Internet checksum.

/// A one's complement sum on its way. Pieces begin at even offsets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd one at the end counts as if a zero came after it.
    #[must_use]
    pub fn bytes(self, data: &[u8]) -> Self {
        let mut sum = self.0;
        let mut chunks = data.chunks_exact(4);
        for chunk in &mut chunks {
            if let Ok(word) = chunk.try_into() {
                sum = sum.wrapping_add(u64::from(u32::from_le_bytes(word)));
            }
        }
        let mut last = [0; 4];
        for (place, byte) in last.iter_mut().zip(chunks.remainder()) {
            *place = *byte;
        }
        Sum(fold(sum.wrapping_add(u64::from(u32::from_le_bytes(last)))))
    }

    /// Adds a 16-bit number.
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        Sum(self.0.wrapping_add(u64::from(value.swap_bytes())))
    }

    /// The complement of the sum, as it is stored in a header.
    pub fn finish(self) -> u16 {
        !(fold(fold(self.0)) as u16).swap_bytes()
    }
}

/// Fewer bits with the same one's complement value.
fn fold(mut sum: u64) -> u64 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(data: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in data.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(pair.first().copied().unwrap_or(0)) << 8 | u64::from(low);
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1071_example() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&data).finish(), !0xddf2);
    }

    #[test]
    fn any_length_and_any_split_at_even_offsets() {
        let data: Vec<u8> = (0..4099u32).map(|i| (i * 7 + i / 255) as u8).collect();
        for length in [0, 1, 2, 3, 4, 5, 7, 64, 1447, 1448, 4099] {
            let data = data.get(..length).unwrap_or_default();
            assert_eq!(Sum::default().bytes(data).finish(), slow(data), "{length}");
            let (head, tail) = data.split_at(length / 4 * 2);
            let split = Sum::default().bytes(head).bytes(tail);
            assert_eq!(split.finish(), slow(data), "{length}");
        }
        assert_eq!(
            Sum::default().word(0x1234).word(0xf00f).finish(),
            slow(&[0x12, 0x34, 0xf0, 0x0f])
        );
        assert_eq!(Sum::default().bytes(&[0xff; 65536]).finish(), 0);
    }
}
