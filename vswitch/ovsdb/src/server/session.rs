//! One client: its stream, monitors, pending requests, and the loop that serves them.
//!
//! Invariant: updates caused by a transaction are sent before its reply, so a client that has the reply has
//! seen the change. Nothing is read or computed for a client while [`Limits::unsent`](super::Limits) bytes
//! wait for it: memory per client is bounded whatever it does.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};

use super::mailbox::Mailbox;
use super::monitor::{Dialect, Monitor};
use super::shared::{SERVER_DATABASE, Shared};
use crate::database::Hook;
use crate::error::excerpt;
use crate::jsonrpc::{Framer, Message, error_reply, reply};
use crate::transact::{Context, Outcome, execute};
use crate::{Db, ErrorKind, OvsdbError, Uuid};

/// A `transact` blocked in `wait`.
struct Waiting {
    id: Value,
    params: Vec<Value>,
    since: Instant,
    limit: Option<Duration>,
}

/// A connected client.
pub(super) struct Session {
    shared: Arc<Shared>,
    stream: UnixStream,
    mailbox: Arc<Mailbox>,
    framer: Framer,
    requests: VecDeque<Message>,
    unsent: VecDeque<u8>,
    monitors: Vec<(Db, Monitor)>,
    waiting: Vec<Waiting>,
    /// Keeps the commit notices coming; they stop when the session is dropped.
    _hook: Arc<Hook>,
}

/// How a request ends.
enum Answer {
    Now(Result<Value, OvsdbError>),
    /// The reply comes later.
    Later,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, stream: UnixStream, mailbox: Arc<Mailbox>) -> io::Result<Session> {
        stream.set_nonblocking(true)?;
        let wake = Arc::clone(&mailbox);
        let hook: Arc<Hook> = Arc::new(move || wake.wake());
        for db in shared.databases.values() {
            db.on_commit(&hook);
        }
        let framer = Framer::new(shared.limits.message);
        Ok(Session {
            shared,
            stream,
            mailbox,
            framer,
            requests: VecDeque::new(),
            unsent: VecDeque::new(),
            monitors: Vec::new(),
            waiting: Vec::new(),
            _hook: hook,
        })
    }

    /// Serves the client until it leaves, errs or the server stops.
    pub(super) fn run(mut self) {
        if let Err(fault) = self.serve() {
            log::info!("management socket: closed a client: {fault}");
        }
        self.shared.locks.release_all(&self.mailbox);
    }

    fn serve(&mut self) -> io::Result<()> {
        while !self.shared.stop.load(Ordering::Acquire) {
            for notice in self.mailbox.take() {
                self.send(&notice);
            }
            // What a full session passes over is looked at again once there is room: no event will say so.
            let passed_over = self.is_full();
            self.work();
            self.flush()?;
            if !self.is_full() && (passed_over || !self.requests.is_empty()) {
                continue;
            }
            if self.poll()? && !self.receive()? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.unsent.len() >= self.shared.limits.unsent
    }

    /// Does everything that can be done without more input, as long as the client takes the results.
    fn work(&mut self) {
        if self.is_full() {
            return;
        }
        self.update_monitors();
        self.retry_waiting();
        while !self.is_full() {
            let Some(message) = self.requests.pop_front() else { break };
            match message {
                Message::Request { id, method, params } => match self.dispatch(&id, &method, params) {
                    Answer::Now(result) => self.answer(&id, result),
                    Answer::Later => {}
                },
                Message::Notification { method, params } if method == "cancel" => self.cancel(&params),
                // Replies to nothing we asked, notifications we have no use for.
                Message::Notification { .. } | Message::Reply { .. } => {}
            }
        }
    }

    /// Sleeps until something happens; true if there is something to read.
    fn poll(&self) -> io::Result<bool> {
        let mut interest = if self.is_full() { PollFlags::empty() } else { PollFlags::IN };
        if !self.unsent.is_empty() {
            interest |= PollFlags::OUT;
        }
        let now = Instant::now();
        let deadline = self.waiting.iter().filter_map(|w| w.since.checked_add(w.limit?)).min();
        let timeout = deadline.filter(|_| !self.is_full()).map(|deadline| {
            let left = deadline.saturating_duration_since(now);
            // Rounded up so that the deadline has passed when poll returns.
            let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX / 2);
            Timespec { tv_sec: seconds, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut fds =
            [PollFd::new(&self.stream, interest), PollFd::from_borrowed_fd(self.mailbox.fd(), PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(fault) => Err(fault.into()),
            Ok(_) => {
                let events = fds.first().map(PollFd::revents).unwrap_or(PollFlags::empty());
                if events.contains(PollFlags::ERR) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                // A client that hung up and will not take what is unsent would otherwise spin this loop.
                if events.contains(PollFlags::HUP) && !events.contains(PollFlags::IN) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Ok(events.contains(PollFlags::IN))
            }
        }
    }

    /// Reads once. False at the end of the stream.
    fn receive(&mut self) -> io::Result<bool> {
        let mut chunk = [0u8; 32 * 1024];
        let count = match self.stream.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(true);
            }
            Err(fault) => return Err(fault),
        };
        let parsed = self.framer.feed(chunk.get(..count).unwrap_or_default());
        let fault = match parsed {
            Ok(messages) => {
                let mut fault = None;
                for json in messages {
                    match Message::from_json(json) {
                        Ok(message) => self.requests.push_back(message),
                        Err(what) => fault = Some(what),
                    }
                }
                fault
            }
            Err(fault) => Some(fault.to_string()),
        };
        let Some(what) = fault else { return Ok(true) };
        // The stream cannot be followed any further: say why, as far as the client listens, and close.
        self.send(&error_reply(&Value::Null, &OvsdbError::syntax(what.as_str()).to_json()));
        self.flush()?;
        Err(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    fn send(&mut self, message: &Value) {
        self.unsent.extend(message.to_string().as_bytes());
    }

    fn answer(&mut self, id: &Value, result: Result<Value, OvsdbError>) {
        match result {
            Ok(result) => self.send(&reply(id, &result)),
            Err(fault) => self.send(&error_reply(id, &fault.to_json())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match self.stream.write(front) {
                Ok(count) => {
                    self.unsent.drain(..count);
                }
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
        // Room made for a large message is not kept.
        self.unsent.shrink_to(64 * 1024);
        Ok(())
    }

    fn dispatch(&mut self, id: &Value, method: &str, params: Vec<Value>) -> Answer {
        let now = match method {
            "transact" => return self.transact(id, params),
            "echo" => Ok(Value::Array(params)),
            "list_dbs" => Ok(self.shared.databases.keys().map(|name| json!(name)).collect()),
            "get_schema" => self.database(params.first()).map(|db| db.schema().to_json()),
            "get_server_id" => Ok(json!(self.shared.server_id.to_string())),
            "set_db_change_aware" => Ok(json!({})),
            "monitor" => self.monitor(&params, Dialect::Plain),
            "monitor_cond" => self.monitor(&params, Dialect::Conditional),
            "monitor_cond_since" => self.monitor(&params, Dialect::Since),
            "monitor_cond_change" => self.monitor_change(&params),
            "monitor_cancel" => self.monitor_cancel(&params),
            "lock" | "steal" | "unlock" => self.lock(method, &params),
            "cancel" => {
                self.cancel(&params);
                Ok(json!({}))
            }
            _ => self.extra(method, params),
        };
        Answer::Now(now)
    }

    fn extra(&self, method: &str, params: Vec<Value>) -> Result<Value, OvsdbError> {
        match self.shared.methods.call(method, &Value::Array(params)) {
            Some(result) => result.map_err(|text| OvsdbError::new(ErrorKind::Failed, text)),
            None => {
                let what = format!("no method {}; see RFC 7047 section 4.1", excerpt(&json!(method)));
                Err(OvsdbError::new(ErrorKind::UnknownMethod, what))
            }
        }
    }

    fn database(&self, name: Option<&Value>) -> Result<&Db, OvsdbError> {
        let name = name
            .and_then(Value::as_str)
            .ok_or_else(|| OvsdbError::syntax("the first parameter names a database"))?;
        self.shared.databases.get(name).ok_or_else(|| {
            let served: Vec<&str> = self.shared.databases.keys().map(String::as_str).collect();
            let what = format!("no database {}; there are {}", excerpt(&json!(name)), served.join(", "));
            OvsdbError::new(ErrorKind::UnknownDatabase, what)
        })
    }

    fn transact(&mut self, id: &Value, params: Vec<Value>) -> Answer {
        self.run_transaction(Waiting { id: id.clone(), params, since: Instant::now(), limit: None })
    }

    fn run_transaction(&mut self, mut request: Waiting) -> Answer {
        let (outcome, elapsed) = {
            let db = match self.database(request.params.first()) {
                Ok(db) => db,
                Err(fault) => return Answer::Now(Err(fault)),
            };
            let context = Context {
                elapsed: request.since.elapsed(),
                owns_lock: &|name| self.shared.locks.owns(name, &self.mailbox),
                read_only: db.schema().name == SERVER_DATABASE,
            };
            (execute(db, request.params.get(1..).unwrap_or_default(), &context), context.elapsed)
        };
        match outcome {
            Outcome::Done(results) => {
                self.update_monitors();
                Answer::Now(Ok(Value::Array(results)))
            }
            Outcome::Blocked(_) if self.waiting.len() >= self.shared.limits.waiting => {
                let what = format!("{} transactions wait already; cancel some", self.waiting.len());
                Answer::Now(Err(OvsdbError::new(ErrorKind::ResourcesExhausted, what)))
            }
            Outcome::Blocked(limit) => {
                debug_assert!(limit.is_none_or(|limit| limit > elapsed));
                request.limit = limit;
                self.waiting.push(request);
                Answer::Later
            }
        }
    }

    fn retry_waiting(&mut self) {
        for request in std::mem::take(&mut self.waiting) {
            let id = request.id.clone();
            if let Answer::Now(result) = self.run_transaction(request) {
                self.answer(&id, result);
            }
        }
    }

    fn cancel(&mut self, params: &[Value]) {
        let Some(id) = params.first() else { return };
        let before = self.waiting.len();
        self.waiting.retain(|request| request.id != *id);
        if self.waiting.len() != before {
            self.answer(id, Err(OvsdbError::new(ErrorKind::Canceled, "the client cancelled the request")));
        }
    }

    fn update_monitors(&mut self) {
        let mut updates = Vec::new();
        for (db, monitor) in &mut self.monitors {
            updates.extend(monitor.update(&db.snapshot()));
        }
        for update in updates {
            self.send(&update);
        }
    }

    fn monitor(&mut self, params: &[Value], dialect: Dialect) -> Result<Value, OvsdbError> {
        let db = self.database(params.first())?.clone();
        let (Some(id), Some(requests)) = (params.get(1), params.get(2)) else {
            return Err(OvsdbError::syntax("monitor takes a database, an id and the requests"));
        };
        if self.monitors.iter().any(|(_, monitor)| monitor.id == *id) {
            let what = format!("monitor {} is active already; cancel it or choose another id", excerpt(id));
            return Err(OvsdbError::new(ErrorKind::DuplicateMonitorId, what));
        }
        let limit = self.shared.limits.monitors;
        if self.monitors.len() >= limit {
            let what = format!("a client may have {limit} monitors; cancel some");
            return Err(OvsdbError::new(ErrorKind::ResourcesExhausted, what));
        }
        let since = params.get(3).and_then(Value::as_str).and_then(Uuid::parse);
        let monitor = Monitor::new(id.clone(), dialect, requests, db.snapshot())?;
        let initial = monitor.initial(since);
        self.monitors.push((db, monitor));
        Ok(initial)
    }

    fn find_monitor(&self, id: Option<&Value>) -> Result<usize, OvsdbError> {
        let id = id.ok_or_else(|| OvsdbError::syntax("the first parameter is a monitor's id"))?;
        self.monitors.iter().position(|(_, monitor)| monitor.id == *id).ok_or_else(|| {
            OvsdbError::new(ErrorKind::UnknownMonitor, format!("no monitor {} is active", excerpt(id)))
        })
    }

    fn monitor_cancel(&mut self, params: &[Value]) -> Result<Value, OvsdbError> {
        let at = self.find_monitor(params.first())?;
        self.monitors.remove(at);
        Ok(json!({}))
    }

    fn monitor_change(&mut self, params: &[Value]) -> Result<Value, OvsdbError> {
        let at = self.find_monitor(params.first())?;
        let (Some(new_id), Some(changes)) = (params.get(1), params.get(2)) else {
            return Err(OvsdbError::syntax(
                "monitor_cond_change takes the old id, the new id and the conditions",
            ));
        };
        if self.monitors.iter().enumerate().any(|(n, (_, monitor))| n != at && monitor.id == *new_id) {
            let what = format!("monitor {} is active already", excerpt(new_id));
            return Err(OvsdbError::new(ErrorKind::DuplicateMonitorId, what));
        }
        self.update_monitors();
        let Some((_, monitor)) = self.monitors.get_mut(at) else { return Ok(json!({})) };
        if let Some(update) = monitor.change(new_id.clone(), changes)? {
            self.send(&update);
        }
        Ok(json!({}))
    }

    fn lock(&mut self, method: &str, params: &[Value]) -> Result<Value, OvsdbError> {
        let [Value::String(name)] = params else {
            return Err(OvsdbError::syntax(format!("{method} takes the name of a lock")));
        };
        let locks = &self.shared.locks;
        if method == "unlock" {
            locks.unlock(name, &self.mailbox);
            return Ok(json!({}));
        }
        let limit = self.shared.limits.locks;
        if locks.count(&self.mailbox) >= limit {
            let what = format!("a client may hold or await {limit} locks; unlock some");
            return Err(OvsdbError::new(ErrorKind::ResourcesExhausted, what));
        }
        if method == "steal" {
            locks.steal(name, &self.mailbox);
            return Ok(json!({"locked": true}));
        }
        Ok(json!({"locked": locks.lock(name, &self.mailbox)}))
    }
}
