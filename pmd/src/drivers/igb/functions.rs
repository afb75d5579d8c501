//! What the virtual functions of the card may do: their requests, and what the operator has decided.
//!
//! A virtual function may be a guest's, so nothing it says is trusted. It has a fixed share of the card's tables, so that none can take what is
//! another's; it gets no address that somebody else has; without trust it gets no further address and no choice beside what the operator
//! has set; and it is heard [`REQUESTS`] times a second. What it may at most do to others is to receive group traffic, which a switch floods.
//!
//! Nothing here touches the card: `pools` writes it down there.

use super::pools::Pools;
use crate::nic::intel::vf_messages::*;
use crate::nic::{Filters, is_station};
use crate::pci::{VfSettings, VfState};

/// Virtual functions that the card has at most.
pub(super) const MOST: usize = 7;
/// The pool of the physical function, behind theirs.
pub(super) const OWN_POOL: usize = MOST;
/// Further addresses and VLANs of each function: of 24 and 32 places that the card has for all.
const MORE_ADDRESSES: usize = 2;
const VLANS: usize = 4;
const PLACES_FOR_ADDRESSES: usize = 24;
const PLACES_FOR_VLANS: usize = 32;
/// Requests of a function that are heard in a second. What starts needs a dozen.
pub(super) const REQUESTS: u32 = 64;
/// Longest and shortest frame that a function may ask for, with check sequence.
const LONGEST: u32 = 9242;
const SHORTEST: u32 = 64;

/// A virtual function.
#[derive(Clone, Default, Debug)]
struct Function {
    settings: VfSettings,
    /// Its address; zeros for none.
    mac: [u8; 6],
    /// It has introduced itself since its last reset.
    known: bool,
    more: Vec<[u8; 6]>,
    vlans: Vec<u16>,
    /// It wants groups.
    groups: bool,
    longest: u32,
    /// Requests heard in this second.
    heard: u32,
}

impl Function {
    fn trusted(&self) -> bool {
        self.settings.trust == Some(true)
    }

    fn spoof_check(&self) -> bool {
        self.settings.spoof_check != Some(false)
    }

    /// The VLAN that the operator has put it into.
    fn own_vlan(&self) -> Option<(u16, u8)> {
        self.settings.vlan.filter(|(vlan, _)| *vlan != 0)
    }
}

/// An answer: words, how many of them count, and whether the card's tables are to be written anew before it is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reply {
    pub(super) words: [u32; 3],
    pub(super) len: usize,
    pub(super) changed: bool,
}

/// All virtual functions there are, and what the physical one itself receives.
pub(super) struct Functions {
    list: Vec<Function>,
    own: [u8; 6],
    filters: Filters,
}

impl Functions {
    /// `count` functions, of which those in `settings` have some; `own` is the address of the physical function.
    ///
    /// # Errors
    /// What is wanted does not fit into the card, or it cannot do it.
    pub(super) fn new(
        count: usize,
        own: [u8; 6],
        filters: &Filters,
        settings: &[(u16, VfSettings)],
    ) -> Result<Functions, String> {
        let mut list = vec![Function::default(); count];
        for (number, settings) in settings {
            if settings.link.is_some() {
                return Err(format!("vf{number}: link is nothing that this card can set"));
            }
            // One that is not there yet may come.
            if let Some(function) = list.get_mut(usize::from(*number)) {
                function.settings = settings.clone();
                function.mac = settings.mac.unwrap_or_default();
            }
        }
        let rooms = [
            ("addresses", filters.addresses.len(), PLACES_FOR_ADDRESSES - 1 - count * (1 + MORE_ADDRESSES)),
            ("VLANs", filters.vlans.len(), PLACES_FOR_VLANS - count * VLANS),
        ];
        for (what, wanted, room) in rooms {
            if wanted > room {
                return Err(format!(
                    "vf-filter has {wanted} {what}: with {count} virtual functions there is room for {room}"
                ));
            }
        }
        Ok(Functions { list, own, filters: filters.clone() })
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// What holds for each: its address may be one that it has chosen.
    pub(super) fn states(&self) -> Vec<VfState> {
        let state = |(number, function): (usize, &Function)| VfState {
            number: number as u16,
            settings: VfSettings {
                mac: Some(function.mac),
                vlan: Some(function.own_vlan().unwrap_or_default()),
                trust: Some(function.trusted()),
                spoof_check: Some(function.spoof_check()),
                link: None,
            },
            counters: None,
        };
        self.list.iter().enumerate().map(state).collect()
    }

    /// Whether a function has introduced itself.
    pub(super) fn is_known(&self, number: usize) -> bool {
        self.list.get(number).is_some_and(|function| function.known)
    }

    /// Another second begins.
    pub(super) fn another_second(&mut self) {
        self.list.iter_mut().for_each(|function| function.heard = 0);
    }

    /// Whether the function may be heard once more in this second, or be reset.
    pub(super) fn may_speak(&mut self, number: usize) -> bool {
        let Some(function) = self.list.get_mut(number) else { return false };
        function.heard += 1;
        function.heard <= REQUESTS
    }

    /// The function was reset: what it has asked for is gone. The operator's settings stay.
    pub(super) fn forget(&mut self, number: usize) {
        if let Some(function) = self.list.get_mut(number) {
            let Function { settings, mac, heard, .. } = std::mem::take(function);
            *function = Function { mac: settings.mac.unwrap_or(mac), settings, heard, ..Function::default() };
        }
    }

    /// Answers a request.
    pub(super) fn answer(&mut self, number: usize, request: &[u32; WORDS]) -> Reply {
        let first = request[0];
        if first & KIND == RESET {
            return self.introduce(number);
        }
        let is_known = self.is_known(number);
        let done = is_known && self.grant(number, request);
        let known = if is_known { KNOWN } else { 0 };
        let word = first & !(YES | NO | KNOWN) | if done { YES } else { NO } | known;
        Reply { words: [word, 0, 0], len: 1, changed: done }
    }

    fn introduce(&mut self, number: usize) -> Reply {
        self.forget(number);
        let Some(function) = self.list.get_mut(number) else {
            return Reply { words: [RESET | NO, 0, 0], len: 3, changed: false };
        };
        (function.known, function.longest) = (true, 1522);
        let [a, b, c, d, e, f] = function.mac;
        let verdict = if function.mac == [0; 6] { NO } else { YES };
        let words = [RESET | verdict, u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0])];
        Reply { words, len: 3, changed: true }
    }

    /// Does what is asked for, or says that it does not.
    fn grant(&mut self, number: usize, request: &[u32; WORDS]) -> bool {
        let [first, second, third, ..] = *request;
        let ([a, b, c, d], [e, f, ..]) = (second.to_le_bytes(), third.to_le_bytes());
        let mac = [a, b, c, d, e, f];
        let free = is_station(mac) && !self.is_taken(number, mac);
        let Some(function) = self.list.get_mut(number) else { return false };
        let argument = first & !KIND & !(YES | NO | KNOWN);
        match (first & KIND, argument) {
            (SET_ADDRESS, 0) => {
                let set = function.settings.mac.filter(|set| *set != [0; 6]);
                let may = free && (function.trusted() || set.is_none_or(|set| set == mac));
                if may {
                    function.mac = mac;
                }
                may
            }
            (SET_ADDRESS, CLEAR_ADDRESSES) => {
                function.more.clear();
                true
            }
            (SET_ADDRESS, ADD_ADDRESS) => {
                free && function.trusted() && add(&mut function.more, mac, MORE_ADDRESSES)
            }
            (SET_MULTICAST, _) => {
                function.groups = argument != 0;
                true
            }
            (SET_VLAN, ADD_VLAN | 0) if function.own_vlan().is_none() && second < 0xfff => {
                let vlan = second as u16;
                if argument == 0 {
                    function.vlans.retain(|have| *have != vlan);
                }
                // VLAN 0 is no VLAN.
                argument == 0 || vlan == 0 || add(&mut function.vlans, vlan, VLANS)
            }
            (SET_LONGEST, _) if (SHORTEST..=LONGEST).contains(&second) => {
                function.longest = second;
                true
            }
            (SET_PROMISCUOUS, ALL_MULTICAST | 0) if argument == 0 || function.trusted() => {
                function.groups = argument != 0;
                true
            }
            _ => false,
        }
    }

    /// Whether somebody else has the address.
    fn is_taken(&self, number: usize, mac: [u8; 6]) -> bool {
        let others = self.list.iter().enumerate().filter(|(other, _)| *other != number);
        self.own == mac
            || self.filters.addresses.contains(&mac)
            || others.into_iter().any(|(_, other)| {
                other.mac == mac || other.settings.mac == Some(mac) || other.more.contains(&mac)
            })
    }

    /// How the card is to tell frames apart.
    pub(super) fn pools(&self, longest: u32) -> Pools {
        let own = 1u32 << OWN_POOL;
        let mut pools = Pools::new(own, longest);
        [self.own].iter().chain(&self.filters.addresses).for_each(|mac| pools.address(*mac, own));
        self.filters.vlans.iter().for_each(|vlan| pools.vlan(*vlan, own));
        for (number, function) in self.list.iter().enumerate() {
            let bit = 1 << number;
            pools.insert(number, function.own_vlan(), function.spoof_check());
            if !function.known {
                continue;
            }
            let stations = [function.mac].into_iter().chain(function.more.iter().copied());
            stations.filter(|mac| is_station(*mac)).for_each(|mac| pools.address(mac, bit));
            match function.own_vlan() {
                Some((vlan, _)) => pools.vlan(vlan, bit),
                None => function.vlans.iter().for_each(|vlan| pools.vlan(*vlan, bit)),
            }
            pools.enable(number, function.longest, function.groups, function.own_vlan().is_some());
        }
        pools
    }
}

/// Adds to a share of so many places. False when it is used up.
fn add<T: PartialEq>(share: &mut Vec<T>, one: T, most: usize) -> bool {
    if share.contains(&one) {
        return true;
    }
    let room = share.len() < most;
    if room {
        share.push(one);
    }
    room
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PF: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

    fn three(settings: &[(u16, &str)]) -> Functions {
        let settings: Vec<_> = settings.iter().map(|(n, text)| (*n, text.parse().unwrap())).collect();
        Functions::new(3, PF, &Filters::default(), &settings).unwrap()
    }

    fn ask(functions: &mut Functions, number: usize, words: &[u32]) -> Reply {
        let mut request = [0; WORDS];
        request[..words.len()].copy_from_slice(words);
        functions.answer(number, &request)
    }

    fn with_mac(first: u32, [a, b, c, d, e, f]: [u8; 6]) -> [u32; 3] {
        [first, u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, 0, 0])]
    }

    /// Whether it says yes.
    fn granted(functions: &mut Functions, number: usize, words: &[u32]) -> bool {
        let reply = ask(functions, number, words);
        assert_eq!(reply.words[0] & KIND, words[0] & KIND);
        assert!(reply.words[0] & YES == 0 || reply.words[0] & NO == 0);
        reply.words[0] & YES != 0
    }

    #[test]
    fn what_holds_is_told_chosen_addresses_too() {
        let mut functions = three(&[(1, "mac=02:00:00:00:00:0b,vlan=7,priority=3,trust=on,spoofchk=off")]);
        let settings = |functions: &Functions, number: usize| functions.states()[number].settings.clone();
        let all = "mac=02:00:00:00:00:0b,vlan=7,priority=3,trust=on,spoofchk=off".parse().unwrap();
        assert_eq!((settings(&functions, 1), functions.states()[2].number), (all, 2));
        let plain: VfSettings = "mac=00:00:00:00:00:00,vlan=0,trust=off,spoofchk=on".parse().unwrap();
        assert_eq!(settings(&functions, 0), plain);
        ask(&mut functions, 0, &[RESET]);
        assert!(granted(&mut functions, 0, &with_mac(SET_ADDRESS, A)));
        assert_eq!(settings(&functions, 0), VfSettings { mac: Some(A), ..plain });
    }

    #[test]
    fn who_has_not_introduced_itself_gets_nothing() {
        let mut functions = three(&[]);
        assert_eq!(ask(&mut functions, 0, &[SET_LONGEST, 2000]).words[0], SET_LONGEST | NO);
        // Nobody has given it an address: it may choose one.
        assert_eq!(ask(&mut functions, 0, &[RESET]).words[0], RESET | NO);
        assert!(granted(&mut functions, 0, &with_mac(SET_ADDRESS, A)));
        assert_eq!(ask(&mut functions, 0, &[SET_LONGEST, 2000]).words[0], SET_LONGEST | YES | KNOWN);
        // It keeps it.
        assert_eq!(ask(&mut functions, 0, &[RESET]).words, with_mac(RESET | YES, A));
        functions.forget(0);
        assert!(!granted(&mut functions, 0, &[SET_LONGEST, 2000]));
        // One that there is not.
        assert_eq!(ask(&mut functions, 5, &[RESET]).words[0], RESET | NO);
        assert!(!granted(&mut functions, 5, &[SET_LONGEST, 2000]));
    }

    #[test]
    fn an_address_is_the_operators_or_nobody_elses() {
        let mut functions = three(&[(0, "mac=02:00:00:00:00:0a"), (1, "trust=on")]);
        (0..3).for_each(|n| _ = ask(&mut functions, n, &[RESET]));
        assert!(!granted(&mut functions, 0, &with_mac(SET_ADDRESS, B)), "the operator has set another");
        assert!(granted(&mut functions, 0, &with_mac(SET_ADDRESS, A)));
        for (number, mac) in [(1, A), (1, PF), (2, A), (2, [0; 6]), (2, [3, 0, 0, 0, 0, 1])] {
            assert!(!granted(&mut functions, number, &with_mac(SET_ADDRESS, mac)), "{mac:?}");
        }
        let add = SET_ADDRESS | ADD_ADDRESS;
        assert!(!granted(&mut functions, 2, &with_mac(add, B)), "without trust");
        assert!(!granted(&mut functions, 1, &with_mac(add, A)), "somebody has it");
        for last in [0xb, 0xc, 0xc] {
            assert!(granted(&mut functions, 1, &with_mac(add, [2, 0, 0, 0, 0, last])));
        }
        assert!(!granted(&mut functions, 1, &with_mac(add, [2, 0, 0, 0, 0, 0xd])), "its share is used up");
        assert!(granted(&mut functions, 1, &with_mac(SET_ADDRESS | CLEAR_ADDRESSES, B)));
        assert!(granted(&mut functions, 1, &with_mac(add, [2, 0, 0, 0, 0, 0xd])));
    }

    #[test]
    fn vlans_lengths_and_groups() {
        let mut functions = three(&[(1, "vlan=9,priority=3"), (2, "trust=on")]);
        (0..3).for_each(|n| _ = ask(&mut functions, n, &[RESET]));
        assert!(
            !granted(&mut functions, 1, &[SET_VLAN | ADD_VLAN, 7]),
            "the operator has put it into another"
        );
        for vlan in [5, 6, 7, 8, 8, 0] {
            assert!(granted(&mut functions, 0, &[SET_VLAN | ADD_VLAN, vlan]), "{vlan}");
        }
        assert!(!granted(&mut functions, 0, &[SET_VLAN | ADD_VLAN, 10]), "its share is used up");
        assert!(
            granted(&mut functions, 0, &[SET_VLAN, 5])
                && granted(&mut functions, 0, &[SET_VLAN | ADD_VLAN, 10])
        );
        assert!(!granted(&mut functions, 0, &[SET_VLAN | ADD_VLAN, 4095]));
        for (longest, may) in
            [(0, false), (63, false), (64, true), (9242, true), (9243, false), (u32::MAX, false)]
        {
            assert_eq!(granted(&mut functions, 0, &[SET_LONGEST, longest]), may, "{longest}");
        }
        let all = SET_PROMISCUOUS | ALL_MULTICAST;
        assert!(!granted(&mut functions, 0, &[all]) && granted(&mut functions, 2, &[all]));
        assert!(
            !granted(&mut functions, 2, &[SET_PROMISCUOUS | 1 << ARGUMENT_SHIFT]),
            "everything that comes"
        );
        assert!(granted(&mut functions, 0, &[SET_MULTICAST | 1 << ARGUMENT_SHIFT, 5]));
        for nonsense in [0, 7, 0x100, KIND] {
            assert!(!granted(&mut functions, 2, &[nonsense]));
        }
    }

    #[test]
    fn one_that_talks_too_much_is_not_heard() {
        let mut functions = three(&[]);
        let heard =
            |functions: &mut Functions, number| (0..200).filter(|_| functions.may_speak(number)).count();
        assert_eq!(heard(&mut functions, 0), 64);
        assert_eq!(heard(&mut functions, 1), 64, "what the others do is nothing to it");
        // A reset gives no more.
        functions.forget(0);
        assert!(!functions.may_speak(0) && !functions.may_speak(9));
        functions.another_second();
        assert!(functions.may_speak(0));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let filters = |n: u16| Filters { addresses: Vec::new(), vlans: (1..=n).collect() };
        let new = |count, filters: Filters| Functions::new(count, PF, &filters, &[]).map(drop);
        assert!(new(7, filters(4)).is_ok());
        assert!(new(7, filters(5)).unwrap_err().contains("there is room for 4"));
        let addresses = vec![A; 3];
        assert!(new(7, Filters { addresses, vlans: Vec::new() }).unwrap_err().contains("room for 2"));
        let link = [(0, "link=up".parse().unwrap())];
        assert!(Functions::new(1, PF, &Filters::default(), &link).is_err());
    }

    proptest! {
        /// Whatever all of them say, everybody keeps what is his, and the tables hold it.
        #[test]
        fn nobody_gets_what_is_anothers(said in prop::collection::vec((0usize..8, 0u32..9, 0u32..4, 0u8..24, any::<bool>()), 0..200)) {
            let settings: Vec<_> = [(0, "mac=02:00:00:00:00:0a,vlan=9"), (1, "trust=on"), (2, "trust=on")].map(|(n, text)| (n, text.parse().unwrap())).into();
            let filters = Filters { addresses: vec![B, [2; 6]], vlans: vec![1, 2, 3, 4] };
            let mut functions = Functions::new(MOST, PF, &filters, &settings).unwrap();
            for (number, kind, argument, last, introduce) in said {
                if introduce {
                    ask(&mut functions, number, &[RESET]);
                }
                let mac = with_mac(kind | argument << ARGUMENT_SHIFT, [2, 0, 0, 0, 0, last]);
                ask(&mut functions, number, &mac);
                ask(&mut functions, number, &[SET_VLAN | ADD_VLAN, (last + 4).into()]);
            }
            let pools = functions.pools(1522);
            prop_assert!(pools.addresses.len() <= PLACES_FOR_ADDRESSES && pools.vlans.len() <= PLACES_FOR_VLANS);
            prop_assert!(pools.addresses.values().all(|pools| pools.is_power_of_two()));
            let of = |mac: [u8; 6]| pools.addresses.get(&mac).copied();
            prop_assert_eq!((of(PF), of(B)), (Some(1 << OWN_POOL), Some(1 << OWN_POOL)));
            prop_assert!(of(A).is_none_or(|pools| pools == 1));
            prop_assert!(pools.vlans.iter().all(|(vlan, pools)| *vlan == 9 || pools & 1 == 0));
        }
    }
}
