// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that waits: for time to go by, for wires, and for INTx to be
//! handled.

use crate::nic::{Bell, Nic};
use crate::transport;
use log::error;
use mio::{Events, Poll, Token, Waker};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a wire that was lost is looked for.
const MAINTENANCE: Duration = Duration::from_secs(1);

const WAKER: Token = Token(0);

/// Tokens of the NIC of this number: for its resample eventfd, and for its wire.
fn tokens(number: usize) -> (Token, Token) {
    let first = number.wrapping_mul(2).wrapping_add(1);
    (Token(first), Token(first.wrapping_add(1)))
}

/// What the thread waits with.
pub struct Service {
    poll: Poll,
    waker: Arc<Waker>,
}

impl Service {
    /// Makes it, without a thread.
    pub fn new() -> io::Result<Service> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        Ok(Service { poll, waker })
    }

    /// Where the NIC of this number rings.
    pub fn bell(&self, number: usize) -> io::Result<Bell> {
        Ok(Bell {
            registry: self.poll.registry().try_clone()?,
            waker: Arc::clone(&self.waker),
            resample: tokens(number).0,
        })
    }

    /// The token for the wire of the NIC of this number.
    pub fn wire_token(&self, number: usize) -> Token {
        tokens(number).1
    }

    /// Serves the NICs, for ever.
    pub fn run(mut self, nics: &[Arc<Nic>]) {
        let mut events = Events::with_capacity(64);
        let mut maintained = Instant::now();
        loop {
            let mut wait = nics.iter().filter_map(|nic| nic.serve()).min();
            if maintained.elapsed() >= MAINTENANCE {
                maintained = Instant::now();
                for nic in nics {
                    nic.wire.maintain();
                }
            }
            // Once a second at least: it costs nothing, and a wake-up that was
            // lost does no lasting harm.
            wait = Some(wait.map_or(MAINTENANCE, |wait| wait.min(MAINTENANCE)));
            if let Err(error) = self.poll.poll(&mut events, wait) {
                if error.kind() != io::ErrorKind::Interrupted {
                    error!("the wait for events: {error}");
                    std::thread::sleep(MAINTENANCE);
                }
                continue;
            }
            for event in &events {
                for (number, nic) in nics.iter().enumerate() {
                    let (resample, wire) = tokens(number);
                    if event.token() == resample {
                        transport::resample(nic);
                    } else if event.token() == wire {
                        nic.wire.event(event, |frames| nic.arrive(frames));
                    }
                }
            }
        }
    }
}
