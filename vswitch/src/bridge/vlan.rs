//! VLAN membership of a port: which frames it may bring, in which VLAN they are, how they leave.
//!
//! The rules are those of `vlan_mode` in Open vSwitch:
//!
//! | mode            | untagged or VID 0 in | VID v in           | VLAN v out                   |
//! |-----------------|----------------------|--------------------|------------------------------|
//! | access          | VLAN `tag`           | dropped            | untagged, only `tag`         |
//! | trunk           | VLAN 0, if carried   | VLAN v, if carried | tagged; VLAN 0 without VID   |
//! | native-tagged   | VLAN `tag`           | VLAN v, if carried | tagged, `tag` too            |
//! | native-untagged | VLAN `tag`           | VLAN v, if carried | tagged, `tag` untagged       |
//!
//! Only the outer tag counts, whatever its TPID (0x8100 or 0x88a8); what lies inside it is payload. A
//! priority tag (VID 0) is treated as no tag apart from its priority. A frame of VLAN 0 that has a priority keeps it, and so a tag
//! with VID 0, where VLANs leave tagged; one without is sent untagged.
//!
//! Cost: 512 bytes for a port that trunks a list; membership is one bit test.

/// How a port treats VLANs (`Port.vlan_mode`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VlanMode {
    /// One VLAN, untagged.
    Access,
    /// Many VLANs, tagged.
    Trunk,
    /// Many VLANs, tagged; untagged frames belong to the native one.
    NativeTagged,
    /// Many VLANs, tagged but for the native one.
    NativeUntagged,
}

impl VlanMode {
    /// The name used in the database.
    pub fn name(self) -> &'static str {
        match self {
            VlanMode::Access => "access",
            VlanMode::Trunk => "trunk",
            VlanMode::NativeTagged => "native-tagged",
            VlanMode::NativeUntagged => "native-untagged",
        }
    }

    /// The mode of a name used in the database.
    pub fn from_name(name: &str) -> Option<VlanMode> {
        [VlanMode::Access, VlanMode::Trunk, VlanMode::NativeTagged, VlanMode::NativeUntagged]
            .into_iter()
            .find(|mode| mode.name() == name)
    }
}

/// VLAN settings of a port as the operator gives them: columns `vlan_mode`, `tag`, `trunks`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VlanConfig {
    /// The mode; without it a port with a tag is an access port and any other a trunk.
    pub mode: Option<VlanMode>,
    /// The access or native VLAN; zero when a mode that needs it has none. Ignored by a trunk.
    pub tag: Option<u16>,
    /// VLANs carried; empty means all. Ignored by an access port. A native VLAN is always carried.
    pub trunks: Vec<u16>,
}

impl VlanConfig {
    /// An access port.
    pub fn access(tag: u16) -> VlanConfig {
        VlanConfig { mode: None, tag: Some(tag), trunks: Vec::new() }
    }

    /// A trunk port; an empty list means all VLANs.
    pub fn trunk(trunks: impl Into<Vec<u16>>) -> VlanConfig {
        VlanConfig { mode: None, tag: None, trunks: trunks.into() }
    }
}

/// A VLAN setting that means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VlanError {
    /// Not a VLAN number.
    #[error("tag {0} is not a VLAN: use a number from 0 to 4095")]
    Tag(u16),
    /// Not a VLAN number.
    #[error("trunks has {0}, which is not a VLAN: use numbers from 0 to 4095")]
    Trunk(u16),
}

/// VLAN numbers there are.
const VLANS: u16 = 4096;

/// A set of VLANs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VlanSet {
    bits: Box<[u64; 64]>,
}

impl VlanSet {
    /// The set of the given VLANs; the first number that is none is the error.
    pub fn new(vlans: &[u16]) -> Result<VlanSet, u16> {
        let mut set = VlanSet { bits: Box::new([0; 64]) };
        for &vlan in vlans {
            if vlan >= VLANS {
                return Err(vlan);
            }
            set.insert(vlan);
        }
        Ok(set)
    }

    /// Adds a VLAN; does nothing with a number that is none.
    pub fn insert(&mut self, vlan: u16) {
        if let Some(word) = self.bits.get_mut(usize::from(vlan / 64)) {
            *word |= 1 << (vlan % 64);
        }
    }

    /// Takes a VLAN out.
    pub fn remove(&mut self, vlan: u16) {
        if let Some(word) = self.bits.get_mut(usize::from(vlan / 64)) {
            *word &= !(1 << (vlan % 64));
        }
    }

    /// Whether a VLAN is in.
    pub fn contains(&self, vlan: u16) -> bool {
        self.bits.get(usize::from(vlan / 64)).is_some_and(|word| word >> (vlan % 64) & 1 == 1)
    }
}

/// A port's VLAN settings, checked and ready for use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortVlans {
    mode: VlanMode,
    /// Access or native VLAN; zero in a trunk.
    tag: u16,
    /// VLANs carried, or all.
    trunks: Option<VlanSet>,
}

impl PortVlans {
    /// Checks the operator's settings.
    pub fn new(config: &VlanConfig) -> Result<PortVlans, VlanError> {
        let default_mode = if config.tag.is_some() { VlanMode::Access } else { VlanMode::Trunk };
        let mode = config.mode.unwrap_or(default_mode);
        let asked = config.tag.unwrap_or(0);
        if asked >= VLANS {
            return Err(VlanError::Tag(asked));
        }
        let list = VlanSet::new(&config.trunks).map_err(VlanError::Trunk)?;
        let listed = (!config.trunks.is_empty()).then_some(list);
        let (tag, trunks) = match mode {
            VlanMode::Access => (asked, None),
            VlanMode::Trunk => (0, listed),
            VlanMode::NativeTagged | VlanMode::NativeUntagged => (asked, native_trunks(asked, listed)),
        };
        Ok(PortVlans { mode, tag, trunks })
    }

    /// The mode in force.
    pub fn mode(&self) -> VlanMode {
        self.mode
    }

    /// VLAN of a frame that comes in with this VID (zero: untagged or priority-tagged), or `None` when the port
    /// may not bring it.
    pub fn admit(&self, vid: u16) -> Option<u16> {
        match self.mode {
            VlanMode::Access => (vid == 0).then_some(self.tag),
            VlanMode::Trunk => self.trunked(vid).then_some(vid),
            VlanMode::NativeTagged | VlanMode::NativeUntagged if vid == 0 => Some(self.tag),
            VlanMode::NativeTagged | VlanMode::NativeUntagged => self.trunked(vid).then_some(vid),
        }
    }

    /// Whether the port carries a VLAN.
    pub fn carries(&self, vlan: u16) -> bool {
        match self.mode {
            VlanMode::Access => vlan == self.tag,
            VlanMode::Trunk | VlanMode::NativeTagged | VlanMode::NativeUntagged => self.trunked(vlan),
        }
    }

    /// VID a frame of this VLAN leaves with; zero means without a tag.
    pub fn egress_vid(&self, vlan: u16) -> u16 {
        match self.mode {
            VlanMode::Access => 0,
            VlanMode::Trunk | VlanMode::NativeTagged => vlan,
            VlanMode::NativeUntagged if vlan == self.tag => 0,
            VlanMode::NativeUntagged => vlan,
        }
    }

    /// Whether a frame without a VID leaves with a tag all the same if it has a priority.
    pub fn keeps_priority(&self) -> bool {
        matches!(self.mode, VlanMode::Trunk | VlanMode::NativeTagged)
    }

    fn trunked(&self, vlan: u16) -> bool {
        self.trunks.as_ref().is_none_or(|set| set.contains(vlan))
    }
}

/// A native VLAN other than 0 is always carried, and then VLAN 0 never is: no frame can be in it. VLAN 0 as the native one may
/// come in, but is sent only if it is listed.
fn native_trunks(native: u16, listed: Option<VlanSet>) -> Option<VlanSet> {
    if native == 0 {
        return listed;
    }
    let mut set = listed.unwrap_or_else(|| VlanSet { bits: Box::new([u64::MAX; 64]) });
    set.insert(native);
    set.remove(0);
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlans(mode: Option<VlanMode>, tag: Option<u16>, trunks: &[u16]) -> PortVlans {
        PortVlans::new(&VlanConfig { mode, tag, trunks: trunks.to_vec() }).unwrap()
    }

    #[test]
    fn mode_follows_from_tag() {
        assert_eq!(vlans(None, None, &[]).mode(), VlanMode::Trunk);
        assert_eq!(vlans(None, Some(0), &[]).mode(), VlanMode::Access);
        let port = vlans(None, Some(7), &[1, 2]);
        assert_eq!(port.mode(), VlanMode::Access);
        assert!(!port.carries(1), "an access port ignores trunks");
    }

    #[test]
    fn access() {
        let port = vlans(None, Some(7), &[]);
        assert_eq!(port.admit(0), Some(7));
        assert_eq!(port.admit(7), None, "a tagged frame is dropped even in the port's own VLAN");
        assert_eq!(port.admit(8), None);
        assert!(port.carries(7) && !port.carries(0) && !port.carries(8));
        assert_eq!(port.egress_vid(7), 0);
    }

    #[test]
    fn trunk() {
        let all = vlans(None, None, &[]);
        assert_eq!((all.admit(0), all.admit(4095)), (Some(0), Some(4095)));
        assert_eq!((all.egress_vid(0), all.egress_vid(9)), (0, 9));
        let some = vlans(Some(VlanMode::Trunk), Some(5), &[10, 20]);
        assert_eq!((some.admit(10), some.admit(20)), (Some(10), Some(20)));
        assert_eq!((some.admit(0), some.admit(5), some.admit(11)), (None, None, None));
        assert!(some.carries(10) && !some.carries(0) && !some.carries(5));
    }

    #[test]
    fn native_tagged() {
        let port = vlans(Some(VlanMode::NativeTagged), Some(5), &[10]);
        assert_eq!(
            (port.admit(0), port.admit(5), port.admit(10), port.admit(11)),
            (Some(5), Some(5), Some(10), None)
        );
        assert!(port.carries(5) && port.carries(10) && !port.carries(0));
        assert_eq!((port.egress_vid(5), port.egress_vid(10)), (5, 10));
    }

    #[test]
    fn native_untagged() {
        let port = vlans(Some(VlanMode::NativeUntagged), Some(5), &[]);
        assert_eq!((port.admit(0), port.admit(5), port.admit(10)), (Some(5), Some(5), Some(10)));
        assert!(port.carries(5) && port.carries(4000) && !port.carries(0));
        assert_eq!((port.egress_vid(5), port.egress_vid(10)), (0, 10));
    }

    #[test]
    fn native_zero_comes_in_and_leaves_if_listed() {
        for mode in [VlanMode::NativeTagged, VlanMode::NativeUntagged] {
            let port = vlans(Some(mode), None, &[10]);
            assert_eq!((port.admit(0), port.admit(10), port.admit(11)), (Some(0), Some(10), None));
            assert!(!port.carries(0));
            assert!(vlans(Some(mode), None, &[0, 10]).carries(0));
            assert!(vlans(Some(mode), None, &[]).carries(0));
        }
    }

    #[test]
    fn numbers_are_checked() {
        let bad_tag = VlanConfig::access(4096);
        assert_eq!(PortVlans::new(&bad_tag), Err(VlanError::Tag(4096)));
        assert_eq!(PortVlans::new(&VlanConfig::trunk([1, 5000])), Err(VlanError::Trunk(5000)));
    }

    #[test]
    fn names_round_trip() {
        for mode in [VlanMode::Access, VlanMode::Trunk, VlanMode::NativeTagged, VlanMode::NativeUntagged] {
            assert_eq!(VlanMode::from_name(mode.name()), Some(mode));
        }
        assert_eq!(VlanMode::from_name("dot1q-tunnel"), None);
    }
}
