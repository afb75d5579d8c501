//! What the operator lets a port's far side do, and what was done here instead.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use crate::offload::Takes;
use crate::packet::OffloadCaps;

/// Offloads that may be left to the far side of a port. What is off is done in software, whatever the far side can do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Offloads {
    /// Checksums, and with them every segmentation: each piece needs a checksum.
    pub csum: bool,
    /// TCP segmentation.
    pub tso: bool,
    /// UDP segmentation into datagrams.
    pub uso: bool,
    /// UDP fragmentation.
    pub ufo: bool,
}

/// What a transmit queue may send, as the operator set it.
#[derive(Clone, Copy, Debug)]
pub struct TxLimits {
    /// What of the far side's offloads is wanted.
    pub offloads: Offloads,
    /// Longest frame, link header included, that the far side does not cut.
    pub max_frame: usize,
}

impl TxLimits {
    /// What goes as it is to a far side that can do `caps`: nothing beyond short frames while that is not known ([`OffloadCaps::default`]).
    pub fn takes(self, caps: OffloadCaps) -> Takes {
        Takes { caps: self.offloads.limit(caps), max_frame: self.max_frame }
    }
}

impl Default for Offloads {
    fn default() -> Self {
        Offloads { csum: true, tso: true, uso: true, ufo: true }
    }
}

impl Offloads {
    /// What is left of the abilities of a far side.
    pub fn limit(self, caps: OffloadCaps) -> OffloadCaps {
        let csum = caps.csum && self.csum;
        let tso = csum && self.tso;
        OffloadCaps {
            csum,
            tso4: caps.tso4 && tso,
            tso6: caps.tso6 && tso,
            ecn: caps.ecn && tso,
            // A frame to be fragmented may come with a complete checksum, but the setting is meant for all.
            ufo: caps.ufo && csum && self.ufo,
            uso: caps.uso && csum && self.uso,
        }
    }
}

/// [`Offloads`] that transmit queues read while they are changed. They take effect with the next burst.
#[derive(Debug)]
pub struct OffloadSwitches(AtomicU8);

const CSUM: u8 = 1;
const TSO: u8 = 2;
const USO: u8 = 4;
const UFO: u8 = 8;

impl Default for OffloadSwitches {
    fn default() -> Self {
        OffloadSwitches(AtomicU8::new(CSUM | TSO | USO | UFO))
    }
}

impl OffloadSwitches {
    /// What is on.
    #[inline]
    pub fn get(&self) -> Offloads {
        let bits = self.0.load(Relaxed);
        let has = |bit| bits & bit != 0;
        Offloads { csum: has(CSUM), tso: has(TSO), uso: has(USO), ufo: has(UFO) }
    }

    /// Changes what is on.
    pub fn set(&self, offloads: Offloads) {
        let when = |on, bit| if on { bit } else { 0 };
        let Offloads { csum, tso, uso, ufo } = offloads;
        self.0.store(when(csum, CSUM) | when(tso, TSO) | when(uso, USO) | when(ufo, UFO), Relaxed);
    }
}

/// What is left to the far side, as a port tells it in [`super::PortInfo::status`]. The names that Open vSwitch has are its own.
pub fn offload_status(caps: OffloadCaps) -> impl Iterator<Item = (String, String)> {
    let said = [
        ("tx_tcp_csum_offload", caps.csum),
        ("tx_udp_csum_offload", caps.csum),
        ("tx_tcp_seg_offload", caps.tso4 || caps.tso6),
        ("tx_udp_seg_offload", caps.uso),
        ("tx_udp_frag_offload", caps.ufo),
    ];
    said.into_iter().map(|(key, is_on)| (key.to_owned(), is_on.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_keep_what_is_set() {
        let switches = OffloadSwitches::default();
        assert_eq!(switches.get(), Offloads::default());
        for bits in 0..16u8 {
            let on = |bit: u8| bits >> bit & 1 == 1;
            let offloads = Offloads { csum: on(0), tso: on(1), uso: on(2), ufo: on(3) };
            switches.set(offloads);
            assert_eq!(switches.get(), offloads);
        }
    }

    #[test]
    fn without_checksums_nothing_is_left_to_the_far_side() {
        let all = OffloadCaps { csum: true, tso4: true, tso6: true, ecn: true, ufo: true, uso: true };
        assert_eq!(Offloads::default().limit(all), all);
        assert_eq!(Offloads { csum: false, ..Offloads::default() }.limit(all), OffloadCaps::default());
        let without = OffloadCaps { tso4: false, tso6: false, ecn: false, ..all };
        assert_eq!(Offloads { tso: false, ..Offloads::default() }.limit(all), without);
        assert_eq!(Offloads::default().limit(without), without);
    }
}
