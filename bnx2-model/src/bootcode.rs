// SPDX-License-Identifier: MIT OR Apache-2.0
//! The management CPU's boot code, as far as software sees it: a block of
//! shared memory with the board's configuration, and a mailbox.

use crate::mac::MacAddress;
use crate::registers::RegisterFile;

const HEADER_SIGNATURE: u32 = 0x16_0000;
const HEADER_ADDRESS: u32 = 0x16_0004;

/// Where the shared memory begins.
pub const SHARED_MEMORY: u32 = 0x16_7c00;

/// What is where in the shared memory, as offsets from its start.
#[allow(missing_docs)]
mod at {
    pub const DRIVER_MAILBOX: u32 = 0x04;
    pub const FIRMWARE_MAILBOX: u32 = 0x08;
    pub const DEVICE_INFO_SIGNATURE: u32 = 0x20;
    pub const BOOTCODE_REVISION: u32 = 0x4c;
    pub const MAC_UPPER: u32 = 0x50;
    pub const MAC_LOWER: u32 = 0x54;
    pub const BOOTCODE_CONDITION: u32 = 0x1c8;
}

/// Address of the word that software leaves messages in.
pub const DRIVER_MAILBOX: u32 = SHARED_MEMORY + at::DRIVER_MAILBOX;

/// What the boot code leaves in shared memory when it has started.
pub fn start(registers: &mut RegisterFile, mac: MacAddress) {
    registers.set(HEADER_SIGNATURE, 0x5353_0001);
    registers.set(HEADER_ADDRESS, SHARED_MEMORY);
    for (offset, value) in [
        (at::DEVICE_INFO_SIGNATURE, 0x4456_4901),
        (at::BOOTCODE_REVISION, 0x0602_0300),
        (at::MAC_UPPER, mac.upper()),
        (at::MAC_LOWER, mac.lower()),
        // No management firmware beside the boot code.
        (at::BOOTCODE_CONDITION, 0xe000),
    ] {
        registers.set(SHARED_MEMORY + offset, value);
    }
}

/// Answers a message: its sequence number, with status 0.
pub fn acknowledge(registers: &mut RegisterFile, message: u32) {
    registers.set(SHARED_MEMORY + at::FIRMWARE_MAILBOX, message & 0xffff);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_answered_with_its_sequence_number() {
        let mut registers = RegisterFile::default();
        acknowledge(&mut registers, 0x0102_0007);
        assert_eq!(registers.load(SHARED_MEMORY + 8), 7);
    }

    #[test]
    fn the_board_is_described() {
        let mut registers = RegisterFile::default();
        start(&mut registers, MacAddress([2, 0, 0, 0, 0, 9]));
        assert_eq!(registers.load(0x16_0000) >> 16, 0x5353);
        assert_eq!(registers.load(0x16_0004), SHARED_MEMORY);
        assert_eq!(registers.load(SHARED_MEMORY + 0x50), 0x0200);
        assert_eq!(registers.load(SHARED_MEMORY + 0x54), 9);
    }
}
