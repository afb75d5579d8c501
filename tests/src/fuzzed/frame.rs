//! Frames to keys, keys to text and back.

use flowtable::key::{Field, FlowKey, FlowMask, FlowMatch, KEY_WORDS, PortNo, extract};
use flowtable::text::{PortNumbers, datapath, openflow};

/// Longest head a worker extracts from.
const HEAD: usize = 256;

/// Extracts a key from `data`; the first two bytes say how much longer than its head the frame claims to be.
///
/// Invariants: header offsets lie inside the head; bytes beyond the head do not matter; a match on any set of fields of
/// the key, printed, reads back as the same match; text from anywhere is refused or understood, never a panic.
pub fn frame_to_key(data: &[u8]) {
    let Some((claim, bytes)) = data.split_first_chunk::<2>() else { return };
    let head = bytes.get(..bytes.len().min(HEAD)).unwrap_or_default();
    let length = head.len() + usize::from(u16::from_le_bytes(*claim) >> 4);

    let mut key = FlowKey::default();
    let layers = extract(head, length, PortNo(7), &mut key);
    for offset in [layers.l3(), layers.l4()].into_iter().flatten() {
        assert!(offset <= head.len(), "header at {offset} of a head of {}", head.len());
    }
    // What was in the key before must not show through.
    let mut dirty = FlowKey::default();
    *dirty.words_mut() = [u64::MAX; KEY_WORDS];
    extract(head, length, PortNo(7), &mut dirty);
    assert_eq!(key.words(), dirty.words(), "extraction depends on what the key held before");

    // Everything the packet has, exactly. Fields it cannot have are not printed, so they must not be asked for: a mask
    // of the fields with a value is the largest that any packet of the kind can have.
    let mut exact = FlowMask::default();
    for spec in flowtable::key::FIELDS {
        let field: Field = spec.field;
        if field.get(&key) != 0 {
            field.set_mask(&mut exact, field.ones());
        }
    }
    let wanted = FlowMatch::new(key, exact);
    assert!(wanted.matches(&key));
    let text = datapath::format_match(&wanted, &PortNumbers);
    // A frame may say one thing in two places (an LLC frame has no fields above its type, a VLAN tag with a type that is
    // none); whatever the printed form is, it must be readable, and printing it again must change nothing.
    let Ok(read) = datapath::parse_match(&text, &PortNumbers) else {
        panic!("printed but not readable: {text}");
    };
    assert_eq!(datapath::format_match(&read, &PortNumbers), text, "printing is not stable");

    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = datapath::parse_actions(text, &PortNumbers);
        if let Ok(read) = datapath::parse_match(text, &PortNumbers) {
            let printed = datapath::format_match(&read, &PortNumbers);
            assert!(
                datapath::parse_match(&printed, &PortNumbers).is_ok(),
                "{text} prints as unreadable {printed}"
            );
        }
        if let Ok(rule) = openflow::parse_flow(text, &PortNumbers, 0) {
            let printed = openflow::format_rule(&rule, &PortNumbers);
            assert!(
                openflow::parse_flow(&printed, &PortNumbers, 0).is_ok(),
                "{text} prints as unreadable {printed}"
            );
        }
        let _ = openflow::parse_flow_match(text, &PortNumbers, false);
    }
}
