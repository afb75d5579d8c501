//! A whole switch without configuration: one bridge, and a vhost-user port for each socket named on the command line.
//!
//! `cargo run --example cross_connect -- /tmp/a.sock /tmp/b.sock`, then attach a front-end to each. With
//! `in_port` as first argument frames go from each socket to the next by rule instead of by learning.

use std::path::PathBuf;

use flowtable::text::openflow;
use vswitch::bridge::{BridgeConfig, VlanConfig};
use vswitch::switch::{GuestOptions, PortKind, PortRequest, Switch, SwitchConfig};

/// No port has a name here.
struct Numbers;

impl flowtable::text::PortNames for Numbers {
    fn name(&self, _port: flowtable::key::PortNo) -> Option<String> {
        None
    }

    fn number(&self, _name: &str) -> Option<flowtable::key::PortNo> {
        None
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let by_rule = arguments.first().is_some_and(|first| first == "in_port");
    if by_rule {
        arguments.remove(0);
    }
    let switch = Switch::start(SwitchConfig { rundir: std::env::temp_dir() })?;
    switch.set_bridge(BridgeConfig::new("br0"))?;
    for (i, path) in arguments.iter().enumerate() {
        let ofport = switch.add_port(PortRequest {
            name: format!("vhost{i}"),
            bridge: "br0".into(),
            kind: PortKind::VhostUser { path: Some(PathBuf::from(path)), guest: GuestOptions::default() },
            ofport_request: None,
            local: false,
            vlan: VlanConfig::default(),
            mtu: None,
            affinity: Default::default(),
            admin_up: true,
        })?;
        println!("{path} is port {ofport}");
    }
    if by_rule {
        let ports = arguments.len();
        for port in 1..=ports {
            let text = format!("in_port={port},actions=output:{}", port % ports + 1);
            switch.bridges().add_rules("br0", vec![openflow::parse_flow(&text, &Numbers, 0)?])?;
        }
        switch.sync();
    }
    println!("running; end with Ctrl-C");
    loop {
        std::thread::sleep(std::time::Duration::from_secs(10));
        for worker in switch.worker_reports() {
            println!("{worker:?}");
        }
    }
}
