// SPDX-License-Identifier: MIT OR Apache-2.0
//! Firmware files that the driver loads and that do nothing: the model has no
//! CPUs, but the driver does not open without them.

use std::io;
use std::path::Path;

/// Names, as the driver asks for them, below `/lib/firmware`.
pub const MIPS: &str = "bnx2/bnx2-mips-09-6.2.1b.fw";
/// As [`MIPS`], for the other kind of processor.
pub const RV2P: &str = "bnx2/bnx2-rv2p-09-6.0.17.fw";

/// A piece of code: where it goes, and where in the file it is.
#[derive(Clone, Copy, Default)]
struct Section {
    address: u32,
    length: u32,
    offset: u32,
}

impl Section {
    fn words(self) -> [u32; 3] {
        [self.address, self.length, self.offset]
    }
}

fn to_bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Five processors, each with one word of text, all the same one.
pub fn mips() -> Vec<u8> {
    const PROCESSORS: usize = 5;
    const START: u32 = 0x0800_0000;
    /// Start address and three sections.
    const ENTRY: usize = 40;

    let text = Section {
        address: START,
        length: 4,
        offset: (PROCESSORS * ENTRY) as u32,
    };
    let mut words = vec![];
    for _ in 0..PROCESSORS {
        words.extend([START]);
        for section in [text, Section::default(), Section::default()] {
            words.extend(section.words());
        }
    }
    words.push(0);
    to_bytes(&words)
}

/// Two processors, each with one instruction, the same one, and no fix-ups.
pub fn rv2p() -> Vec<u8> {
    const PROCESSORS: usize = 2;
    /// A section and eight fix-ups.
    const ENTRY: usize = 44;

    let code = Section {
        address: 0,
        length: 8,
        offset: (PROCESSORS * ENTRY) as u32,
    };
    let mut words = vec![];
    for _ in 0..PROCESSORS {
        words.extend(code.words());
        words.extend([0; 8]);
    }
    words.extend([0, 0]);
    to_bytes(&words)
}

/// Writes the files below `directory`, as they are below `/lib/firmware`.
pub fn write(directory: &Path) -> io::Result<()> {
    for (name, contents) in [(MIPS, mips()), (RV2P, rv2p())] {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, contents)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::be32;

    /// What the driver checks of a section.
    fn check(file: &[u8], at: usize, multiple: u32, empty: bool) {
        let length = be32(file, at + 4).unwrap_or(0);
        let offset = be32(file, at + 8).unwrap_or(0);
        assert!(empty || length != 0);
        assert!(offset != 0 || length == 0);
        assert!(offset < file.len() as u32 && offset % 4 == 0);
        assert!(length <= file.len() as u32 - offset && length % multiple == 0);
    }

    #[test]
    fn files_pass_the_checks_of_the_driver() {
        let mips = mips();
        assert_eq!(mips.len(), 204);
        for processor in 0..5 {
            check(&mips, processor * 40 + 4, 4, false);
            check(&mips, processor * 40 + 16, 4, true);
            check(&mips, processor * 40 + 28, 4, true);
        }
        let rv2p = rv2p();
        assert_eq!(rv2p.len(), 96);
        for processor in 0..2 {
            check(&rv2p, processor * 44, 8, false);
        }
    }
}
