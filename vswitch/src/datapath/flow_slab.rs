//! The worker's flows by number, so that caches hold eight bytes and not a reference count.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::flow::Megaflow;

/// Names a flow in the slab. A cache may hold one long after the flow has gone: the generation tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FlowRef {
    index: u32,
    /// Not zero, so that an optional reference is eight bytes too.
    generation: NonZeroU32,
}

struct Entry {
    generation: NonZeroU32,
    flow: Option<Arc<Megaflow>>,
}

/// Flows of one worker.
#[derive(Default)]
pub(super) struct FlowSlab {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl FlowSlab {
    /// Keeps a flow and names it.
    pub(super) fn insert(&mut self, flow: Arc<Megaflow>) -> FlowRef {
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(index as usize)
        {
            entry.flow = Some(flow);
            return FlowRef { index, generation: entry.generation };
        }
        let index = self.entries.len() as u32;
        self.entries.push(Entry { generation: NonZeroU32::MIN, flow: Some(flow) });
        FlowRef { index, generation: NonZeroU32::MIN }
    }

    /// The flow, unless it has gone.
    #[inline]
    pub(super) fn get(&self, flow: FlowRef) -> Option<&Arc<Megaflow>> {
        let entry = self.entries.get(flow.index as usize)?;
        if entry.generation == flow.generation { entry.flow.as_ref() } else { None }
    }

    /// Lets a flow go; its number will name another one, in another generation.
    pub(super) fn remove(&mut self, flow: FlowRef) -> Option<Arc<Megaflow>> {
        let entry = self.entries.get_mut(flow.index as usize)?;
        if entry.generation != flow.generation {
            return None;
        }
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.free.push(flow.index);
        entry.flow.take()
    }
}
