// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control socket: a line in, a line of JSON out.

use crate::nic::Nic;
use log::warn;
use serde_json::{json, Map, Value};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a line at most.
const LINE: u64 = 4096;
/// Clients at the same time at most.
const CLIENTS: usize = 16;
/// How long a client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be said to a NIC.
pub const COMMANDS: &str = "\
nics                            the NICs, their sockets and links
NIC link up|down                put the cable in, pull it (both ends of a pair)
NIC swallow on|off              ignore transmit doorbells
NIC rule add ACTION [WHICH...]  harm frames: drop, delay=MS, corrupt[=OFFSET];
                                way=tx|rx ethertype= proto= longer= every= times=
NIC rule list                   the rules, and how often they were applied
NIC rule clear [ID]             no rules any more, or one less
NIC counters                    what was counted
NIC state                       registers and rings
NIC faults [clear]              DMA accesses that did not happen
NIC register ADDRESS            a register of the chip
`NIC` is a name that `nics` has, or `all`.";

type Reply = Result<Value, String>;

fn one<'a>(mut words: impl Iterator<Item = &'a str>, what: &str) -> Result<&'a str, String> {
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word),
        _ => Err(format!("one of {what}?")),
    }
}

fn on_off(word: &str, on: &str, off: &str) -> Result<bool, String> {
    if word == on || word == off {
        Ok(word == on)
    } else {
        Err(format!("'{word}' is neither {on} nor {off}"))
    }
}

fn to_nic<'a>(nic: &Nic, mut words: impl Iterator<Item = &'a str>) -> Reply {
    match words.next().unwrap_or_default() {
        "link" => {
            let cable = on_off(one(words, "up, down")?, "up", "down")?;
            nic.with(|device| device.set_cable(cable));
            // There is but one cable between two.
            if let Some(peer) = nic.wire.peer() {
                peer.with(|device| device.set_cable(cable));
            }
            Ok(json!({ "link": nic.with(|device| device.link()) }))
        }
        "swallow" => {
            let swallow = on_off(one(words, "on, off")?, "on", "off")?;
            nic.with(|device| device.set_swallow(swallow));
            Ok(json!({ "swallow": swallow }))
        }
        "rule" => rule(nic, words),
        "counters" => Ok(nic.with(|device| {
            json!({
                "statistics": device.statistics(),
                "activity": device.activity(),
                "lost_on_wire": nic.wire.lost(),
            })
        })),
        "state" => Ok(nic.with(|device| device.state())),
        "faults" => nic.with(|device| match words.next() {
            None => Ok(json!({
                "count": device.activity().faults,
                "last": device.faults(),
            })),
            Some("clear") => {
                device.clear_faults();
                Ok(json!({ "count": 0 }))
            }
            Some(word) => Err(format!("'{word}' is not clear")),
        }),
        "register" => {
            let word = one(words, "addresses as 0x808")?;
            let digits = word.strip_prefix("0x").unwrap_or(word);
            let address = u32::from_str_radix(digits, 16)
                .map_err(|_| format!("'{word}' is no hexadecimal address"))?;
            let value = nic.with(|device| device.read_register(address & !3));
            Ok(json!({ "value": format!("{value:#010x}") }))
        }
        word => Err(format!("'{word}' is no command for a NIC; see help")),
    }
}

fn rule<'a>(nic: &Nic, mut words: impl Iterator<Item = &'a str>) -> Reply {
    match words.next().unwrap_or_default() {
        "add" => nic
            .with_rules(|rules| rules.add(words))
            .map(|id| json!({ "id": id })),
        "list" => Ok(nic.with_rules(|rules| json!({ "rules": rules.list() }))),
        "clear" => {
            let id = words
                .next()
                .map(|word| word.parse().map_err(|_| format!("'{word}' is no number")))
                .transpose()?;
            nic.with_rules(|rules| rules.remove(id)).map(|()| json!({}))
        }
        word => Err(format!("'{word}' is none of add, list, clear")),
    }
}

/// Does what a line says.
fn execute(nics: &[Arc<Nic>], line: &str) -> Reply {
    let mut words = line.split_whitespace();
    match words.next().unwrap_or_default() {
        "help" => Ok(json!({ "help": COMMANDS.lines().collect::<Vec<_>>() })),
        "nics" => Ok(nics
            .iter()
            .map(|nic| {
                let (link, cable) = nic.with(|device| (device.link(), device.cable()));
                json!({ "name": nic.name, "socket": nic.socket, "link": link, "cable": cable })
            })
            .collect()),
        "all" => {
            let mut all = Map::new();
            for nic in nics {
                all.insert(nic.name.clone(), to_nic(nic, words.clone())?);
            }
            Ok(all.into())
        }
        name => match nics.iter().find(|nic| nic.name == name) {
            Some(nic) => to_nic(nic, words),
            None => Err(format!("'{name}' is neither a NIC nor a command; see help")),
        },
    }
}

fn converse(nics: &[Arc<Nic>], stream: UnixStream) -> io::Result<()> {
    let mut output = stream.try_clone()?;
    output.set_write_timeout(Some(PATIENCE))?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let count = input.by_ref().take(LINE).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        let answer = if line.last() == Some(&b'\n') {
            execute(nics, &String::from_utf8_lossy(&line))
        } else {
            Err("a line is too long, or has no end".into())
        };
        let ended = line.last() != Some(&b'\n');
        let answer = answer.unwrap_or_else(|error| json!({ "error": error }));
        writeln!(output, "{answer}")?;
        if ended {
            return Ok(());
        }
    }
}

/// Makes the socket.
pub fn bind(path: &Path) -> Result<UnixListener, String> {
    UnixListener::bind(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Serves clients, for ever.
pub fn serve(listener: &UnixListener, nics: &[Arc<Nic>]) {
    let clients = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            if clients.fetch_add(1, Ordering::AcqRel) >= CLIENTS {
                clients.fetch_sub(1, Ordering::AcqRel);
                warn!("control: more than {CLIENTS} clients; one is turned away");
                continue;
            }
            scope.spawn(|| {
                // Clients that have left are not our concern.
                let _ = converse(nics, stream);
                clients.fetch_sub(1, Ordering::AcqRel);
            });
        }
    });
}

/// Sends one line to the socket at `path`, and returns the answer. That is an
/// error if the other side says so.
pub fn ask(path: &Path, line: &str) -> Result<String, String> {
    let inner = || -> io::Result<String> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{line}")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    };
    let answer = inner().map_err(|error| format!("{}: {error}", path.display()))?;
    let value: Value =
        serde_json::from_str(&answer).map_err(|error| format!("the answer: {error}"))?;
    match value.get("error").and_then(Value::as_str) {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer),
    }
}
