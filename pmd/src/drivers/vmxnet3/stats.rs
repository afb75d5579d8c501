//! Counters of the card (`UPT1_TxStats`, `UPT1_RxStats`): a command has it write them to the queue descriptors.

use super::area::Area;

/// In the order in which they lie there.
const TX: [&str; 10] = [
    "tx_tso_packets",
    "tx_tso_bytes",
    "tx_unicast_packets",
    "tx_unicast_bytes",
    "tx_multicast_packets",
    "tx_multicast_bytes",
    "tx_broadcast_packets",
    "tx_broadcast_bytes",
    "tx_card_errors",
    "tx_card_discards",
];
const RX: [&str; 10] = [
    "rx_lro_packets",
    "rx_lro_bytes",
    "rx_unicast_packets",
    "rx_unicast_bytes",
    "rx_multicast_packets",
    "rx_multicast_bytes",
    "rx_broadcast_packets",
    "rx_broadcast_bytes",
    "rx_missed_errors",
    "rx_card_errors",
];

/// The sums over all queues, as the card wrote them last.
pub(super) fn counters(area: &Area) -> Vec<(&'static str, u64)> {
    let tx = TX.iter().enumerate().map(|(i, &name)| (name, area.counter(Area::tx_queue, i)));
    let rx = RX.iter().enumerate().map(|(i, &name)| (name, area.counter(Area::rx_queue, i)));
    tx.chain(rx).collect()
}
