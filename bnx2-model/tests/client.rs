// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device behind its socket, with a client in QEMU's place.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bnx2_model::config_space::Layout;
use bnx2_model::device::{Device, Settings};
use bnx2_model::mac::MacAddress;
use bnx2_model::nic::Nic;
use bnx2_model::service::Service;
use bnx2_model::transport::{Endpoint, VfioHost};
use bnx2_model::wire::Wire;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_user::Client;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

const BAR: u32 = 0;
const CONFIG: u32 = 7;
const INTX: u32 = 0;
const MSI: u32 = 1;
/// Bus address of the memory.
const MEMORY: u64 = 0x10_0000;
const SIZE: u64 = 0x10_0000;
/// Offset of the status block in it.
const STATUS: u64 = 0x1000;

/// What flags say about a set of interrupts.
mod irq {
    pub const DISABLE: u32 = 0x21;
    pub const TRIGGER_EVENTFD: u32 = 0x24;
    pub const UNMASK: u32 = 0x11;
    pub const UNMASK_EVENTFD: u32 = 0x14;
}

struct Machine {
    client: Client,
    memory: File,
}

/// A NIC that is served by threads of its own, and goes with the process.
fn serve(name: &str) -> PathBuf {
    let directory = std::env::temp_dir();
    let path = directory.join(format!("bnx2-model-{}-{name}", std::process::id()));
    let layout = Layout {
        bar_size: 1 << 25,
        msix: false,
    };
    let settings = Settings {
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        layout,
        fifo: 1 << 16,
    };
    let service = Service::new().unwrap();
    let endpoint = Endpoint::bind(&path, layout.bar_size, layout.msix).unwrap();
    let nic = Arc::new(Nic::new(
        name.into(),
        path.clone(),
        Device::new(VfioHost::default(), settings),
        Wire::Nothing,
        service.bell(0).unwrap(),
    ));
    let nics = [Arc::clone(&nic)];
    std::thread::spawn(move || endpoint.serve(nic));
    std::thread::spawn(move || service.run(&nics));
    path
}

impl Machine {
    fn new(path: &Path) -> Machine {
        let mut client = Client::new(path).unwrap();
        let place = path.with_extension("memory");
        let memory = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&place)
            .unwrap();
        std::fs::remove_file(place).unwrap();
        memory.set_len(SIZE).unwrap();
        client.dma_map(0, MEMORY, SIZE, memory.as_raw_fd()).unwrap();
        Machine { client, memory }
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.client
            .region_write(BAR, offset, &value.to_le_bytes())
            .unwrap();
    }

    fn read(&mut self, region: u32, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.client.region_read(region, offset, &mut word).unwrap();
        u32::from_le_bytes(word)
    }

    /// As the driver leaves it, for INTx.
    fn open(&mut self) {
        self.client.region_write(CONFIG, 4, &[6, 1]).unwrap();
        self.write(0x810, 0x17ff_ffff);
        self.write(0x8c8, 1 << 16);
        self.write(0x6810, (MEMORY + STATUS) as u32);
        self.write(0x6808, 7);
        self.write(0x84, 0x1_0000);
    }

    fn index(&self) -> u16 {
        let mut index = [0; 2];
        self.memory.read_exact_at(&mut index, STATUS + 54).unwrap();
        u16::from_le_bytes(index)
    }

    fn set_irqs(&mut self, index: u32, flags: u32, count: u32, eventfd: Option<&EventFd>) {
        let fds: Vec<_> = eventfd.iter().map(|eventfd| eventfd.as_raw_fd()).collect();
        self.client.set_irqs(index, flags, 0, count, &fds).unwrap();
    }
}

fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// Waits until the eventfd was signalled.
fn signalled(eventfd: &EventFd) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if eventfd.read().is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn status_blocks_and_messages_come() {
    let mut machine = Machine::new(&serve("msi"));
    assert_eq!(machine.read(CONFIG, 0), 0x1639_14e4);
    let mut config = vec![0; 4096];
    machine.client.region_read(CONFIG, 0, &mut config).unwrap();
    assert_eq!(config[0x34], 0x48);
    let message = eventfd();
    machine.set_irqs(MSI, irq::TRIGGER_EVENTFD, 1, Some(&message));
    machine.open();
    machine.write(0x6800, 0x1_0001);
    assert_eq!(machine.read(BAR, 0x6800), 1);
    assert_eq!(machine.index(), 1);
    assert!(message.read().is_ok());
    machine.set_irqs(MSI, irq::DISABLE, 0, None);
    machine.write(0x6800, 0x1_0001);
    assert_eq!(machine.read(BAR, 0x6800), 1);
    assert_eq!(machine.index(), 2);
    assert!(message.read().is_err());
}

#[test]
fn intx_is_told_again_after_either_kind_of_unmasking() {
    let mut machine = Machine::new(&serve("intx"));
    let (trigger, resample) = (eventfd(), eventfd());
    machine.set_irqs(INTX, irq::TRIGGER_EVENTFD, 1, Some(&trigger));
    machine.open();
    machine.write(0x6800, 0x1_0001);
    assert!(signalled(&trigger));
    machine.write(0x6800, 0x1_0001);
    assert_eq!(machine.read(BAR, 0x6c), 0);
    assert!(trigger.read().is_err());
    machine.set_irqs(INTX, irq::UNMASK, 1, None);
    assert!(trigger.read().is_ok());

    machine.set_irqs(INTX, irq::UNMASK_EVENTFD, 1, Some(&resample));
    for _ in 0..3 {
        resample.write(1).unwrap();
        assert!(signalled(&trigger));
    }
    // Handled: the level is gone.
    machine.write(0x84, 0x4_0000);
    assert_eq!(machine.read(BAR, 0x6c), 1);
    resample.write(1).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(trigger.read().is_err());
}

#[test]
fn the_next_client_finds_a_device_at_power_on() {
    let path = serve("next");
    let mut machine = Machine::new(&path);
    machine.open();
    machine.write(0x6800, 0x1_0001);
    assert_eq!(machine.read(BAR, 0x6800), 1);
    assert_eq!(machine.index(), 1);
    let Machine { client, memory } = machine;
    drop(client);
    let mut machine = Machine::new(&path);
    assert_eq!(machine.read(CONFIG, 4) & 0xffff, 0);
    assert_eq!(machine.read(BAR, 0x80c), 0);
    machine.write(0x6810, (MEMORY + STATUS) as u32);
    machine.write(0x6800, 0x1_0001);
    assert_eq!(machine.index(), 0);
    let mut index = [0; 1];
    memory.read_exact_at(&mut index, STATUS + 54).unwrap();
    assert_eq!(index, [1]);
}

#[test]
fn nonsense_from_the_client_is_survived() {
    let mut machine = Machine::new(&serve("nonsense"));
    machine.open();
    for region in 0..9 {
        for offset in [0, 1, 0xfff, 0x1_1090, u64::MAX - 1] {
            let mut data = [0; 9];
            machine
                .client
                .region_read(region, offset, &mut data)
                .unwrap();
            machine.client.region_write(region, offset, &data).unwrap();
        }
    }
    for index in 0..5 {
        for flags in [0, 0x11, 0x14, 0x21, 0x24, 0x09, 0xff & !2] {
            machine.client.set_irqs(index, flags, 7, 9, &[]).unwrap();
        }
    }
    machine.client.dma_unmap(0, u64::MAX).unwrap();
    machine.client.reset().unwrap();
    assert_eq!(machine.read(BAR, 0x808), 0x5709_2003);
}
