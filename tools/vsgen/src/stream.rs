//! What one direction sends: the text of `--ab` and `--ba`, read and checked.

use crate::flows::{MAX_FLOWS, MAX_NETS};
use crate::frame::{self, Protocol};

/// Frames larger than this are GSO frames, or jumbo frames when no offload is negotiated.
const LARGEST_PLAIN: u32 = 1518;
/// The largest frame without offloads.
const LARGEST_JUMBO: u32 = 9018;
/// The largest frame: an IPv4 packet of 65535 bytes, Ethernet header and FCS.
const LARGEST: u32 = 65_535 + 18;

/// When the next frame goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    /// One for each that came back.
    Closed,
    /// Whenever there is room.
    Max,
    /// Frames a second.
    Paced(u64),
}

/// One direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Bytes on the wire, FCS included.
    pub(crate) size: u32,
    /// Flows that take turns.
    pub(crate) flows: u32,
    /// Destination networks.
    pub(crate) nets: u32,
    /// What is above IP.
    pub(crate) protocol: Protocol,
    /// When to send.
    pub(crate) rate: Rate,
    /// Frames in flight in a closed loop.
    pub(crate) window: u32,
    /// Every frame is a flow of its own.
    pub(crate) new: bool,
    /// Frames carry the time.
    pub(crate) latency: bool,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            size: 64,
            flows: 1,
            nets: 1,
            protocol: Protocol::Udp,
            rate: Rate::Closed,
            window: 256,
            new: false,
            latency: false,
        }
    }
}

impl Stream {
    /// Reads a stream; `offload` says whether GSO frames may be sent.
    ///
    /// The error says which word is wrong and what would be right.
    pub(crate) fn parse(text: &str, offload: bool) -> Result<Self, String> {
        let mut stream = Self::default();
        let (mut seen, mut latency, mut new) = (Vec::new(), None, None);
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (key, value) =
                word.split_once('=').ok_or_else(|| format!("{word:?}: a stream is made of key=value"))?;
            if seen.contains(&key) {
                return Err(format!("{key} is given twice"));
            }
            seen.push(key);
            let within = |from: u64, to: u64| {
                count(value)
                    .filter(|n| (from..=to).contains(n))
                    .map(|n| n as u32)
                    .ok_or_else(|| format!("{key}={value}: a number from {from} to {to} is wanted"))
            };
            match key {
                "size" => stream.size = within(64, u64::from(LARGEST))?,
                "flows" => stream.flows = within(1, u64::from(MAX_FLOWS))?,
                "dst-nets" => stream.nets = within(1, u64::from(MAX_NETS))?,
                "window" => stream.window = within(1, 65_536)?,
                "proto" => {
                    stream.protocol = match value {
                        "udp" => Protocol::Udp,
                        "tcp" => Protocol::Tcp,
                        _ => return Err(format!("proto={value}: udp or tcp is wanted")),
                    }
                }
                "rate" => stream.rate = rate(value)?,
                "new" => new = Some(frames_per_second("new", value)?),
                "latency" => {
                    latency = Some(match value {
                        "yes" => true,
                        "no" => false,
                        _ => return Err(format!("latency={value}: yes or no is wanted")),
                    });
                }
                _ => {
                    return Err(format!(
                        "{key}: there is no such key; there are size, flows, dst-nets, proto, rate, window, new and latency"
                    ));
                }
            }
        }
        if let Some(rate) = new {
            for other in ["rate", "flows"] {
                if seen.contains(&other) {
                    return Err(format!(
                        "new and {other} exclude each other: new is a rate, of flows used once"
                    ));
                }
            }
            (stream.new, stream.rate) = (true, Rate::Paced(rate));
        }
        if seen.contains(&"window") && stream.rate != Rate::Closed {
            return Err("window is for rate=closed: other rates do not wait for frames to come back".into());
        }
        stream.latency = latency.unwrap_or(matches!(stream.rate, Rate::Paced(_)));
        stream.check_size(offload)?;
        Ok(stream)
    }

    fn check_size(&self, offload: bool) -> Result<(), String> {
        let least = frame::least_size(self.protocol);
        let size = self.size;
        if size < least {
            return Err(format!(
                "size={size}: a TCP frame with the generator's stamp has at least {least} bytes"
            ));
        }
        if size > LARGEST_PLAIN && offload && self.protocol == Protocol::Udp {
            return Err(format!("size={size}: a GSO frame (above {LARGEST_PLAIN}) needs proto=tcp"));
        }
        if size > LARGEST_JUMBO && !offload {
            return Err(format!("size={size}: a frame above {LARGEST_JUMBO} needs --offload tso"));
        }
        Ok(())
    }

    /// Bytes of the frame in memory: without FCS.
    pub(crate) fn frame_len(&self) -> usize {
        self.size as usize - 4
    }

    /// Whether the frame is one that the far end, or a NIC, would cut.
    pub(crate) fn gso(&self, offload: bool) -> bool {
        offload && self.size > LARGEST_PLAIN
    }
}

fn rate(value: &str) -> Result<Rate, String> {
    match value {
        "closed" => Ok(Rate::Closed),
        "max" => Ok(Rate::Max),
        _ => frames_per_second("rate", value).map(Rate::Paced),
    }
}

fn frames_per_second(key: &str, value: &str) -> Result<u64, String> {
    count(value).filter(|n| (1..=1_000_000_000).contains(n)).ok_or_else(|| {
        let words = if key == "rate" { "closed, max, or " } else { "" };
        format!("{key}={value}: {words}a number a second is wanted, like 1000, 300k or 2.5M")
    })
}

/// A whole number, written with a decimal point and `k` or `M` if that is shorter.
fn count(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'k' => (&text[..text.len() - 1], 1_000.0),
        b'M' => (&text[..text.len() - 1], 1_000_000.0),
        _ => (text, 1.0),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value = digits.parse::<f64>().ok().filter(|_| plain)? * unit;
    // Whole but for what binary fractions of a decimal one leave.
    let near = (value - value.round()).abs() < 1e-6;
    (near && value < 1e15).then(|| value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let stream = Stream::parse("", false).unwrap();
        assert_eq!(stream, Stream::default());
        assert_eq!(stream.frame_len(), 60);
    }

    #[test]
    fn every_key() {
        let text = "size=1518,flows=100k,dst-nets=16,proto=tcp,rate=2.5M,latency=no";
        let expected = Stream {
            size: 1518,
            flows: 100_000,
            nets: 16,
            protocol: Protocol::Tcp,
            rate: Rate::Paced(2_500_000),
            ..Stream::default()
        };
        assert_eq!(Stream::parse(text, false), Ok(expected));
        let stream = Stream::parse("rate=closed,window=64,latency=yes", false).unwrap();
        assert_eq!((stream.window, stream.latency), (64, true));
        assert_eq!(Stream::parse("rate=max", false).unwrap().rate, Rate::Max);
    }

    #[test]
    fn paced_streams_measure_latency_unless_told_not_to() {
        for (text, expected) in [("rate=1000", true), ("rate=1000,latency=no", false), ("rate=max", false)] {
            assert_eq!(Stream::parse(text, false).unwrap().latency, expected, "{text}");
        }
        let stream = Stream::parse("new=50k", false).unwrap();
        assert_eq!((stream.new, stream.rate, stream.latency), (true, Rate::Paced(50_000), true));
    }

    #[test]
    fn large_frames_are_gso_frames() {
        let stream = Stream::parse("size=65553,proto=tcp", true).unwrap();
        assert!(stream.gso(true));
        assert!(!Stream::parse("size=9000", false).unwrap().gso(false));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, offload, words) in [
            ("size", false, "\"size\": a stream is made of key=value"),
            ("size=63", false, "size=63: a number from 64 to 65553"),
            ("size=-1", false, "size=-1: a number from 64"),
            ("size=64,size=64", false, "size is given twice"),
            ("flows=0", false, "flows=0: a number from 1"),
            ("flows=17M", false, "flows=17M"),
            ("dst-nets=257", false, "from 1 to 256"),
            ("proto=sctp", false, "udp or tcp"),
            ("rate=fast", false, "rate=fast: closed, max, or a number a second"),
            ("rate=0", false, "rate=0"),
            ("rate=1e6", false, "rate=1e6"),
            ("rate=1.0005k", false, "rate=1.0005k"),
            ("new=x", false, "new=x: a number a second"),
            ("new=1k,rate=1k", false, "new and rate exclude each other"),
            ("new=1k,flows=5", false, "new and flows exclude each other"),
            ("rate=max,window=5", false, "window is for rate=closed"),
            ("latency=1", false, "yes or no"),
            ("colour=red", false, "colour: there is no such key"),
            ("size=64,proto=tcp", false, "at least 76"),
            ("size=9019,proto=tcp", false, "needs --offload tso"),
            ("size=1519", true, "needs proto=tcp"),
        ] {
            let error = Stream::parse(text, offload).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
