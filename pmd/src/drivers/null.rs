//! A port that drops what it is sent and, if asked, brings the same frame for ever: the floor of every measurement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::queue_slots::{QueueSlots, Subscriber, Taken};
use crate::packet::{BURST, Batch, SlotId, Span};
use crate::port::{
    Armed, LinkState, PmdError, Port, PortEvents, PortInfo, QueueCounters, RxQueue, TxQueue, Waker,
};

/// What to open.
#[derive(Clone, Default, Debug)]
pub struct NullConfig {
    /// Name of the port.
    pub name: String,
    /// Frame that every receive queue brings without end; nothing if absent.
    pub generate: Option<Vec<u8>>,
}

struct NullPort {
    config: NullConfig,
    slots: QueueSlots,
    mtu: AtomicU16,
    subscriber: Subscriber,
}

/// Opens a null port with one receive queue.
pub fn open(config: NullConfig) -> Result<Arc<dyn Port>, PmdError> {
    let port = NullPort {
        config,
        slots: QueueSlots::new(1),
        mtu: AtomicU16::new(1500),
        subscriber: Subscriber::default(),
    };
    Ok(Arc::new(port))
}

impl Port for NullPort {
    fn driver(&self) -> &'static str {
        "null"
    }

    fn info(&self) -> PortInfo {
        let rx_queues = u16::from(self.config.generate.is_some());
        PortInfo {
            link: LinkState::Up,
            mtu: self.mtu.load(Ordering::Relaxed),
            rx_queues,
            ..PortInfo::default()
        }
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let taken = self.slots.take(&self.config.name, index)?;
        let frame = self.config.generate.clone().unwrap_or_default();
        Ok(Box::new(NullRx { frame, counters: Arc::default(), _taken: taken }))
    }

    fn tx_queue(&self, _worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        Ok(Box::new(NullTx { counters: Arc::default() }))
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), PmdError> {
        self.mtu.store(mtu, Ordering::Relaxed);
        self.subscriber.notify();
        Ok(())
    }

    fn subscribe(&self, events: Arc<dyn PortEvents>) {
        self.subscriber.set(events);
    }
}

struct NullRx {
    frame: Vec<u8>,
    counters: Arc<QueueCounters>,
    _taken: Taken,
}

impl RxQueue for NullRx {
    fn rx_burst<'q>(&'q mut self, batch: &mut Batch<'q>) -> usize {
        if self.frame.is_empty() {
            return 0;
        }
        let mut packets = 0;
        while packets < BURST && batch.receive(Span::from_slice(&self.frame)) {
            packets += 1;
        }
        self.counters.add_burst(packets as u64, (packets * self.frame.len()) as u64);
        packets
    }

    fn rx_done(&mut self) {}

    fn arm(&mut self) -> Armed {
        if self.frame.is_empty() { Armed::Idle } else { Armed::Work }
    }

    fn set_waker(&mut self, _waker: Waker) {}

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

struct NullTx {
    counters: Arc<QueueCounters>,
}

impl TxQueue for NullTx {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let bytes: usize = slots.iter().map(|&slot| batch.packet(slot).len()).sum();
        self.counters.add_burst(slots.len() as u64, bytes as u64);
        slots.len()
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::BatchStorage;

    #[test]
    fn generates_and_swallows() {
        let port = open(NullConfig { name: "n".into(), generate: Some(vec![1; 60]) }).unwrap();
        let mut rx = port.rx_queue(0).unwrap();
        assert!(port.rx_queue(0).is_err());
        let mut tx = port.tx_queue(0).unwrap();
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert_eq!(rx.rx_burst(&mut batch), BURST);
        assert_eq!(tx.tx_burst(&batch, &[0, 1, 2]), 3);
        drop(rx);
        assert_eq!(tx.counters().snapshot().bytes, 180);
        assert!(port.rx_queue(0).is_ok());
    }
}
