// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host coalescing: status blocks in memory, and the interrupts that tell of them.

use crate::bytes::put;
use crate::config_space::MSIX_VECTORS;
use crate::device::Device;
use crate::host::{Host, InterruptMode};
use crate::registers::{bit, reg, CoalescingCommand, InterruptAck};
use serde::Serialize;

/// Bytes between the status blocks of vectors.
const SPACING: u64 = 128;

/// The status block of vector 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusBlock {
    /// Attentions that are there.
    pub attention: u32,
    /// Attentions that software has seen.
    pub attention_ack: u32,
    /// Consumer of transmit ring 0.
    pub transmit_consumer: u16,
    /// Consumer of receive ring 0.
    pub receive_consumer: u16,
    /// Counts the updates.
    pub index: u16,
}

impl StatusBlock {
    /// The block as it is in memory. The index is last.
    pub fn to_bytes(self) -> [u8; 56] {
        let mut block = [0; 56];
        put(&mut block, 0, &self.attention.to_le_bytes());
        put(&mut block, 4, &self.attention_ack.to_le_bytes());
        put(&mut block, 10, &self.transmit_consumer.to_le_bytes());
        put(&mut block, 18, &self.receive_consumer.to_le_bytes());
        put(&mut block, 54, &self.index.to_le_bytes());
        block
    }
}

/// The status block of the other vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorStatusBlock {
    /// Consumer of the vector's receive ring.
    pub receive_consumer: u16,
    /// Consumer of the vector's transmit ring.
    pub transmit_consumer: u16,
    /// Whose it is.
    pub vector: u8,
    /// Counts the updates.
    pub index: u16,
}

impl VectorStatusBlock {
    /// The block as it is in memory. The index is last.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut block = [0; 16];
        put(&mut block, 0, &self.receive_consumer.to_le_bytes());
        put(&mut block, 2, &self.transmit_consumer.to_le_bytes());
        put(&mut block, 12, &[self.vector]);
        put(&mut block, 14, &self.index.to_le_bytes());
        block
    }
}

/// One interrupt, as software and the device agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Vector {
    /// Index of the last status update.
    pub index: u16,
    /// The index that software has last said it has seen.
    pub acked: u16,
    /// No interrupt until software says so.
    pub masked: bool,
}

impl Vector {
    const RESET: Vector = Vector {
        index: 0,
        acked: 0,
        masked: true,
    };
}

/// The INTx pin, and what the other side has done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IntxLine {
    asserted: bool,
    /// Told once, and not again until the other side unmasks.
    automasked: bool,
    masked: bool,
}

impl IntxLine {
    /// Whether the pin is asserted.
    pub fn asserted(&self) -> bool {
        self.asserted
    }

    /// Asserts it. True if that has to be told.
    #[must_use]
    pub fn assert(&mut self) -> bool {
        self.asserted = true;
        self.tell()
    }

    /// Deasserts it.
    pub fn deassert(&mut self) {
        self.asserted = false;
    }

    /// The other side does not listen.
    pub fn mask(&mut self) {
        self.masked = true;
    }

    /// The other side listens (again). True if there is something to tell.
    #[must_use]
    pub fn unmask(&mut self) -> bool {
        self.masked = false;
        self.automasked = false;
        self.asserted && self.tell()
    }

    fn tell(&mut self) -> bool {
        let tell = !self.automasked && !self.masked;
        self.automasked |= tell;
        tell
    }
}

/// State of all interrupts.
#[derive(Clone, Debug, Serialize)]
pub struct Coalescing {
    /// Per vector.
    pub vectors: [Vector; MSIX_VECTORS],
    /// Attentions of the last update.
    pub attention: u32,
    /// Attentions that software has seen.
    pub attention_ack: u32,
    /// The pin.
    pub intx: IntxLine,
}

impl Default for Coalescing {
    fn default() -> Self {
        Coalescing {
            vectors: [Vector::RESET; MSIX_VECTORS],
            attention: 0,
            attention_ack: 0,
            intx: IntxLine::default(),
        }
    }
}

impl Coalescing {
    /// As after a chip reset. What the other side of the pin has masked stays so.
    pub fn reset(&mut self) {
        self.intx.deassert();
        *self = Coalescing {
            intx: self.intx,
            ..Coalescing::default()
        };
    }
}

impl<H: Host> Device<H> {
    /// Whether software wants to know of the link.
    fn link_wanted(&self) -> bool {
        self.registers.load(reg::EMAC_ATTENTION_ENABLE) & bit::EMAC_ATTENTION_LINK != 0
            && self.registers.load(reg::HC_ATTENTION_ENABLE) & bit::ATTENTION_LINK != 0
    }

    /// Whether software wants to know of the link, and takes it to be there.
    pub(crate) fn link_believed(&self) -> bool {
        self.link_wanted()
            && self.dma_open()
            && self.coalescing.attention_ack & bit::ATTENTION_LINK != 0
    }

    /// Attentions that are there now.
    fn attention(&self) -> u32 {
        if self.link_wanted() && self.phy.link() {
            bit::ATTENTION_LINK
        } else {
            0
        }
    }

    /// Tells of a change of the attentions, if there is one.
    pub(crate) fn evaluate_attention(&mut self) {
        if self.attention() != self.coalescing.attention {
            self.update_status(0, true);
        }
    }

    /// The vector of the rings of this number.
    fn vector_of(&self, ring: usize) -> usize {
        if self.host.mode() == InterruptMode::Msix && ring < self.host.vectors() {
            ring
        } else {
            0
        }
    }

    /// A ring's consumer has moved: its vector gets an update.
    pub(crate) fn consumer_moved(&mut self, ring: usize) {
        let vector = self.vector_of(ring);
        self.moved |= 1u32.wrapping_shl(vector as u32);
    }

    /// Gives the vectors their updates.
    pub(crate) fn publish(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        if moved != 0 {
            for vector in 0..MSIX_VECTORS {
                if moved & 1u32.wrapping_shl(vector as u32) != 0 {
                    self.update_status(vector, true);
                }
            }
        }
    }

    /// Writes the status block of a vector, and interrupts if wanted.
    pub(crate) fn update_status(&mut self, vector: usize, interrupt: bool) {
        let base = self.registers.load_address(reg::HC_STATUS_ADDRESS);
        if !self.dma_open() || base == 0 {
            return;
        }
        let attention = self.attention();
        let Some(state) = self.coalescing.vectors.get_mut(vector) else {
            return;
        };
        state.index = state.index.wrapping_add(1);
        let index = state.index;
        let transmit_consumer = self.transmit_consumer(vector);
        let receive_consumer = self.receive_consumer(vector);
        if vector == 0 {
            self.coalescing.attention = attention;
            let block = StatusBlock {
                attention,
                attention_ack: self.coalescing.attention_ack,
                transmit_consumer,
                receive_consumer,
                index,
            };
            self.write_block(base, &block.to_bytes());
        } else {
            let block = VectorStatusBlock {
                receive_consumer,
                transmit_consumer,
                vector: vector as u8,
                index,
            };
            let base = base.wrapping_add(SPACING.wrapping_mul(vector as u64));
            self.write_block(base, &block.to_bytes());
        }
        if interrupt {
            self.fire(vector);
        }
    }

    /// Writes a status block from its start to its end, so that the index is
    /// not there before what it counts; in pieces that no reader sees half of.
    fn write_block(&mut self, base: u64, block: &[u8]) {
        for (number, piece) in block.chunks(8).enumerate() {
            let address = base.wrapping_add((number as u64).wrapping_mul(8));
            self.write_memory(address, piece);
        }
    }

    fn fire(&mut self, vector: usize) {
        let one_shot =
            vector > 0 || self.registers.load(reg::HC_CONFIG) & bit::HC_CONFIG_ONE_SHOT != 0;
        let mode = self.host.mode();
        let Some(state) = self.coalescing.vectors.get_mut(vector) else {
            return;
        };
        if state.masked {
            // The next acknowledgement finds the index stale and fires.
            return;
        }
        match mode {
            InterruptMode::None => return,
            InterruptMode::Intx => {
                if !self.coalescing.intx.assert() {
                    return;
                }
                self.host.signal_intx();
            }
            InterruptMode::Msi | InterruptMode::Msix => {
                state.masked = one_shot;
                self.host.signal_message(vector);
            }
        }
        self.activity.interrupts = self.activity.interrupts.wrapping_add(1);
    }

    /// What is read of the acknowledge register: that an index is there proves
    /// that the interrupt was handled, so it is not the index of the last update.
    pub(crate) fn acknowledged(&self) -> u32 {
        self.coalescing.vectors[0].acked.into()
    }

    pub(crate) fn acknowledge_interrupt(&mut self, value: u32) {
        let command = InterruptAck::from_bits_retain(value);
        let vector = (value >> 24 & 0xf) as usize;
        let Some(state) = self.coalescing.vectors.get_mut(vector) else {
            return;
        };
        if command.contains(InterruptAck::INDEX_VALID) {
            state.acked = value as u16;
        }
        if command.contains(InterruptAck::MASK) {
            state.masked = true;
            if vector == 0 {
                self.coalescing.intx.deassert();
            }
        } else if command.contains(InterruptAck::INDEX_VALID) {
            state.masked = false;
            let stale = state.index != state.acked;
            if vector == 0 {
                // Edge or level, what was told is done with.
                self.coalescing.intx.deassert();
            }
            if stale {
                self.fire(vector);
            }
        }
    }

    pub(crate) fn coalescing_command(&mut self, value: u32) {
        let command = CoalescingCommand::from_bits_retain(value);
        let kept = command & CoalescingCommand::SKIP_ABORT;
        self.registers.set(reg::HC_COMMAND, kept.bits());
        if command.contains(CoalescingCommand::CLEAR_STATISTICS) {
            self.statistics = Default::default();
        }
        if command.contains(CoalescingCommand::STATISTICS_NOW) {
            self.write_statistics();
        }
        if command.intersects(CoalescingCommand::NOW | CoalescingCommand::NOW_SILENT) {
            let interrupt = command.contains(CoalescingCommand::NOW);
            let vectors = match self.host.mode() {
                InterruptMode::Msix => self.host.vectors().clamp(1, MSIX_VECTORS),
                _ => 1,
            };
            for vector in 0..vectors {
                self.update_status(vector, interrupt);
            }
        }
    }

    /// The other side of the INTx pin listens again.
    pub fn unmask_intx(&mut self) {
        if self.coalescing.intx.unmask() {
            self.host.signal_intx();
        }
    }

    /// The other side of the INTx pin does not listen for a while.
    pub fn mask_intx(&mut self) {
        self.coalescing.intx.mask();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use crate::host::InterruptMode;
    use crate::testing::{self, Rig, STATUS};

    const ACK: u64 = 0x84;
    const HC_COMMAND: u64 = 0x6800;
    const COAL_NOW: u32 = 0x10001;
    const COAL_NOW_SILENT: u32 = 0x20001;

    fn index(rig: &mut Rig) -> u16 {
        rig.memory16(STATUS + 54)
    }

    #[test]
    fn a_one_shot_message_comes_once_until_acknowledged() {
        let mut rig = testing::open(InterruptMode::Msi);
        rig.unmask();
        rig.messages();
        rig.write32(HC_COMMAND, COAL_NOW);
        rig.write32(HC_COMMAND, COAL_NOW);
        assert_eq!(rig.messages(), [1, 0, 0, 0, 0, 0, 0, 0, 0]);
        let seen = index(&mut rig);
        rig.write32(ACK, 0x1_0000 | u32::from(seen));
        assert_eq!(rig.messages()[0], 0);
        rig.write32(HC_COMMAND, COAL_NOW);
        assert_eq!(rig.messages()[0], 1);
    }

    #[test]
    fn a_stale_acknowledgement_fires_again() {
        let mut rig = testing::open(InterruptMode::Msi);
        rig.unmask();
        rig.messages();
        rig.write32(HC_COMMAND, COAL_NOW);
        let seen = index(&mut rig);
        rig.write32(HC_COMMAND, COAL_NOW_SILENT);
        rig.messages();
        rig.write32(ACK, 0x1_0000 | u32::from(seen));
        assert_eq!(rig.messages()[0], 1);
    }

    #[test]
    fn acknowledge_reads_what_was_acknowledged_not_what_was_published() {
        let mut rig = testing::open(InterruptMode::Msi);
        let before = rig.read32(ACK);
        rig.write32(HC_COMMAND, COAL_NOW_SILENT);
        assert_eq!(rig.read32(ACK), before);
        let seen = index(&mut rig);
        rig.write32(ACK, 0x1_0000 | u32::from(seen));
        assert_eq!(rig.read32(ACK), u32::from(seen));
    }

    #[test]
    fn every_coalesce_now_counts_and_command_bits_do_not_stick() {
        let mut rig = testing::open(InterruptMode::Msi);
        let before = index(&mut rig);
        for _ in 0..3 {
            rig.write32(HC_COMMAND, COAL_NOW_SILENT | 0x10);
        }
        assert_eq!(index(&mut rig), before.wrapping_add(3));
        assert_eq!(rig.read32(HC_COMMAND), 0x11);
    }

    #[test]
    fn intx_is_told_once_until_unmasked_and_again_while_asserted() {
        let mut rig = testing::open(InterruptMode::Intx);
        rig.unmask();
        rig.intx();
        rig.write32(HC_COMMAND, COAL_NOW);
        rig.write32(HC_COMMAND, COAL_NOW);
        assert_eq!(rig.intx(), 1);
        assert_eq!(rig.read32(0x6c), 0);
        // EOI without the driver having masked: the level is still there.
        rig.device.unmask_intx();
        assert_eq!(rig.intx(), 1);
        // What the driver's handler does.
        rig.write32(ACK, 0x6_0000);
        assert_eq!(rig.read32(0x6c), 1);
        rig.device.unmask_intx();
        assert_eq!(rig.intx(), 0);
        // The poll's end: index, still masked; then unmask.
        let seen = index(&mut rig);
        rig.write32(ACK, 0x5_0000 | u32::from(seen));
        rig.write32(HC_COMMAND, COAL_NOW);
        assert_eq!(rig.intx(), 0);
        rig.write32(ACK, 0x1_0000 | u32::from(seen));
        assert_eq!(rig.intx(), 1);
    }

    #[test]
    fn intx_that_is_masked_outside_is_told_when_unmasked() {
        let mut rig = testing::open(InterruptMode::Intx);
        rig.unmask();
        rig.device.unmask_intx();
        rig.intx();
        rig.device.mask_intx();
        rig.write32(HC_COMMAND, COAL_NOW);
        assert_eq!(rig.intx(), 0);
        rig.device.unmask_intx();
        assert_eq!(rig.intx(), 1);
    }

    #[test]
    fn vectors_have_their_own_blocks_and_masks() {
        let mut rig = testing::open(InterruptMode::Msix);
        rig.write32(ACK, 0x0201_0001);
        rig.messages();
        rig.write32(HC_COMMAND, COAL_NOW);
        assert_eq!(rig.messages(), [0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(rig.memory16(STATUS + 2 * 128 + 14), 2);
        assert_eq!(rig.memory16(STATUS + 2 * 128 + 12), 2);
        assert_eq!(rig.memory16(STATUS + 8 * 128 + 14), 2);
        // There is no such vector.
        rig.write32(ACK, 0x0f01_0000);
    }

    #[test]
    fn link_attention_is_told_and_acknowledged() {
        let mut rig = testing::open(InterruptMode::Msi);
        rig.write32(0x1408, 0x800);
        rig.write32(0x680c, 0x0100_0001);
        assert_eq!(rig.memory16(STATUS), 1);
        assert_eq!(rig.memory16(STATUS + 4), 0);
        rig.write32(0x88, 1);
        rig.write32(HC_COMMAND, COAL_NOW_SILENT);
        assert_eq!(rig.memory16(STATUS + 4), 1);
        rig.unmask();
        rig.messages();
        rig.device.set_cable(false);
        assert_eq!((rig.memory16(STATUS), rig.messages()[0]), (0, 1));
        rig.write32(0x8c, 1);
        rig.write32(HC_COMMAND, COAL_NOW_SILENT);
        assert_eq!(rig.memory16(STATUS + 4), 0);
    }

    #[test]
    fn nothing_is_written_while_a_gate_is_shut() {
        for shut in [
            |rig: &mut Rig| rig.write32(0x814, 1 << 19),
            |rig: &mut Rig| rig.write32(0x8c8, 0),
            |rig: &mut Rig| rig.device.write_config(4, &[0, 0]),
            |rig: &mut Rig| rig.write32(0x6810, 0),
            |rig: &mut Rig| rig.write32(0x800, 0x10),
        ] {
            let mut rig = testing::open(InterruptMode::Msi);
            let before = index(&mut rig);
            shut(&mut rig);
            rig.write32(HC_COMMAND, COAL_NOW);
            rig.device.advance(std::time::Duration::from_secs(5));
            assert_eq!(index(&mut rig), before);
            assert!(rig.device.faults().is_empty());
        }
    }
}
