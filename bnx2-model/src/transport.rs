// SPDX-License-Identifier: MIT OR Apache-2.0
//! vfio-user: QEMU's `vfio-user-pci` at the other end of a socket.
//!
//! The back end never returns an error: the reply would desynchronise the
//! stream. What goes wrong is logged.

use crate::config_space::{MSIX_VECTORS, SIZE as CONFIG_SIZE};
use crate::device::Device;
use crate::dma::DmaTable;
use crate::host::{DmaFault, FrameSink, GuestMemory, InterruptLines, InterruptMode};
use crate::locked::locked;
use crate::nic::Nic;
use bitflags::bitflags;
use log::{debug, error, info, warn};
use mio::unix::SourceFd;
use mio::Interest;
use rustix::fs::{fcntl_getfl, fcntl_setfl, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use vfio_bindings::bindings::vfio;
use vfio_user::{DmaMapFlags, DmaUnmapFlags, Error, IrqInfo, Server, ServerBackend, ServerRegion};

/// Regions of a PCI function.
mod region {
    pub const BAR: u32 = 0;
    pub const CONFIG: u32 = 7;
    pub const COUNT: u32 = 9;
}

/// Interrupts of a PCI function.
mod irq {
    pub const INTX: u32 = 0;
    pub const MSI: u32 = 1;
    pub const MSIX: u32 = 2;
    pub const ERROR: u32 = 3;
    pub const REQUEST: u32 = 4;
}

bitflags! {
    /// What is to be done with interrupts, and what comes with it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct IrqSet: u32 {
        const NO_DATA = 1 << 0;
        const EVENTFD = 1 << 2;
        const MASK = 1 << 3;
        const UNMASK = 1 << 4;
        const TRIGGER = 1 << 5;
        const _ = !0;
    }
}

/// The other side of a vfio-user socket, as the device sees it.
#[derive(Default)]
pub struct VfioHost {
    memory: DmaTable,
    intx: Option<File>,
    msi: Option<File>,
    msix: [Option<File>; MSIX_VECTORS],
    frames: Vec<Vec<u8>>,
}

impl VfioHost {
    /// Frames that the device has sent since the last call.
    pub fn take_frames(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.frames)
    }

    /// Forgets the client.
    fn disconnect(&mut self) {
        *self = VfioHost::default();
    }
}

/// What the client has sent as an eventfd, so that nobody waits for it.
fn nonblocking(file: File) -> Option<File> {
    let set = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::NONBLOCK));
    match set {
        Ok(()) => Some(file),
        Err(error) => {
            warn!("an eventfd is no good: {error}");
            None
        }
    }
}

/// Adds 1 to an eventfd.
fn signal(eventfd: Option<&File>) {
    if let Some(mut eventfd) = eventfd {
        if let Err(error) = eventfd.write_all(&1u64.to_ne_bytes()) {
            debug!("an interrupt is lost: {error}");
        }
    }
}

impl GuestMemory for VfioHost {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), DmaFault> {
        self.memory.read(address, buffer)
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.memory.write(address, data)
    }
}

impl InterruptLines for VfioHost {
    fn mode(&self) -> InterruptMode {
        if self.msix.iter().any(Option::is_some) {
            InterruptMode::Msix
        } else if self.msi.is_some() {
            InterruptMode::Msi
        } else if self.intx.is_some() {
            InterruptMode::Intx
        } else {
            InterruptMode::None
        }
    }

    fn vectors(&self) -> usize {
        let last = self.msix.iter().rposition(Option::is_some);
        last.map_or(1, |last| last.wrapping_add(1))
    }

    fn signal_intx(&mut self) {
        signal(self.intx.as_ref());
    }

    fn signal_message(&mut self, vector: usize) {
        match self.mode() {
            InterruptMode::Msix => signal(self.msix.get(vector).and_then(Option::as_ref)),
            _ => signal(self.msi.as_ref()),
        }
    }
}

impl FrameSink for VfioHost {
    fn send(&mut self, frame: Vec<u8>) {
        self.frames.push(frame);
    }
}

/// The socket of a NIC, before anybody has connected.
pub struct Endpoint {
    server: Server,
}

impl Endpoint {
    /// Makes the socket at `path`.
    pub fn bind(path: &Path, bar_size: u32, msix: bool) -> Result<Endpoint, String> {
        let access = vfio::VFIO_REGION_INFO_FLAG_READ | vfio::VFIO_REGION_INFO_FLAG_WRITE;
        let regions = (0..region::COUNT)
            .map(|index| {
                let size = match index {
                    region::BAR => bar_size.into(),
                    region::CONFIG => CONFIG_SIZE as u64,
                    _ => 0,
                };
                ServerRegion {
                    region_info: vfio::vfio_region_info {
                        argsz: size_of::<vfio::vfio_region_info>() as u32,
                        index,
                        size,
                        flags: if size == 0 { 0 } else { access },
                        ..Default::default()
                    },
                    sparse_areas: Vec::new(),
                    mmap_fd: None,
                }
            })
            .collect();
        let level = vfio::VFIO_IRQ_INFO_EVENTFD
            | vfio::VFIO_IRQ_INFO_MASKABLE
            | vfio::VFIO_IRQ_INFO_AUTOMASKED;
        let message = vfio::VFIO_IRQ_INFO_EVENTFD | vfio::VFIO_IRQ_INFO_NORESIZE;
        let irqs = [
            (irq::INTX, level, 1),
            (irq::MSI, message, 1),
            (
                irq::MSIX,
                message,
                if msix { MSIX_VECTORS as u32 } else { 0 },
            ),
            (irq::ERROR, message, 1),
            (irq::REQUEST, message, 0),
        ]
        .map(|(index, flags, count)| IrqInfo {
            index,
            flags,
            count,
        });
        let server = Server::new(path, true, irqs.into(), regions).map_err(|error| {
            let fix = match error {
                Error::SocketPathExists => "; fix: end who uses it, or remove it",
                _ => "",
            };
            format!("{}: {error}{fix}", path.display())
        })?;
        Ok(Endpoint { server })
    }

    /// Serves one client after the other, for ever.
    pub fn serve(self, nic: Arc<Nic>) {
        let name = nic.name.clone();
        let mut backend = Backend { nic };
        loop {
            // The protocol code panics at some messages that QEMU never sends.
            let end = catch_unwind(AssertUnwindSafe(|| self.server.run(&mut backend)));
            match end {
                Ok(Ok(())) => info!("{name}: the client has left"),
                Ok(Err(error)) => {
                    warn!("{name}: the client is gone: {error}");
                    // In case it was not the client but the socket.
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(_) => error!("{name}: the client has sent what nobody understands"),
            }
            backend.disconnected();
        }
    }
}

struct Backend {
    nic: Arc<Nic>,
}

impl Backend {
    fn device<R>(&self, act: impl FnOnce(&mut Device<VfioHost>) -> R) -> R {
        self.nic.with(act)
    }

    fn disconnected(&mut self) {
        self.set_resample(None);
        self.device(|device| {
            device.host_mut().disconnect();
            device.power_on();
        });
    }

    /// Takes the eventfd that says when the guest has handled INTx.
    fn set_resample(&self, eventfd: Option<File>) {
        let bell = &self.nic.bell;
        let mut place = locked(&self.nic.resample);
        if let Some(old) = place.take() {
            let _ = bell.registry.deregister(&mut SourceFd(&old.as_raw_fd()));
        }
        if let Some(new) = eventfd {
            let fd = new.as_raw_fd();
            let source = &mut SourceFd(&fd);
            match bell
                .registry
                .register(source, bell.resample, Interest::READABLE)
            {
                Ok(()) => *place = Some(new),
                Err(error) => warn!("{}: no INTx unmasking: {error}", self.nic.name),
            }
        }
    }

    fn set_intx(&self, set: IrqSet, fds: Vec<File>) {
        let eventfd = fds.into_iter().next().and_then(nonblocking);
        if set.contains(IrqSet::EVENTFD | IrqSet::UNMASK) {
            self.set_resample(eventfd);
        } else if set.contains(IrqSet::UNMASK) {
            self.device(Device::unmask_intx);
        } else if set.contains(IrqSet::MASK) {
            self.device(Device::mask_intx);
        } else if set.contains(IrqSet::EVENTFD | IrqSet::TRIGGER) {
            self.device(|device| {
                device.host_mut().intx = eventfd;
                // Whoever listens now has not been told.
                device.unmask_intx();
            });
        } else if set.contains(IrqSet::NO_DATA | IrqSet::TRIGGER) {
            self.device(|device| device.host_mut().intx = None);
        }
    }

    fn set_messages(&self, index: u32, set: IrqSet, start: u32, count: u32, fds: Vec<File>) {
        if !set.contains(IrqSet::TRIGGER) {
            return;
        }
        let mut fds = fds.into_iter();
        self.device(|device| {
            let host = device.host_mut();
            let vectors = match index {
                irq::MSI => std::slice::from_mut(&mut host.msi),
                _ => &mut host.msix[..],
            };
            if set.contains(IrqSet::EVENTFD) {
                for vector in vectors.iter_mut().skip(start as usize).take(count as usize) {
                    *vector = fds.next().and_then(nonblocking);
                }
            } else if count == 0 {
                vectors.iter_mut().for_each(|vector| *vector = None);
            }
        });
    }
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.device(|device| match region {
            region::BAR => device.read_bar(offset, data),
            region::CONFIG => device.read_config(offset, data),
            _ => data.fill(0),
        });
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.device(|device| match region {
            region::BAR => device.write_bar(offset, data),
            region::CONFIG => device.write_config(offset, data),
            _ => {}
        });
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        let writable = flags.contains(DmaMapFlags::WRITE);
        let file = file.map(|file| (file, offset));
        self.device(|device| device.host_mut().memory.map(address, size, file, writable));
        Ok(())
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        self.device(|device| {
            let memory = &mut device.host_mut().memory;
            if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
                memory.clear();
            } else {
                memory.unmap(address, size);
            }
        });
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        debug!("{}: reset by the bus", self.nic.name);
        self.device(Device::power_on);
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> io::Result<()> {
        let set = IrqSet::from_bits_retain(flags);
        debug!(
            "{}: interrupts {index}: {set:?}, {count} from {start}, {} files",
            self.nic.name,
            fds.len()
        );
        match index {
            irq::INTX => self.set_intx(set, fds),
            irq::MSI | irq::MSIX => self.set_messages(index, set, start, count, fds),
            _ => {}
        }
        Ok(())
    }
}

/// The guest has handled INTx, says the eventfd that KVM signals.
pub fn resample(nic: &Nic) {
    let mut count = [0; 8];
    let handled = match locked(&nic.resample).as_mut() {
        // The other side has made it, so it may have been emptied already.
        Some(eventfd) => eventfd.read(&mut count).is_ok(),
        None => false,
    };
    if handled {
        nic.with(Device::unmask_intx);
    }
}
