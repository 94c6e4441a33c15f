// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP segmentation: one large packet in, the segments of it out.

use crate::bytes::{be16, be32, put_be16, put_be32};
use crate::headers::{Packet, Version, TCP};
use bitflags::bitflags;

/// Bytes of payload that a segment is never made smaller than, lest one
/// descriptor makes frames without end. TCP stacks stay above it.
pub const SMALLEST_MSS: usize = 16;

bitflags! {
    /// Flags of a TCP header that are not for each segment.
    #[derive(Clone, Copy)]
    struct TcpFlags: u8 {
        const FIN = 1 << 0;
        const PUSH = 1 << 3;
        const WINDOW_REDUCED = 1 << 7;
        const _ = !0;
    }
}

/// Cuts a TCP packet in segments of `mss` bytes of payload, and hands each to
/// `emit` with all checksums filled in. False if it is no TCP packet that can be cut.
pub fn segment(frame: &[u8], mss: usize, mut emit: impl FnMut(Vec<u8>)) -> bool {
    let Some(packet) = Packet::parse(frame).filter(|packet| packet.protocol == TCP) else {
        return false;
    };
    let Some(cut) = Cut::new(frame, packet) else {
        return false;
    };
    let payload = frame.get(cut.headers.len()..).unwrap_or_default();
    if payload.is_empty() {
        cut.segment(&[], 0, 0, true).into_iter().for_each(emit);
        return true;
    }
    let mss = mss.max(SMALLEST_MSS);
    let mut chunks = payload.chunks(mss).enumerate().peekable();
    while let Some((number, chunk)) = chunks.next() {
        let offset = number.wrapping_mul(mss);
        if let Some(segment) = cut.segment(chunk, number, offset, chunks.peek().is_none()) {
            emit(segment);
        }
    }
    true
}

/// What all segments of a packet have from it.
struct Cut<'a> {
    headers: &'a [u8],
    packet: Packet,
    id: u16,
    sequence: u32,
    flags: TcpFlags,
}

impl<'a> Cut<'a> {
    fn new(frame: &'a [u8], packet: Packet) -> Option<Self> {
        let tcp = frame.get(packet.payload..)?;
        let length = usize::from(tcp.get(12)? >> 4).wrapping_mul(4);
        if length < 20 {
            return None;
        }
        Some(Cut {
            headers: frame.get(..packet.payload.wrapping_add(length))?,
            packet,
            id: be16(frame, packet.ip.wrapping_add(4))?,
            sequence: be32(tcp, 4)?,
            flags: TcpFlags::from_bits_retain(*tcp.get(13)?),
        })
    }

    fn segment(&self, payload: &[u8], number: usize, offset: usize, last: bool) -> Option<Vec<u8>> {
        let Packet {
            ip, payload: tcp, ..
        } = self.packet;
        let mut frame = Vec::with_capacity(self.headers.len().wrapping_add(payload.len()));
        frame.extend_from_slice(self.headers);
        frame.extend_from_slice(payload);

        let length = frame.len().wrapping_sub(ip);
        match self.packet.version {
            Version::V4 => {
                put_be16(&mut frame, ip.wrapping_add(2), u16::try_from(length).ok()?);
                let id = self.id.wrapping_add(number as u16);
                put_be16(&mut frame, ip.wrapping_add(4), id);
                self.packet.fill_ip_checksum(&mut frame);
            }
            Version::V6 => {
                let length = u16::try_from(length.checked_sub(40)?).ok()?;
                put_be16(&mut frame, ip.wrapping_add(4), length);
            }
        }
        let sequence = self.sequence.wrapping_add(offset as u32);
        put_be32(&mut frame, tcp.wrapping_add(4), sequence);
        let mut flags = self.flags;
        if !last {
            flags.remove(TcpFlags::FIN | TcpFlags::PUSH);
        }
        if number > 0 {
            flags.remove(TcpFlags::WINDOW_REDUCED);
        }
        crate::bytes::put(&mut frame, tcp.wrapping_add(13), &[flags.bits()]);

        // From scratch: the field has a pseudo sum of the whole packet.
        let packet = Packet {
            end: frame.len(),
            ..self.packet
        };
        packet.fill_checksum(&mut frame).then_some(frame)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::testing::{self, ipv4, ipv6};

    fn cut(frame: &[u8], mss: usize) -> Vec<Vec<u8>> {
        let mut segments = vec![];
        assert!(segment(frame, mss, |frame| segments.push(frame)));
        segments
    }

    /// Puts the segments together again, and checks each.
    fn check(frame: &[u8], mss: usize) -> Vec<Vec<u8>> {
        let whole = Packet::parse(frame).unwrap();
        let headers = whole.payload + usize::from(frame[whole.payload + 12] >> 4) * 4;
        let sequence = be32(frame, whole.payload + 4).unwrap();
        let segments = cut(frame, mss);
        let mut payload = vec![];
        for (number, segment) in segments.iter().enumerate() {
            let packet = Packet::parse(segment).unwrap();
            assert_eq!(packet.end, segment.len(), "IP length");
            assert_eq!(packet.verify_checksum(segment), Some(true));
            assert_eq!(
                be32(segment, packet.payload + 4).unwrap(),
                sequence.wrapping_add(payload.len() as u32)
            );
            if packet.version == Version::V4 {
                let sum = crate::checksum::Sum::default().bytes(&segment[14..packet.payload]);
                assert_eq!(sum.finish(), 0, "IP checksum");
                let id = be16(frame, whole.ip + 4).unwrap();
                assert_eq!(
                    be16(segment, packet.ip + 4),
                    Some(id.wrapping_add(number as u16))
                );
            }
            if number + 1 < segments.len() {
                assert_eq!(segment.len() - headers, mss);
            }
            payload.extend_from_slice(&segment[headers..]);
        }
        assert_eq!(payload, frame[headers..]);
        segments
    }

    #[test]
    fn any_length_over_either_ip() {
        for ip in [ipv4(), ipv6()] {
            for length in [1, 1447, 1448, 1449, 4410, 65000] {
                let segments = check(&testing::tcp(ip, &[], length), 1448);
                assert_eq!(segments.len(), length.div_ceil(1448));
            }
            check(&testing::tcp(ip, &[], 999), 33);
        }
    }

    #[test]
    fn extension_headers_and_inline_tags_go_with_each_segment() {
        check(&testing::tcp(ipv6(), &[0, 43, 60], 5000), 1000);
        let mut frame = testing::tcp(ipv4(), &[], 5000);
        frame.splice(12..12, [0x81, 0, 0x20, 7]);
        let segments = cut(&frame, 1000);
        assert_eq!(segments.len(), 5);
        for segment in &segments {
            assert_eq!(segment[12..16], [0x81, 0, 0x20, 7]);
            let packet = Packet::parse(segment).unwrap();
            assert_eq!(packet.verify_checksum(segment), Some(true));
        }
    }

    #[test]
    fn flags_are_where_they_belong() {
        let mut frame = testing::tcp(ipv4(), &[], 3000);
        // CWR, ACK, PSH, FIN.
        frame[34 + 13] = 0x99;
        let flags: Vec<u8> = check(&frame, 1000).iter().map(|s| s[34 + 13]).collect();
        assert_eq!(flags, [0x90, 0x10, 0x19]);
        assert_eq!(check(&frame, 3000)[0][34 + 13], 0x99);
    }

    #[test]
    fn sequence_and_id_wrap() {
        let mut frame = testing::tcp(ipv4(), &[], 3000);
        put_be32(&mut frame, 34 + 4, u32::MAX - 1500);
        put_be16(&mut frame, 18, u16::MAX);
        let segments = check(&frame, 1000);
        assert_eq!(be16(&segments[1], 18), Some(0));
    }

    #[test]
    fn options_are_in_each_segment() {
        let mut frame = testing::tcp(ipv4(), &[], 0);
        frame[34 + 12] = 0x80;
        frame.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame.extend((0..2500).map(|i| i as u8));
        put_be16(&mut frame, 16, 20 + 32 + 2500);
        for segment in check(&frame, 1448) {
            assert_eq!(segment[54..66], frame[54..66]);
        }
    }

    #[test]
    fn a_packet_that_cannot_be_cut_is_refused() {
        let none = |frame: &[u8]| !segment(frame, 100, |_| unreachable!());
        assert!(none(&testing::udp(ipv4(), &[], 1000)));
        assert!(none(&testing::tcp(ipv4(), &[], 1000)[..50]));
        let mut frame = testing::tcp(ipv4(), &[], 1000);
        frame[34 + 12] = 0x40;
        assert!(none(&frame));
        assert!(none(&[]));
    }

    #[test]
    fn a_tiny_mss_makes_no_flood() {
        for mss in [0, 1] {
            assert_eq!(cut(&testing::tcp(ipv4(), &[], 1600), mss).len(), 100);
        }
    }

    #[test]
    fn a_packet_without_payload_is_one_segment() {
        assert_eq!(check(&testing::tcp(ipv6(), &[], 0), 100).len(), 1);
    }
}
