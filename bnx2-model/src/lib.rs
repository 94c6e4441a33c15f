// SPDX-License-Identifier: MIT OR Apache-2.0
//! A BCM5709 (NetXtreme II, driver `bnx2`) in software.
//!
//! [`device::Device`] is the chip. It knows neither QEMU nor sockets: registers
//! go in, and memory, interrupts and frames are what a [`host::Host`] gives it.
//! [`transport`] plugs it into QEMU's `vfio-user-pci`, [`wire`] into a network.

pub mod bootcode;
pub mod bytes;
pub mod checksum;
pub mod config_space;
pub mod context;
pub mod control;
pub mod device;
pub mod dma;
pub mod firmware;
pub mod headers;
pub mod host;
pub mod interrupts;
pub mod locked;
pub mod mac;
pub mod nic;
pub mod nvram;
pub mod phy;
pub mod receive;
pub mod registers;
pub mod ring;
pub mod rss;
pub mod rules;
pub mod segmentation;
pub mod service;
pub mod statistics;
pub mod transmit;
pub mod transport;
pub mod wire;

#[cfg(test)]
mod testing;
