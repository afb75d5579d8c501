//! The limited looks against the full one.

use proptest::prelude::*;

use super::super::extract::properties::frame;
use super::*;
use crate::key::{Beside, CONNECTION_WORDS, connection};

/// What [`shallow`], [`connection`] and [`tcp_flags`] promise, for any bytes.
fn assert_agrees(head: &[u8], frame_len: usize) -> Result<(), TestCaseError> {
    let mut full = FlowKey::default();
    let layers = extract(head, frame_len, PortNo::NONE, &mut full);
    prop_assert_eq!(tcp_flags(head, frame_len), full.tcp_flags.get());
    for depth in [Depth::Port, Depth::Link] {
        let Some(seen) = shallow(head, frame_len, depth) else { continue };
        let mut limited = FlowKey::default();
        limited.words_mut()[..2].copy_from_slice(&seen.words);
        prop_assert_eq!(limited, depth.mask().apply(&full));
        prop_assert!(seen.may_be_tcp || full.tcp_flags.get() == 0);
    }
    let mut limited = FlowKey::default();
    limited.words_mut()[CONNECTION_WORDS].fill(0x5a5a_5a5a_5a5a_5a5a);
    let beside = connection(head, frame_len, &mut limited);
    prop_assert_eq!(limited, Depth::Connection.mask().apply(&full));
    prop_assert_eq!(beside, Beside { layers, tcp_flags: full.tcp_flags.get() });
    Ok(())
}

#[test]
fn usual_frames_take_a_shallow_look_only() {
    let mut frame = [0u8; 60];
    for (eth_type, byte, value, usual) in [
        (0x0800u16, 14, 0x45, true),
        (0x0800, 20, 0x40, true), // do not fragment
        (0x0800, 20, 0x20, false),
        (0x0800, 21, 1, false),
        (0x0806, 20, 0x20, true),
        (0x88b5, 20, 0x20, true),
        (0x86dd, 20, 6, true),
        (0x86dd, 20, 44, false),
        (0x8100, 14, 0, false),
        (0x88a8, 14, 0, false),
        (0x0026, 14, 0, false),
    ] {
        frame.fill(0);
        frame[12..14].copy_from_slice(&eth_type.to_be_bytes());
        frame[byte] = value;
        for depth in [Depth::Port, Depth::Link] {
            assert_eq!(shallow(&frame, 60, depth).is_some(), usual, "{eth_type:04x} {byte} {value:02x}");
            assert_eq!(shallow(&frame[..23], 60, depth), None);
            assert_eq!(shallow(&frame, 23, depth), None);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(head in prop::collection::vec(any::<u8>(), 0..100), kind in 0usize..8, frame_len in 0usize..120) {
        let mut head = head;
        let types = [0x0800u16, 0x0800, 0x86dd, 0x0806, 0x8100, 0x88b5, 0x0040];
        if let (Some(kind), Some(at)) = (types.get(kind), head.get_mut(12..14)) {
            at.copy_from_slice(&kind.to_be_bytes());
        }
        assert_agrees(&head, frame_len)?;
        assert_agrees(&head, head.len())?;
    }

    #[test]
    fn almost_valid_frames(
        frame in frame(), cut in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = frame.bytes;
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let cut = cut.index(bytes.len() + 1);
        assert_agrees(&bytes, bytes.len())?;
        assert_agrees(&bytes[..cut], bytes.len())?;
        assert_agrees(&bytes, cut)?;
    }
}
