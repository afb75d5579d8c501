//! What a PCIe link can carry.
//!
//! Every transfer over PCIe is a packet (TLP) of its own: framing and sequence number 4 bytes, header 12 or 16, check 4,
//! and the acknowledgements of the other direction on the same wires. So small frames are bound by the number of TLPs, and
//! descriptors count: moved one at a time they cost more than the frame. `docs/PERFORMANCE.md` does the sum.
//!
//! Source: PCI Express Base Specification 4.0, sections 2.2 (TLPs), 3.6 (DLLPs), 4.2 (encoding).

/// Speed and width of a link.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PcieLink {
    /// Transfers per second and lane, in units of 10^9.
    pub gigatransfers: f64,
    /// Lanes.
    pub lanes: u32,
}

/// Bytes of a TLP beside its data: framing and sequence number, header with a 64-bit address, check.
const TLP_WITH_ADDRESS: f64 = 24.0;
/// The same for a completion, whose header has no address.
const COMPLETION: f64 = 20.0;
/// Descriptors that travel together: a cache line of four.
const DESCRIPTORS_PER_LINE: f64 = 4.0;
/// Packets per doorbell at full bursts.
const PACKETS_PER_DOORBELL: f64 = 32.0;
/// Part of the link left by acknowledgements and flow control.
const AFTER_DLLPS: f64 = 0.95;

impl PcieLink {
    /// Reads the kernel's `current_link_speed` (`8.0 GT/s PCIe`) and `current_link_width`. `None` for a link that says nothing,
    /// as those of emulated devices do.
    pub fn from_texts(speed: &str, width: &str) -> Option<PcieLink> {
        let gigatransfers = speed.split_whitespace().next()?.parse().ok().filter(|&gt: &f64| gt > 0.0)?;
        let lanes = width.trim().parse().ok().filter(|&lanes| lanes > 0)?;
        Some(PcieLink { gigatransfers, lanes })
    }

    /// Bytes per second and direction, after line coding and link management.
    pub fn bytes_per_second(&self) -> f64 {
        // 8b/10b up to 5 GT/s, 128b/130b above.
        let coding = if self.gigatransfers <= 5.0 { 0.8 } else { 128.0 / 130.0 };
        self.gigatransfers * 1e9 / 8.0 * f64::from(self.lanes) * coding * AFTER_DLLPS
    }

    /// Frames of `frame` bytes that can be received and sent again per second.
    pub fn forwarded_per_second(&self, frame: f64) -> f64 {
        let line = 64.0;
        let descriptor = |overhead: f64| (line + overhead) / DESCRIPTORS_PER_LINE;
        let request = TLP_WITH_ADDRESS / DESCRIPTORS_PER_LINE;
        // Towards memory: the frame and its used descriptor are written; of the frame to send, descriptor and data are asked for, and
        // its descriptor is written back.
        let receive = frame + TLP_WITH_ADDRESS + descriptor(TLP_WITH_ADDRESS) + request;
        let send = TLP_WITH_ADDRESS + request + descriptor(TLP_WITH_ADDRESS);
        // Towards the device: fresh descriptors of both rings, the data of the frame to send, two doorbells.
        let doorbell = (4.0 + TLP_WITH_ADDRESS) / PACKETS_PER_DOORBELL;
        let down = 2.0 * descriptor(COMPLETION) + frame + COMPLETION + 2.0 * doorbell;
        self.bytes_per_second() / (receive + send).max(down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_as_the_kernel_writes_them() {
        let link = PcieLink::from_texts("8.0 GT/s PCIe", "8\n").unwrap();
        assert_eq!(link, PcieLink { gigatransfers: 8.0, lanes: 8 });
        assert!(PcieLink::from_texts("Unknown", "0").is_none());
        assert!(PcieLink::from_texts("2.5 GT/s PCIe", "0").is_none());
    }

    #[test]
    fn small_frames_are_bound_by_their_number() {
        let link = PcieLink { gigatransfers: 8.0, lanes: 8 };
        let gbytes = link.bytes_per_second() / 1e9;
        assert!((7.4..7.6).contains(&gbytes), "{gbytes}");
        let small = link.forwarded_per_second(64.0);
        // 64+24 + 22 + 6 to receive, 24 + 6 + 22 to send: 168 bytes towards memory.
        assert_eq!(small.round(), (link.bytes_per_second() / 168.0).round());
        assert!(link.forwarded_per_second(1518.0) < small / 8.0);
    }
}
