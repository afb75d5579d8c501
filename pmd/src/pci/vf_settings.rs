//! What the driver of a physical function decides for its virtual ones: MAC address, VLAN, trust, spoof checking, link (rtnetlink(7),
//! `IFLA_VFINFO_LIST`). It is said to, and read from, the network device of the physical function.
//!
//! Messages are put together and taken apart by `netlink-packet-route`. Each setting is a request of its own, so that a refusal has a name.
//! Control path only: a request waits for the kernel's answer, which is there when the driver has done it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoLinkState, VfInfoMac,
    VfInfoSpoofCheck, VfInfoTrust, VfInfoVlan, VfLinkState, VfStats,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;

use crate::port::PmdError;

/// The link that a virtual function is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VfLink {
    /// That of the card.
    Auto,
    /// Up, whatever the card's is: functions of the card reach each other.
    Up,
    /// Down: nothing comes in or goes out.
    Down,
}

/// Settings of a virtual function. When they are set, what is none stays as it is; when they are read, it is what the driver does not tell.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VfSettings {
    /// Its MAC address; zeros let the function choose.
    pub mac: Option<[u8; 6]>,
    /// VLAN that all its frames are put into and taken out of by the card (zero: none), and the priority.
    pub vlan: Option<(u16, u8)>,
    /// It may do what concerns others: receive everything, change its address.
    pub trust: Option<bool>,
    /// Frames that it sends from other addresses than its own are dropped.
    pub spoof_check: Option<bool>,
    /// The link it is shown.
    pub link: Option<VfLink>,
}

/// What a function of a card has carried: as it has counted by itself, or as the card has for it. `rx` is what came in for whoever uses the
/// function.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FunctionCounters {
    /// Frames it received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames for it that were dropped.
    pub rx_dropped: u64,
    /// Frames it sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames of it that were dropped.
    pub tx_dropped: u64,
}

/// A virtual function as the driver of the physical one has it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VfState {
    /// Its number, from zero.
    pub number: u16,
    /// What holds for it now.
    pub settings: VfSettings,
    /// What was counted, if the driver tells.
    pub counters: Option<FunctionCounters>,
}

/// What holds for all virtual functions of the physical one whose network device has this index, by number.
///
/// # Errors
/// There is no such device, or the kernel's answer makes no sense.
pub fn virtual_function_states(index: u32) -> Result<Vec<VfState>, PmdError> {
    let mut request = link(index);
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Vf]));
    let answer = ask(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST)
        .map_err(|e| PmdError::system("asking the kernel for virtual functions", "", e))?;
    Ok(answer.as_ref().map(states).unwrap_or_default())
}

/// What the kernel said last of the functions of one device.
type Asked = (u32, Instant, Vec<VfState>);

/// What was counted for one virtual function, if the driver of the physical one tells. The answer is about all functions, and a driver may have
/// to ask the card for each, so it is asked once a second at most, however many of them are asked for.
pub fn virtual_function_counters(index: u32, number: u16) -> Option<FunctionCounters> {
    static ASKED: Mutex<Vec<Asked>> = Mutex::new(Vec::new());
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    asked.retain(|(_, when, _)| when.elapsed() < Duration::from_secs(1));
    if !asked.iter().any(|(known, ..)| *known == index) {
        let states = virtual_function_states(index).unwrap_or_default();
        asked.push((index, Instant::now(), states));
    }
    let (.., states) = asked.iter().find(|(known, ..)| *known == index)?;
    states.iter().find(|state| state.number == number)?.counters
}

/// Sets what is wanted of one virtual function, one after the other.
///
/// # Errors
/// The driver refuses one of them; those before it are set.
pub fn set_virtual_function(index: u32, number: u16, wanted: &VfSettings) -> Result<(), PmdError> {
    for (name, info) in requests(number.into(), wanted) {
        let mut request = link(index);
        request.attributes.push(LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![info])]));
        ask(RouteNetlinkMessage::SetLink(request), NLM_F_REQUEST | NLM_F_ACK).map_err(|error| {
            let remedy = match Errno::from_io_error(&error) {
                Some(Errno::OPNOTSUPP) => "the driver of the physical function cannot do that",
                Some(Errno::PERM) => "run vswitchd as root, or with CAP_NET_ADMIN",
                _ => "the kernel log says more (`dmesg`)",
            };
            PmdError::system(format!("setting {name} of virtual function {number}"), remedy, error)
        })?;
    }
    Ok(())
}

fn link(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link
}

/// One request for each setting that is wanted.
fn requests(vf: u32, wanted: &VfSettings) -> Vec<(&'static str, VfInfo)> {
    let mac = wanted.mac.map(|mac| VfInfoMac::new(vf, &mac));
    let vlan = wanted.vlan.map(|(vlan, priority)| VfInfoVlan::new(vf, vlan.into(), priority.into()));
    let state = wanted.link.map(|link| match link {
        VfLink::Auto => VfLinkState::Auto,
        VfLink::Up => VfLinkState::Enable,
        VfLink::Down => VfLinkState::Disable,
    });
    let all = [
        ("mac", mac.map(VfInfo::Mac)),
        ("vlan", vlan.map(VfInfo::Vlan)),
        ("trust", wanted.trust.map(|on| VfInfo::Trust(VfInfoTrust::new(vf, on)))),
        ("spoofchk", wanted.spoof_check.map(|on| VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, on)))),
        ("link", state.map(|state| VfInfo::LinkState(VfInfoLinkState::new(vf, state)))),
    ];
    all.into_iter().filter_map(|(name, info)| Some((name, info?))).collect()
}

/// Sends a request and waits for its answer: a link, or nothing but that it was done.
fn ask(message: RouteNetlinkMessage, flags: u16) -> std::io::Result<Option<LinkMessage>> {
    let mut header = NetlinkHeader::default();
    (header.flags, header.sequence_number) = (flags, 1);
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    loop {
        // As long as the message is, whatever that is.
        let (bytes, from) = socket.recv_from_full()?;
        if from.port_number() == 0 {
            return answer(&bytes);
        }
    }
}

/// What the kernel answered.
fn answer(bytes: &[u8]) -> std::io::Result<Option<LinkMessage>> {
    let strange = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
        .map_err(|error| strange(format!("the kernel's answer makes no sense: {error}")))?;
    match message.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
        _ => Ok(None),
    }
}

/// What a link message says of virtual functions.
fn states(link: &LinkMessage) -> Vec<VfState> {
    let lists = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::VfInfoList(list) => Some(list),
        _ => None,
    });
    let mut states: Vec<VfState> = lists.flatten().map(state).collect();
    states.sort_by_key(|state| state.number);
    states
}

fn state(info: &LinkVfInfo) -> VfState {
    let mut state = VfState::default();
    let settings = &mut state.settings;
    for part in &info.0 {
        match part {
            VfInfo::Mac(mac) => {
                // The address is in a field that is longer; each part names the function.
                state.number = mac.vf_id as u16;
                settings.mac = mac.mac.first_chunk().copied();
            }
            VfInfo::Vlan(vlan) => settings.vlan = Some((vlan.vlan_id as u16, vlan.qos as u8)),
            VfInfo::Trust(trust) => settings.trust = Some(trust.enabled),
            VfInfo::SpoofCheck(check) => settings.spoof_check = Some(check.enabled),
            VfInfo::LinkState(link) => {
                settings.link = match link.state {
                    VfLinkState::Auto => Some(VfLink::Auto),
                    VfLinkState::Enable => Some(VfLink::Up),
                    VfLinkState::Disable => Some(VfLink::Down),
                    _ => None,
                }
            }
            VfInfo::Stats(stats) => state.counters = counters(stats),
            _ => {}
        }
    }
    state
}

/// None where a driver fills in nothing: the kernel then says zeros.
fn counters(stats: &[VfStats]) -> Option<FunctionCounters> {
    let mut counters = FunctionCounters::default();
    for stat in stats {
        match stat {
            VfStats::RxPackets(n) => counters.rx_packets = *n,
            VfStats::TxPackets(n) => counters.tx_packets = *n,
            VfStats::RxBytes(n) => counters.rx_bytes = *n,
            VfStats::TxBytes(n) => counters.tx_bytes = *n,
            VfStats::RxDropped(n) => counters.rx_dropped = *n,
            VfStats::TxDropped(n) => counters.tx_dropped = *n,
            _ => {}
        }
    }
    (counters != FunctionCounters::default()).then_some(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(attribute: LinkAttribute) -> Vec<u8> {
        let mut message = link(7);
        message.attributes.push(attribute);
        let payload = NetlinkPayload::from(RouteNetlinkMessage::NewLink(message));
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// What is asked for is what is read when the kernel repeats it.
    #[test]
    fn settings_go_there_and_back() {
        let wanted = VfSettings {
            mac: Some([2, 0, 0, 0, 0, 9]),
            vlan: Some((100, 3)),
            trust: Some(true),
            spoof_check: Some(false),
            link: Some(VfLink::Down),
        };
        let infos: Vec<VfInfo> = requests(3, &wanted).into_iter().map(|(_, info)| info).collect();
        assert_eq!(infos.len(), 5);
        let other: Vec<VfInfo> = requests(1, &VfSettings { mac: Some([2; 6]), ..VfSettings::default() })
            .into_iter()
            .map(|(_, info)| info)
            .collect();
        let list = LinkAttribute::VfInfoList(vec![LinkVfInfo(infos), LinkVfInfo(other)]);
        let states = states(&answer(&bytes(list)).unwrap().unwrap());
        assert_eq!(states.iter().map(|state| state.number).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(states[1], VfState { number: 3, settings: wanted, counters: None });
        assert_eq!(states[0].settings.vlan, None);
    }

    /// As `ip -d link` of iproute2 asks, in bytes: a header of 16, the link of 16, then IFLA_VFINFO_LIST { IFLA_VF_INFO { IFLA_VF_MAC } }.
    #[test]
    fn the_kernel_reads_what_we_write() {
        let wanted = VfSettings { mac: Some([2, 0, 0, 0, 0, 9]), ..VfSettings::default() };
        let (_, info) = requests(1, &wanted).remove(0);
        let bytes = bytes(LinkAttribute::VfInfoList(vec![LinkVfInfo(vec![info])]));
        let nest = &bytes[32..];
        assert_eq!((nest[0], nest[2] & 0x3f, nest[4], nest[6], nest[8], nest[10]), (48, 22, 44, 1, 40, 1));
        assert_eq!((&nest[12..16], &nest[16..22]), (&[1, 0, 0, 0][..], &[2, 0, 0, 0, 0, 9][..]));
    }

    /// What the kernel answers of a card with two functions, put together here from `rtnl_fill_vfinfo` of Linux 6.12: a driver with
    /// counters for the first; zeros, which are those of a driver without, for the second.
    #[test]
    fn counters_are_those_that_the_kernel_says() {
        let attribute = |kind: u16, body: &[u8]| {
            let len = (body.len() + 4) as u16;
            let mut bytes = [&len.to_le_bytes()[..], &kind.to_le_bytes(), body].concat();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let function = |number: u32, counts: [u64; 8]| {
            // IFLA_VF_MAC: the number, and 32 bytes of address. IFLA_VF_STATS: received and sent packets, bytes of both,
            // broadcasts, multicasts, a gap to align, drops of both.
            let mac = attribute(1, &[&number.to_le_bytes()[..], &[2; 6], &[0; 26]].concat());
            let kinds = [0, 1, 2, 3, 4, 5, 7, 8];
            let stats: Vec<u8> =
                kinds.iter().zip(counts).flat_map(|(&kind, n)| attribute(kind, &n.to_le_bytes())).collect();
            attribute(1, &[mac, attribute(8, &stats)].concat())
        };
        let list =
            attribute(22, &[function(0, [11, 12, 1300, 1400, 15, 16, 17, 18]), function(1, [0; 8])].concat());
        // A header of a link that is new, and a link of index seven.
        let len = (32 + list.len()) as u32;
        let header = [&len.to_le_bytes()[..], &16u16.to_le_bytes(), &[0; 10]].concat();
        let bytes = [header, [&[0, 0, 1, 0, 7, 0, 0, 0][..], &[0; 8]].concat(), list].concat();
        let states = states(&answer(&bytes).unwrap().unwrap());
        let counters = FunctionCounters {
            rx_packets: 11,
            tx_packets: 12,
            rx_bytes: 1300,
            tx_bytes: 1400,
            rx_dropped: 17,
            tx_dropped: 18,
        };
        assert_eq!([states[0].number, states[1].number], [0, 1]);
        assert_eq!([states[0].counters, states[1].counters], [Some(counters), None]);
    }

    #[test]
    fn nothing_that_is_said_does_harm() {
        for bytes in [&[][..], &[0; 15], &[0xff; 64], &[16, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(answer(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_device_without_functions_has_none() {
        // The loopback device of whatever namespace this is.
        assert_eq!(virtual_function_states(1).unwrap(), []);
        assert!(virtual_function_states(0x7fff_fff0).is_err());
        assert_eq!(
            (virtual_function_counters(1, 0), virtual_function_counters(0x7fff_fff0, 0)),
            (None, None)
        );
        let wanted = VfSettings { trust: Some(true), ..VfSettings::default() };
        let refused = set_virtual_function(1, 0, &wanted).unwrap_err().to_string();
        assert!(refused.contains("setting trust of virtual function 0"), "{refused}");
    }
}
