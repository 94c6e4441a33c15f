// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device: its parts, and the regions and registers that lead to them.

use crate::bootcode;
use crate::config_space::{ConfigSpace, Layout};
use crate::context::{ContextMemory, Moved, RINGS};
use crate::host::{DmaFault, Host};
use crate::interrupts::Coalescing;
use crate::mac::MacAddress;
use crate::nvram::Nvram;
use crate::phy::Phy;
use crate::receive::ReceiveRing;
use crate::registers::{bit, constant, pci, reg, Blocks, RegisterFile, GRC_SIZE};
use crate::rss::Indirection;
use crate::statistics::Statistics;
use crate::transmit::{Progress, RingIndices, TransmitRing};
use log::{debug, warn};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Where doorbells begin in BAR 0.
const DOORBELLS: u32 = 0x1_0000;
/// Bytes of doorbells of a CID.
const DOORBELL_STRIDE: u32 = 0x100;
/// Bytes that BAR 0 has at least: the driver does not check, and rings the
/// doorbells of CID 40.
pub const SMALLEST_BAR: u32 = 0x2_0000;

/// Doorbells of a CID, as offsets.
mod doorbell {
    pub const RECEIVE_INDEX: u32 = 0x04;
    pub const RECEIVE_SEQUENCE: u32 = 0x08;
    pub const PAGE_INDEX: u32 = 0x44;
    pub const TRANSMIT_INDEX: u32 = 0x88;
    pub const TRANSMIT_SEQUENCE: u32 = 0x90;
}

/// MDIO commands in [`reg::EMAC_MDIO_COMM`].
mod mdio {
    pub const WRITE: u32 = 1;
    pub const READ: u32 = 2;
    pub const START: u32 = 1 << 29;
    /// What is kept of a write beside the data.
    pub const KEPT: u32 = 0x4fff_0000;
}

/// Faults that are remembered.
const FAULTS: usize = 64;
/// Statistics are not written more often than that.
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);

/// How a device is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The board's address.
    pub mac: MacAddress,
    /// Configuration space.
    pub layout: Layout,
    /// Bytes of frames that wait for buffers at most.
    pub fifo: usize,
}

/// Counts of what is not in the chip's own statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// Transmit doorbells.
    pub transmit_doorbells: u64,
    /// Packets that were cut in segments.
    pub segmented: u64,
    /// Interrupts that were sent.
    pub interrupts: u64,
    /// Frames that descriptors made no sense of.
    pub malformed: u64,
    /// Frames sent while there was no link.
    pub sent_without_link: u64,
    /// Frames that came while there was no link, or in loopback.
    pub received_without_link: u64,
    /// Frames that came while the receiver was off.
    pub received_while_shut: u64,
    /// Frames that did not fit in their buffer.
    pub too_long: u64,
    /// DMA accesses that did not happen.
    pub faults: u64,
    /// Times that the other end of the wire has asked for a pause.
    pub pauses: u64,
    /// Pauses that it has not ended itself.
    pub pauses_expired: u64,
    /// Resets of the chip by software.
    pub chip_resets: u64,
    /// Accesses of a width that no register has.
    pub odd_accesses: u64,
}

/// What a state dump has.
#[derive(Serialize)]
struct State<'a> {
    link: bool,
    cable: bool,
    loopback: bool,
    swallow: bool,
    dma_open: bool,
    enabled: String,
    interrupt_mode: crate::host::InterruptMode,
    coalescing: &'a Coalescing,
    transmit: Vec<RingIndices>,
    receive: Vec<RingIndices>,
    waiting_bytes: usize,
    phy: Vec<String>,
    activity: &'a Activity,
    statistics: &'a Statistics,
}

/// A BCM5709 that is plugged into `H`.
pub struct Device<H> {
    pub(crate) host: H,
    settings: Settings,
    now: Duration,
    config: ConfigSpace,
    pub(crate) registers: RegisterFile,
    pub(crate) enabled: Blocks,
    pub(crate) context: ContextMemory,
    nvram: Nvram,
    pub(crate) phy: Phy,
    pub(crate) coalescing: Coalescing,
    /// Vectors that a consumer has moved of, as a bit each.
    pub(crate) moved: u32,
    pub(crate) transmit: [TransmitRing; RINGS],
    pub(crate) receive: [ReceiveRing; RINGS],
    pub(crate) progress: Progress,
    pub(crate) fifo: usize,
    pub(crate) waiting_bytes: usize,
    pub(crate) was_congested: bool,
    pub(crate) indirection: Indirection,
    pub(crate) statistics: Statistics,
    statistics_due: Option<Duration>,
    pub(crate) activity: Activity,
    pub(crate) swallow: bool,
    /// Whether the guest's memory is shared has been looked at.
    pub(crate) looked_at_memory: bool,
    faults: VecDeque<DmaFault>,
}

impl<H: Host> Device<H> {
    /// A device at power-on.
    pub fn new(host: H, settings: Settings) -> Self {
        let mut device = Device {
            host,
            settings,
            now: Duration::ZERO,
            config: ConfigSpace::new(settings.layout),
            registers: RegisterFile::default(),
            enabled: Blocks::empty(),
            context: ContextMemory::default(),
            nvram: Nvram::default(),
            phy: Phy::default(),
            coalescing: Coalescing::default(),
            moved: 0,
            transmit: Default::default(),
            receive: Default::default(),
            progress: Progress::default(),
            fifo: settings.fifo,
            waiting_bytes: 0,
            was_congested: false,
            indirection: Indirection::default(),
            statistics: Statistics::default(),
            statistics_due: None,
            activity: Activity::default(),
            swallow: false,
            looked_at_memory: false,
            faults: VecDeque::new(),
        };
        bootcode::start(&mut device.registers, settings.mac);
        device
    }

    /// What the device is plugged into.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// A reset by the bus: all but the flash as at power-on.
    pub fn power_on(&mut self) {
        self.reset_chip();
        self.looked_at_memory = false;
        self.config.power_on();
        self.registers.power_on();
        self.nvram.reset();
        self.phy.power_on();
        bootcode::start(&mut self.registers, self.settings.mac);
    }

    /// A reset by software. Its driver frees all buffers after it.
    fn reset_chip(&mut self) {
        self.registers.reset();
        self.enabled = Blocks::empty();
        self.context.reset();
        self.nvram.reset();
        self.coalescing.reset();
        self.moved = 0;
        self.transmit = Default::default();
        self.receive = Default::default();
        self.progress.reset();
        self.waiting_bytes = 0;
        self.indirection = Indirection::default();
        self.statistics = Statistics::default();
        self.statistics_due = None;
    }

    // --- time -----------------------------------------------------------------

    /// Lets time go by until `now`, counted from any start.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.phy.advance(self.now, self.link_believed());
        self.evaluate_attention();
        self.advance_pause();
        if self.statistics_due.is_some_and(|due| due <= self.now) {
            self.statistics_due = self.statistics_period().map(|p| self.now.saturating_add(p));
            self.write_statistics();
        }
    }

    /// When [`Device::advance`] has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        self.phy
            .deadline(self.link_believed())
            .into_iter()
            .chain(self.statistics_due)
            .chain(self.progress.deadline())
            .min()
    }

    pub(crate) fn now(&self) -> Duration {
        self.now
    }

    fn statistics_period(&self) -> Option<Duration> {
        let ticks = self.registers.load(reg::HC_STATISTICS_TICKS);
        (ticks != 0).then(|| Duration::from_micros(ticks.into()).max(SHORTEST_PERIOD))
    }

    // --- DMA ------------------------------------------------------------------

    /// Whether the device may touch memory.
    pub(crate) fn dma_open(&self) -> bool {
        self.config.bus_master()
            && self.enabled.contains(Blocks::HOST_COALESCING)
            && self.registers.load(reg::MISC_NEW_CORE_CONTROL) & bit::NEW_CORE_DMA_ENABLE != 0
    }

    pub(crate) fn write_memory(&mut self, address: u64, data: &[u8]) {
        if let Err(fault) = self.host.write(address, data) {
            self.fault(fault);
        }
    }

    /// Remembers an access that did not happen.
    pub(crate) fn fault(&mut self, fault: DmaFault) {
        self.activity.faults = self.activity.faults.wrapping_add(1);
        if self.activity.faults <= FAULTS as u64 {
            warn!("{}: DMA fault: {fault:x?}", self.settings.mac);
        }
        if self.faults.len() >= FAULTS {
            self.faults.pop_front();
        }
        self.faults.push_back(fault);
    }

    pub(crate) fn write_statistics(&mut self) {
        let address = self.registers.load_address(reg::HC_STATISTICS_ADDRESS);
        if self.dma_open() && address != 0 {
            self.write_memory(address, &self.statistics.to_bytes());
        }
    }

    // --- what tests and the control socket look at ----------------------------

    /// The chip's statistics.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Counts of what is not in the chip's statistics.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// The last DMA accesses that did not happen.
    pub fn faults(&self) -> &VecDeque<DmaFault> {
        &self.faults
    }

    /// Forgets the faults.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
        self.activity.faults = 0;
    }

    /// Whether there is a link.
    pub fn link(&self) -> bool {
        self.phy.link()
    }

    /// Whether the cable is in.
    pub fn cable(&self) -> bool {
        self.phy.cable()
    }

    /// Puts the cable in or pulls it.
    pub fn set_cable(&mut self, cable: bool) {
        self.phy.set_cable(cable);
        self.evaluate_attention();
    }

    /// All that is worth a look, for a person.
    pub fn state(&self) -> serde_json::Value {
        let state = State {
            link: self.phy.link(),
            cable: self.phy.cable(),
            loopback: self.loopback(),
            swallow: self.swallow,
            dma_open: self.dma_open(),
            enabled: format!("{:#x}", self.enabled.bits()),
            interrupt_mode: self.host.mode(),
            coalescing: &self.coalescing,
            transmit: self.transmit.iter().map(TransmitRing::indices).collect(),
            receive: self.receive.iter().map(ReceiveRing::indices).collect(),
            waiting_bytes: self.waiting_bytes,
            phy: (0..32)
                .map(|register| format!("{:#06x}", self.phy.read(1, register)))
                .collect(),
            activity: &self.activity,
            statistics: &self.statistics,
        };
        serde_json::to_value(state).unwrap_or_default()
    }

    // --- configuration space --------------------------------------------------

    /// Registers of BAR 0 that configuration space has as well.
    fn config_alias(offset: usize) -> bool {
        (0x68..0xa0).contains(&offset)
    }

    /// Reads configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (distance, byte) in data.iter_mut().enumerate() {
            let place = (offset as usize).saturating_add(distance);
            *byte = if Self::config_alias(place) {
                let word = self.read_register(place as u32 & !3);
                (word >> ((place & 3) * 8)) as u8
            } else {
                self.config.read(place)
            };
        }
    }

    /// Writes configuration space.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        let start = offset as usize;
        if Self::config_alias(start) {
            match <[u8; 4]>::try_from(data) {
                Ok(word) if start & 3 == 0 => {
                    self.write_register(start as u32, u32::from_le_bytes(word));
                }
                _ => self.odd_access(),
            }
            return;
        }
        for (distance, &byte) in data.iter().enumerate() {
            let place = start.saturating_add(distance);
            if !Self::config_alias(place) {
                self.config.write(place, byte);
            }
        }
    }

    fn odd_access(&mut self) {
        self.activity.odd_accesses = self.activity.odd_accesses.wrapping_add(1);
    }

    // --- BAR 0 ----------------------------------------------------------------

    /// Reads BAR 0.
    pub fn read_bar(&self, offset: u64, data: &mut [u8]) {
        let mut word = (u64::MAX, [0; 4]);
        for (distance, byte) in data.iter_mut().enumerate() {
            let place = offset.saturating_add(distance as u64);
            let address = place & !3;
            if word.0 != address {
                let value = match u32::try_from(address) {
                    Ok(address) if address < DOORBELLS => self.read_register(address),
                    _ => 0,
                };
                word = (address, value.to_le_bytes());
            }
            *byte = word.1.get((place & 3) as usize).copied().unwrap_or(0);
        }
    }

    /// Writes BAR 0.
    pub fn write_bar(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = u32::try_from(offset) else {
            return;
        };
        if offset >= DOORBELLS {
            match *data {
                [a, b] => self.ring_doorbell(offset, u16::from_le_bytes([a, b]).into()),
                [a, b, c, d] => self.ring_doorbell(offset, u32::from_le_bytes([a, b, c, d])),
                _ => self.odd_access(),
            }
        } else if offset & 3 == 0 && data.len() % 4 == 0 {
            for (address, word) in (offset..DOORBELLS).step_by(4).zip(data.chunks_exact(4)) {
                if let Ok(word) = word.try_into() {
                    self.write_register(address, u32::from_le_bytes(word));
                }
            }
        } else {
            self.odd_access();
        }
        self.publish();
    }

    fn ring_doorbell(&mut self, offset: u32, value: u32) {
        use crate::context::{receive_cid, transmit_cid};

        let place = offset.wrapping_sub(DOORBELLS);
        let cid = place / DOORBELL_STRIDE;
        let which = place % DOORBELL_STRIDE;
        if let Some(ring) = (0..RINGS).find(|&ring| transmit_cid(ring) == cid) {
            match which {
                doorbell::TRANSMIT_INDEX => self.transmit_produced(ring, value as u16),
                doorbell::TRANSMIT_SEQUENCE => {
                    self.activity.transmit_doorbells =
                        self.activity.transmit_doorbells.wrapping_add(1);
                    self.transmit(ring);
                }
                _ => {}
            }
        } else if let Some(ring) = (0..RINGS).find(|&ring| receive_cid(ring) == cid) {
            match which {
                doorbell::RECEIVE_INDEX => self.receive_produced(ring, value as u16),
                doorbell::PAGE_INDEX => self.pages_produced(ring, value as u16),
                doorbell::RECEIVE_SEQUENCE => self.receive_waiting(ring),
                _ => {}
            }
        }
    }

    // --- registers ------------------------------------------------------------

    /// Reads a register. This changes nothing, in the device or elsewhere.
    pub fn read_register(&self, address: u32) -> u32 {
        match address {
            pci::WINDOW => match self.registers.load(pci::WINDOW_ADDRESS) & (GRC_SIZE - 4) {
                pci::WINDOW => 0,
                behind => self.read_register(behind),
            },
            0x00..0x68 | 0xa0..0x100 => {
                let mut word = [0; 4];
                for (place, byte) in (address as usize..).zip(&mut word) {
                    *byte = self.config.read(place);
                }
                u32::from_le_bytes(word)
            }
            pci::MISC_STATUS => {
                if self.coalescing.intx.asserted() {
                    0
                } else {
                    bit::MISC_STATUS_INTA_IDLE
                }
            }
            pci::INT_ACK_COMMAND => self.acknowledged(),
            pci::CONFIG_3 => bit::CONFIG_3_AUXILIARY_POWER,
            reg::MISC_COMMAND => 0,
            pci::SWAP_DIAGNOSTIC => constant::SWAP_DIAGNOSTIC,
            reg::MISC_ID => constant::CHIP_ID,
            reg::MISC_ENABLE_STATUS | reg::MISC_ENABLE_SET | reg::MISC_ENABLE_CLEAR => {
                self.enabled.bits()
            }
            reg::MISC_DUAL_MEDIA_CONTROL => constant::COPPER,
            reg::CTX_COMMAND => {
                let on = u32::from(self.enabled.contains(Blocks::CONTEXT));
                self.registers.load(address) & !(bit::CTX_COMMAND_MEMORY_INIT | 1) | on
            }
            reg::CTX_CONTROL | reg::CTX_PAGE_TABLE_CONTROL => {
                self.registers.load(address) & !(bit::CTX_WRITE_REQUEST | bit::CTX_READ_REQUEST)
            }
            reg::EMAC_STATUS => {
                if self.phy.link() {
                    bit::EMAC_STATUS_LINK
                } else {
                    0
                }
            }
            reg::RLUP_RSS_COMMAND => self.registers.load(address) & !bit::RSS_COMMAND_ACTIONS,
            reg::TBDC_COMMAND => self.registers.load(address) & !bit::TBDC_COMMAND_ARBITER,
            reg::NVM_COMMAND => self.nvram.command(),
            reg::NVM_ARBITRATION => self.nvram.arbitration(),
            reg::HC_COMMAND => {
                let on = u32::from(self.enabled.contains(Blocks::HOST_COALESCING));
                self.registers.load(address) | on
            }
            _ => self.registers.load(address),
        }
    }

    /// Writes a register, and does what that starts.
    pub fn write_register(&mut self, address: u32, value: u32) {
        match address {
            pci::WINDOW => match self.registers.load(pci::WINDOW_ADDRESS) & (GRC_SIZE - 4) {
                pci::WINDOW => {}
                behind => self.write_register(behind, value),
            },
            // Written by configuration cycles only.
            0x00..0x68 | 0xa0..0x100 => {}
            pci::WINDOW_ADDRESS => self.registers.set(address, value & (GRC_SIZE - 4)),
            pci::INT_ACK_COMMAND => self.acknowledge_interrupt(value),
            pci::STATUS_BIT_SET => self.coalescing.attention_ack |= value,
            pci::STATUS_BIT_CLEAR => {
                self.coalescing.attention_ack &= !value;
                if value & bit::ATTENTION_LINK != 0 {
                    self.phy.absence_seen(self.now);
                }
            }
            pci::MAILBOX_DATA | pci::CONFIG_3 => {}
            reg::MISC_COMMAND => {
                if value & bit::MISC_COMMAND_SOFT_RESET != 0 {
                    self.activity.chip_resets = self.activity.chip_resets.wrapping_add(1);
                    debug!("{}: chip reset", self.settings.mac);
                    self.reset_chip();
                }
            }
            reg::MISC_ENABLE_STATUS => {}
            reg::MISC_ENABLE_SET => self.enabled |= Blocks::from_bits_retain(value),
            reg::MISC_ENABLE_CLEAR => self.enabled -= Blocks::from_bits_retain(value),
            reg::CTX_CONTROL => self.context_command(value),
            reg::EMAC_MDIO_COMM => self.mdio(value),
            reg::EMAC_ATTENTION_ENABLE | reg::HC_ATTENTION_ENABLE => {
                self.registers.store(address, value);
                self.evaluate_attention();
            }
            reg::RLUP_RSS_COMMAND => {
                self.registers.store(address, value);
                if value & bit::RSS_COMMAND_WRITE != 0 {
                    let entries = self.registers.load(reg::RLUP_RSS_DATA);
                    self.indirection.set_row(value, entries);
                }
            }
            reg::NVM_COMMAND => {
                let place = self.registers.load(reg::NVM_ADDRESS);
                let data = self.registers.load(reg::NVM_WRITE);
                if let Some(word) = self.nvram.execute(value, place, data) {
                    self.registers.set(reg::NVM_READ, word);
                }
            }
            reg::NVM_ARBITRATION => self.nvram.arbitrate(value),
            reg::HC_COMMAND => self.coalescing_command(value),
            reg::HC_STATISTICS_TICKS => {
                self.registers.store(address, value);
                self.statistics_due = self.statistics_period().map(|p| self.now.saturating_add(p));
            }
            bootcode::DRIVER_MAILBOX => {
                self.registers.set(address, value);
                bootcode::acknowledge(&mut self.registers, value);
            }
            _ => self.registers.store(address, value),
        }
    }

    fn context_command(&mut self, value: u32) {
        self.registers.store(reg::CTX_CONTROL, value);
        let address = value & 0x1f_fffc;
        if value & bit::CTX_READ_REQUEST != 0 {
            let word = self.context.load(address);
            self.registers.set(reg::CTX_DATA, word);
        } else if value & bit::CTX_WRITE_REQUEST != 0 {
            let word = self.registers.load(reg::CTX_DATA);
            match self.context.store(address, word) {
                Some(Moved::Transmit(ring)) => self.transmit_moved(ring),
                Some(Moved::Receive(ring)) => self.receive_moved(ring),
                Some(Moved::Page(ring)) => self.pages_moved(ring),
                None => {}
            }
        }
    }

    fn mdio(&mut self, value: u32) {
        if value & mdio::START == 0 {
            self.registers.store(reg::EMAC_MDIO_COMM, value);
            return;
        }
        let (phy, register) = (value >> 21 & 0x1f, value >> 16 & 0x1f);
        let before = self.phy.link();
        let data = match value >> 26 & 3 {
            mdio::WRITE => {
                self.phy.write(phy, register, value as u16, self.now);
                value as u16
            }
            mdio::READ => self.phy.read(phy, register),
            _ => value as u16,
        };
        let done = value & mdio::KEPT | u32::from(data);
        self.registers.set(reg::EMAC_MDIO_COMM, done);
        if before != self.phy.link() {
            debug!(
                "{}: link {}",
                self.settings.mac,
                if before { "down" } else { "up" }
            );
        }
        self.evaluate_attention();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::bytes::le32;
    use crate::host::InterruptMode;
    use crate::testing::{self, STATISTICS, STATUS};

    #[test]
    fn the_chip_is_a_5709_c0_copper() {
        let rig = testing::power_on(InterruptMode::Msi);
        assert_eq!(rig.read32(0x808), 0x5709_2003);
        assert_eq!(rig.read32(0x418), 0x0102_0304);
        assert_eq!(rig.read32(0x8ec), 3);
        assert_eq!(rig.read32(0x00), 0x1639_14e4);
        assert_eq!(rig.read32(0x40), 0);
        assert_eq!(rig.read32(0xb4) >> 21 & 1, 0);
    }

    #[test]
    fn the_window_leads_anywhere_and_not_into_itself() {
        let mut rig = testing::power_on(InterruptMode::Msi);
        rig.write32(0x78, 0x16_0004);
        assert_eq!(rig.read32(0x80), 0x16_7c00);
        rig.write32(0x78, 0x6_0000);
        rig.write32(0x80, 0x1234_5678);
        assert_eq!(rig.device.read_register(0x6_0000), 0x1234_5678);
        rig.write32(0x78, 0x80);
        rig.write32(0x80, 1);
        assert_eq!(rig.read32(0x80), 0);
        rig.write32(0x78, !0);
        assert_eq!(rig.read32(0x78), 0x3f_fffc);
    }

    #[test]
    fn bytes_of_any_width_are_read_and_odd_writes_do_nothing() {
        let mut rig = testing::power_on(InterruptMode::Msi);
        let mut bytes = [0; 7];
        rig.device.read_bar(0x809, &mut bytes);
        assert_eq!(bytes[..3], [0x20, 0x09, 0x57]);
        rig.device.write_bar(0x1401, &[1, 2, 3]);
        rig.device.write_bar(0x1400, &[1]);
        rig.device.write_bar(0x1_1088, &[1]);
        assert_eq!(rig.read32(0x1400), 0);
        assert_eq!(rig.device.activity().odd_accesses, 3);
        rig.device.write_bar(0x1400, &[0x10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(rig.read32(0x1400), 0x10);
        rig.device.read_bar(u64::MAX, &mut bytes[..1]);
        rig.device.write_bar(u64::MAX, &[0; 4]);
    }

    #[test]
    fn config_space_has_the_registers_beside_the_window() {
        let mut rig = testing::power_on(InterruptMode::Msi);
        rig.device.write_config(0x68, &0x88u32.to_le_bytes());
        assert_eq!(rig.read32(0x68), 0x88);
        let mut all = vec![0xff; 4096];
        rig.device.read_config(0, &mut all);
        assert_eq!(le32(&all, 0x68), Some(0x88));
        assert_eq!(le32(&all, 0x6c), Some(1));
        assert_eq!(all[0x100..], [0; 4096 - 0x100]);
        rig.device.read_config(u64::MAX, &mut all[..1]);
        rig.device.write_config(0xfff, &[0; 4]);
    }

    /// Registers that the driver's self test writes ones and zeros to, with
    /// bits that have to follow and bits that have to stay.
    #[test]
    fn registers_pass_the_self_test_of_the_driver() {
        let mut rig = testing::power_on(InterruptMode::Msi);
        for (address, writable, constant) in [
            (0x6c, 0, 0x3f),
            (0x90, 0xffff_ffff, 0),
            (0x94, 0, 0),
            (0x404, 0x0000_3f00, 0),
            (0x1408, 0x01c0_0800, 0),
            (0x149c, 0x8000_ffff, 0),
            (0x14a8, 0, 0x1ff),
            (0x14ac, 0x0fff_ffff, 0x1000_0000),
            (0x14b0, 0x0000_0002, 0x1),
            (0x14c0, 0, 0x9),
            (0x14d0, 0xffff_ffff, 0),
            (0x1804, 0, 0x3),
            (0x2840, 0, 0xffff_ffff),
            (0x3c1c, 0xffff_ffff, 0),
            (0x5c04, 0, 0x0003_000f),
            (0x6808, 0x0000_ff7f, 0),
            (0x6810, 0xffff_ffff, 0),
            (0x685c, 0x00ff_00ff, 0),
        ] {
            let before = rig.read32(address);
            for value in [0, !0] {
                rig.write32(address, value);
                let after = rig.read32(address);
                assert_eq!(after & writable, value & writable, "{address:#x}");
                assert_eq!(after & constant, before & constant, "{address:#x}");
            }
        }
    }

    #[test]
    fn mdio_is_done_when_the_write_returns() {
        let mut rig = testing::power_on(InterruptMode::Msi);
        rig.write32(0x14ac, 0x2800_0000 | 1 << 21 | 2 << 16);
        assert_eq!(rig.read32(0x14ac), 0x0822_0143);
        rig.write32(0x14ac, 0x2400_0000 | 1 << 21 | 4 << 16 | 0x05e1);
        rig.write32(0x14ac, 0x2800_0000 | 1 << 21 | 4 << 16);
        assert_eq!(rig.read32(0x14ac) & 0xffff, 0x05e1);
    }

    #[test]
    fn the_mailbox_is_answered_through_the_window_and_config_space() {
        let mut rig = testing::power_on(InterruptMode::Msi);
        rig.write32(0x78, 0x16_7c04);
        rig.write32(0x80, 0x0101_0001);
        rig.write32(0x78, 0x16_7c08);
        assert_eq!(rig.read32(0x80), 1);
    }

    #[test]
    fn enable_bits_are_set_and_cleared() {
        let mut rig = testing::power_on(InterruptMode::Msi);
        rig.write32(0x810, 0x28_8000);
        rig.write32(0x814, 0x00_8000);
        for address in [0x80c, 0x810, 0x814] {
            assert_eq!(rig.read32(address), 0x28_0000);
        }
        assert_eq!(rig.read32(0x6800), 1);
        rig.write32(0x1000, 0x4_3001);
        assert_eq!(rig.read32(0x1000), 0x4_1001);
    }

    #[test]
    fn a_chip_reset_keeps_what_a_bus_reset_does_not() {
        let mut rig = testing::open(InterruptMode::Msi);
        rig.write32(0x640c, 0x1000);
        rig.write32(0x6408, 0xdead_beef);
        rig.write32(0x6400, 0x1b0);
        rig.device.write_register(0x16_7c00, 0x4841_564b);
        rig.device.write_register(0x6_0000, 5);
        rig.device.write_register(0x12_0084, 5);
        rig.write32(0x14ac, 0x2420_0000 | 4 << 16 | 0x0123);
        rig.write32(0x800, 0x10);
        assert_eq!(rig.read32(0x80c), 0);
        assert_eq!(rig.read32(0x6810), 0);
        assert_eq!(rig.device.read_register(0x16_7c00), 0x4841_564b);
        assert_eq!(rig.device.read_register(0x6_0000), 5);
        assert_eq!(rig.device.read_register(0x12_0084), 0);
        assert_eq!(rig.device.phy.read(1, 4), 0x0123);
        assert!(rig.device.config.bus_master());

        rig.device.power_on();
        assert_eq!(rig.device.read_register(0x16_7c00), 0);
        assert_eq!(rig.device.read_register(0x16_7c20), 0x4456_4901);
        assert_eq!(rig.device.read_register(0x6_0000), 0);
        assert_eq!(rig.device.phy.read(1, 4), 0x01e1);
        assert!(!rig.device.config.bus_master());
        rig.write32(0x640c, 0x1000);
        rig.write32(0x6400, 0x190);
        assert_eq!(rig.read32(0x6410), 0xdead_beef);
    }

    #[test]
    fn statistics_are_written_each_period_and_when_asked_for() {
        let mut rig = testing::open(InterruptMode::Msi);
        rig.device.statistics.sent.octets = 7;
        rig.write32(0x6844, 1_000_000);
        assert_eq!(rig.device.deadline(), Some(Duration::from_secs(1)));
        rig.device.advance(Duration::from_millis(999));
        assert_eq!(rig.memory16(STATISTICS + 0x14), 0);
        rig.device.advance(Duration::from_secs(1));
        assert_eq!(rig.memory16(STATISTICS + 0x14), 7);
        rig.device.statistics.sent.octets = 8;
        rig.write32(0x6800, 1 << 18 | 1);
        assert_eq!(rig.memory16(STATISTICS + 0x14), 8);
        rig.write32(0x6800, 1 << 21);
        rig.device.advance(Duration::from_secs(2));
        assert_eq!(rig.memory16(STATISTICS + 0x14), 0);
        // What follows the block is the driver's.
        assert_eq!(rig.get(STATISTICS + 0x140, 4), [0xee; 4]);
    }

    #[test]
    fn a_bounce_makes_two_attentions() {
        let mut rig = testing::open(InterruptMode::Msi);
        rig.write32(0x1408, 0x800);
        rig.write32(0x680c, 1);
        let before = rig.memory16(STATUS + 54);
        rig.write32(0x14ac, 0x2420_0000 | 0x1340);
        assert_eq!(rig.memory16(STATUS), 0);
        let due = rig.device.deadline().unwrap();
        rig.device.advance(due);
        assert_eq!(rig.memory16(STATUS), 1);
        assert_eq!(rig.memory16(STATUS + 54), before + 2);
        assert_eq!(rig.device.deadline(), None);
    }

    #[test]
    fn a_slow_driver_sees_both_attentions_of_a_bounce() {
        let second = Duration::from_secs(1);
        let mut rig = testing::open(InterruptMode::Msi);
        rig.write32(0x1408, 0x800);
        rig.write32(0x680c, 1);
        rig.write32(0x88, 1);
        rig.write32(0x14ac, 0x2420_0000 | 0x1340);
        rig.device.advance(second);
        assert_eq!(rig.memory16(STATUS), 0);
        rig.write32(0x8c, 1);
        rig.device.advance(second);
        assert_eq!(rig.memory16(STATUS), 0);
        let due = rig.device.deadline().unwrap();
        rig.device.advance(due);
        assert_eq!(rig.memory16(STATUS), 1);
    }

    #[test]
    fn a_state_dump_is_an_object() {
        let rig = testing::open(InterruptMode::Msi);
        assert_eq!(rig.device.state()["interrupt_mode"], "msi");
    }
}
