//! Bursts as tests of drivers send and receive them: frames are vectors of bytes.

use super::{RxQueue, TxQueue};
use crate::packet::{Batch, BatchStorage, Offload, SlotId, Span};

/// Sends frames as one burst, each with the same offload state; returns how many were taken. Does not notify.
pub(crate) fn send_burst(tx: &mut dyn TxQueue, frames: &[Vec<u8>], offload: Offload) -> usize {
    let mut storage = BatchStorage::new();
    let mut batch = storage.begin();
    for (slot, frame) in frames.iter().enumerate() {
        assert!(batch.receive(Span::from_slice(frame)));
        batch.packet_mut(slot as SlotId).offload = offload;
    }
    let slots: Vec<SlotId> = (0..frames.len() as SlotId).collect();
    tx.tx_burst(&batch, &slots)
}

/// Receives one burst: the frames and what is said of them.
pub(crate) fn receive_burst(rx: &mut dyn RxQueue) -> Vec<(Vec<u8>, Offload)> {
    let mut storage = BatchStorage::new();
    let frames = {
        let mut batch = storage.begin();
        assert_eq!(rx.rx_burst(&mut batch), batch.len());
        let offloads = (0..batch.len() as SlotId).map(|slot| batch.frame(slot).offload);
        whole(&batch).into_iter().zip(offloads).collect()
    };
    rx.rx_done();
    frames
}

/// All frames of a batch, each in one piece.
pub(crate) fn whole(batch: &Batch<'_>) -> Vec<Vec<u8>> {
    let one = |slot| {
        let frame = batch.frame(slot);
        let mut bytes = vec![0; frame.len()];
        frame.copy_to(&mut bytes);
        bytes
    };
    (0..batch.len() as SlotId).map(one).collect()
}
