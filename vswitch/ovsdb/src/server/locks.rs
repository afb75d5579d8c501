//! Named locks between clients (RFC 7047 sections 4.1.8 to 4.1.10).
//!
//! Each lock is a queue whose head owns it. Stealing puts the thief in front; the victim stays next in
//! line and hears `locked` again when the thief lets go.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;

use super::mailbox::Mailbox;
use crate::jsonrpc::notification;

type Queue = VecDeque<Arc<Mailbox>>;

/// All locks of a server. A session is its mailbox.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<String, Queue>>);

fn is(a: &Arc<Mailbox>, b: &Arc<Mailbox>) -> bool {
    Arc::ptr_eq(a, b)
}

impl Locks {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the queue; true if that makes the session owner. Asking twice does not queue twice.
    pub(super) fn lock(&self, name: &str, session: &Arc<Mailbox>) -> bool {
        let mut all = self.all();
        let queue = all.entry(name.to_owned()).or_default();
        if !queue.iter().any(|waiter| is(waiter, session)) {
            queue.push_back(Arc::clone(session));
        }
        queue.front().is_some_and(|owner| is(owner, session))
    }

    /// Takes the lock from whoever has it.
    pub(super) fn steal(&self, name: &str, session: &Arc<Mailbox>) {
        let mut all = self.all();
        let queue = all.entry(name.to_owned()).or_default();
        if let Some(owner) = queue.front().filter(|owner| !is(owner, session)) {
            owner.post(notification("stolen", &json!([name])));
        }
        queue.retain(|waiter| !is(waiter, session));
        queue.push_front(Arc::clone(session));
    }

    /// Leaves the queue; the next in line is told when it becomes owner.
    pub(super) fn unlock(&self, name: &str, session: &Arc<Mailbox>) {
        let mut all = self.all();
        leave(&mut all, name, session);
    }

    /// Leaves every queue: the client is gone.
    pub(super) fn release_all(&self, session: &Arc<Mailbox>) {
        let mut all = self.all();
        let names: Vec<String> = all.keys().cloned().collect();
        for name in names {
            leave(&mut all, &name, session);
        }
    }

    /// Whether the session owns the lock now.
    pub(super) fn owns(&self, name: &str, session: &Arc<Mailbox>) -> bool {
        self.all().get(name).and_then(VecDeque::front).is_some_and(|owner| is(owner, session))
    }

    /// Locks the session holds or waits for.
    pub(super) fn count(&self, session: &Arc<Mailbox>) -> usize {
        self.all().values().filter(|queue| queue.iter().any(|waiter| is(waiter, session))).count()
    }
}

fn leave(all: &mut HashMap<String, Queue>, name: &str, session: &Arc<Mailbox>) {
    let Some(queue) = all.get_mut(name) else { return };
    let owned = queue.front().is_some_and(|owner| is(owner, session));
    queue.retain(|waiter| !is(waiter, session));
    match queue.front() {
        Some(next) if owned => next.post(notification("locked", &json!([name]))),
        Some(_) => {}
        None => {
            all.remove(name);
        }
    }
}
