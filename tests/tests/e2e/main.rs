//! End-to-end scenarios: real guests, stock peers and network namespaces around a running `vswitchd`.
//!
//! One file per topic, each a story to read from top to bottom. A test opens a [`stage::Stage`], which also makes them
//! take turns (see [`tests::lab::Lab`]).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod host;
mod stage;

mod bad_requests;
mod bridges;
mod dpdk_front_end;
mod dpdk_rings;
mod flow_rules;
mod front_ends_live_on;
mod guest_reboot;
mod hostile_peers;
mod idle;
mod iommu;
mod kernel_cards;
mod kernel_devices;
mod killed_under_load;
mod lab_itself;
mod like_ovs;
mod many_ports;
mod migration;
mod multi_queue;
mod nested;
mod nic_binding;
mod nic_errors;
mod nic_ports;
mod nic_sriov;
mod nic_streams;
mod offloads;
mod ports_under_load;
mod qemu_killed;
mod stock_clients;
mod switch_restart;
mod tap;
mod two_guests;
mod uplinks;
mod vdpa;
mod vdpa_site;
mod vlans;
