//! The program that sends frames to our sockets and leaves the rest to the kernel.
//!
//! Made at run time out of the filter, whose values become constants in it, so no compiler is needed and a frame costs only the
//! comparisons that are asked for: two instructions per VLAN or port, two per address, none for `all`.

use super::assembler::{Assembler, Label, Reg, Size, When};
use super::filter::{Filter, Term};
use crate::sys::bpf::Instruction;

/// The kernel goes on with the frame.
pub(super) const XDP_PASS: i32 = 2;

/// `bpf_redirect_map`.
const REDIRECT_MAP: i32 = 51;

/// Members of `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE: i16 = 16;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
const UDP: u32 = 17;

/// What happens to a frame that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Take {
    /// It goes to the socket of its queue in this map; to the kernel where there is none.
    Redirect {
        /// Descriptor of the map.
        map: i32,
    },
    /// The program returns this, for a test.
    #[cfg(test)]
    Say(i32),
}

/// The program for a filter. `None` when the filter is too long for one.
pub(super) fn program(filter: &Filter, take: Take) -> Option<Vec<Instruction>> {
    let mut code = Assembler::default();
    let (taken, pass) = (code.label(), code.label());
    // The context, for the queue number.
    code.copy(Reg::R6, Reg::R1);
    if let Filter::Any(terms) = filter {
        match_terms(&mut code, terms, taken, pass);
        code.here(pass);
        code.set(Reg::R0, XDP_PASS);
        code.exit();
    }
    code.here(taken);
    match take {
        Take::Redirect { map } => {
            code.load(Size::Word, Reg::R2, Reg::R6, RX_QUEUE);
            code.set_map(Reg::R1, map);
            code.set(Reg::R3, XDP_PASS);
            code.call(REDIRECT_MAP);
        }
        #[cfg(test)]
        Take::Say(verdict) => code.set(Reg::R0, verdict),
    }
    code.exit();
    code.finish()
}

/// A number as a load of its bytes on the wire gives it.
fn wire(value: u16) -> u32 {
    u16::from_ne_bytes(value.to_be_bytes()).into()
}

/// Jumps to `taken` where a term matches and to `pass` where none can; falls through to `pass`.
///
/// R7 is the frame, R8 its end, R9 what follows the headers looked at, R3 the type of that.
fn match_terms(code: &mut Assembler, terms: &[Term], taken: Label, pass: Label) {
    code.load(Size::Word, Reg::R7, Reg::R6, DATA);
    code.load(Size::Word, Reg::R8, Reg::R6, DATA_END);
    code.copy(Reg::R9, Reg::R7);
    reach(code, 14, pass);
    code.load(Size::Word, Reg::R1, Reg::R7, 0);
    code.load(Size::Half, Reg::R2, Reg::R7, 4);
    for term in terms {
        match *term {
            Term::Mac([a, b, c, d, e, f]) => {
                let next = code.label();
                code.jump_if(Reg::R1, When::NotEqual, u32::from_ne_bytes([a, b, c, d]), next);
                code.jump_if(Reg::R2, When::Equal, u16::from_ne_bytes([e, f]).into(), taken);
                code.here(next);
            }
            Term::Multicast => {
                code.load(Size::Byte, Reg::R4, Reg::R7, 0);
                code.jump_if(Reg::R4, When::AnyBit, 1, taken);
            }
            Term::Vlan(_) | Term::Udp(_) => {}
        }
    }
    let has = |wanted: fn(&Term) -> bool| terms.iter().any(wanted);
    let (vlans, ports) =
        (has(|term| matches!(term, Term::Vlan(_))), has(|term| matches!(term, Term::Udp(_))));
    if !vlans && !ports {
        return;
    }
    code.load(Size::Half, Reg::R3, Reg::R7, 12);
    code.add_constant(Reg::R9, 14);
    match_vlans(code, terms, taken, pass);
    if ports {
        match_ports(code, terms, taken, pass);
    }
}

/// Goes to `pass` unless `bytes` from R9 on are inside the frame.
fn reach(code: &mut Assembler, bytes: i32, pass: Label) {
    code.copy(Reg::R0, Reg::R9);
    code.add_constant(Reg::R0, bytes);
    code.jump_if_greater(Reg::R0, Reg::R8, pass);
}

/// Steps over the outer tag, if there is one.
fn match_vlans(code: &mut Assembler, terms: &[Term], taken: Label, pass: Label) {
    let (tagged, untagged) = (code.label(), code.label());
    for tag in TAGS {
        code.jump_if(Reg::R3, When::Equal, wire(tag), tagged);
    }
    code.jump(untagged);
    code.here(tagged);
    reach(code, 4, pass);
    code.load(Size::Half, Reg::R4, Reg::R9, 0);
    code.swap_half(Reg::R4);
    code.and(Reg::R4, 0xfff);
    for term in terms {
        if let Term::Vlan(vlan) = term {
            code.jump_if(Reg::R4, When::Equal, (*vlan).into(), taken);
        }
    }
    code.load(Size::Half, Reg::R3, Reg::R9, 2);
    code.add_constant(Reg::R9, 4);
    code.here(untagged);
}

fn match_ports(code: &mut Assembler, terms: &[Term], taken: Label, pass: Label) {
    let (v6, transport) = (code.label(), code.label());
    code.jump_if(Reg::R3, When::Equal, wire(IPV6), v6);
    code.jump_if(Reg::R3, When::NotEqual, wire(IPV4), pass);
    reach(code, 20, pass);
    code.load(Size::Byte, Reg::R4, Reg::R9, 9);
    code.jump_if(Reg::R4, When::NotEqual, UDP, pass);
    // Only the first fragment has ports.
    code.load(Size::Half, Reg::R4, Reg::R9, 6);
    code.jump_if(Reg::R4, When::AnyBit, wire(0x1fff), pass);
    code.load(Size::Byte, Reg::R4, Reg::R9, 0);
    code.and(Reg::R4, 0xf);
    code.shift_left(Reg::R4, 2);
    code.add(Reg::R9, Reg::R4);
    code.jump(transport);
    code.here(v6);
    reach(code, 40, pass);
    code.load(Size::Byte, Reg::R4, Reg::R9, 6);
    code.jump_if(Reg::R4, When::NotEqual, UDP, pass);
    code.add_constant(Reg::R9, 40);
    code.here(transport);
    reach(code, 8, pass);
    code.load(Size::Half, Reg::R4, Reg::R9, 2);
    for term in terms {
        if let Term::Udp(port) = term {
            code.jump_if(Reg::R4, When::Equal, wire(*port), taken);
        }
    }
}

#[cfg(test)]
mod tests;
