//! The same bridge, ports, rules and frames in Open vSwitch and here: what leaves by which port must be the same, byte for byte.
//!
//! The other side is Debian's `ovs-vswitchd` on its dummy devices, which record what they send; ours are capture ports.

use std::fs;
use std::path::{Path, PathBuf};

use tests::ovs::DummyOvs;

use crate::stage::{PATIENCE, Stage};

/// Frames come in by the first; all record.
const PORTS: [&str; 4] = ["p1", "p2", "p3", "p4"];

/// From 10.0.0.1 to 10.0.0.2, UDP.
const IP: &[u8] = b"\x08\x00\x45\x00\x00\x34\x00\x01\x00\x00\x40\x11\x66\xb6\x0a\x00\x00\x01\x0a\x00\x00\x02\
    \x03\xe8\x07\xd0\x00\x20\xf3\x5fpayload-0123456789abcdef";

/// Settings of ports 1 to 4, of the bridge, and the rules; no rules means those a new bridge has.
struct Case {
    ports: [&'static str; 4],
    bridge: &'static str,
    rules: &'static [&'static str],
}

const fn ports(ports: [&'static str; 4]) -> Case {
    Case { ports, bridge: "", rules: &[] }
}

const fn rules(rules: &'static [&'static str]) -> Case {
    Case { ports: ["", "", "", ""], bridge: "", rules }
}

const CASES: &[Case] = &[
    ports(["", "", "", ""]),
    ports(["tag=10", "tag=10", "tag=20", ""]),
    ports(["tag=0", "tag=10", "trunks=10", ""]),
    ports(["trunks=10,20", "tag=10", "trunks=20", ""]),
    ports(["trunks=0,10", "tag=10", "trunks=20", "vlan_mode=native-tagged tag=0 trunks=5"]),
    ports(["vlan_mode=native-tagged tag=10", "tag=10", "vlan_mode=native-untagged tag=10", ""]),
    ports([
        "vlan_mode=native-untagged tag=10 trunks=20",
        "vlan_mode=native-tagged tag=10",
        "trunks=10",
        "tag=20",
    ]),
    ports(["vlan_mode=trunk tag=10", "tag=10", "vlan_mode=trunk tag=10 trunks=20", ""]),
    ports(["vlan_mode=access trunks=10", "vlan_mode=access tag=10 trunks=20", "", ""]),
    Case { ports: ["", "", "", ""], bridge: "flood_vlans=10", rules: &[] },
    Case { ports: ["", "", "", ""], bridge: "other_config:forward-bpdu=true", rules: &[] },
    rules(&["actions=mod_vlan_vid:7,output:2,strip_vlan,output:3,output:4"]),
    rules(&["actions=mod_vlan_pcp:5,output:2"]),
    rules(&["actions=push_vlan:0x8100,output:2,set_field:4103->vlan_vid,output:3"]),
    rules(&["actions=output:1,in_port,output:2"]),
    rules(&["actions=all"]),
    rules(&["actions=output:3,mod_vlan_vid:9,flood"]),
    rules(&["actions=strip_vlan,normal"]),
    rules(&[
        "ip,actions=set_field:10.0.0.77->nw_dst,output:2,set_field:02:00:00:00:00:99->eth_src,output:3,mod_nw_tos:184,output:4",
    ]),
    rules(&["ip,actions=dec_ttl,output:2,dec_ttl,output:3"]),
    rules(&[
        "priority=9,dl_vlan=10,actions=output:2",
        "priority=8,vlan_tci=0x1000/0x1000,actions=output:3",
        "priority=7,dl_vlan=0xffff,actions=output:4",
    ]),
    rules(&[
        "priority=9,dl_vlan_pcp=5,actions=output:2",
        "priority=8,udp,tp_dst=2000,actions=drop",
        "actions=normal",
    ]),
    rules(&["actions=output(port=2,max_len=20),output:3"]),
    Case {
        ports: ["vlan_mode=native-untagged tag=10 trunks=20", "tag=10", "trunks=10", ""],
        bridge: "",
        rules: &["actions=mod_vlan_vid:10,normal"],
    },
    Case { ports: ["tag=10", "tag=20", "trunks=30", ""], bridge: "", rules: &["actions=flood"] },
];

/// A frame from 02:..:`src` to `dst`, with tags (TPID, TCI) from the outermost.
fn frame(dst: [u8; 6], src: u8, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame = dst.to_vec();
    frame.extend([2, 0, 0, 0, 0, src]);
    for (tpid, tci) in tags {
        frame.extend(tpid.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend(IP);
    frame
}

/// Every kind of tag, to an unknown address, to one just learned on the same port, to groups and to addresses of bridges.
fn frames() -> Vec<Vec<u8>> {
    const C: u16 = 0x8100;
    const S: u16 = 0x88a8;
    let unknown = [2, 0, 0, 0, 0, 2];
    let tags: [&[(u16, u16)]; 12] = [
        &[],
        &[(C, 0)],
        &[(C, 0xa000)],
        &[(C, 5)],
        &[(C, 10)],
        &[(C, 0xa00a)],
        &[(C, 20)],
        &[(C, 30)],
        &[(C, 4095)],
        &[(C, 10), (C, 20)],
        &[(S, 10)],
        &[(S, 10), (C, 20)],
    ];
    let mut frames: Vec<_> = tags.iter().map(|tags| frame(unknown, 1, tags)).collect();
    for dst in [
        [0xff; 6],
        [2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 9],
        [1, 0x80, 0xc2, 0, 0, 0],
        [1, 0x80, 0xc2, 0, 0, 0x10],
        [1, 0, 0xc, 0xcc, 0xcc, 0xcc],
        [1, 0, 0xc, 0xcc, 0xcc, 0xce],
        [0, 0xe0, 0x2b, 0, 0, 4],
    ] {
        frames.extend([frame(dst, 9, &[]), frame(dst, 9, &[(C, 10)])]);
    }
    frames
}

/// The frames of a capture in order of their bytes, without what the host says of itself on the bridge's own port.
fn recorded(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(16) {
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        let (frame, after) = after.split_at(len);
        frames.push(frame.to_vec());
        rest = after;
    }
    frames.retain(|frame| frame[..2] != [0x33, 0x33]);
    frames.sort();
    frames
}

fn write_capture(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, 2 | 4 << 16, 0, 0, 65535, 1u32] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = frame.len() as u32;
        for word in [0, 0, len, len] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend_from_slice(frame);
    }
    fs::write(path, bytes).unwrap();
}

/// `add-port`s with settings and an interface each; before more than one, `add-br br0` with its settings.
fn setup(
    case: &Case,
    kind: &str,
    bridge: &str,
    which: std::ops::Range<usize>,
    file: impl Fn(&str) -> PathBuf,
) -> String {
    let mut line = String::new();
    if which.len() > 1 {
        line = "add-br br0".to_owned();
        let settings = format!("{bridge} {}", case.bridge);
        if !settings.trim().is_empty() {
            line += &format!(" -- set Bridge br0 {settings}");
        }
    }
    for at in which {
        let (port, number) = (PORTS[at], at + 1);
        line += &format!(
            " -- add-port br0 {port} {} -- set Interface {port} type={kind} ofport_request={number} options:tx_pcap={}",
            case.ports[at],
            file(port).display()
        );
    }
    line
}

fn theirs(ovs: &DummyOvs, stage: &Stage, case: &Case, frames: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let file = |port: &str| stage.lab.path(&format!("theirs-{port}.pcap"));
    for port in PORTS {
        // It appends to what there is.
        let _ = fs::remove_file(file(port));
    }
    let line = setup(case, "dummy", "datapath_type=dummy", 0..4, file);
    ovs.vsctl(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
    if !case.rules.is_empty() {
        ovs.ofctl("del-flows", "br0", &[]).unwrap();
    }
    for rule in case.rules {
        // Not all of it can be said in the oldest version, which is the default.
        let newer = ["-OOpenFlow13", rule];
        ovs.ofctl("add-flow", "br0", &[rule]).or_else(|_| ovs.ofctl("add-flow", "br0", &newer)).unwrap();
    }
    for frame in frames {
        ovs.receive("p1", frame).unwrap();
    }
    // One thread receives, switches and answers, so what it has counted it has also sent.
    let all = format!("rx pkts={},", frames.len());
    let deadline = std::time::Instant::now() + PATIENCE;
    while !ovs.ofctl("dump-ports", "br0", &["1"]).unwrap().contains(&all) {
        assert!(std::time::Instant::now() < deadline, "Open vSwitch does not receive all frames");
    }
    ovs.vsctl(&["del-br", "br0"]).unwrap();
    PORTS.map(|port| recorded(&file(port))).into()
}

fn ours(stage: &Stage, case: &Case, frames: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let switch = &stage.switch;
    let file = |port: &str| stage.lab.path(&format!("ours-{port}.pcap"));
    // The port that brings the frames comes last: it starts at once.
    switch.vsctl(&setup(case, "pcap", "", 1..4, file)).unwrap();
    if !case.rules.is_empty() {
        switch.vsctl("del-flows br0").unwrap();
    }
    for rule in case.rules {
        switch.vsctl(&format!("add-flow br0 {rule}")).unwrap();
    }
    let source = stage.lab.path("frames.pcap");
    write_capture(&source, frames);
    let line = setup(case, "pcap", "", 0..1, file);
    switch
        .vsctl(&format!("{} options:rx_pcap={}", line.trim_start_matches(" -- "), source.display()))
        .unwrap();
    switch
        .vsctl_until("--format json stats p1", PATIENCE, |text| {
            let answer: serde_json::Value = serde_json::from_str(text).unwrap();
            let column = answer["headings"].as_array().unwrap().iter().position(|name| name == "rx_packets");
            answer["data"][0][column.unwrap()] == frames.len()
        })
        .unwrap();
    // Returns when all that waited for a decision has had it.
    switch.vsctl("dump-flows br0").unwrap();
    switch.vsctl("del-br br0").unwrap();
    PORTS.map(|port| recorded(&file(port))).into()
}

#[test]
fn frames_leave_as_they_leave_open_vswitch() {
    let stage = Stage::open();
    stage.switch.vsctl("del-br br0").unwrap();
    let ovs = DummyOvs::start(&stage.lab).unwrap();
    let frames = frames();
    for case in CASES {
        let (wanted, got) = (theirs(&ovs, &stage, case, &frames), ours(&stage, case, &frames));
        for (at, port) in PORTS.iter().enumerate() {
            let hex = |frames: &[Vec<u8>], but: &[Vec<u8>]| -> Vec<String> {
                let mut but = but.to_vec();
                let mut left = frames.to_vec();
                left.retain(|frame| {
                    but.iter().position(|other| other == frame).map(|n| but.remove(n)).is_none()
                });
                left.iter().map(|frame| frame.iter().map(|byte| format!("{byte:02x}")).collect()).collect()
            };
            let (missing, extra) = (hex(&wanted[at], &got[at]), hex(&got[at], &wanted[at]));
            assert!(
                missing.is_empty() && extra.is_empty(),
                "{port} with {:?} {} {:?}: only from Open vSwitch {missing:#?}, only from us {extra:#?}",
                case.ports,
                case.bridge,
                case.rules
            );
        }
    }
}
