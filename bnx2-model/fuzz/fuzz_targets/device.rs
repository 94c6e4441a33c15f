// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers, rings and frames of any kind, over memory with anything in it.
//! Whatever comes, the device must not panic, must not touch memory while a gate
//! is shut, and must do a bounded amount of work.
#![no_main]

use arbitrary::Arbitrary;
use bnx2_model::config_space::Layout;
use bnx2_model::device::{Device, Settings};
use bnx2_model::host::{
    DmaFault, FaultReason, FrameSink, GuestMemory, InterruptLines, InterruptMode,
};
use bnx2_model::mac::MacAddress;
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

/// Bytes of memory, mapped at 0 and once more below the end of the addresses.
const MEMORY: usize = 1 << 16;
/// Frames that one step may send: those of a doorbell for each ring.
const FRAMES: usize = 8 * 0x4000;

/// Registers that do something, beside those that are hit by chance.
const REGISTERS: &[u32] = &[
    0x68, 0x78, 0x80, 0x84, 0x88, 0x8c, 0x800, 0x810, 0x814, 0x8c8, 0x1000, 0x101c, 0x1020, 0x10c8,
    0x1400, 0x1408, 0x1410, 0x1414, 0x149c, 0x14ac, 0x14c8, 0x14d0, 0x1820, 0x201c, 0x2048, 0x204c,
    0x6400, 0x6408, 0x640c, 0x6420, 0x6800, 0x6808, 0x680c, 0x6810, 0x6814, 0x6818, 0x681c, 0x6844,
];

/// Words of contexts that say where rings are.
const CONTEXTS: &[u32] = &[
    0x10, 0x14, 0x48, 0x50, 0x54, 0xa58, 0xa5c, 0x210, 0x214, 0x248, 0x254, 0x1258, 0x125c,
];

/// Doorbells.
const DOORBELLS: &[u32] = &[
    0x1_0004, 0x1_0008, 0x1_0044, 0x1_1088, 0x1_1090, 0x1_0404, 0x1_0408, 0x1_0444, 0x1_2088,
    0x1_2090,
];

#[derive(Arbitrary, Debug)]
enum Step {
    Register {
        which: u8,
        value: u32,
    },
    Context {
        which: u8,
        value: u32,
    },
    Doorbell {
        which: u8,
        value: u16,
    },
    Write {
        offset: u32,
        value: u32,
    },
    WriteBytes {
        offset: u64,
        data: [u8; 3],
        short: u8,
    },
    Read {
        offset: u64,
        length: u8,
    },
    Config {
        offset: u16,
        value: u32,
    },
    Memory {
        offset: u16,
        data: [u8; 16],
    },
    Descriptor {
        page: u8,
        slot: u8,
        address: u16,
        length: u16,
        mss: u16,
        flags: u16,
    },
    Receive {
        frame: Vec<u8>,
        length: u16,
    },
    Packet {
        v6: bool,
        tcp: bool,
        length: u16,
        extension: u8,
    },
    Advance {
        millis: u16,
    },
    Cable(bool),
    Swallow(bool),
    Pause(bool),
    Mode(u8),
    Unmask,
    Mask,
    Reset,
    /// As the driver leaves it when it is open.
    Open,
}

struct Host {
    memory: Vec<u8>,
    mode: InterruptMode,
    sent: usize,
    /// What the gates say, as the fuzzer has worked it out itself.
    shut: bool,
}

impl Host {
    fn range(
        &self,
        address: u64,
        length: usize,
        write: bool,
    ) -> Result<std::ops::Range<usize>, DmaFault> {
        assert!(!self.shut, "DMA through a gate that is shut");
        let start = match address {
            high if high > u64::MAX - MEMORY as u64 => (high - (u64::MAX - MEMORY as u64)) as usize,
            low => usize::try_from(low).unwrap_or(usize::MAX),
        };
        match start.checked_add(length) {
            Some(end) if end <= self.memory.len() => Ok(start..end),
            _ => Err(DmaFault {
                address,
                length,
                write,
                reason: FaultReason::Unmapped,
            }),
        }
    }
}

impl GuestMemory for Host {
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

impl InterruptLines for Host {
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

    fn signal_intx(&mut self) {}

    fn signal_message(&mut self, vector: usize) {
        assert!(vector < 9);
    }
}

impl FrameSink for Host {
    fn send(&mut self, frame: Vec<u8>) {
        assert!(frame.len() >= 60);
        self.sent += 1;
    }
}

fn write32(device: &mut Device<Host>, offset: u32, value: u32) {
    device.write_bar(offset.into(), &value.to_le_bytes());
}

fn context(device: &mut Device<Host>, address: u32, value: u32) {
    write32(device, 0x1020, value);
    write32(device, 0x101c, 1 << 30 | address);
}

fn open(device: &mut Device<Host>) {
    device.write_config(4, &[6, 1]);
    for (offset, value) in [
        (0x810, 0x17ff_ffff),
        (0x8c8, 1 << 16),
        (0x6810, 0x100),
        (0x6818, 0x1000),
        (0x6808, 0x0106_0007),
        (0x1408, 0x800),
        (0x680c, 1),
        (0x149c, 0x8000_2400),
        (0x1820, 0x800f_0000),
        (0x201c, 5),
    ] {
        write32(device, offset, value);
    }
    for (address, value) in [
        (0xa5c, 0x4000),
        (0x14, 0x5000),
        (0x54, 0x6000),
        (0x214, 0x7000),
    ] {
        context(device, address, value);
    }
    write32(device, 0x1_0004, 200);
    write32(device, 0x1_0404, 200);
}

/// Whether the device may touch memory before or after this step.
fn shut(device: &Device<Host>) -> bool {
    let mut command = [0; 1];
    device.read_config(4, &mut command);
    command[0] & 4 == 0
        || device.read_register(0x80c) & 1 << 19 == 0
        || device.read_register(0x8c8) & 1 << 16 == 0
}

fn pick(list: &[u32], which: u8) -> u32 {
    list[usize::from(which) % list.len()]
}

fn packet(v6: bool, tcp: bool, length: u16, extension: u8) -> Vec<u8> {
    let protocol = if tcp { 6 } else { 17 };
    let mut frame = vec![0xff; 12];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([extension, 64]);
        frame.extend([1; 32]);
        frame.extend([protocol, 0, 0, 0, 0, 0, 0, 0]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    }
    frame.extend([
        0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, extension, 0x19, 0, 0, 0, 0, 0, 0,
    ]);
    frame.resize(frame.len().max(usize::from(length)) % 0x2800, 3);
    frame
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (msix, steps) = input;
    let host = Host {
        memory: vec![0; MEMORY],
        mode: if msix {
            InterruptMode::Msix
        } else {
            InterruptMode::Msi
        },
        sent: 0,
        shut: false,
    };
    let settings = Settings {
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        layout: Layout {
            bar_size: 1 << 25,
            msix,
        },
        fifo: 1 << 16,
    };
    let mut device = Device::new(host, settings);
    let mut now = Duration::ZERO;
    for step in steps.into_iter().take(256) {
        // A write may open a gate and pass it, so this only holds for what is
        // no write to the device.
        let before = shut(&device);
        let passive = !matches!(
            step,
            Step::Register { .. } | Step::Write { .. } | Step::Config { .. } | Step::Open
        );
        device.host_mut().shut = before && passive;
        device.host_mut().sent = 0;
        match step {
            Step::Register { which, value } => {
                write32(&mut device, pick(REGISTERS, which), value);
            }
            Step::Context { which, value } => context(&mut device, pick(CONTEXTS, which), value),
            Step::Doorbell { which, value } => {
                write32(&mut device, pick(DOORBELLS, which), value.into());
            }
            Step::Write { offset, value } => write32(&mut device, offset & 0x1_ffff, value),
            Step::WriteBytes {
                offset,
                data,
                short,
            } => {
                let length = usize::from(short % 4);
                device.write_bar(offset, &data[..length]);
                device.write_bar(offset & 0x1_ffff, &data[..length]);
            }
            Step::Read { offset, length } => {
                let mut data = vec![0; length.into()];
                device.read_bar(offset, &mut data);
                device.read_bar(offset & 0x1_ffff, &mut data);
                device.read_config(offset, &mut data);
                device.read_config(offset & 0xfff, &mut data);
            }
            Step::Config { offset, value } => {
                device.write_config(offset.into(), &value.to_le_bytes());
            }
            Step::Memory { offset, data } => {
                let start = usize::from(offset);
                let memory = &mut device.host_mut().memory;
                let end = (start + 16).min(memory.len());
                memory[start..end].copy_from_slice(&data[..end - start]);
            }
            Step::Descriptor {
                page,
                slot,
                address,
                length,
                mss,
                flags,
            } => {
                let words = [
                    0,
                    address.into(),
                    u32::from(mss) << 16 | u32::from(length),
                    u32::from(flags),
                ];
                let start = 0x4000 + usize::from(page % 4) * 0x1000 + usize::from(slot) * 16;
                let memory = &mut device.host_mut().memory;
                for (place, word) in memory[start..start + 16].chunks_mut(4).zip(words) {
                    place.copy_from_slice(&word.to_le_bytes());
                }
            }
            Step::Receive { mut frame, length } => {
                frame.resize(usize::from(length) % 0x3000, 0x11);
                device.receive([frame]);
            }
            Step::Packet {
                v6,
                tcp,
                length,
                extension,
            } => {
                let frame = packet(v6, tcp, length, extension);
                let memory = &mut device.host_mut().memory;
                let end = (0x8000 + frame.len()).min(memory.len());
                memory[0x8000..end].copy_from_slice(&frame[..end - 0x8000]);
                device.receive([frame]);
            }
            Step::Advance { millis } => {
                now += Duration::from_millis(millis.into());
                device.advance(now);
            }
            Step::Cable(cable) => device.set_cable(cable),
            Step::Swallow(swallow) => device.set_swallow(swallow),
            Step::Pause(paused) => device.set_paused(paused),
            Step::Mode(mode) => {
                device.host_mut().mode = match mode % 4 {
                    0 => InterruptMode::None,
                    1 => InterruptMode::Intx,
                    2 => InterruptMode::Msi,
                    _ => InterruptMode::Msix,
                };
            }
            Step::Unmask => device.unmask_intx(),
            Step::Mask => device.mask_intx(),
            Step::Reset => device.power_on(),
            Step::Open => open(&mut device),
        }
        for _ in 0..8 * 256 {
            if device.unfinished() {
                device.resume();
            }
        }
        assert!(!device.unfinished());
        assert!(device.host_mut().sent <= FRAMES);
    }
    let _ = device.state();
});
