//! How the card shares itself among its functions: a pool of queues for each, and tables that say which frames go to which (82576 datasheet, 7.10.3
//! and 8.14). All tables are made from nothing and written whole, so that no old entry is forgotten.

use std::collections::BTreeMap;

use super::functions::{MOST, OWN_POOL};
use super::registers::*;
use crate::pci::Bar;

/// Contents of the tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pools {
    /// Pools that receive what is for an address or a VLAN.
    pub(super) addresses: BTreeMap<[u8; 6], u32>,
    pub(super) vlans: BTreeMap<u16, u32>,
    /// Pools that receive and send.
    enabled: u32,
    /// What else each receives.
    receives: [u32; MOST + 1],
    /// Tags that the card puts into frames of each.
    inserts: [u32; MOST + 1],
    /// Whose source addresses, and whose tags, are looked at.
    checked: u32,
}

impl Pools {
    /// The pool of the physical function alone, for frames of at most `longest` bytes.
    pub(super) fn new(own: u32, longest: u32) -> Pools {
        let mut receives = [0; MOST + 1];
        receives[OWN_POOL] =
            VMOLR_UNTAGGED | VMOLR_BROADCAST | VMOLR_GROUPS | VMOLR_STRIP_CRC | VMOLR_LONG | longest;
        Pools {
            addresses: BTreeMap::new(),
            vlans: BTreeMap::new(),
            enabled: own,
            receives,
            inserts: [0; MOST + 1],
            checked: 0,
        }
    }

    pub(super) fn address(&mut self, mac: [u8; 6], pools: u32) {
        *self.addresses.entry(mac).or_default() |= pools;
    }

    pub(super) fn vlan(&mut self, vlan: u16, pools: u32) {
        *self.vlans.entry(vlan).or_default() |= pools;
    }

    /// What is done to frames that a function sends.
    pub(super) fn insert(&mut self, number: usize, vlan: Option<(u16, u8)>, spoof_check: bool) {
        if let Some((vlan, priority)) = vlan {
            self.inserts[number] = VMVIR_ALWAYS | u32::from(priority) << 13 | u32::from(vlan);
            self.checked |= DTXSWC_CHECK_VLAN << number;
        }
        if spoof_check {
            self.checked |= DTXSWC_CHECK_ADDRESS << number;
        }
    }

    /// Has a function receive and send. One in a VLAN of its own receives nothing else, and without the tag.
    pub(super) fn enable(&mut self, number: usize, longest: u32, groups: bool, in_vlan: bool) {
        let of_vlan = if in_vlan { VMOLR_STRIP_TAG } else { VMOLR_UNTAGGED };
        let groups = if groups { VMOLR_GROUPS } else { 0 };
        self.enabled |= 1 << number;
        self.receives[number] = VMOLR_BROADCAST | VMOLR_STRIP_CRC | VMOLR_LONG | longest | of_vlan | groups;
    }

    /// Writes the tables.
    pub(super) fn write(&self, bar: &Bar) {
        let mut addresses = self.addresses.iter();
        for place in 0..24 {
            let (mac, pools) = addresses.next().map_or(([0; 6], 0), |(mac, pools)| (*mac, *pools));
            let [a, b, c, d, e, f] = mac;
            let valid = if pools == 0 { 0 } else { RAH_VALID | pools << RAH_POOLS };
            let low = if place < 16 { RAL + 8 * place } else { RAL_16 + 8 * (place - 16) };
            bar.write32(low, u32::from_le_bytes([a, b, c, d]));
            bar.write32(low + 4, u32::from_le_bytes([e, f, 0, 0]) | valid);
        }
        let mut vlans = self.vlans.iter();
        for place in 0..32 {
            let entry = vlans.next().map(|(vlan, pools)| VLVF_VALID | pools << VLVF_POOLS | u32::from(*vlan));
            bar.write32(VLVF + 4 * place, entry.unwrap_or_default());
        }
        for number in 0..=MOST {
            bar.write32(VMOLR + 4 * number, self.receives[number]);
            bar.write32(VMVIR + 4 * number, self.inserts[number]);
        }
        bar.write32(DTXSWC, DTXSWC_LOOPBACK | self.checked);
        bar.write32(VFRE, self.enabled);
        bar.write32(VFTE, self.enabled);
    }
}

/// What does not change while there are virtual functions, right after a reset.
pub(super) fn prepare(bar: &Bar) {
    bar.write32(MRQC, MRQC_POOLS);
    bar.write32(VT_CTL, (OWN_POOL as u32) << VT_CTL_DEFAULT | VT_CTL_REPLICATE);
    // A pool without buffers drops, and none waits for it.
    bar.write32(QDE, 0xffff);
    // All groups and VLANs get as far as the pools, which tell them apart.
    for word in 0..128 {
        bar.write32(MTA + 4 * word, u32::MAX);
        bar.write32(VFTA + 4 * word, u32::MAX);
    }
}
