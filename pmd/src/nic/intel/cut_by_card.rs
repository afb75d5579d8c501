//! How a played card cuts a TCP frame into segments.

use super::Cut;

/// Cuts a frame as a card does: from headers whose lengths and IPv4 checksum are zero, and whose TCP checksum is that of a pseudo-header without
/// length.
pub(super) fn cut_by_card(whole: &[u8], how: &Cut) -> Vec<Vec<u8>> {
    let Cut { l3, l4, headers, size, is_v6 } = *how;
    let [l3, l4, headers] = [l3, l4, headers].map(usize::from);
    let (head, payload) = whole.split_at(headers);
    let be16 = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let length_at = l3 + if is_v6 { 4 } else { 2 };
    assert_eq!(be16(head, length_at), 0, "the length in the IP header is the card's to write");
    assert!(is_v6 || be16(head, l3 + 10) == 0, "so is the sum over it");
    let sum = |bytes: &[u8], more: u32| {
        let words =
            bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
        let mut sum = more + words.sum::<u32>();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    };
    let mut segments = Vec::new();
    for (i, piece) in payload.chunks(size.into()).enumerate() {
        let mut bytes = [head, piece].concat();
        let (len, skip) = (bytes.len(), i * usize::from(size));
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let network = if is_v6 { l3 + 40 } else { l3 };
        put(length_at, &((len - network) as u16).to_be_bytes());
        if !is_v6 {
            put(l3 + 4, &be16(head, l3 + 4).wrapping_add(i as u16).to_be_bytes());
        }
        let sequence = u32::from_be_bytes(head[l4 + 4..l4 + 8].try_into().unwrap());
        put(l4 + 4, &sequence.wrapping_add(skip as u32).to_be_bytes());
        if skip + piece.len() < payload.len() {
            // FIN and PSH belong to the last.
            put(l4 + 13, &[head[l4 + 13] & !0x09]);
        }
        if !is_v6 {
            let ip = sum(&bytes[l3..l4], 0);
            bytes[l3 + 10..l3 + 12].copy_from_slice(&ip.to_be_bytes());
        }
        let tcp = sum(&bytes[l4..], (len - l4) as u32);
        bytes[l4 + 16..l4 + 18].copy_from_slice(&tcp.to_be_bytes());
        segments.push(bytes);
    }
    segments
}
