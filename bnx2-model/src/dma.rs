// SPDX-License-Identifier: MIT OR Apache-2.0
//! The map from bus addresses to the guest's memory. All access to that memory
//! is here, and goes through `vm-memory`'s volatile copies: the guest may change
//! it at any time.

use crate::host::{DmaFault, FaultReason, GuestMemory};
use log::{debug, warn};
use std::fs::File;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// A range of bus addresses that a file has the memory of.
struct Mapping {
    start: u64,
    size: u64,
    writable: bool,
    memory: MmapRegion,
}

/// The table of DMA mappings.
#[derive(Default)]
pub struct DmaTable {
    /// Sorted by start, none overlapping another.
    mappings: Vec<Mapping>,
    warned: bool,
}

impl DmaTable {
    /// Maps `size` bytes of `file` from `offset` on at `start`.
    pub fn map(&mut self, start: u64, size: u64, file: Option<(File, u64)>, writable: bool) {
        let Some((file, offset)) = file else {
            // QEMU has some of these anyway: ROMs and video memory. The
            // guest's main memory is not that small.
            if size >= 16 << 20 && !self.warned {
                self.warned = true;
                warn!(
                    "guest memory at {start:#x} is not shared, so there will be no packets and \
                     no interrupts; fix: share=on for QEMU's memory backend"
                );
            }
            return;
        };
        if size == 0 || start.checked_add(size).is_none() {
            warn!("a DMA mapping of {size:#x} bytes at {start:#x} is ignored");
            return;
        }
        // An access past the end of the file would be a SIGBUS.
        let end = offset.saturating_add(size);
        if !file.metadata().is_ok_and(|data| data.len() >= end) {
            warn!("a DMA mapping of {size:#x} bytes at {start:#x}: its file is shorter");
            return;
        }
        self.unmap(start, size);
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let memory = MmapRegion::build(
            Some(FileOffset::new(file, offset)),
            size as usize,
            protection,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        );
        match memory {
            Ok(memory) => {
                let place = self.mappings.partition_point(|m| m.start < start);
                let mapping = Mapping {
                    start,
                    size,
                    writable,
                    memory,
                };
                self.mappings.insert(place, mapping);
                debug!("DMA: {size:#x} bytes at {start:#x}, writable: {writable}");
            }
            Err(error) => warn!("a DMA mapping of {size:#x} bytes at {start:#x}: {error}"),
        }
    }

    /// Removes all mappings that the range touches.
    pub fn unmap(&mut self, start: u64, size: u64) {
        let last = start.saturating_add(size.saturating_sub(1));
        self.mappings.retain(|mapping| {
            let end = mapping.start.saturating_add(mapping.size.saturating_sub(1));
            size == 0 || end < start || mapping.start > last
        });
    }

    /// Removes all mappings.
    pub fn clear(&mut self) {
        self.mappings.clear();
    }

    /// Hands `copy` the pieces of memory that make up the range. Each comes with
    /// where it begins in the range.
    fn pieces(
        &self,
        address: u64,
        length: usize,
        write: bool,
        mut copy: impl FnMut(usize, vm_memory::VolatileSlice),
    ) -> Result<(), DmaFault> {
        let fault = |reason| DmaFault {
            address,
            length,
            write,
            reason,
        };
        let mut done = 0;
        while done < length {
            let at = address
                .checked_add(done as u64)
                .ok_or(fault(FaultReason::Unmapped))?;
            let mapping = self
                .mappings
                .partition_point(|mapping| mapping.start <= at)
                .checked_sub(1)
                .and_then(|index| self.mappings.get(index))
                .filter(|mapping| at.wrapping_sub(mapping.start) < mapping.size)
                .ok_or(fault(FaultReason::Unmapped))?;
            if write && !mapping.writable {
                return Err(fault(FaultReason::ReadOnly));
            }
            let offset = at.wrapping_sub(mapping.start);
            let here = mapping
                .size
                .wrapping_sub(offset)
                .min(length.wrapping_sub(done) as u64) as usize;
            let slice = mapping
                .memory
                .get_slice(offset as usize, here)
                .map_err(|_| fault(FaultReason::Unmapped))?;
            copy(done, slice);
            done = done.wrapping_add(here);
        }
        Ok(())
    }
}

impl GuestMemory for DmaTable {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), DmaFault> {
        self.pieces(address, buffer.len(), false, |start, slice| {
            if let Some(part) = buffer.get_mut(start..) {
                slice.copy_to(part);
            }
        })
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), DmaFault> {
        self.pieces(address, data.len(), true, |start, slice| {
            if let Some(part) = data.get(start..) {
                slice.copy_from(part);
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};

    /// A file of three pages, each full of its number.
    fn file() -> File {
        let path = std::env::temp_dir().join(format!(
            "bnx2-model-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        for page in 0..3u8 {
            file.write_all(&[page; 4096]).unwrap();
        }
        file
    }

    fn clone(file: &File, offset: u64) -> Option<(File, u64)> {
        Some((file.try_clone().unwrap(), offset))
    }

    #[test]
    fn accesses_go_to_the_file_and_over_adjacent_mappings() {
        let mut file = file();
        let mut table = DmaTable::default();
        // The other way round than in the file.
        table.map(0x11000, 0x1000, clone(&file, 0x0000), true);
        table.map(0x10000, 0x1000, clone(&file, 0x2000), true);
        let mut data = [0xff; 8];
        table.read(0x10ffc, &mut data).unwrap();
        assert_eq!(data, [2, 2, 2, 2, 0, 0, 0, 0]);
        table.write(0x10ffe, &[9; 4]).unwrap();
        let mut whole = vec![];
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut whole).unwrap();
        assert_eq!((whole[0x2ffe], whole[0x0001], whole[0x0002]), (9, 9, 0));
    }

    #[test]
    fn what_is_not_mapped_or_read_only_is_a_fault() {
        let file = file();
        let mut table = DmaTable::default();
        table.map(0x10000, 0x1000, clone(&file, 0), false);
        table.map(0x20000, 0x1000, None, true);
        let mut data = [0; 8];
        table.read(0x10000, &mut data).unwrap();
        assert_eq!(
            table.write(0x10000, &data).unwrap_err().reason,
            FaultReason::ReadOnly
        );
        for address in [0xfffc, 0x10ffc, 0x20000, u64::MAX - 3] {
            let fault = table.read(address, &mut data).unwrap_err();
            assert_eq!(fault.reason, FaultReason::Unmapped, "{address:#x}");
            assert_eq!((fault.address, fault.length), (address, 8));
        }
    }

    #[test]
    fn what_was_unmapped_is_gone() {
        let file = file();
        let mut table = DmaTable::default();
        let mut data = [0; 8];
        for start in [0x10000, 0x20000] {
            table.map(start, 0x1000, clone(&file, 0), true);
        }
        table.unmap(0x10000, 0x1000);
        assert!(table.read(0x10000, &mut data).is_err());
        assert!(table.read(0x20000, &mut data).is_ok());
        table.clear();
        assert!(table.read(0x20000, &mut data).is_err());
    }

    #[test]
    fn a_mapping_takes_the_place_of_what_it_overlaps() {
        let file = file();
        let mut table = DmaTable::default();
        let mut data = [0; 1];
        table.map(0x10000, 0x2000, clone(&file, 0), true);
        table.map(0x11000, 0x1000, clone(&file, 0x2000), true);
        assert!(table.read(0x10000, &mut data).is_err());
        table.read(0x11000, &mut data).unwrap();
        assert_eq!(data, [2]);
        table.map(0x11000, 0x1000, clone(&file, 0x1000), true);
        table.read(0x11000, &mut data).unwrap();
        assert_eq!((data, table.mappings.len()), ([1], 1));
    }

    #[test]
    fn nonsense_is_not_mapped() {
        let file = file();
        let mut table = DmaTable::default();
        table.map(0x10000, 0x8000, clone(&file, 0), true);
        table.map(u64::MAX - 0xfff, 0x2000, clone(&file, 0), true);
        table.map(0x30000, 0, clone(&file, 0), true);
        assert!(table.mappings.is_empty());
    }
}
