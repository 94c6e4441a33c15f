// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the device core asks of whatever it is plugged into.

use serde::Serialize;

/// Why a DMA access did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultReason {
    /// No mapping covers the range.
    Unmapped,
    /// The range may only be read by the device.
    ReadOnly,
}

/// A DMA access that did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DmaFault {
    /// Bus address of the access.
    pub address: u64,
    /// Its length in bytes.
    pub length: usize,
    /// The device wanted to write.
    pub write: bool,
    /// Why not.
    pub reason: FaultReason,
}

/// The memory that the device reaches by DMA.
pub trait GuestMemory {
    /// Fills `buffer` from bus address `address`.
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), DmaFault>;

    /// Stores `data` at `address`. Up to eight bytes at an address of their own
    /// alignment are stored in one piece.
    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), DmaFault>;
}

/// How interrupts leave the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InterruptMode {
    /// Nobody listens.
    None,
    /// The level-triggered pin.
    Intx,
    /// One message.
    Msi,
    /// A message per vector.
    Msix,
}

/// The lines that interrupts leave by.
pub trait InterruptLines {
    /// What the guest has set up.
    fn mode(&self) -> InterruptMode;

    /// Vectors from 0 that have somebody listening; 1 unless the mode is MSI-X.
    fn vectors(&self) -> usize;

    /// Tells that INTx has become asserted.
    fn signal_intx(&mut self);

    /// Sends the message of `vector`.
    fn signal_message(&mut self, vector: usize);
}

/// Where frames go that the device sends, without FCS.
pub trait FrameSink {
    /// Takes a frame. Must not block, and must not call the device.
    fn send(&mut self, frame: Vec<u8>);
}

/// All of it: what a [`Device`](crate::device::Device) is plugged into.
pub trait Host: GuestMemory + InterruptLines + FrameSink {}

impl<T: GuestMemory + InterruptLines + FrameSink> Host for T {}
