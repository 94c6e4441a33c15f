// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the headers of a frame are, as far as checksums and TCP need it.

use crate::bytes::{be16, put_be16};
use crate::checksum::Sum;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// EtherType of a VLAN tag.
pub const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Tags and extension headers that are walked at most.
const DEPTH: usize = 8;

/// Which IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// EtherType behind any VLAN tags, and where it ends.
pub fn ether_type(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = ETHERNET;
    for _ in 0..DEPTH {
        match be16(frame, at.wrapping_sub(2))? {
            VLAN | SERVICE_VLAN => at = at.wrapping_add(4),
            other => return Some((other, at)),
        }
    }
    None
}

/// Where things are in an IP packet that is no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which IP.
    pub version: Version,
    /// Offset of the IP header in the frame.
    pub ip: usize,
    /// Offset of what is behind the IP headers.
    pub payload: usize,
    /// Protocol of that.
    pub protocol: u8,
    /// Where the packet ends by its own word; padding may follow.
    pub end: usize,
}

impl Packet {
    /// Finds the headers. None if there are none, or if they contradict
    /// themselves, or in a fragment.
    pub fn parse(frame: &[u8]) -> Option<Packet> {
        let (ether_type, ip) = ether_type(frame)?;
        match ether_type {
            IPV4 => Self::parse_v4(frame, ip),
            IPV6 => Self::parse_v6(frame, ip),
            _ => None,
        }
    }

    fn parse_v4(frame: &[u8], ip: usize) -> Option<Packet> {
        let header = frame.get(ip..)?;
        let first = *header.first()?;
        let length = usize::from(first & 0xf).wrapping_mul(4);
        let total = usize::from(be16(header, 2)?);
        // Offset, and the flag that more follow.
        let fragment = be16(header, 6)? & 0x3fff != 0;
        if first >> 4 != 4 || length < 20 || header.len() < length || total < length || fragment {
            return None;
        }
        Some(Packet {
            version: Version::V4,
            ip,
            payload: ip.wrapping_add(length),
            protocol: *header.get(9)?,
            end: ip.wrapping_add(total),
        })
    }

    fn parse_v6(frame: &[u8], ip: usize) -> Option<Packet> {
        let header = frame.get(ip..)?;
        if header.first()? >> 4 != 6 || header.len() < 40 {
            return None;
        }
        let end = ip
            .wrapping_add(40)
            .wrapping_add(usize::from(be16(header, 4)?));
        let mut protocol = *header.get(6)?;
        let mut at = ip.wrapping_add(40);
        for _ in 0..DEPTH {
            let length = match protocol {
                // Hop by hop, routing, destination options, mobility.
                0 | 43 | 60 | 135 => usize::from(*frame.get(at.wrapping_add(1))?)
                    .wrapping_add(1)
                    .wrapping_mul(8),
                // Authentication.
                51 => usize::from(*frame.get(at.wrapping_add(1))?)
                    .wrapping_add(2)
                    .wrapping_mul(4),
                // A fragment.
                44 => return None,
                _ => {
                    return (at <= end).then_some(Packet {
                        version: Version::V6,
                        ip,
                        payload: at,
                        protocol,
                        end,
                    });
                }
            };
            protocol = *frame.get(at)?;
            at = at.wrapping_add(length);
        }
        None
    }

    /// The addresses in the IP header, source first.
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let (offset, length) = match self.version {
            Version::V4 => (12, 8),
            Version::V6 => (8, 32),
        };
        let start = self.ip.wrapping_add(offset);
        frame.get(start..start.wrapping_add(length))
    }

    /// Offset of the checksum field of TCP and UDP.
    pub fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(self.payload.wrapping_add(16)),
            UDP => Some(self.payload.wrapping_add(6)),
            _ => None,
        }
    }

    /// Sum of the pseudo header and of the payload up to `end`.
    fn sum(&self, frame: &[u8], end: usize) -> Option<Sum> {
        let payload = frame.get(self.payload..end)?;
        let length = u32::try_from(payload.len()).ok()?;
        Some(
            Sum::default()
                .bytes(self.addresses(frame)?)
                .word(self.protocol.into())
                .word((length >> 16) as u16)
                .word(length as u16)
                .bytes(payload),
        )
    }

    /// Bytes that the headers of the transport have, once they are all there.
    fn has_transport(&self, frame: &[u8], end: usize) -> bool {
        let need = if self.protocol == TCP { 20 } else { 8 };
        end <= frame.len() && self.payload.wrapping_add(need) <= end
    }

    /// Fills in the checksum of TCP or UDP. False if the frame has no such, or
    /// not all of it.
    pub fn fill_checksum(&self, frame: &mut [u8]) -> bool {
        let Some(field) = self.checksum_offset() else {
            return false;
        };
        if !self.has_transport(frame, self.end) {
            return false;
        }
        put_be16(frame, field, 0);
        let Some(sum) = self.sum(frame, self.end) else {
            return false;
        };
        let mut value = sum.finish();
        if value == 0 && self.protocol == UDP {
            // 0 would say that there is none.
            value = 0xffff;
        }
        put_be16(frame, field, value);
        true
    }

    /// Whether the checksum of TCP or UDP is right. None if there is none.
    pub fn verify_checksum(&self, frame: &[u8]) -> Option<bool> {
        let field = self.checksum_offset()?;
        if !self.has_transport(frame, self.end) {
            return None;
        }
        if self.protocol == UDP && be16(frame, field)? == 0 {
            // Over IPv6 there has to be one.
            return (self.version == Version::V6).then_some(false);
        }
        Some(self.sum(frame, self.end)?.finish() == 0)
    }

    /// Fills in the checksum of the IPv4 header.
    pub fn fill_ip_checksum(&self, frame: &mut [u8]) {
        if self.version == Version::V4 {
            let field = self.ip.wrapping_add(10);
            put_be16(frame, field, 0);
            if let Some(header) = frame.get(self.ip..self.payload) {
                let value = Sum::default().bytes(header).finish();
                put_be16(frame, field, value);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::testing::{self, ipv4, ipv6};

    #[test]
    fn tags_and_extension_headers_are_walked() {
        let mut frame = testing::tcp(ipv4(), &[], 100);
        assert_eq!(Packet::parse(&frame).unwrap().payload, 34);
        frame.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.payload, packet.protocol), (42, TCP));

        let frame = testing::tcp(ipv6(), &[0, 43, 60], 100);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!((packet.payload, packet.protocol), (54 + 24, TCP));
        assert_eq!(packet.end, frame.len());
    }

    #[test]
    fn fragments_and_nonsense_are_not_parsed() {
        let mut frame = testing::tcp(ipv4(), &[], 100);
        frame[20] |= 0x20;
        assert_eq!(Packet::parse(&frame), None);
        assert_eq!(Packet::parse(&testing::tcp(ipv6(), &[44], 100)), None);
        assert_eq!(Packet::parse(&testing::tcp(ipv6(), &[60; 9], 100)), None);
        let mut frame = testing::tcp(ipv4(), &[], 100);
        frame[14] = 0x44;
        assert_eq!(Packet::parse(&frame), None);
        for length in 0..60 {
            let _ = Packet::parse(&testing::tcp(ipv6(), &[60], 0)[..length]);
        }
    }

    #[test]
    fn a_checksum_filled_in_is_right_and_covers_every_byte() {
        for (ip, extensions) in [(ipv4(), &[][..]), (ipv6(), &[][..]), (ipv6(), &[0, 60][..])] {
            for length in [0, 1, 5, 1448] {
                for make in [testing::tcp, testing::udp] {
                    let mut frame = make(ip, extensions, length);
                    let packet = Packet::parse(&frame).unwrap();
                    assert!(packet.fill_checksum(&mut frame));
                    assert_eq!(packet.verify_checksum(&frame), Some(true));
                    for at in packet.payload..packet.end {
                        // The UDP checksum to 0 means none.
                        let mut bad = frame.clone();
                        bad[at] ^= 0x10;
                        assert_eq!(packet.verify_checksum(&bad), Some(false), "byte {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn padding_is_not_summed() {
        let mut frame = testing::udp(ipv4(), &[], 3);
        let packet = Packet::parse(&frame).unwrap();
        packet.fill_checksum(&mut frame);
        frame.resize(60, 0xa5);
        assert_eq!(packet.verify_checksum(&frame), Some(true));
    }

    #[test]
    fn udp_has_no_checksum_of_zero() {
        for fill in 0..=u16::MAX {
            let mut frame = testing::udp(ipv4(), &[], 2);
            put_be16(&mut frame, 42, fill);
            let packet = Packet::parse(&frame).unwrap();
            packet.fill_checksum(&mut frame);
            if be16(&frame, 40) == Some(0xffff) {
                assert_eq!(packet.verify_checksum(&frame), Some(true));
                return;
            }
            assert_ne!(be16(&frame, 40), Some(0));
        }
        unreachable!("one of all payloads sums up to 0xffff");
    }

    #[test]
    fn udp_without_a_checksum_is_only_good_over_ipv4() {
        let frame = testing::udp(ipv4(), &[], 20);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!(packet.verify_checksum(&frame), None);
        let frame = testing::udp(ipv6(), &[], 20);
        let packet = Packet::parse(&frame).unwrap();
        assert_eq!(packet.verify_checksum(&frame), Some(false));
    }

    #[test]
    fn a_packet_longer_than_its_frame_is_left_alone() {
        let mut frame = testing::tcp(ipv4(), &[], 100);
        frame.truncate(100);
        let before = frame.clone();
        let packet = Packet::parse(&frame).unwrap();
        assert!(!packet.fill_checksum(&mut frame));
        assert_eq!(packet.verify_checksum(&frame), None);
        assert_eq!(frame, before);
    }
}
