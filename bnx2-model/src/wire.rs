// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packet back ends: what is at the other end of a NIC's cable.
//!
//! None of them blocks: what the other end does not take is lost.

mod stream;
mod tap;

pub use stream::Stream;
pub use tap::Tap;

use crate::nic::Nic;
use mio::event::Event;
use mio::{Registry, Token};
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{OnceLock, Weak};

/// Frames that are handed over together.
const BATCH: usize = 64;

/// What a NIC is to be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Nothing: frames are lost.
    Nothing,
    /// A UNIX stream socket that somebody listens at.
    Connect(PathBuf),
    /// A UNIX stream socket to listen at.
    Listen(PathBuf),
    /// A new tap interface.
    Tap(String),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "")) {
            ("none", "") => Ok(Endpoint::Nothing),
            ("connect", path) if !path.is_empty() => Ok(Endpoint::Connect(path.into())),
            ("listen", path) if !path.is_empty() => Ok(Endpoint::Listen(path.into())),
            ("tap", name) if !name.is_empty() => Ok(Endpoint::Tap(name.into())),
            _ => Err(format!(
                "'{text}' is none of connect:PATH, listen:PATH, tap:NAME, none"
            )),
        }
    }
}

/// The other end of a NIC's cable.
pub enum Wire {
    /// Nobody.
    Nothing,
    /// Another NIC of this process, once it is there.
    Peer(OnceLock<Weak<Nic>>),
    /// A UNIX stream.
    Stream(Stream),
    /// A tap interface.
    Tap(Tap),
}

impl Wire {
    /// Opens the other end. Its events come with `token`.
    pub fn open(endpoint: &Endpoint, registry: &Registry, token: Token) -> io::Result<Wire> {
        Ok(match endpoint {
            Endpoint::Nothing => Wire::Nothing,
            Endpoint::Connect(path) => Wire::Stream(Stream::connect(path, registry, token)?),
            Endpoint::Listen(path) => Wire::Stream(Stream::listen(path, registry, token)?),
            Endpoint::Tap(name) => Wire::Tap(Tap::open(name, registry, token)?),
        })
    }

    /// Puts frames on the wire. Not to be called under the lock of a device.
    pub fn send(&self, frames: Vec<Vec<u8>>) {
        match self {
            Wire::Nothing => {}
            Wire::Peer(peer) => {
                if let Some(peer) = peer.get().and_then(Weak::upgrade) {
                    peer.arrive(frames);
                }
            }
            Wire::Stream(stream) => stream.send(&frames),
            Wire::Tap(tap) => tap.send(&frames),
        }
    }

    /// Something has happened at the other end. `arrived` gets what came in.
    pub fn event(&self, event: &Event, arrived: impl FnMut(Vec<Vec<u8>>)) {
        match self {
            Wire::Nothing | Wire::Peer(_) => {}
            Wire::Stream(stream) => stream.event(event, arrived),
            Wire::Tap(tap) => tap.event(event, arrived),
        }
    }

    /// Something to do once in a while. False if there is nothing of the kind.
    pub fn maintain(&self) -> bool {
        match self {
            Wire::Stream(stream) => stream.reconnect(),
            _ => false,
        }
    }

    /// The other NIC, if that is what the wire leads to.
    pub fn peer(&self) -> Option<std::sync::Arc<Nic>> {
        match self {
            Wire::Peer(peer) => peer.get().and_then(Weak::upgrade),
            _ => None,
        }
    }

    /// The path of a socket that was made for the wire.
    pub fn listens_at(&self) -> Option<&std::path::Path> {
        match self {
            Wire::Stream(stream) => stream.listens_at(),
            _ => None,
        }
    }

    /// Frames that the other end did not take.
    pub fn lost(&self) -> u64 {
        match self {
            Wire::Nothing | Wire::Peer(_) => 0,
            Wire::Stream(stream) => stream.lost(),
            Wire::Tap(tap) => tap.lost(),
        }
    }
}
