// SPDX-License-Identifier: MIT OR Apache-2.0
//! Integers in byte slices whose contents and lengths nobody vouches for.

/// The `N` bytes at `offset`, if they are all there.
fn array<const N: usize>(data: &[u8], offset: usize) -> Option<[u8; N]> {
    data.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// A big-endian u16 at `offset`.
pub fn be16(data: &[u8], offset: usize) -> Option<u16> {
    array(data, offset).map(u16::from_be_bytes)
}

/// A big-endian u32 at `offset`.
pub fn be32(data: &[u8], offset: usize) -> Option<u32> {
    array(data, offset).map(u32::from_be_bytes)
}

/// A little-endian u32 at `offset`.
pub fn le32(data: &[u8], offset: usize) -> Option<u32> {
    array(data, offset).map(u32::from_le_bytes)
}

/// Stores `bytes` at `offset`; a range that is not all there is left alone.
pub fn put(data: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = offset
        .checked_add(bytes.len())
        .and_then(|end| data.get_mut(offset..end))
    {
        place.copy_from_slice(bytes);
    }
}

/// Stores a big-endian u16 at `offset`.
pub fn put_be16(data: &mut [u8], offset: usize, value: u16) {
    put(data, offset, &value.to_be_bytes());
}

/// Stores a big-endian u32 at `offset`.
pub fn put_be32(data: &mut [u8], offset: usize, value: u32) {
    put(data, offset, &value.to_be_bytes());
}
