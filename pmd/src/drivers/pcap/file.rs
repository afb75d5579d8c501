//! The classic capture format (`pcap-savefile(5)`): a 24-byte header, then records of 16 bytes and the frame.

use std::fs;
use std::io;
use std::path::Path;

const HEADER: usize = 24;
const RECORD: usize = 16;
const MAGIC_MICRO: u32 = 0xa1b2_c3d4;
const MAGIC_NANO: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;

/// Longest frame a record may hold.
const MAX_FRAME: usize = 262_144;

/// A capture in memory.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    /// Place and length of each frame, and its time since the first.
    frames: Vec<(usize, usize, u64)>,
}

/// Why a capture cannot be used.
#[derive(thiserror::Error, Debug)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is something else.
    #[error("it is not a classic pcap file (pcapng? convert it with `editcap -F pcap`)")]
    NotPcap,
    /// Frames of another link layer.
    #[error("its link type is {0}, and only Ethernet (1) can be replayed")]
    LinkType(u32),
    /// A record that cannot be.
    #[error("record {index} at byte {at} claims a frame of {len} bytes, and {left} bytes are left")]
    Record {
        /// Number of the record, from 0.
        index: usize,
        /// Where it begins.
        at: usize,
        /// Length it claims.
        len: usize,
        /// Bytes after its header.
        left: usize,
    },
}

impl Capture {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Capture, CaptureError> {
        Capture::parse(fs::read(path)?)
    }

    /// Takes the bytes of a file. A record header cut off by the end of the file, as a killed writer leaves it, ends the
    /// capture.
    pub fn parse(bytes: Vec<u8>) -> Result<Capture, CaptureError> {
        let word = |at: usize, swapped: bool| -> Option<u32> {
            let word = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
            Some(if swapped { word.swap_bytes() } else { word })
        };
        let magic = word(0, false).ok_or(CaptureError::NotPcap)?;
        let swapped = [MAGIC_MICRO, MAGIC_NANO].contains(&magic.swap_bytes());
        let magic = if swapped { magic.swap_bytes() } else { magic };
        let unit_ns = match magic {
            MAGIC_MICRO => 1000,
            MAGIC_NANO => 1,
            _ => return Err(CaptureError::NotPcap),
        };
        let link = word(HEADER - 4, swapped).ok_or(CaptureError::NotPcap)? & 0xffff;
        if link != LINKTYPE_ETHERNET {
            return Err(CaptureError::LinkType(link));
        }
        let mut frames = Vec::new();
        let (mut at, mut first_ns) = (HEADER, None);
        while let (Some(seconds), Some(part), Some(len)) =
            (word(at, swapped), word(at + 4, swapped), word(at + 8, swapped))
        {
            let (start, len) = (at + RECORD, len as usize);
            let left = bytes.len().saturating_sub(start);
            if len > left || len > MAX_FRAME {
                return Err(CaptureError::Record { index: frames.len(), at, len, left });
            }
            let time_ns = u64::from(seconds) * 1_000_000_000 + u64::from(part) * unit_ns;
            frames.push((start, len, time_ns.saturating_sub(*first_ns.get_or_insert(time_ns))));
            at = start + len;
        }
        Ok(Capture { bytes, frames })
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frame number `index`; empty when there is no such frame.
    pub fn frame(&self, index: usize) -> &[u8] {
        self.frames.get(index).map_or(&[], |&(start, len, _)| &self.bytes[start..start + len])
    }

    /// Nanoseconds between the first frame and this one.
    pub fn offset_ns(&self, index: usize) -> u64 {
        self.frames.get(index).map_or(0, |&(_, _, ns)| ns)
    }
}

/// The header of a file with nanosecond times.
pub(super) fn header(snaplen: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC_NANO.to_le_bytes());
    header[4..6].copy_from_slice(&2u16.to_le_bytes());
    header[6..8].copy_from_slice(&4u16.to_le_bytes());
    header[16..20].copy_from_slice(&snaplen.to_le_bytes());
    header[20..].copy_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
    header
}

/// The header of a record.
pub(super) fn record(seconds: u32, nanoseconds: u32, kept: u32, len: u32) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    for (place, word) in record.chunks_exact_mut(4).zip([seconds, nanoseconds, kept, len]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    record
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(frames: &[&[u8]]) -> Vec<u8> {
        let mut bytes = header(65535).to_vec();
        for (i, frame) in frames.iter().enumerate() {
            bytes.extend(record(10 + i as u32, 5, frame.len() as u32, frame.len() as u32));
            bytes.extend_from_slice(frame);
        }
        bytes
    }

    #[test]
    fn both_byte_orders() {
        let little = file(&[&[1, 2, 3], &[4]]);
        let mut big = little.clone();
        big[..4].reverse();
        big[20..24].reverse();
        for at in [24, 28, 32, 36, 43, 47, 51, 55] {
            big[at..at + 4].reverse();
        }
        for bytes in [little, big] {
            let capture = Capture::parse(bytes).unwrap();
            assert_eq!((capture.len(), capture.frame(0), capture.frame(1)), (2, &[1, 2, 3][..], &[4][..]));
            assert_eq!(capture.offset_ns(1), 1_000_000_000);
        }
    }

    #[test]
    fn a_cut_frame_is_an_error_and_a_cut_header_the_end() {
        let bytes = file(&[&[1; 100]]);
        assert!(matches!(
            Capture::parse(bytes[..bytes.len() - 1].to_vec()),
            Err(CaptureError::Record { index: 0, len: 100, left: 99, .. })
        ));
        assert_eq!(Capture::parse(bytes[..HEADER + 5].to_vec()).unwrap().len(), 0);
        assert!(matches!(Capture::parse(vec![0; 100]), Err(CaptureError::NotPcap)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..200), good_magic: bool) {
            if good_magic && bytes.len() >= HEADER {
                bytes[..HEADER].copy_from_slice(&header(100));
            }
            if let Ok(capture) = Capture::parse(bytes) {
                for index in 0..capture.len() {
                    let _ = capture.frame(index);
                }
            }
        }
    }
}
