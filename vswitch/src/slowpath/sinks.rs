//! The workers that take megaflows, as the slow path sees them.

use std::sync::{Arc, PoisonError, RwLock};

use crate::datapath::FlowSink;

/// A list of workers, shared between whoever starts and stops them and the slow path.
#[derive(Clone, Default)]
pub struct SinkList {
    sinks: Arc<RwLock<Vec<Arc<dyn FlowSink>>>>,
}

impl SinkList {
    /// Adds a worker, in place of one with the same number.
    pub fn add(&self, sink: Arc<dyn FlowSink>) {
        let mut sinks = self.sinks.write().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|other| other.worker() != sink.worker());
        sinks.push(sink);
    }

    /// Takes a worker off the list. What is installed on it is forgotten by [`super::SlowPathHandle::forget_worker`].
    pub fn remove(&self, worker: u16) {
        self.sinks.write().unwrap_or_else(PoisonError::into_inner).retain(|sink| sink.worker() != worker);
    }

    /// The worker of a number.
    pub fn get(&self, worker: u16) -> Option<Arc<dyn FlowSink>> {
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        sinks.iter().find(|sink| sink.worker() == worker).cloned()
    }
}
