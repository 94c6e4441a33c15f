// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host for unit tests, a device in it, and frames.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

use crate::config_space::Layout;
use crate::device::{Device, Settings};
use crate::host::{DmaFault, FaultReason, FrameSink, GuestMemory, InterruptLines, InterruptMode};
use crate::mac::MacAddress;

pub const STATUS: u64 = 0x10_0000;
pub const STATISTICS: u64 = 0x10_2000;
pub const TX_RING: u64 = 0x11_0000;
pub const RX_RING: u64 = 0x12_0000;
pub const RX_PAGES: u64 = 0x13_0000;
const MEMORY: usize = 8 << 20;

pub struct FakeHost {
    memory: Vec<u8>,
    mode: InterruptMode,
    messages: [usize; 9],
    intx: usize,
    sent: Vec<Vec<u8>>,
}

impl Default for FakeHost {
    fn default() -> Self {
        FakeHost {
            memory: vec![0; MEMORY],
            mode: InterruptMode::Msi,
            messages: [0; 9],
            intx: 0,
            sent: vec![],
        }
    }
}

impl FakeHost {
    fn range(
        &self,
        address: u64,
        length: usize,
        write: bool,
    ) -> Result<std::ops::Range<usize>, DmaFault> {
        let fault = DmaFault {
            address,
            length,
            write,
            reason: FaultReason::Unmapped,
        };
        let start = usize::try_from(address).map_err(|_| fault)?;
        match start.checked_add(length) {
            Some(end) if end <= self.memory.len() => Ok(start..end),
            _ => Err(fault),
        }
    }

    pub fn put_descriptor(&mut self, page: u64, slot: u16, address: u64, size: u32, flags: u32) {
        let raw: Vec<u8> = [(address >> 32) as u32, address as u32, size, flags]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        self.write(page + u64::from(slot) * 16, &raw).unwrap();
    }
}

impl GuestMemory for FakeHost {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), DmaFault> {
        let range = self.range(address, buffer.len(), false)?;
        buffer.copy_from_slice(&self.memory[range]);
        Ok(())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), DmaFault> {
        let range = self.range(address, data.len(), true)?;
        self.memory[range].copy_from_slice(data);
        Ok(())
    }
}

impl InterruptLines for FakeHost {
    fn mode(&self) -> InterruptMode {
        self.mode
    }

    fn vectors(&self) -> usize {
        if self.mode == InterruptMode::Msix {
            9
        } else {
            1
        }
    }

    fn signal_intx(&mut self) {
        self.intx += 1;
    }

    fn signal_message(&mut self, vector: usize) {
        self.messages[vector] += 1;
    }
}

impl FrameSink for FakeHost {
    fn send(&mut self, frame: Vec<u8>) {
        self.sent.push(frame);
    }
}

/// A device and its host, and how a driver would reach them.
pub struct Rig {
    pub device: Device<FakeHost>,
}

impl Rig {
    pub fn read32(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.device.read_bar(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn write32(&mut self, offset: u64, value: u32) {
        self.device.write_bar(offset, &value.to_le_bytes());
    }

    pub fn write16(&mut self, offset: u64, value: u16) {
        self.device.write_bar(offset, &value.to_le_bytes());
    }

    pub fn context(&mut self, address: u32, value: u32) {
        self.write32(0x1020, value);
        self.write32(0x101c, 1 << 30 | address);
    }

    pub fn get(&mut self, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.device.host_mut().read(address, &mut data).unwrap();
        data
    }

    pub fn put(&mut self, address: u64, data: &[u8]) {
        self.device.host_mut().write(address, data).unwrap();
    }

    pub fn memory16(&mut self, address: u64) -> u16 {
        u16::from_le_bytes(self.get(address, 2).try_into().unwrap())
    }

    /// Acknowledges the last update, so that interrupts come.
    pub fn unmask(&mut self) {
        let index = self.memory16(STATUS + 54);
        self.write32(0x84, 0x1_0000 | u32::from(index));
    }

    /// Messages since the last look.
    pub fn messages(&mut self) -> [usize; 9] {
        std::mem::take(&mut self.device.host_mut().messages)
    }

    /// INTx signals since the last look.
    pub fn intx(&mut self) -> usize {
        std::mem::take(&mut self.device.host_mut().intx)
    }

    /// Frames since the last look.
    pub fn sent(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.device.host_mut().sent)
    }
}

/// A device at power-on.
pub fn power_on(mode: InterruptMode) -> Rig {
    let host = FakeHost {
        mode,
        ..FakeHost::default()
    };
    let settings = Settings {
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        layout: Layout {
            bar_size: 32 << 20,
            msix: mode == InterruptMode::Msix,
        },
        fifo: 64 << 10,
    };
    Rig {
        device: Device::new(host, settings),
    }
}

/// A device as the driver leaves it when it is open, without buffers.
pub fn open(mode: InterruptMode) -> Rig {
    let mut rig = power_on(mode);
    rig.put(STATISTICS + 0x140, &[0xee; 4]);
    rig.device.write_config(4, &[0x06, 0x01]);
    rig.write32(0x810, 0x17ff_ffff);
    rig.write32(0x8c8, 1 << 16);
    rig.write32(0x6810, STATUS as u32);
    rig.write32(0x6818, STATISTICS as u32);
    rig.write32(
        0x6808,
        match mode {
            InterruptMode::Msix => 0x0106_0007,
            InterruptMode::Msi => 0x0006_0007,
            _ => 0x7,
        },
    );
    rig.write32(0x1410, 0x0200);
    rig.write32(0x1414, 0x0000_0001);
    rig.write32(0x149c, 1518);
    rig.write32(0x1820, 1 << 31 | 1 << 16 | 1);
    rig.context(0xa5c, TX_RING as u32);
    rig.context(0x14, RX_RING as u32);
    rig.context(0x54, RX_PAGES as u32);
    rig.write32(0x6800, 0x2_0001);
    rig
}

/// An IP header to build packets with.
#[derive(Clone, Copy)]
pub enum Ip {
    V4,
    V6,
}

pub fn ipv4() -> Ip {
    Ip::V4
}

pub fn ipv6() -> Ip {
    Ip::V6
}

fn packet(ip: Ip, extensions: &[u8], protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match ip {
        Ip::V4 => {
            assert!(extensions.is_empty());
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(((20 + transport.len()) as u16).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        Ip::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            let length = extensions.len() * 8 + transport.len();
            frame.extend((length as u16).to_be_bytes());
            frame.extend([*extensions.first().unwrap_or(&protocol), 64]);
            frame.extend((0..32).map(|i| i * 5 + 1));
            for at in 0..extensions.len() {
                frame.extend([*extensions.get(at + 1).unwrap_or(&protocol), 0]);
                frame.extend([1, 4, 0, 0, 0, 0]);
            }
        }
    }
    frame.extend(transport);
    frame
}

fn payload(length: usize) -> impl Iterator<Item = u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8)
}

/// A TCP segment with `length` bytes of payload and no checksum.
pub fn tcp(ip: Ip, extensions: &[u8], length: usize) -> Vec<u8> {
    let mut header = vec![0x30, 0x39, 0, 80, 0xfe, 0xdc, 0xba, 0x98, 1, 2, 3, 4];
    header.extend([0x50, 0x18, 0x20, 0, 0, 0, 0, 0]);
    header.extend(payload(length));
    packet(ip, extensions, 6, &header)
}

/// A UDP datagram with `length` bytes of payload and no checksum.
pub fn udp(ip: Ip, extensions: &[u8], length: usize) -> Vec<u8> {
    let mut header = vec![0x30, 0x39, 0, 53];
    header.extend(((8 + length) as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(payload(length));
    packet(ip, extensions, 17, &header)
}
