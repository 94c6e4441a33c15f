// SPDX-License-Identifier: MIT OR Apache-2.0
//! The chip's internal address space ("GRC"): a file of 32-bit registers, most
//! of them storage, and the names of those that are not.

use bitflags::bitflags;

/// PCI registers that BAR 0 has beside the mirror of configuration space.
#[allow(missing_docs)]
pub mod pci {
    pub const MISC_CONFIG: u32 = 0x68;
    pub const MISC_STATUS: u32 = 0x6c;
    pub const WINDOW_ADDRESS: u32 = 0x78;
    pub const WINDOW: u32 = 0x80;
    pub const INT_ACK_COMMAND: u32 = 0x84;
    pub const STATUS_BIT_SET: u32 = 0x88;
    pub const STATUS_BIT_CLEAR: u32 = 0x8c;
    pub const MAILBOX_DATA: u32 = 0x94;
    pub const CONFIG_3: u32 = 0x40c;
    pub const SWAP_DIAGNOSTIC: u32 = 0x418;
    /// BAR 0 offset of the MSI-X table.
    pub const MSIX_TABLE: u32 = 0xc000;
    /// BAR 0 offset of the MSI-X pending bits.
    pub const MSIX_PENDING: u32 = 0xe000;
}

/// Registers of the blocks behind PCI.
#[allow(missing_docs)]
pub mod reg {
    pub const MISC_COMMAND: u32 = 0x800;
    pub const MISC_ID: u32 = 0x808;
    pub const MISC_ENABLE_STATUS: u32 = 0x80c;
    pub const MISC_ENABLE_SET: u32 = 0x810;
    pub const MISC_ENABLE_CLEAR: u32 = 0x814;
    pub const MISC_NEW_CORE_CONTROL: u32 = 0x8c8;
    pub const MISC_DUAL_MEDIA_CONTROL: u32 = 0x8ec;
    pub const CTX_COMMAND: u32 = 0x1000;
    pub const CTX_CONTROL: u32 = 0x101c;
    pub const CTX_DATA: u32 = 0x1020;
    pub const CTX_PAGE_TABLE_CONTROL: u32 = 0x10c8;
    pub const EMAC_MODE: u32 = 0x1400;
    pub const EMAC_STATUS: u32 = 0x1404;
    pub const EMAC_ATTENTION_ENABLE: u32 = 0x1408;
    pub const EMAC_MAC_MATCH: u32 = 0x1410;
    pub const EMAC_RX_MTU_SIZE: u32 = 0x149c;
    pub const EMAC_MDIO_COMM: u32 = 0x14ac;
    pub const EMAC_RX_MODE: u32 = 0x14c8;
    pub const EMAC_MULTICAST_HASH: u32 = 0x14d0;
    pub const RPM_SORT_USER0: u32 = 0x1820;
    pub const RLUP_RSS_CONFIG: u32 = 0x201c;
    pub const RLUP_RSS_COMMAND: u32 = 0x2048;
    pub const RLUP_RSS_DATA: u32 = 0x204c;
    pub const TBDC_COMMAND: u32 = 0x5400;
    pub const NVM_COMMAND: u32 = 0x6400;
    pub const NVM_WRITE: u32 = 0x6408;
    pub const NVM_ADDRESS: u32 = 0x640c;
    pub const NVM_READ: u32 = 0x6410;
    pub const NVM_ARBITRATION: u32 = 0x6420;
    pub const HC_COMMAND: u32 = 0x6800;
    pub const HC_CONFIG: u32 = 0x6808;
    pub const HC_ATTENTION_ENABLE: u32 = 0x680c;
    pub const HC_STATUS_ADDRESS: u32 = 0x6810;
    pub const HC_STATISTICS_ADDRESS: u32 = 0x6818;
    pub const HC_STATISTICS_TICKS: u32 = 0x6844;
    /// A counter of the receive firmware, in the scratch memory of a CPU.
    pub const FIRMWARE_RX_DROPS: u32 = 0x12_0084;
}

/// Values of registers that hold but one.
#[allow(missing_docs)]
pub mod constant {
    /// BCM5709, revision C0, bond: copper.
    pub const CHIP_ID: u32 = 0x5709_2003;
    pub const SWAP_DIAGNOSTIC: u32 = 0x0102_0304;
    pub const COPPER: u32 = 0x03;
}

bitflags! {
    /// Blocks that are on, of [`reg::MISC_ENABLE_STATUS`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Blocks: u32 {
        /// Transmit scheduler.
        const TRANSMIT = 1 << 0;
        /// Ethernet MAC.
        const EMAC = 1 << 9;
        /// Host coalescing.
        const HOST_COALESCING = 1 << 19;
        /// Context memory.
        const CONTEXT = 1 << 21;
        const _ = !0;
    }

    /// [`reg::HC_COMMAND`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CoalescingCommand: u32 {
        /// The block is on (read only).
        const ENABLE = 1 << 0;
        /// Kept as written.
        const SKIP_ABORT = 1 << 4;
        /// Status update with interrupt, now.
        const NOW = 1 << 16;
        /// Status update without interrupt, now.
        const NOW_SILENT = 1 << 17;
        /// Statistics to memory, now.
        const STATISTICS_NOW = 1 << 18;
        /// Statistics to zero, now.
        const CLEAR_STATISTICS = 1 << 21;
        const _ = !0;
    }

    /// [`pci::INT_ACK_COMMAND`], without the fields in it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InterruptAck: u32 {
        /// The low half is the status index that software has seen.
        const INDEX_VALID = 1 << 16;
        /// No interrupts from here on.
        const MASK = 1 << 18;
        const _ = !0;
    }

    /// [`reg::RPM_SORT_USER0`], the receive filter.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SortRule: u32 {
        /// Broadcast is taken.
        const BROADCAST = 1 << 16;
        /// All multicast is taken.
        const ALL_MULTICAST = 1 << 17;
        /// Multicast is taken that the hash filter has.
        const MULTICAST_HASH = 1 << 18;
        /// All is taken.
        const PROMISCUOUS = 1 << 19;
        /// The rule is on.
        const ENABLE = 1 << 31;
        const _ = !0;
    }
}

/// Single bits of other registers.
#[allow(missing_docs)]
pub mod bit {
    /// Without it there is no wake on LAN.
    pub const CONFIG_3_AUXILIARY_POWER: u32 = 1 << 30;
    pub const MISC_COMMAND_SOFT_RESET: u32 = 1 << 4;
    pub const NEW_CORE_DMA_ENABLE: u32 = 1 << 16;
    pub const CTX_COMMAND_MEMORY_INIT: u32 = 1 << 13;
    pub const CTX_WRITE_REQUEST: u32 = 1 << 30;
    pub const CTX_READ_REQUEST: u32 = 1 << 31;
    pub const EMAC_STATUS_LINK: u32 = 1 << 11;
    pub const EMAC_ATTENTION_LINK: u32 = 1 << 11;
    pub const EMAC_MODE_LOOPBACK: u32 = 1 << 4;
    pub const EMAC_RX_KEEP_VLAN: u32 = 1 << 10;
    pub const RSS_COMMAND_WRITE: u32 = 1 << 12;
    pub const RSS_COMMAND_ACTIONS: u32 = 3 << 12;
    pub const TBDC_COMMAND_ARBITER: u32 = 1 << 3;
    pub const HC_CONFIG_ONE_SHOT: u32 = 1 << 17;
    pub const ATTENTION_LINK: u32 = 1 << 0;
    pub const MISC_STATUS_INTA_IDLE: u32 = 1 << 0;
}

/// Bits that a write does not change, sorted by address. What is read of them
/// is 0, or a rule of its own.
const READ_ONLY: &[(u32, u32)] = &[
    (0x0068, 0x0000_0300),
    (0x006c, 0xffff_ffff),
    (0x0418, 0xffff_ffff),
    (0x0808, 0xffff_ffff),
    (0x08ec, 0xffff_ffff),
    (0x1000, 0x0000_0001),
    (0x1404, 0xffff_ffff),
    (0x14a8, 0x0000_01ff),
    (0x14ac, 0x1000_0000),
    (0x14b0, 0x0000_0001),
    (0x14c0, 0x0000_0009),
    (0x14cc, 0x0000_0001),
    (0x1800, 0x0000_0001),
    (0x1804, 0x0000_0003),
    (0x2800, 0x0000_0001),
    (0x2804, 0x0000_3f01),
    (0x2840, 0xffff_ffff),
    (0x2844, 0xffff_ffff),
    (0x284c, 0x07ff_07ff),
    (0x2c00, 0x0000_0011),
    (0x2c04, 0x0003_0007),
    (0x3c00, 0x0000_0001),
    (0x3c04, 0x0007_0000),
    (0x3c08, 0x07f0_0000),
    (0x3c14, 0xffff_ffff),
    (0x3c18, 0xffff_ffff),
    (0x5004, 0x0000_007f),
    (0x5c00, 0x0000_0001),
    (0x5c04, 0x0003_000f),
    (0x5c10, 0xffff_ffff),
    (0x5c80, 0x0f71_13f1),
    (0x5c84, 0x0000_f333),
    (0x5c88, 0x0007_7373),
    (0x5c8c, 0x0007_f737),
    (0x6908, 0x0001_ff0f),
    (0x690c, 0x0ffe_00f0),
];

/// The register file: storage for the whole internal address space.
pub struct RegisterFile {
    words: Vec<u32>,
}

/// Bytes of internal address space.
pub const GRC_SIZE: u32 = 0x40_0000;

/// What a chip reset puts back to default.
const RESETTABLE: std::ops::Range<usize> = 0x400 / 4..0x1_0000 / 4;

impl Default for RegisterFile {
    fn default() -> Self {
        RegisterFile {
            words: vec![0; (GRC_SIZE / 4) as usize],
        }
    }
}

impl RegisterFile {
    /// The stored word at `address`.
    pub fn load(&self, address: u32) -> u32 {
        self.words.get((address / 4) as usize).copied().unwrap_or(0)
    }

    /// Two words as an address: high at `address + 4`, low at `address`.
    pub fn load_address(&self, address: u32) -> u64 {
        u64::from(self.load(address.wrapping_add(4))) << 32 | u64::from(self.load(address))
    }

    /// Stores a word, whatever is read only.
    pub fn set(&mut self, address: u32, value: u32) {
        if let Some(word) = self.words.get_mut((address / 4) as usize) {
            *word = value;
        }
    }

    /// Stores what software may change of a word.
    pub fn store(&mut self, address: u32, value: u32) {
        let keep = READ_ONLY
            .binary_search_by_key(&(address & !3), |&(address, _)| address)
            .ok()
            .and_then(|at| READ_ONLY.get(at))
            .map_or(0, |&(_, mask)| mask);
        let old = self.load(address);
        self.set(address, (old & keep) | (value & !keep));
    }

    /// A chip reset.
    pub fn reset(&mut self) {
        if let Some(words) = self.words.get_mut(RESETTABLE) {
            words.fill(0);
        }
        self.set(reg::FIRMWARE_RX_DROPS, 0);
    }

    /// All to zero.
    pub fn power_on(&mut self) {
        self.words.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_table_is_sorted() {
        assert!(READ_ONLY.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn read_only_bits_stay_and_the_rest_is_stored() {
        let mut file = RegisterFile::default();
        file.store(0x284c, 0xffff_ffff);
        assert_eq!(file.load(0x284c), 0xf800_f800);
        file.store(0x1408, 0xdead_beef);
        assert_eq!(file.load(0x1408), 0xdead_beef);
    }

    #[test]
    fn reset_keeps_cpu_scratch_and_clears_the_drop_counter() {
        let mut file = RegisterFile::default();
        for address in [0x400, 0xfffc, 0x6_0000, 0x12_0080, reg::FIRMWARE_RX_DROPS] {
            file.set(address, 1);
        }
        file.reset();
        assert_eq!((file.load(0x400), file.load(0xfffc)), (0, 0));
        assert_eq!((file.load(0x6_0000), file.load(0x12_0080)), (1, 1));
        assert_eq!(file.load(reg::FIRMWARE_RX_DROPS), 0);
    }

    #[test]
    fn addresses_past_the_end_are_nothing() {
        let mut file = RegisterFile::default();
        file.store(GRC_SIZE, 1);
        assert_eq!(file.load(GRC_SIZE), 0);
    }
}
