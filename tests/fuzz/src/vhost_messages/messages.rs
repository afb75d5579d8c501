//! The story that an input tells: messages in their usual form where its bytes are zero, and ever odder ones.

use super::super::input::Input;
use super::guest::*;
use super::{FEATURES, PROTOCOL};

pub(super) const NEED_REPLY: u8 = 0x40;
pub(super) const WILD: u8 = 0x80;
/// Codes of no message: the connection breaks and the same front-end comes again; and the rest comes a moment later, when the port has
/// had time to look up.
pub(super) const RECONNECT: u8 = 0x3f;
pub(super) const LATER: u8 = 0x3e;

/// What happens next.
pub(super) enum Step {
    /// A message: its bytes, and kinds of descriptors to send along.
    Message(Vec<u8>, Vec<u8>),
    Reconnect,
    Later,
}

/// The next step.
///
/// The first byte is the request, with a bit that asks for a reply and one for a wild message, whose header and body are
/// as the input says. Other messages have the right size, and values that a zero byte makes the usual ones.
pub(super) fn step(input: &mut Input<'_>) -> Step {
    let first = input.u8();
    let code = u32::from(first & 0x3f);
    if first & WILD != 0 {
        let (flags, size) = (input.u32(), input.u16());
        let count = usize::from(input.u8() % 10);
        let body = input.bytes(usize::from(size % 512)).to_vec();
        let bytes = [code.to_le_bytes(), flags.to_le_bytes(), u32::from(size).to_le_bytes()].concat();
        return Step::Message([bytes, body].concat(), input.bytes(count).to_vec());
    }
    match first & 0x3f {
        RECONNECT => return Step::Reconnect,
        LATER => return Step::Later,
        _ => {}
    }
    let (body, kinds) = body(code, input);
    let flags = 1 | u32::from(first & NEED_REPLY != 0) << 3;
    let header = [code, flags, body.len() as u32].map(u32::to_le_bytes).concat();
    Step::Message([header, body].concat(), kinds)
}

/// Descriptors of a message that wants `count` of a kind: those, none, or any number of any.
fn descriptors(input: &mut Input<'_>, usual: u8, count: usize) -> Vec<u8> {
    match input.u8() {
        0 => vec![usual; count],
        10 => Vec::new(),
        n => (0..n % 10).map(|_| input.u8()).collect(),
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The body of SET_MEM_TABLE. An empty one is the acknowledgement of a front-end whose guest's memory arrives late.
fn memory_table(input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let count = input.u8() % 9;
    let regions: Vec<u64> = (0..count).flat_map(|_| region(input)).collect();
    let kinds = if count == 0 { Vec::new() } else { descriptors(input, MEMORY_FILE, usize::from(count)) };
    ([words(&[u64::from(count)]), words(&regions)].concat(), kinds)
}

fn body(code: u32, input: &mut Input<'_>) -> (Vec<u8>, Vec<u8>) {
    let state = |index: u8, value: u32| u64::from(index) | u64::from(value) << 32;
    let or_wild = |input: &mut Input<'_>, usual: u64| if input.u8() == 0 { usual } else { input.u64() };
    match code {
        1 | 3 | 4 | 15 | 17 | 28 | 29 | 30 | 34 | 36 | 40 | 43 => (Vec::new(), Vec::new()),
        2 => (words(&[or_wild(input, FEATURES)]), Vec::new()),
        16 => (words(&[or_wild(input, PROTOCOL)]), Vec::new()),
        5 => memory_table(input),
        6 => (words(&[or_wild(input, 0x1000), or_wild(input, 0)]), descriptors(input, RECORD_FILE, 1)),
        31 | 32 => {
            let (rings, entries) = (u64::from(input.u8() % 8), u64::from(input.u8()));
            let (rings, entries) =
                (if rings == 0 { 4 } else { rings }, if entries == 0 { 8 } else { entries });
            let shape = or_wild(input, rings | entries << 16);
            let body = words(&[or_wild(input, 0x1000), or_wild(input, 0), shape]);
            (body, if code == 32 { descriptors(input, RECORD_FILE, 1) } else { Vec::new() })
        }
        37 | 38 => {
            let body = words(&[&[0], &region(input)[..]].concat());
            (body, descriptors(input, MEMORY_FILE, usize::from(code == 37)))
        }
        8 => {
            let index = input.u8();
            let size = match input.u8() {
                0 => u32::from(RING_SIZE),
                n if n < 17 => 1 << n,
                _ => input.u32(),
            };
            (words(&[state(index, size)]), Vec::new())
        }
        9 => {
            let index = input.u8();
            let base = UVA + u64::from(index) * RING_AREA;
            let addresses =
                if input.u8() == 0 { [base, base + USED, base + AVAIL] } else { [0; 3].map(|_| input.u64()) };
            (words(&[&[u64::from(index)], &addresses[..], &[0]].concat()), Vec::new())
        }
        10 => (words(&[state(input.u8(), u32::from(input.u16()))]), Vec::new()),
        11 => (words(&[state(input.u8(), 0)]), Vec::new()),
        12..=14 => {
            let (index, kind) = (input.u8(), input.u8());
            // Without a descriptor, and saying so.
            if kind == KINDS {
                (words(&[u64::from(index) | 0x100]), Vec::new())
            } else {
                (words(&[index.into()]), vec![kind])
            }
        }
        18 => (words(&[state(input.u8(), u32::from(input.u8()))]), Vec::new()),
        7 => (Vec::new(), descriptors(input, EVENT, 1)),
        19 => (words(&[input.u64()]), Vec::new()),
        21 => (Vec::new(), descriptors(input, CHANNEL, 1)),
        22 => (translation(input), Vec::new()),
        24 | 25 => {
            let (offset, size) = (u32::from(input.u16()), input.u8());
            let header = [offset, size.into(), 0].map(u32::to_le_bytes).concat();
            ([header, vec![input.u8(); size.into()]].concat(), Vec::new())
        }
        42 => (words(&[u64::from(input.u8() % 2)]), descriptors(input, PIPE, 1)),
        20 | 39 => (words(&[u64::from(input.u16())]), Vec::new()),
        _ => {
            let len = usize::from(input.u8() % 64);
            (input.bytes(len).to_vec(), Vec::new())
        }
    }
}

/// An IOTLB message: one of the regions where rings expect it, or where descriptors do, or anything.
fn translation(input: &mut Input<'_>) -> Vec<u8> {
    let words = match input.u8() {
        n if n < 8 => {
            let at = u64::from(n % 4) * REGION;
            [if n < 4 { UVA + at } else { at }, REGION, UVA + at]
        }
        8 => [0, u64::MAX, 0],
        _ => [0; 3].map(|_| input.u64()),
    };
    let or = |input: &mut Input<'_>, usual: u8| if let n @ 1.. = input.u8() { n } else { usual };
    let (access, kind) = (or(input, 3), or(input, 2));
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    [words, vec![access, kind, 0, 0, 0, 0, 0, 0]].concat()
}

/// Guest address, length, front-end address and file offset of one of the usual regions, or of any.
fn region(input: &mut Input<'_>) -> [u64; 4] {
    match input.u8() {
        n if n < 4 => {
            let at = u64::from(n) * REGION;
            [at, REGION, UVA + at, at]
        }
        _ => [0; 4].map(|_| input.u64()),
    }
}
