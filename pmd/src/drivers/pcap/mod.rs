//! A port that replays a capture file and records what it is sent to another.
//!
//! The file to replay is read whole when the port opens, so a worker never waits for a disk and a broken file is an error
//! at once. A paced replay sleeps between frames like any idle queue. What is recorded is copied to pool memory and written by a thread of its own; when that cannot keep up,
//! packets are dropped with a reason.

mod file;
mod record;
mod replay;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::queue_slots::{QueueSlots, Subscriber};
use crate::packet::{Batch, OwnedPacket, Pool, PoolCache, SlotId};
use crate::port::{
    DropReason, LinkState, PmdError, Port, PortEvents, PortInfo, QueueCounters, RxQueue, TxQueue,
};

pub use file::{Capture, CaptureError};
use record::{Recorder, Recording};
use replay::Replay;

/// What to open.
#[derive(Clone)]
pub struct PcapConfig {
    /// Name of the port.
    pub name: String,
    /// Capture to replay.
    pub replay: Option<PathBuf>,
    /// Begin again at the end.
    pub repeat: bool,
    /// Keep the distances in time that the capture has, instead of as fast as possible.
    pub paced: bool,
    /// File to record to; replaced if it exists.
    pub record: Option<PathBuf>,
    /// Bytes of a frame to record at most.
    pub snaplen: u32,
    /// Where packets wait for the disk.
    pub pool: &'static Pool,
}

impl PcapConfig {
    /// A port that does neither yet.
    pub fn new(name: String, pool: &'static Pool) -> PcapConfig {
        PcapConfig { name, replay: None, repeat: false, paced: false, record: None, snaplen: 262_144, pool }
    }
}

struct PcapPort {
    config: PcapConfig,
    capture: Option<Arc<Capture>>,
    recorder: Option<Recorder>,
    slots: QueueSlots,
    mtu: AtomicU16,
    subscriber: Arc<Subscriber>,
}

/// Opens the port: reads the capture, makes the file to record to.
pub fn open(config: PcapConfig) -> Result<Arc<dyn Port>, PmdError> {
    let capture = match &config.replay {
        None => None,
        Some(path) => Some(Arc::new(Capture::load(path).map_err(|e| {
            PmdError::Config(format!("{}: cannot replay {}: {e}", config.name, path.display()))
        })?)),
    };
    let subscriber = Arc::new(Subscriber::default());
    let told = subscriber.clone();
    let recorder = match &config.record {
        None => None,
        Some(path) => Some(Recorder::start(path, config.snaplen, move || told.notify()).map_err(|e| {
            let what = format!("{}: recording to {}", config.name, path.display());
            PmdError::system(what, "the folder must exist and be writable", e)
        })?),
    };
    Ok(Arc::new(PcapPort {
        config,
        capture,
        recorder,
        slots: QueueSlots::new(1),
        mtu: AtomicU16::new(u16::MAX),
        subscriber,
    }))
}

impl Port for PcapPort {
    fn driver(&self) -> &'static str {
        "pcap"
    }

    fn info(&self) -> PortInfo {
        PortInfo {
            link: LinkState::Up,
            mtu: self.mtu.load(Ordering::Relaxed),
            rx_queues: u16::from(self.capture.is_some()),
            error: self.recorder.as_ref().and_then(Recorder::failure),
            ..PortInfo::default()
        }
    }

    fn rx_queue(&self, index: u16) -> Result<Box<dyn RxQueue>, PmdError> {
        let taken = self.slots.take(&self.config.name, index)?;
        let Some(capture) = self.capture.clone() else {
            return Err(PmdError::Queue { port: self.config.name.clone(), index, problem: "does not exist" });
        };
        Ok(Box::new(Replay::new(capture, self.config.repeat, self.config.paced, taken)?))
    }

    fn tx_queue(&self, _worker: u16) -> Result<Box<dyn TxQueue>, PmdError> {
        let recording = self.recorder.as_ref().map(Recorder::recording);
        Ok(Box::new(Record { recording, cache: self.config.pool.cache(), counters: Arc::default() }))
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

struct Record {
    recording: Option<Arc<Recording>>,
    cache: PoolCache,
    counters: Arc<QueueCounters>,
}

impl TxQueue for Record {
    fn tx_burst(&mut self, batch: &Batch<'_>, slots: &[SlotId]) -> usize {
        let Some(recording) = &self.recording else {
            self.counters.drops.add(DropReason::TxLinkDown, slots.len() as u64);
            return 0;
        };
        let now = record::now();
        let (mut sent, mut bytes) = (0, 0);
        for &slot in slots {
            let frame = batch.frame(slot);
            let packet = OwnedPacket::copy_from_frame(&frame, &mut self.cache);
            let packet = packet.ok_or(DropReason::TxRingFull);
            match packet.and_then(|packet| recording.push(now, packet)) {
                Ok(()) => {
                    sent += 1;
                    bytes += frame.len() as u64;
                }
                Err(reason) => self.counters.drops.add(reason, 1),
            }
        }
        if sent != 0 {
            recording.wake();
            self.counters.add_burst(sent as u64, bytes);
        }
        sent
    }

    fn counters(&self) -> Arc<QueueCounters> {
        self.counters.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{BatchStorage, Span};
    use crate::port::Armed;
    use crate::port::test_events::Told;

    #[test]
    fn what_was_recorded_can_be_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pcap");
        let pool = Pool::create(256).unwrap();
        let config =
            PcapConfig { record: Some(path.clone()), snaplen: 1000, ..PcapConfig::new("r".into(), pool) };
        let port = open(config).unwrap();
        let frames: Vec<Vec<u8>> = (1..=40).map(|n| vec![n as u8; n * 30]).collect();
        let mut tx = port.tx_queue(0).unwrap();
        let mut storage = BatchStorage::new();
        for frame in &frames {
            let mut batch = storage.begin();
            assert!(batch.receive(Span::from_slice(frame)));
            assert_eq!(tx.tx_burst(&batch, &[0]), 1);
        }
        drop((tx, port));

        let replay = PcapConfig { replay: Some(path), ..PcapConfig::new("p".into(), pool) };
        let port = open(replay).unwrap();
        let mut rx = port.rx_queue(0).unwrap();
        let mut seen = Vec::new();
        loop {
            let mut batch = storage.begin();
            let n = rx.rx_burst(&mut batch);
            for slot in 0..n {
                let mut bytes = vec![0; 2000];
                let len = batch.frame(slot as SlotId).copy_to(&mut bytes);
                seen.push(bytes[..len].to_vec());
            }
            rx.rx_done();
            if n == 0 {
                break;
            }
        }
        assert_eq!(rx.arm(), Armed::Idle);
        let cut = frames.iter().map(|f| f[..f.len().min(1000)].to_vec());
        assert_eq!(seen, cut.collect::<Vec<_>>());
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_is_told() {
        let pool = Pool::create(64).unwrap();
        let config = PcapConfig { record: Some("/dev/full".into()), ..PcapConfig::new("r".into(), pool) };
        let port = open(config).unwrap();
        let (sender, told) = std::sync::mpsc::channel();
        port.subscribe(Arc::new(Told(sender)));
        // The writer may have failed at the file's header before anybody listened.
        if port.info().error.is_none() {
            told.recv().unwrap();
        }
        let error = port.info().error.unwrap();
        assert!(error.contains("/dev/full") && error.contains("No space"), "{error}");
        let mut tx = port.tx_queue(0).unwrap();
        let mut storage = BatchStorage::new();
        let mut batch = storage.begin();
        assert!(batch.receive(Span::from_slice(&[1; 60])));
        assert_eq!(tx.tx_burst(&batch, &[0]), 0);
        assert_eq!(tx.counters().drops.get(DropReason::TxSystem), 1);
        drop(port);
        assert_eq!(tx.tx_burst(&batch, &[0]), 0);
        assert_eq!(tx.counters().drops.get(DropReason::TxPortGone), 1);
        drop(tx);
        assert_eq!(pool.free_chunks(), 64);
    }

    #[test]
    fn a_missing_file_is_named() {
        let pool = Pool::create(8).unwrap();
        let config = PcapConfig { replay: Some("/no/such.pcap".into()), ..PcapConfig::new("p".into(), pool) };
        let error = open(config).err().unwrap().to_string();
        assert!(error.contains("/no/such.pcap"), "{error}");
    }
}
