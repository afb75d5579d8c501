//! The kernel runs the program on frames; plain Rust says what it should have said.

use proptest::prelude::*;

use super::*;
use crate::sys::bpf;

/// Verdict of a program that takes the frame.
const TAKEN: i32 = 1;

/// The same rule, written down in another way.
fn expected(filter: &Filter, frame: &[u8]) -> bool {
    let Filter::Any(terms) = filter else { return true };
    let half = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let mut kind = half(12);
    let mut l3 = 14;
    let mut vlan = None;
    if kind.is_some_and(|kind| TAGS.contains(&kind)) {
        vlan = half(16).and_then(|_| half(14)).map(|tci| tci & 0xfff);
        kind = half(16);
        l3 = 18;
    }
    let l4 = match kind {
        Some(IPV4)
            if frame.len() >= l3 + 20 && frame[l3 + 9] == 17 && half(l3 + 6).unwrap() & 0x1fff == 0 =>
        {
            Some(l3 + usize::from(frame[l3] & 0xf) * 4)
        }
        Some(IPV6) if frame.len() >= l3 + 40 && frame[l3 + 6] == 17 => Some(l3 + 40),
        _ => None,
    };
    let port = l4.filter(|l4| frame.len() >= l4 + 8).and_then(|l4| half(l4 + 2));
    terms.iter().any(|term| match term {
        Term::Mac(mac) => frame.starts_with(mac),
        Term::Multicast => frame[0] & 1 != 0,
        Term::Vlan(wanted) => vlan == Some(*wanted),
        Term::Udp(wanted) => port == Some(*wanted),
    })
}

fn loaded(filter: &Filter) -> std::os::fd::OwnedFd {
    let program = program(filter, Take::Say(TAKEN)).unwrap();
    bpf::load_xdp(&program).expect("run the driver tests as root: they load programs")
}

/// Values that meet often.
fn term() -> impl Strategy<Value = Term> {
    prop_oneof![
        prop::sample::select(vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 0], [0xff; 6]]).prop_map(Term::Mac),
        Just(Term::Multicast),
        prop::sample::select(vec![0u16, 7, 256, 4095]).prop_map(Term::Vlan),
        prop::sample::select(vec![0u16, 53, 4789, 0xb512]).prop_map(Term::Udp),
    ]
}

prop_compose! {
    /// A frame with or without a tag, of IPv4 or IPv6 or something else, whole or cut off.
    fn frame()(
        mac in prop::sample::select(vec![[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 0], [0xff; 6], [4, 0, 0, 0, 0, 1]]),
        tag in prop::option::of((prop::sample::select(TAGS.to_vec()), prop::sample::select(vec![0u16, 7, 256, 4095, 0x6007]))),
        kind in prop::sample::select(vec![IPV4, IPV6, 0x0806, 0x8100]),
        first in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x40, 0x60]),
        fragment in prop::sample::select(vec![0u16, 0x4000, 0x2000, 1, 0x2001]),
        protocol in prop::sample::select(vec![17u8, 6]),
        port in prop::sample::select(vec![0u16, 53, 4789, 0xb512, 99]),
        cut in 14usize..120,
    ) -> Vec<u8> {
        let mut frame = mac.to_vec();
        frame.extend([2, 0, 0, 0, 0, 9]);
        if let Some((tpid, tci)) = tag {
            frame.extend(tpid.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        frame.extend(kind.to_be_bytes());
        let l3 = frame.len();
        frame.resize(l3 + 60 + 40, 0);
        frame[l3] = first;
        let l4 = if kind == IPV6 {
            frame[l3 + 6] = protocol;
            l3 + 40
        } else {
            frame[l3 + 6..l3 + 8].copy_from_slice(&fragment.to_be_bytes());
            frame[l3 + 9] = protocol;
            l3 + usize::from(first & 0xf) * 4
        };
        if kind == IPV6 || l4 >= l3 + 20 {
            frame[l4 + 2..l4 + 4].copy_from_slice(&port.to_be_bytes());
        }
        frame.truncate(cut);
        frame
    }
}

proptest! {
    #[test]
    fn the_kernel_takes_what_the_filter_says(
        terms in prop::collection::vec(term(), 1..8),
        frames in prop::collection::vec(frame(), 20),
    ) {
        let filter = Filter::Any(terms);
        let program = loaded(&filter);
        for frame in frames {
            let verdict = bpf::test_run(&program, &frame).unwrap();
            let wanted = if expected(&filter, &frame) { TAKEN } else { XDP_PASS };
            prop_assert_eq!(verdict, wanted as u32, "{} {:02x?}", filter, frame);
        }
    }
}

#[test]
fn all_takes_everything_and_the_longest_filter_is_taken() {
    let program = loaded(&Filter::All);
    assert_eq!(bpf::test_run(&program, &[1; 60]).unwrap(), TAKEN as u32);
    let many = Filter::Any((0..128).map(|i| Term::Mac([2, 0, 0, 0, 0, i])).collect());
    let program = loaded(&many);
    assert_eq!(bpf::test_run(&program, &[2, 0, 0, 0, 0, 127, 0, 0, 0, 0, 0, 0, 8, 0]).unwrap(), TAKEN as u32);
    assert_eq!(
        bpf::test_run(&program, &[2, 0, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 8, 0]).unwrap(),
        XDP_PASS as u32
    );
}

#[test]
fn without_a_socket_the_kernel_keeps_the_frame() {
    let map = bpf::socket_map(4).unwrap();
    let take = Take::Redirect { map: std::os::fd::AsRawFd::as_raw_fd(&map) };
    let program = bpf::load_xdp(&program(&Filter::All, take).unwrap()).unwrap();
    assert_eq!(bpf::test_run(&program, &[1; 60]).unwrap(), XDP_PASS as u32);
}

#[test]
fn a_program_the_kernel_refuses_is_an_error_with_its_words() {
    let mut code = Assembler::default();
    code.load(Size::Word, Reg::R0, Reg::R1, 4000);
    code.exit();
    let error = bpf::load_xdp(&code.finish().unwrap()).unwrap_err();
    assert!(error.to_string().contains("invalid bpf_context access"), "{error}");
}
