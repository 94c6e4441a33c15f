// SPDX-License-Identifier: MIT OR Apache-2.0
//! PCI configuration space: header and capabilities.

use crate::registers::pci;

/// Bytes in the configuration space of a PCI Express function.
pub const SIZE: usize = 4096;

/// Entries in the MSI-X table, when there is one.
pub const MSIX_VECTORS: usize = 9;

/// Where the capabilities are.
mod capability {
    pub const POWER: usize = 0x48;
    pub const MSI: usize = 0x58;
    pub const MSIX: usize = 0xa0;
    pub const EXPRESS: usize = 0xac;
}

/// What the space looks like at power-on.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Size of BAR 0 in bytes, a power of two.
    pub bar_size: u32,
    /// Whether there is an MSI-X capability.
    pub msix: bool,
}

/// Configuration space with the bits in it that software may write.
#[derive(Clone)]
pub struct ConfigSpace {
    data: Vec<u8>,
    writable: Vec<u8>,
    layout: Layout,
}

impl ConfigSpace {
    /// The space at power-on.
    pub fn new(layout: Layout) -> Self {
        let mut space = ConfigSpace {
            data: vec![0; SIZE],
            writable: vec![0; SIZE],
            layout,
        };
        space.power_on();
        space
    }

    /// Everything as at power-on.
    pub fn power_on(&mut self) {
        use capability::*;

        self.data.fill(0);
        self.writable.fill(0);
        self.field(0x00, &0x14e4u16.to_le_bytes(), &[]);
        self.field(0x02, &0x1639u16.to_le_bytes(), &[]);
        self.field(0x04, &[0, 0], &0x0547u16.to_le_bytes());
        self.field(0x06, &0x0010u16.to_le_bytes(), &[]);
        self.field(0x08, &[0x20, 0x00, 0x00, 0x02], &[]);
        self.field(0x0c, &[0], &[0xff]);
        let address_bits = !(u64::from(self.layout.bar_size).wrapping_sub(1));
        self.field(0x10, &[0x04], &address_bits.to_le_bytes());
        self.field(0x2c, &0x14e4u16.to_le_bytes(), &[]);
        self.field(0x2e, &0x1639u16.to_le_bytes(), &[]);
        // The ROM base (0x30) stays 0 whatever is written: there is no ROM.
        self.field(0x34, &[POWER as u8], &[]);
        self.field(0x3c, &[0, 1], &[0xff]);

        // The last word: PMCSR with no-soft-reset.
        self.field(
            POWER,
            &[0x01, MSI as u8, 0x03, 0x00, 0x08, 0x00],
            &[0, 0, 0, 0, 0x03, 0x01],
        );
        let after_msi = if self.layout.msix { MSIX } else { EXPRESS };
        let mut writable = [0xff; 14];
        writable[..4].copy_from_slice(&[0, 0, 0x01, 0]);
        writable[4] = 0xfc;
        self.field(MSI, &[0x05, after_msi as u8, 0x80, 0x00], &writable);
        if self.layout.msix {
            self.field(
                MSIX,
                &[0x11, EXPRESS as u8, MSIX_VECTORS as u8 - 1, 0x00],
                &[0, 0, 0, 0xc0],
            );
            self.field(MSIX + 4, &pci::MSIX_TABLE.to_le_bytes(), &[]);
            self.field(MSIX + 8, &pci::MSIX_PENDING.to_le_bytes(), &[]);
        }
        self.field(EXPRESS, &[0x10, 0x00, 0x02, 0x00], &[]);
        self.field(EXPRESS + 4, &0x8000u32.to_le_bytes(), &[]);
        self.field(EXPRESS + 8, &[], &0x7fffu16.to_le_bytes());
        self.field(EXPRESS + 0x0c, &0x41u32.to_le_bytes(), &[]);
        self.field(EXPRESS + 0x10, &[], &0x0143u16.to_le_bytes());
        self.field(EXPRESS + 0x12, &0x41u16.to_le_bytes(), &[]);
    }

    fn field(&mut self, offset: usize, value: &[u8], writable: &[u8]) {
        crate::bytes::put(&mut self.data, offset, value);
        crate::bytes::put(&mut self.writable, offset, writable);
    }

    /// The byte at `offset`; 0 past the end.
    pub fn read(&self, offset: usize) -> u8 {
        self.data.get(offset).copied().unwrap_or(0)
    }

    /// Stores what may be stored of a byte.
    pub fn write(&mut self, offset: usize, value: u8) {
        if let (Some(byte), Some(&mask)) = (self.data.get_mut(offset), self.writable.get(offset)) {
            *byte = (*byte & !mask) | (value & mask);
        }
    }

    /// Whether the function may start DMA.
    pub fn bus_master(&self) -> bool {
        self.read(0x04) & 0x04 != 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn space(msix: bool) -> ConfigSpace {
        ConfigSpace::new(Layout {
            bar_size: 32 << 20,
            msix,
        })
    }

    fn read32(space: &ConfigSpace, offset: usize) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|i| space.read(offset + i)))
    }

    fn write32(space: &mut ConfigSpace, offset: usize, value: u32) {
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            space.write(offset + i, byte);
        }
    }

    fn capabilities(space: &ConfigSpace) -> Vec<u8> {
        let mut ids = vec![];
        let mut at = usize::from(space.read(0x34));
        while at != 0 {
            ids.push(space.read(at));
            at = usize::from(space.read(at + 1));
        }
        ids
    }

    #[test]
    fn capabilities_are_chained() {
        assert_eq!(capabilities(&space(false)), [0x01, 0x05, 0x10]);
        assert_eq!(capabilities(&space(true)), [0x01, 0x05, 0x11, 0x10]);
        assert_eq!(read32(&space(true), 0xa0) >> 16, 8);
    }

    #[test]
    fn bars_are_sized_and_there_is_no_rom() {
        let mut space = space(false);
        for offset in [0x10, 0x14, 0x18, 0x30] {
            write32(&mut space, offset, 0xffff_f800);
        }
        assert_eq!(read32(&space, 0x10), 0xfe00_0004);
        assert_eq!(read32(&space, 0x14), 0xffff_f800);
        assert_eq!(read32(&space, 0x18), 0);
        assert_eq!(read32(&space, 0x30), 0);
    }

    #[test]
    fn only_command_bits_that_exist_are_stored() {
        let mut space = space(false);
        write32(&mut space, 0x04, 0xffff_ffff);
        assert_eq!(read32(&space, 0x04), 0x0010_0547);
        assert!(space.bus_master());
        write32(&mut space, 0x00, 0);
        assert_eq!(read32(&space, 0x00), 0x1639_14e4);
        // The first NVRAM probe of the driver reads it as a flash size.
        write32(&mut space, 0x40, 0xffff_ffff);
        assert_eq!(read32(&space, 0x40), 0);
    }

    #[test]
    fn out_of_range_is_zero_and_ignored() {
        let mut space = space(false);
        space.write(SIZE, 1);
        assert_eq!(space.read(SIZE), 0);
    }
}
