//! Records: framing, checksums, and telling a torn tail from damage.

use serde_json::Value;
use sha1::{Digest, Sha1};

const MAGIC: &[u8] = b"OVSDB JSON ";
/// Magic, a 20-digit length, a space, 40 hex digits, a newline.
const LONGEST_HEADER: usize = MAGIC.len() + 20 + 1 + 40 + 1;

/// What a file says, up to the first thing that makes no sense.
#[derive(Debug, Default)]
pub struct Replay {
    /// The JSON of each whole record in order.
    pub records: Vec<Value>,
    /// How many bytes those records are.
    pub good: usize,
    /// Why reading stopped before the end, if it did.
    pub damage: Option<Damage>,
}

/// How the file goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// The last record was not written to its end: the mark of a killed writer. Nothing else is lost.
    TornTail,
    /// Something else; what follows may be lost transactions.
    Corrupt,
}

/// Where and how the file goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Torn or corrupt.
    pub kind: DamageKind,
    /// What is wrong, in words.
    pub what: String,
}

/// One record as bytes.
pub fn encode(json: &Value) -> Vec<u8> {
    let body = format!("{json}\n");
    let mut bytes =
        format!("OVSDB JSON {} {}\n", body.len(), hex(&Sha1::digest(body.as_bytes()))).into_bytes();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a file's records. Never fails: what cannot be read is the result's `damage`.
pub fn replay(file: &[u8]) -> Replay {
    let mut replay = Replay::default();
    while let Some(rest) = file.get(replay.good..).filter(|rest| !rest.is_empty()) {
        match next(rest) {
            Ok((json, used)) => {
                replay.records.push(json);
                replay.good += used;
            }
            Err(damage) => {
                replay.damage = Some(damage);
                break;
            }
        }
    }
    replay
}

fn torn(what: &str) -> Damage {
    Damage { kind: DamageKind::TornTail, what: what.to_owned() }
}

fn corrupt(what: impl Into<String>) -> Damage {
    Damage { kind: DamageKind::Corrupt, what: what.into() }
}

/// The record at the start of `bytes` and its size.
fn next(bytes: &[u8]) -> Result<(Value, usize), Damage> {
    let window = bytes.get(..LONGEST_HEADER).unwrap_or(bytes);
    let Some(line_end) = window.iter().position(|&byte| byte == b'\n') else {
        let starts_right = MAGIC.iter().zip(bytes).all(|(a, b)| a == b);
        let unfinished = bytes.len() < LONGEST_HEADER && starts_right;
        // A crash of the machine may leave a file grown but not filled.
        if unfinished || bytes.iter().all(|&byte| byte == 0) {
            return Err(torn("the last record's header is incomplete"));
        }
        return Err(corrupt("no record header"));
    };
    let header = window.get(..line_end).unwrap_or_default();
    let (length, digest) =
        parse_header(header).ok_or_else(|| corrupt("a record header is not understood"))?;
    let start = line_end + 1;
    let available = bytes.len() - start;
    let Some(body) = start.checked_add(length).and_then(|end| bytes.get(start..end)) else {
        return Err(torn(&format!("the last record has {available} of {length} bytes")));
    };
    if hex(&Sha1::digest(body)) != digest {
        let what = "a record's checksum does not match";
        return Err(if available == length { torn(what) } else { corrupt(what) });
    }
    let json =
        serde_json::from_slice(body).map_err(|fault| corrupt(format!("a record is not JSON: {fault}")))?;
    Ok((json, start + length))
}

fn parse_header(header: &[u8]) -> Option<(usize, &str)> {
    let text = std::str::from_utf8(header.strip_prefix(MAGIC)?).ok()?;
    let (length, digest) = text.split_once(' ')?;
    let valid = digest.len() == 40 && !length.starts_with('+');
    Some((length.parse().ok().filter(|_| valid)?, digest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn three() -> (Vec<u8>, Vec<Value>, Vec<usize>) {
        let records = vec![json!({"name": "db"}), json!({"T": {"x": null}}), json!({"_date": 3})];
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for record in &records {
            bytes.extend(encode(record));
            ends.push(bytes.len());
        }
        (bytes, records, ends)
    }

    #[test]
    fn a_cut_anywhere_keeps_every_whole_record() {
        let (bytes, records, ends) = three();
        for cut in 0..=bytes.len() {
            let replay = replay(&bytes[..cut]);
            let whole = ends.iter().rposition(|&end| end <= cut).unwrap();
            assert_eq!(replay.records, records[..whole], "cut at {cut}");
            assert_eq!(replay.good, ends[whole]);
            match replay.damage {
                None => assert!(ends.contains(&cut)),
                Some(damage) => assert_eq!(damage.kind, DamageKind::TornTail, "cut at {cut}: {damage:?}"),
            }
        }
    }

    #[test]
    fn a_flipped_byte_never_changes_what_is_read_before_it() {
        let (bytes, records, ends) = three();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x20;
            let replay = replay(&bad);
            let before = ends.iter().rposition(|&end| end <= at).unwrap();
            assert!(replay.records.len() >= before);
            assert_eq!(replay.records[..before], records[..before]);
            // Hex digits of the checksum are compared as written, so no flip passes for good.
            assert!(replay.damage.is_some(), "flip at {at} unnoticed");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let replay = replay(&bytes);
            prop_assert!(replay.good <= bytes.len());
        }
    }
}
