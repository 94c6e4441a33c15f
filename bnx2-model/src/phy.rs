// SPDX-License-Identifier: MIT OR Apache-2.0
//! The copper transceiver: its registers, and whether there is a link.

use bitflags::bitflags;
use std::time::Duration;

/// How long the link is away when it is negotiated anew.
pub const BOUNCE: Duration = Duration::from_millis(100);
/// How long it waits for software to see that it is away, at most.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// The MDIO address that the transceiver answers at.
const ADDRESS: u32 = 1;

bitflags! {
    /// Basic mode control.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Control: u16 {
        const SPEED_1000 = 1 << 6;
        const FULL_DUPLEX = 1 << 8;
        const RESTART = 1 << 9;
        const POWER_DOWN = 1 << 11;
        const NEGOTIATE = 1 << 12;
        const SPEED_100 = 1 << 13;
        const LOOPBACK = 1 << 14;
        const RESET = 1 << 15;
        /// A change of these makes a link anew.
        const LINE = Self::SPEED_1000.bits() | Self::FULL_DUPLEX.bits()
            | Self::POWER_DOWN.bits() | Self::NEGOTIATE.bits()
            | Self::SPEED_100.bits() | Self::LOOPBACK.bits();
        const _ = !0;
    }
}

mod register {
    pub const CONTROL: u32 = 0;
    pub const STATUS: u32 = 1;
    pub const ID_1: u32 = 2;
    pub const ID_2: u32 = 3;
    pub const ADVERTISE: u32 = 4;
    pub const PARTNER: u32 = 5;
    pub const CONTROL_1000: u32 = 9;
    pub const STATUS_1000: u32 = 10;
    pub const EXTENDED_STATUS: u32 = 15;
}

/// The transceiver.
pub struct Phy {
    registers: [u16; 32],
    /// The cable is in, and somebody is at its other end.
    cable: bool,
    /// The link was dropped and comes back.
    bounce: Option<Bounce>,
}

#[derive(Clone, Copy)]
struct Bounce {
    due: Duration,
    /// When it comes back even if software has not seen that it is away.
    limit: Duration,
}

impl Default for Phy {
    fn default() -> Self {
        let mut phy = Phy {
            registers: [0; 32],
            cable: true,
            bounce: None,
        };
        phy.defaults();
        phy
    }
}

impl Phy {
    fn defaults(&mut self) {
        self.registers = [0; 32];
        for (register, value) in [
            (register::CONTROL, 0x1140),
            (register::ADVERTISE, 0x01e1),
            (register::CONTROL_1000, 0x0300),
        ] {
            self.set(register, value);
        }
    }

    /// As at power-on; the cable stays as it is.
    pub fn power_on(&mut self) {
        self.defaults();
        self.bounce = None;
    }

    fn set(&mut self, register: u32, value: u16) {
        if let Some(place) = self.registers.get_mut(register as usize) {
            *place = value;
        }
    }

    fn get(&self, register: u32) -> u16 {
        self.registers
            .get(register as usize)
            .copied()
            .unwrap_or(0xffff)
    }

    fn control(&self) -> Control {
        Control::from_bits_retain(self.get(register::CONTROL))
    }

    /// Whether frames are turned back inside.
    pub fn loopback(&self) -> bool {
        self.control().contains(Control::LOOPBACK)
    }

    /// Whether there is a link.
    pub fn link(&self) -> bool {
        let control = self.control();
        !control.contains(Control::POWER_DOWN)
            && (control.contains(Control::LOOPBACK) || (self.cable && self.bounce.is_none()))
    }

    /// Whether the cable is in.
    pub fn cable(&self) -> bool {
        self.cable
    }

    /// Puts the cable in or pulls it.
    pub fn set_cable(&mut self, cable: bool) {
        self.cable = cable;
    }

    /// When the link is due back; `unseen` as for [`Phy::advance`].
    pub fn deadline(&self, unseen: bool) -> Option<Duration> {
        self.bounce
            .map(|bounce| if unseen { bounce.limit } else { bounce.due })
    }

    /// Lets time go by until `now`. While it is `unseen` that the link is away, it
    /// stays away: a slow guest would take no notice of a short absence.
    pub fn advance(&mut self, now: Duration, unseen: bool) {
        if self.deadline(unseen).is_some_and(|due| due <= now) {
            self.bounce = None;
        }
    }

    /// Software has seen at time `now` that the link is away.
    pub fn absence_seen(&mut self, now: Duration) {
        if let Some(bounce) = &mut self.bounce {
            bounce.due = bounce.due.max(now.saturating_add(BOUNCE));
        }
    }

    /// What an MDIO read finds.
    pub fn read(&self, address: u32, register: u32) -> u16 {
        if address != ADDRESS {
            return 0xffff;
        }
        let link = |value| if self.link() { value } else { 0 };
        match register {
            register::STATUS => 0x7949 | link(0x0024),
            register::ID_1 => 0x0143,
            register::ID_2 => 0xbc31,
            register::PARTNER => link(0x41e1),
            register::STATUS_1000 => link(0x3c00),
            register::EXTENDED_STATUS => 0x3000,
            register => self.get(register),
        }
    }

    /// An MDIO write at time `now`.
    pub fn write(&mut self, address: u32, register: u32, value: u16, now: Duration) {
        if address != ADDRESS {
            return;
        }
        if register != register::CONTROL {
            self.set(register, value);
            return;
        }
        let old = self.control();
        let new = Control::from_bits_retain(value);
        if new.contains(Control::RESET) {
            self.defaults();
        } else {
            self.set(register::CONTROL, (new - Control::RESTART).bits());
        }
        // Without the drop, software would not look at the new speed.
        if new.intersects(Control::RESET | Control::RESTART)
            || (old ^ new).intersects(Control::LINE)
        {
            self.bounce = Some(Bounce {
                due: now.saturating_add(BOUNCE),
                limit: now.saturating_add(PATIENCE),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5);

    fn link_seen(phy: &Phy) -> bool {
        phy.read(1, 1) & 4 != 0
    }

    #[test]
    fn reset_restores_defaults_and_bounces_the_link() {
        let mut phy = Phy::default();
        phy.write(1, 4, 0x05e1, NOW);
        assert!(link_seen(&phy));
        phy.write(1, 0, 0x8000, NOW);
        assert_eq!((phy.read(1, 0), phy.read(1, 4)), (0x1140, 0x01e1));
        assert!(!link_seen(&phy));
        assert_eq!((phy.read(1, 5), phy.read(1, 10)), (0, 0));
        phy.advance(NOW + BOUNCE - Duration::from_millis(1), false);
        assert!(!phy.link());
        phy.advance(NOW + BOUNCE, false);
        assert!(phy.link() && phy.deadline(false).is_none());
        assert_eq!((phy.read(1, 5), phy.read(1, 10)), (0x41e1, 0x3c00));
    }

    #[test]
    fn the_link_stays_away_until_that_was_seen() {
        let second = Duration::from_secs(1);
        let mut phy = Phy::default();
        phy.write(1, 0, 0x1340, NOW);
        assert_eq!(phy.deadline(true), Some(NOW + PATIENCE));
        phy.advance(NOW + second, true);
        assert!(!phy.link());
        phy.absence_seen(NOW + second);
        phy.advance(NOW + second, false);
        assert!(!phy.link());
        phy.advance(NOW + second + BOUNCE, false);
        assert!(phy.link());
        phy.write(1, 0, 0x1340, NOW);
        phy.advance(NOW + PATIENCE, true);
        assert!(phy.link());
    }

    #[test]
    fn restart_clears_itself_and_bounces() {
        let mut phy = Phy::default();
        phy.write(1, 0, 0x1340, NOW);
        assert_eq!(phy.read(1, 0), 0x1140);
        assert!(!phy.link());
    }

    #[test]
    fn a_change_of_speed_or_negotiation_bounces_and_no_change_does_not() {
        for value in [0x0140, 0x2100, 0x1100] {
            let mut phy = Phy::default();
            phy.write(1, 0, value, NOW);
            assert!(!phy.link(), "{value:#x}");
            phy.advance(NOW + BOUNCE, false);
            phy.write(1, 0, value, NOW + BOUNCE);
            assert!(phy.link(), "{value:#x}");
        }
    }

    #[test]
    fn loopback_has_a_link_at_once_and_power_down_has_none() {
        let mut phy = Phy::default();
        phy.set_cable(false);
        phy.write(1, 0, 0x4140, NOW);
        assert!(phy.link() && phy.loopback());
        phy.set_cable(true);
        phy.write(1, 0, 0x0840, NOW);
        phy.advance(NOW + BOUNCE, false);
        assert!(!phy.link());
    }

    #[test]
    fn nobody_answers_at_another_address() {
        let mut phy = Phy::default();
        phy.write(0, 4, 0, NOW);
        assert_eq!(phy.read(0, 1), 0xffff);
        assert_eq!(phy.read(1, 4), 0x01e1);
        assert_eq!(phy.read(1, 0x3f), 0xffff);
    }
}
