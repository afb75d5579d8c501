//! Writing a capture without making a worker wait for the disk.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_queue::ArrayQueue;

use super::file;
use crate::packet::OwnedPacket;

/// Packets that may wait for the disk.
const QUEUE_LEN: usize = 2048;

type Waiting = ArrayQueue<(Duration, OwnedPacket)>;

/// A file being written by its own thread. Dropping it writes what waits and closes the file.
pub(super) struct Recorder {
    waiting: Arc<Waiting>,
    stop: Arc<AtomicBool>,
    writer: Thread,
    thread: Option<JoinHandle<()>>,
}

/// Time of day, for a burst.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Recorder {
    pub(super) fn start(path: &Path, snaplen: u32) -> io::Result<Recorder> {
        let mut out = BufWriter::new(File::create(path)?);
        out.write_all(&file::header(snaplen))?;
        let waiting = Arc::new(ArrayQueue::new(QUEUE_LEN));
        let stop = Arc::new(AtomicBool::new(false));
        let (queue, ended, name) = (waiting.clone(), stop.clone(), path.display().to_string());
        let thread = thread::Builder::new().name("pcap-record".into()).spawn(move || {
            if let Err(error) = write_all(&mut out, &queue, &ended, snaplen) {
                log::error!("recording to {name} ended: {error}");
            }
        })?;
        Ok(Recorder { waiting, stop, writer: thread.thread().clone(), thread: Some(thread) })
    }

    /// Queues a packet. False when the disk is behind.
    pub(super) fn push(&self, time: Duration, packet: OwnedPacket) -> bool {
        self.waiting.push((time, packet)).is_ok()
    }

    /// Wakes the writer after a burst.
    pub(super) fn wake(&self) {
        self.writer.unpark();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.writer.unpark();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(out: &mut BufWriter<File>, queue: &Waiting, stop: &AtomicBool, snaplen: u32) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        // Before the queue is looked at: what was queued before the stop is written.
        let stopping = stop.load(Ordering::Acquire);
        while let Some((time, packet)) = queue.pop() {
            bytes.resize(packet.len().min(snaplen as usize), 0);
            packet.copy_to(&mut bytes);
            let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            out.write_all(&file::record(
                seconds,
                time.subsec_nanos(),
                bytes.len() as u32,
                packet.len() as u32,
            ))?;
            out.write_all(&bytes)?;
        }
        out.flush()?;
        if stopping {
            return Ok(());
        }
        thread::park();
    }
}
