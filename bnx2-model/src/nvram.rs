// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flash behind the NVM interface, and its arbiter.

use crate::bytes;
use bitflags::bitflags;

/// Bytes of flash.
pub const SIZE: usize = 0x4_2000;

const SIGNATURE: [u8; 4] = [0x66, 0x99, 0x55, 0xaa];
/// Two blocks of 252 bytes and their CRC-32: manufacturing and features.
const BLOCKS: [usize; 2] = [0x100, 0x200];
const BLOCK_DATA: usize = 252;

bitflags! {
    /// The command register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u32 {
        /// The last command is done; writing it clears it.
        const DONE = 1 << 3;
        /// Do the command.
        const DO = 1 << 4;
        /// The command is to write.
        const WRITE = 1 << 5;
        const _ = !0;
    }
}

/// The flash and the state of its interface.
pub struct Nvram {
    flash: Vec<u8>,
    command: Command,
    /// Owners that hold the lock (bits 0 to 3).
    owners: u32,
}

impl Default for Nvram {
    fn default() -> Self {
        let mut flash = vec![0; SIZE];
        bytes::put(&mut flash, 0, &SIGNATURE);
        for start in BLOCKS {
            if let Some(data) = flash.get(start..start.wrapping_add(BLOCK_DATA)) {
                let crc = crc32fast::hash(data);
                bytes::put(
                    &mut flash,
                    start.wrapping_add(BLOCK_DATA),
                    &crc.to_le_bytes(),
                );
            }
        }
        Nvram {
            flash,
            command: Command::empty(),
            owners: 0,
        }
    }
}

impl Nvram {
    /// The interface as after a reset; the flash keeps what it has.
    pub fn reset(&mut self) {
        self.command = Command::empty();
        self.owners = 0;
    }

    /// The command register.
    pub fn command(&self) -> u32 {
        self.command.bits()
    }

    /// A write to the command register. Returns the word that was read, if one was.
    pub fn execute(&mut self, command: u32, address: u32, data: u32) -> Option<u32> {
        let command = Command::from_bits_retain(command);
        let mut read = None;

        if command.contains(Command::DONE) {
            self.command.remove(Command::DONE);
        }
        if command.contains(Command::DO) {
            let place = (address & 0xff_ffff & !3) as usize;
            if command.contains(Command::WRITE) {
                bytes::put_be32(&mut self.flash, place, data);
            } else {
                read = Some(bytes::be32(&self.flash, place).unwrap_or(!0));
            }
            self.command = (command - Command::DO) | Command::DONE;
        }
        read
    }

    /// A write to the arbiter: bits 0 to 3 ask for the lock, 4 to 7 give it back.
    pub fn arbitrate(&mut self, value: u32) {
        self.owners = (self.owners | (value & 0xf)) & !(value >> 4 & 0xf);
    }

    /// The arbiter: who has the lock (bits 8 to 11), who asks (12 to 15).
    pub fn arbitration(&self) -> u32 {
        self.owners << 8 | self.owners << 12
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const READ: u32 = 0x190;
    const WRITE: u32 = 0x1b0;

    #[test]
    fn blocks_have_their_crc() {
        let mut nvram = Nvram::default();
        assert_eq!(nvram.execute(READ, 0, 0), Some(0x6699_55aa));
        for start in [0x100, 0x200] {
            // The CRC-32 of 252 zero bytes, little-endian.
            assert_eq!(nvram.execute(READ, start + 252, 0), Some(0xf159_63a6));
            let block = &nvram.flash[start as usize..][..256];
            assert_eq!(crc32fast::hash(block), !0xdebb_20e3);
        }
    }

    #[test]
    fn a_word_written_is_read_back_and_survives_a_reset() {
        let mut nvram = Nvram::default();
        assert_eq!(nvram.execute(WRITE, 0x1234, 0x0102_0304), None);
        nvram.reset();
        assert_eq!(nvram.execute(READ, 0x1234, 0), Some(0x0102_0304));
        assert_eq!(nvram.flash[0x1234..0x1238], [1, 2, 3, 4]);
    }

    #[test]
    fn done_comes_with_the_command_and_goes_when_written() {
        let mut nvram = Nvram::default();
        nvram.execute(READ, 0, 0);
        assert_eq!(nvram.command() & 8, 8);
        assert_eq!(nvram.execute(8, 0, 0), None);
        assert_eq!(nvram.command() & 8, 0);
    }

    #[test]
    fn past_the_end_reads_ones_and_writes_nothing() {
        let mut nvram = Nvram::default();
        nvram.execute(WRITE, SIZE as u32, 0);
        assert_eq!(nvram.execute(READ, SIZE as u32, 0), Some(!0));
        assert_eq!(nvram.execute(READ, 0xff_fffc, 0), Some(!0));
    }

    #[test]
    fn the_lock_is_given_and_taken_back() {
        let mut nvram = Nvram::default();
        nvram.arbitrate(4);
        assert_eq!(nvram.arbitration(), 0x4400);
        nvram.arbitrate(0x40);
        assert_eq!(nvram.arbitration(), 0);
    }
}
