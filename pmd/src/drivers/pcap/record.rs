//! Writing a capture without making a worker wait for the disk.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_queue::ArrayQueue;

use super::file;
use crate::packet::OwnedPacket;
use crate::port::DropReason;

/// Packets that may wait for the disk.
const QUEUE_LEN: usize = 2048;

/// What the port, its transmit queues and the writer share.
pub(super) struct Recording {
    waiting: ArrayQueue<(Duration, OwnedPacket)>,
    /// The port is closing: what waits is written, nothing more is taken.
    stop: AtomicBool,
    /// Why the writer has given up.
    failure: OnceLock<String>,
    writer: OnceLock<Thread>,
}

impl Recording {
    /// Queues a packet, or says why not.
    pub(super) fn push(&self, time: Duration, packet: OwnedPacket) -> Result<(), DropReason> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(DropReason::TxPortGone);
        }
        if self.failure.get().is_some() {
            return Err(DropReason::TxSystem);
        }
        self.waiting.push((time, packet)).map_err(|_| DropReason::TxRingFull)
    }

    /// Wakes the writer after a burst.
    pub(super) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }
}

/// A file being written by its own thread. Dropping it, which only the port does and never a worker, writes what waits
/// and closes the file.
pub(super) struct Recorder {
    recording: Arc<Recording>,
    thread: Option<JoinHandle<()>>,
}

/// Time of day, for a burst.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Recorder {
    /// Makes the file and starts its writer, which calls `failed` if it has to give up.
    pub(super) fn start(
        path: &Path,
        snaplen: u32,
        failed: impl FnOnce() + Send + 'static,
    ) -> io::Result<Recorder> {
        let mut out = BufWriter::new(File::create(path)?);
        let recording = Arc::new(Recording {
            waiting: ArrayQueue::new(QUEUE_LEN),
            stop: AtomicBool::new(false),
            failure: OnceLock::new(),
            writer: OnceLock::new(),
        });
        let (shared, name) = (recording.clone(), path.display().to_string());
        let thread = thread::Builder::new().name("pcap-record".into()).spawn(move || {
            if let Err(error) = write_all(&mut out, &shared, snaplen) {
                let text =
                    format!("recording to {name} ended: {error}; remove the port and add it again to go on");
                log::error!("{text}");
                let _ = shared.failure.set(text);
                // What waits will not be written; its memory is wanted elsewhere.
                while shared.waiting.pop().is_some() {}
                failed();
            }
        })?;
        let _ = recording.writer.set(thread.thread().clone());
        Ok(Recorder { recording, thread: Some(thread) })
    }

    pub(super) fn recording(&self) -> Arc<Recording> {
        self.recording.clone()
    }

    /// Why nothing is recorded any more, if so.
    pub(super) fn failure(&self) -> Option<String> {
        self.recording.failure.get().cloned()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.recording.stop.store(true, Ordering::Release);
        self.recording.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(out: &mut BufWriter<File>, recording: &Recording, snaplen: u32) -> io::Result<()> {
    out.write_all(&file::header(snaplen))?;
    let mut bytes = Vec::new();
    loop {
        // Before the queue is looked at: what was queued before the stop is written.
        let stopping = recording.stop.load(Ordering::Acquire);
        while let Some((time, packet)) = recording.waiting.pop() {
            bytes.resize(packet.len().min(snaplen as usize), 0);
            packet.copy_to(&mut bytes);
            let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            let header = file::record(seconds, time.subsec_nanos(), bytes.len() as u32, packet.len() as u32);
            out.write_all(&header)?;
            out.write_all(&bytes)?;
        }
        out.flush()?;
        if stopping {
            return Ok(());
        }
        thread::park();
    }
}
