// SPDX-License-Identifier: MIT OR Apache-2.0
//! A UNIX stream with a length before each frame (32 bits, big-endian): what
//! QEMU's `-netdev stream` and passt speak.

use super::BATCH;
use crate::bytes::be32;
use crate::locked::locked;
use crate::receive::LONGEST;
use log::{info, warn};
use mio::event::Event;
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Bytes before a frame.
const PREFIX: usize = 4;
/// Bytes that wait for the other side at most.
const QUEUE: usize = 1 << 20;

/// A stream, and who makes it.
pub struct Stream {
    path: PathBuf,
    listener: Option<UnixListener>,
    registry: Registry,
    token: Token,
    link: Mutex<Link>,
}

/// The connection, while there is one.
#[derive(Default)]
struct Link {
    stream: Option<UnixStream>,
    unsent: Vec<u8>,
    unread: Vec<u8>,
    lost: u64,
}

impl Link {
    fn close(&mut self) {
        *self = Link {
            lost: self.lost,
            ..Link::default()
        };
    }

    /// Writes what the other side takes of what is unsent.
    fn flush(&mut self) {
        let Some(stream) = &mut self.stream else {
            self.unsent.clear();
            return;
        };
        let mut written = 0;
        while let Some(rest) = self.unsent.get(written..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) | Err(_) => break,
                Ok(count) => written = written.saturating_add(count),
            }
        }
        self.unsent.drain(..written.min(self.unsent.len()));
    }

    /// The next whole frame of what has been read. An error ends the connection:
    /// where the next frame begins is not known then.
    fn frame(&mut self) -> Result<Option<Vec<u8>>, usize> {
        let Some(length) = be32(&self.unread, 0).map(|length| length as usize) else {
            return Ok(None);
        };
        if length > LONGEST {
            return Err(length);
        }
        let end = PREFIX.saturating_add(length);
        let Some(frame) = self.unread.get(PREFIX..end).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.unread.drain(..end);
        Ok(Some(frame))
    }

    /// Reads a bounded amount. False if there is no more for now.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 0x1_0000];
        let Some(stream) = &mut self.stream else {
            return false;
        };
        match stream.read(&mut buffer) {
            Ok(0) => {
                info!("wire: the other end has closed");
                self.close();
                false
            }
            Ok(count) => {
                self.unread
                    .extend_from_slice(buffer.get(..count).unwrap_or_default());
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                info!("wire: {error}");
                self.close();
                false
            }
        }
    }
}

impl Stream {
    /// Connects to who listens at `path`.
    pub fn connect(path: &Path, registry: &Registry, token: Token) -> io::Result<Stream> {
        let stream = Stream {
            path: path.into(),
            listener: None,
            registry: registry.try_clone()?,
            token,
            link: Mutex::default(),
        };
        stream.attach(UnixStream::connect(path)?)?;
        Ok(stream)
    }

    /// Listens at `path`, for one at a time.
    pub fn listen(path: &Path, registry: &Registry, token: Token) -> io::Result<Stream> {
        let mut listener = UnixListener::bind(path)?;
        registry.register(&mut listener, token, Interest::READABLE)?;
        Ok(Stream {
            path: path.into(),
            listener: Some(listener),
            registry: registry.try_clone()?,
            token,
            link: Mutex::default(),
        })
    }

    fn attach(&self, mut stream: UnixStream) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.registry.register(&mut stream, self.token, interest)?;
        let mut link = locked(&self.link);
        link.close();
        link.stream = Some(stream);
        Ok(())
    }

    /// Connects again if that is needed. False if it will never be.
    pub fn reconnect(&self) -> bool {
        if self.listener.is_some() {
            return false;
        }
        if locked(&self.link).stream.is_none() {
            if let Ok(stream) = UnixStream::connect(&self.path) {
                match self.attach(stream) {
                    Ok(()) => info!("wire: connected to {}", self.path.display()),
                    Err(error) => warn!("wire: {}: {error}", self.path.display()),
                }
            }
        }
        true
    }

    /// Where we listen.
    pub fn listens_at(&self) -> Option<&Path> {
        self.listener.as_ref().map(|_| self.path.as_path())
    }

    /// Sends frames; what there is no room for is lost.
    pub fn send(&self, frames: &[Vec<u8>]) {
        let mut link = locked(&self.link);
        for frame in frames {
            let size = link
                .unsent
                .len()
                .saturating_add(PREFIX)
                .saturating_add(frame.len());
            if link.stream.is_none() || size > QUEUE {
                link.lost = link.lost.wrapping_add(1);
                continue;
            }
            let length = u32::try_from(frame.len()).unwrap_or(0);
            link.unsent.extend_from_slice(&length.to_be_bytes());
            link.unsent.extend_from_slice(frame);
        }
        link.flush();
    }

    /// Accepts, writes and reads all that there is.
    pub fn event(&self, event: &Event, mut arrived: impl FnMut(Vec<Vec<u8>>)) {
        if let Some(listener) = &self.listener {
            while let Ok((stream, _)) = listener.accept() {
                let taken = locked(&self.link).stream.is_some();
                if taken {
                    warn!("wire: {} is taken", self.path.display());
                } else if let Err(error) = self.attach(stream) {
                    warn!("wire: {}: {error}", self.path.display());
                }
            }
        }
        if event.is_writable() {
            locked(&self.link).flush();
        }
        loop {
            let mut frames = Vec::new();
            let mut more;
            {
                let mut link = locked(&self.link);
                more = link.fill();
                while frames.len() < BATCH {
                    match link.frame() {
                        Ok(Some(frame)) => frames.push(frame),
                        Ok(None) => break,
                        Err(length) => {
                            warn!("wire: a frame of {length} bytes; closing");
                            link.close();
                            break;
                        }
                    }
                }
                more |= frames.len() == BATCH;
            }
            if !frames.is_empty() {
                arrived(frames);
            }
            if !more {
                return;
            }
        }
    }

    /// Frames that there was no room for.
    pub fn lost(&self) -> u64 {
        locked(&self.link).lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_in_any_split_of_the_stream() {
        let mut link = Link::default();
        let stream = [&[0, 0, 0, 3, 1, 2, 3][..], &[0, 0, 0, 0], &[0, 0, 0, 1, 9]].concat();
        let mut frames = vec![];
        for byte in stream {
            link.unread.push(byte);
            while let Ok(Some(frame)) = link.frame() {
                frames.push(frame);
            }
        }
        assert_eq!(frames, [vec![1, 2, 3], vec![], vec![9]]);
        assert!(link.unread.is_empty());
    }

    #[test]
    fn a_length_that_no_frame_has_is_an_error() {
        let mut link = Link::default();
        link.unread.extend([0, 1, 0, 0]);
        assert_eq!(link.frame(), Err(0x1_0000));
    }
}
