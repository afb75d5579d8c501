//! The lab: real Linux guests, network namespaces and stock peers around `vswitchd`, driven from Rust.
//!
//! Scenarios (`tests/e2e`), `make demo` and `make bench` are written with these pieces: a [`lab::Lab`] provides the
//! programs, a [`switch::Vswitchd`] is the switch under test, a [`guest::Guest`] is a virtual machine to run commands in,
//! a [`netns::Netns`] a piece of host network, a [`testpmd::Testpmd`] DPDK's own front-end or back-end. Each cleans up
//! after itself when dropped, by process id and by name of its own making.
//!
//! Whatever is waited for is an event (a socket that answers, a line in a log, a ping that comes back) with a deadline
//! far beyond the expected time; no assertion is about speed.

pub mod failure;
pub mod guest;
pub mod hugepages;
pub mod lab;
pub mod netns;
pub mod ovs;
pub mod process;
pub mod scripted_guest;
pub mod soak;
pub mod switch;
pub mod testpmd;
