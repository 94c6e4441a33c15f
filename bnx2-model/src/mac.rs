// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The first two bytes, as the chip's registers hold them.
    pub fn upper(self) -> u32 {
        let [a, b, ..] = self.0;
        u32::from_be_bytes([0, 0, a, b])
    }

    /// The last four bytes, as the chip's registers hold them.
    pub fn lower(self) -> u32 {
        let [_, _, c, d, e, f] = self.0;
        u32::from_be_bytes([c, d, e, f])
    }

    /// Whether the group bit is set: multicast or broadcast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether it is ff:ff:ff:ff:ff:ff.
    pub fn is_broadcast(self) -> bool {
        self.0 == [0xff; 6]
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| {
                let two = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
                two.then(|| u8::from_str_radix(part, 16).ok())?
            })
            .collect();
        let mac = bytes
            .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
            .map(MacAddress)
            .ok_or_else(|| format!("'{text}' is no MAC address such as 02:00:00:00:00:01"))?;
        if mac.is_group() || mac.0 == [0; 6] {
            return Err(format!("{mac} is no unicast address"));
        }
        Ok(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unicast_addresses_are_taken() {
        assert_eq!(
            "02:00:5e:10:00:Ff".parse::<MacAddress>().map(|m| m.0),
            Ok([2, 0, 0x5e, 0x10, 0, 0xff])
        );
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:1",
            "+2:00:00:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "02:00:00:00:00:01:02",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn registers_hold_it_in_wire_order() {
        let mac = MacAddress([1, 2, 3, 4, 5, 6]);
        assert_eq!((mac.upper(), mac.lower()), (0x0102, 0x0304_0506));
    }
}
