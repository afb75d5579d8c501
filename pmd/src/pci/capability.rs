//! Walking the capability list of a function (PCI Local Bus Specification 3.0, section 6.7).

use super::PciFn;

/// Offset of the status register; bit 4 says that there is a list.
const STATUS: u16 = 6;
/// Offset of the pointer to the first entry.
const FIRST: u16 = 0x34;
/// Entries that fit between the header and the end of the 256 bytes: a list that is longer goes in a circle.
const MOST: usize = 48;

/// An entry of the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// What it is about.
    pub id: u8,
    /// Where its first byte (the id) lies in configuration space.
    pub offset: u8,
}

impl Capability {
    /// Vendor-specific, which is where virtio says what lies where.
    pub const VENDOR: u8 = 0x09;
    /// MSI-X.
    pub const MSI_X: u8 = 0x11;
}

/// The entries of a function's list, in its order. A device that is gone, or whose list does not make sense, has fewer.
pub struct Capabilities<'a> {
    function: &'a dyn PciFn,
    next: u8,
    left: usize,
}

impl<'a> Capabilities<'a> {
    /// Starts at the first entry.
    pub fn of(function: &'a dyn PciFn) -> Capabilities<'a> {
        let status = function.config_u16(STATUS);
        let has_list = status != u16::MAX && status & 0x10 != 0;
        let next = if has_list { function.config_u16(FIRST) as u8 } else { 0 };
        Capabilities { function, next, left: MOST }
    }
}

impl Iterator for Capabilities<'_> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        let offset = self.next & !3;
        if offset < 0x40 || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let [id, next] = self.function.config_u16(u16::from(offset)).to_le_bytes();
        self.next = next;
        (id != 0xff).then_some(Capability { id, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FakeFn, FakeModel};
    use super::*;

    struct Config(Vec<u8>);

    impl FakeModel for Config {
        fn config(&self) -> Vec<u8> {
            self.0.clone()
        }
    }

    fn list(entries: &[(u8, u8, u8)]) -> Vec<Capability> {
        let mut config = vec![0; 256];
        config[6] = 0x10;
        config[0x34] = entries[0].0;
        for &(offset, id, next) in entries {
            config[usize::from(offset)] = id;
            config[usize::from(offset) + 1] = next;
        }
        Capabilities::of(&*FakeFn::new(Config(config))).collect()
    }

    #[test]
    fn entries_in_their_order() {
        let found = list(&[(0x98, 0x11, 0x40), (0x40, 0x09, 0)]);
        assert_eq!(found, [Capability { id: 0x11, offset: 0x98 }, Capability { id: 9, offset: 0x40 }]);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(list(&[(0x40, 9, 0x44), (0x44, 9, 0x40)]).len(), MOST);
        assert!(list(&[(0x10, 9, 0)]).is_empty(), "inside the header");
    }

    #[test]
    fn an_empty_slot_has_none() {
        let function = FakeFn::new(Config(vec![0xff; 256]));
        assert_eq!(Capabilities::of(&*function).count(), 0);
    }
}
