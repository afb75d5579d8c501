//! Boundary: frames. Any guest and any wire may send any bytes.
//!
//! Property: key extraction and header changes survive every frame and every length, and
//! - bytes beyond the frame's end do not matter; a shorter head only loses headers, it never invents or changes one;
//! - what a limited look sees is what the full one sees, as far as its depth goes;
//! - the key, printed as a datapath match and read back, still matches the packet, and prints the same again;
//! - a header change that fails changes nothing; one that succeeds is what the next extraction sees, and a right IPv4 header
//!   checksum stays right;
//! - a tag pushed and popped leaves the frame as it was.

use flowtable::actions::SetField;
use flowtable::actions::rewrite::{HeadMut, apply_set, is_settable, pop_vlan, push_vlan};
use flowtable::key::{
    Depth, FIELDS, Field, FlowKey, FlowMask, FlowMatch, Layers, PortNo, connection, extract, shallow,
    tcp_flags,
};
use flowtable::text::PortNumbers;
use flowtable::text::datapath::{format_match, parse_match};

use super::frames;
use super::input::Input;

/// Runs one input: what to change and where to cut, then the frame.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (cut, beyond, choice, partial) = (input.u16(), input.u8(), input.u8(), input.u8());
    let (value, mask) = (input.u128(), input.u128());
    let frame = input.rest();
    let (key, layers) = key_of(frame, frame.len());
    let mut fresh = FlowKey::default();
    extract(frame, frame.len(), PortNo(3), &mut fresh);
    assert_eq!(fresh, key, "extraction depends on what the key held before");
    assert!([layers.l3(), layers.l4()].into_iter().flatten().all(|at| at <= frame.len()), "{layers:?}");
    lengths_are_respected(frame, usize::from(cut), usize::from(beyond));
    limited_looks_agree(frame, &key, &layers);
    text_says_the_same(&key);
    let field = FIELDS[usize::from(choice) % FIELDS.len()].field;
    changes_are_seen(frame, &key, &layers, &SetField::masked(field, value, mask), partial & 1 == 1);
    tags_come_and_go(frame, &layers, value as u16);
}

/// A header of the input in front of each kind of frame.
pub fn seeds() -> Vec<Vec<u8>> {
    let header = |choice: u8| {
        let mut bytes = vec![40, 0, 9, choice, choice & 1];
        bytes.extend(0x0a01_0203_u128.to_le_bytes());
        bytes.extend(u128::MAX.to_le_bytes());
        bytes
    };
    frames::all().into_iter().zip(8..).map(|(frame, choice)| [header(choice), frame].concat()).collect()
}

fn key_of(head: &[u8], frame_len: usize) -> (FlowKey, Layers) {
    let mut key = FlowKey::default();
    key.words_mut().fill(!0);
    let layers = extract(head, frame_len, PortNo(3), &mut key);
    (key, layers)
}

fn limited_looks_agree(frame: &[u8], key: &FlowKey, layers: &Layers) {
    let limited = |depth: Depth| FlowKey { in_port: 0, ..depth.mask().apply(key) };
    assert_eq!(tcp_flags(frame, frame.len()), key.tcp_flags.get());
    for depth in [Depth::Port, Depth::Link] {
        let Some(seen) = shallow(frame, frame.len(), depth) else { continue };
        let mut front = FlowKey::default();
        front.words_mut()[..2].copy_from_slice(&seen.words);
        assert_eq!(front, limited(depth), "{depth:?}");
        assert!(seen.may_be_tcp || key.tcp_flags.get() == 0);
    }
    let mut connected = FlowKey::default();
    let beside = connection(frame, frame.len(), &mut connected);
    assert_eq!(connected, limited(Depth::Connection));
    assert_eq!((beside.layers, beside.tcp_flags), (*layers, key.tcp_flags.get()));
}

fn lengths_are_respected(frame: &[u8], cut: usize, beyond: usize) {
    let whole = key_of(frame, frame.len());
    let mut longer = frame.to_vec();
    longer.resize(frame.len() + beyond, 0x45);
    assert_eq!(key_of(&longer, frame.len()), whole, "bytes behind the frame were looked at");

    let (part, layers) = key_of(&frame[..cut % (frame.len() + 1)], frame.len());
    let whole = whole.0;
    if layers.l3().is_some() {
        let network = |k: &FlowKey| (k.eth_type, k.nw_src, k.nw_dst);
        assert_eq!(network(&part), network(&whole), "a shorter head changed the network header");
    }
    if layers.l4().is_some() {
        let transport = |k: &FlowKey| (k.nw_proto, k.nw_frag, k.tp_src, k.tp_dst, k.tcp_flags);
        assert_eq!(transport(&part), transport(&whole), "a shorter head changed the transport header");
    }
}

fn text_says_the_same(key: &FlowKey) {
    let mut mask = FlowMask::default();
    FIELDS.iter().for_each(|spec| mask.set_exact(spec.field));
    let exact = FlowMatch::new(*key, mask);
    let text = format_match(&exact, &PortNumbers);
    let again = parse_match(&text, &PortNumbers).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert!(again.matches(key), "{text} does not match the packet it was printed from");
    assert!(exact.is_within(&again), "{text} says more than the key");
    assert_eq!(format_match(&again, &PortNumbers), text);
}

/// Fields whose new value the next extraction must show as it is: they decide nothing about how the frame is read.
fn is_plain(field: Field) -> bool {
    use Field::*;
    matches!(field, EthSrc | EthDst | IpSrc | IpDst | Ipv6Src | Ipv6Dst | IpTtl | Ipv6Hlimit | Ipv6Label)
        || matches!(field, TcpSrc | TcpDst | UdpSrc | UdpDst | SctpSrc | SctpDst | ArpSpa | ArpTpa)
}

fn changes_are_seen(frame: &[u8], key: &FlowKey, layers: &Layers, set: &SetField, partial: bool) {
    let mut changed = frame.to_vec();
    let result = apply_set(&mut changed, layers, set, partial);
    if result.is_err() {
        assert_eq!(changed, frame, "{set:?} failed and changed the frame");
        return;
    }
    assert!(is_settable(set.field), "{:?} was set", set.field);
    let (after, layers_after) = key_of(&changed, changed.len());
    // A broken chain of IPv6 extension headers leaves the addresses in the key and nothing else of the header (a whole one has at
    // least a next header that is not zero), though the header is there to be changed.
    let broken_chain = key.eth_type.get() == 0x86dd && key.words()[6] == 0;
    let hidden = matches!(set.field, Field::IpTtl | Field::Ipv6Hlimit | Field::Ipv6Label);
    if is_plain(set.field) && !(broken_chain && hidden) {
        let wanted = set.apply_to(set.field.get(key));
        assert_eq!(set.field.get(&after), wanted, "{set:?} is not what the next switch sees");
        assert_eq!(&layers_after, layers);
    }
    let header = |bytes: &[u8]| {
        let l3 = layers.l3().filter(|_| key.eth_type.get() == 0x0800)?;
        let len = usize::from(bytes.get(l3)? & 0xf) * 4;
        Some(frames::sum(bytes.get(l3..l3 + len)?))
    };
    if header(frame) == Some(0xffff) {
        assert_eq!(header(&changed), Some(0xffff), "{set:?} broke the IPv4 header checksum");
    }
}

/// A head with unlimited room in front.
struct Head(Vec<u8>);

impl HeadMut for Head {
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn grow_front(&mut self, n: usize) -> bool {
        self.0.splice(..0, vec![0; n]);
        true
    }

    fn shrink_front(&mut self, n: usize) -> bool {
        let enough = self.0.len() >= n;
        if enough {
            self.0.drain(..n);
        }
        enough
    }
}

fn tags_come_and_go(frame: &[u8], layers: &Layers, tci: u16) {
    let (mut head, mut moved) = (Head(frame.to_vec()), *layers);
    if push_vlan(&mut head, &mut moved, 0x8100, tci).is_ok() {
        assert_eq!(key_of(&head.0, head.0.len()).0.vlan_tci.get(), tci | 0x1000);
        assert_eq!(pop_vlan(&mut head, &mut moved), Ok(true));
        assert_eq!((&head.0[..], &moved), (frame, layers));
    }
    let _ = pop_vlan(&mut head, &mut moved);
}
