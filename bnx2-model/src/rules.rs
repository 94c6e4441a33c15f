// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules that harm frames on their way, for tests.

use crate::headers::{ether_type, Packet};
use serde::Serialize;
use std::time::Duration;

/// Rules that a NIC has at most.
const MOST: usize = 64;

/// Which way a frame goes, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Out of the NIC.
    Tx,
    /// Into the NIC.
    Rx,
}

/// What is done to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is lost.
    Drop,
    /// It comes later by so much.
    Delay(Duration),
    /// The byte at this offset is inverted; without one, the last byte of the
    /// IP packet, or else of the frame.
    Corrupt(Option<usize>),
}

/// What is to be done to which frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Names the rule.
    pub id: u32,
    /// Frames of one way only.
    pub way: Option<Way>,
    /// Frames of this EtherType (behind VLAN tags) only.
    pub ethertype: Option<u16>,
    /// Packets of this IP protocol only.
    pub protocol: Option<u8>,
    /// Frames of at least this many bytes only.
    pub longer: usize,
    /// Of these, every so manieth.
    pub every: u64,
    /// Not more often than that.
    pub times: Option<u64>,
    /// What is done.
    pub action: Action,
    /// Frames that the rule was for.
    pub matched: u64,
    /// Frames that something was done to.
    pub applied: u64,
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("'{text}' is no number"))
}

fn small<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(number(text)?).map_err(|_| format!("{text} is too large"))
}

impl Rule {
    /// From words such as `drop way=tx ethertype=0x0800 proto=6 every=100`.
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Rule, String> {
        let kind = words.next().ok_or("drop, delay=MS or corrupt[=OFFSET]?")?;
        let action = match kind.split_once('=').unwrap_or((kind, "")) {
            ("drop", "") => Action::Drop,
            ("delay", ms) => Action::Delay(Duration::from_millis(small::<u32>(ms)?.into())),
            ("corrupt", "") => Action::Corrupt(None),
            ("corrupt", offset) => Action::Corrupt(Some(small(offset)?)),
            _ => {
                return Err(format!(
                    "'{kind}' is none of drop, delay=MS, corrupt[=OFFSET]"
                ));
            }
        };
        let mut rule = Rule {
            id: 0,
            way: None,
            ethertype: None,
            protocol: None,
            longer: 0,
            every: 1,
            times: None,
            action,
            matched: 0,
            applied: 0,
        };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("way", "tx") => rule.way = Some(Way::Tx),
                ("way", "rx") => rule.way = Some(Way::Rx),
                ("ethertype", value) => rule.ethertype = Some(small(value)?),
                ("proto", value) => rule.protocol = Some(small(value)?),
                ("longer", value) => rule.longer = small(value)?,
                ("every", value) => rule.every = number(value)?.max(1),
                ("times", value) => rule.times = Some(number(value)?),
                _ => {
                    return Err(format!(
                        "'{word}' is none of way=tx|rx, ethertype=, proto=, longer=, every=, times="
                    ));
                }
            }
        }
        Ok(rule)
    }

    fn is_for(&self, way: Way, frame: &[u8]) -> bool {
        self.way.is_none_or(|wanted| wanted == way)
            && frame.len() >= self.longer
            && self.ethertype.is_none_or(|wanted| {
                ether_type(frame).is_some_and(|(ether_type, _)| ether_type == wanted)
            })
            && self.protocol.is_none_or(|wanted| {
                Packet::parse(frame).is_some_and(|packet| packet.protocol == wanted)
            })
    }
}

/// What is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is lost.
    Drop,
    /// It goes on later.
    Delay(Duration),
}

/// The rules of a NIC.
#[derive(Default)]
pub struct Rules {
    rules: Vec<Rule>,
    last: u32,
}

impl Rules {
    /// Adds a rule from its words. Returns its name.
    pub fn add<'a>(&mut self, words: impl Iterator<Item = &'a str>) -> Result<u32, String> {
        let rule = Rule::parse(words)?;
        if self.rules.len() >= MOST {
            return Err(format!("there are {MOST} rules already"));
        }
        self.last = self.last.wrapping_add(1);
        self.rules.push(Rule {
            id: self.last,
            ..rule
        });
        Ok(self.last)
    }

    /// Removes a rule, or all of them.
    pub fn remove(&mut self, id: Option<u32>) -> Result<(), String> {
        let before = self.rules.len();
        self.rules.retain(|rule| id.is_some_and(|id| rule.id != id));
        match id {
            Some(id) if self.rules.len() == before => Err(format!("there is no rule {id}")),
            _ => Ok(()),
        }
    }

    /// The rules.
    pub fn list(&self) -> &[Rule] {
        &self.rules
    }

    /// Applies the first rule that is for this frame and whose turn it is.
    pub fn judge(&mut self, way: Way, frame: &mut [u8]) -> Verdict {
        for rule in &mut self.rules {
            if !rule.is_for(way, frame) {
                continue;
            }
            rule.matched = rule.matched.wrapping_add(1);
            if rule.matched % rule.every != 0
                || rule.times.is_some_and(|times| rule.applied >= times)
            {
                continue;
            }
            rule.applied = rule.applied.wrapping_add(1);
            return match rule.action {
                Action::Drop => Verdict::Drop,
                Action::Delay(by) => Verdict::Delay(by),
                Action::Corrupt(offset) => {
                    let end = Packet::parse(frame).map_or(frame.len(), |packet| packet.end);
                    let last = end.min(frame.len()).saturating_sub(1);
                    if let Some(byte) = frame.get_mut(offset.unwrap_or(last)) {
                        *byte = !*byte;
                    }
                    Verdict::Pass
                }
            };
        }
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ipv4, ipv6, tcp, udp};

    fn rules(text: &str) -> Rules {
        let mut rules = Rules::default();
        assert_eq!(rules.add(text.split_whitespace()), Ok(1));
        rules
    }

    #[test]
    fn every_so_manieth_frame_that_matches() {
        let mut rules = rules("drop way=tx ethertype=0x800 proto=6 every=3 times=2");
        let mut dropped = vec![];
        for number in 0..12 {
            for (way, mut frame) in [
                (Way::Rx, tcp(ipv4(), &[], 10)),
                (Way::Tx, udp(ipv4(), &[], 10)),
                (Way::Tx, tcp(ipv6(), &[], 10)),
            ] {
                assert_eq!(rules.judge(way, &mut frame), Verdict::Pass);
            }
            if rules.judge(Way::Tx, &mut tcp(ipv4(), &[], 10)) == Verdict::Drop {
                dropped.push(number);
            }
        }
        assert_eq!(dropped, [2, 5]);
    }

    #[test]
    fn corruption_hits_the_packet_and_not_its_padding() {
        let mut frame = udp(ipv4(), &[], 5);
        frame.resize(60, 0);
        let before = frame.clone();
        assert_eq!(rules("corrupt").judge(Way::Rx, &mut frame), Verdict::Pass);
        let changed: Vec<usize> = (0..60).filter(|&i| frame.get(i) != before.get(i)).collect();
        assert_eq!(changed, [46]);
        rules("corrupt=99").judge(Way::Rx, &mut frame);
    }

    #[test]
    fn delays_are_milliseconds() {
        assert_eq!(
            rules("delay=20 longer=60").judge(Way::Rx, &mut tcp(ipv4(), &[], 10)),
            Verdict::Delay(Duration::from_millis(20))
        );
    }

    #[test]
    fn words_that_mean_nothing_are_refused() {
        for text in [
            "",
            "lose",
            "drop=1",
            "delay",
            "delay=x",
            "corrupt=-1",
            "drop way=up",
            "drop proto=256",
            "drop often",
        ] {
            assert!(
                Rules::default().add(text.split_whitespace()).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn rules_are_removed_by_name_or_all() {
        let mut rules = rules("drop");
        assert!(rules.remove(Some(7)).is_err());
        assert_eq!(rules.remove(Some(1)), Ok(()));
        assert!(rules.list().is_empty());
        assert_eq!(rules.remove(None), Ok(()));
    }
}
