//! The drivers.
//!
//! | driver | is | rx wakes by |
//! |---|---|---|
//! | [`tap`] | a kernel TAP device: multi-queue, checksum and segmentation offload both ways | its descriptor |
//! | [`af_packet`] | a network device that the kernel keeps: multi-queue, checksum and segmentation offload both ways | its descriptor |
//! | [`af_xdp`] | queues of a network device that the kernel keeps, before its stack: all frames or those of a filter | its descriptor |
//! | [`pair`] | two ports in this process, each other's far side | waker |
//! | [`null`] | a sink, and optionally a source at full rate | never sleeps as a source |
//! | [`pcap`] | replays a capture file, records another | never sleeps while replaying |
//!
//! A driver is a function `open(config) -> Result<Arc<dyn Port>, PmdError>`. It never imports another driver; what they share is
//! `queue_slots` (who has which queue), `parked` (what a queue leaves behind), `netdev` and `link_watch` (devices of the kernel).

pub mod af_packet;
pub mod af_xdp;
pub mod null;
pub mod pair;
pub mod pcap;
pub mod tap;

mod link_watch;
mod netdev;
mod parked;
mod queue_slots;
#[cfg(test)]
mod test_net;
