//! A blocking client of an OVSDB server: for tools and tests.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::jsonrpc::{FrameError, Framer, Message, notification, reply, request};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not an address this client knows.
    #[error("{0:?} is not an address; use unix:PATH")]
    Address(String),
    /// Nobody there.
    #[error("cannot connect to {path}: {source}; is vswitchd running, with this --rundir?")]
    Connect {
        /// The socket.
        path: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("lost the connection: {0}")]
    Io(#[from] std::io::Error),
    /// The server sent nonsense.
    #[error("the server sent something that is not JSON-RPC: {0}")]
    Protocol(String),
    /// No answer in time.
    #[error("no answer to {method} within {} s; is the server stuck?", waited.as_secs_f32())]
    Timeout {
        /// What was asked.
        method: String,
        /// How long the answer was waited for.
        waited: Duration,
    },
    /// The server refused the request.
    #[error("{error}{}{details}", if details.is_empty() { "" } else { ": " })]
    Refused {
        /// The tag of RFC 7047.
        error: String,
        /// The server's explanation.
        details: String,
    },
    /// An operation of a transaction failed, so nothing of it happened.
    #[error("{error}{}{details}", if details.is_empty() { "" } else { ": " })]
    Transaction {
        /// Which operation; as many as there are if the commit itself failed.
        operation: usize,
        /// The tag of RFC 7047.
        error: String,
        /// The server's explanation.
        details: String,
    },
}

impl From<FrameError> for ClientError {
    fn from(fault: FrameError) -> Self {
        ClientError::Protocol(fault.to_string())
    }
}

/// A notification from the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// `update`, `update2`, `locked` and so on.
    pub method: String,
    /// Its parameters.
    pub params: Vec<Value>,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    framer: Framer,
    inbox: VecDeque<Message>,
    notices: VecDeque<Notice>,
    next_id: u64,
    timeout: Duration,
}

impl Client {
    /// How long [`Client::call`] waits unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Connects to `unix:PATH` (or just `PATH` if it has a slash).
    pub fn connect(address: &str) -> Result<Client, ClientError> {
        let path = match address.strip_prefix("unix:") {
            Some(path) => path,
            None if address.contains('/') => address,
            None => return Err(ClientError::Address(address.to_owned())),
        };
        let stream = UnixStream::connect(path)
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        Ok(Client {
            stream,
            framer: Framer::default(),
            inbox: VecDeque::new(),
            notices: VecDeque::new(),
            next_id: 0,
            timeout: Self::DEFAULT_TIMEOUT,
        })
    }

    /// Waits at most this long for each answer from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends a request and waits for its reply.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, ClientError> {
        let id = self.send(method, params)?;
        self.receive(&id, method)
    }

    /// Sends a request without waiting; [`Client::receive`] takes the id returned.
    pub fn send(&mut self, method: &str, params: &Value) -> Result<Value, ClientError> {
        let id = json!(self.next_id);
        self.next_id += 1;
        self.write(&request(&id, method, params))?;
        Ok(id)
    }

    /// Sends a notification, which has no reply: `cancel` is one.
    pub fn notify(&mut self, method: &str, params: &Value) -> Result<(), ClientError> {
        self.write(&notification(method, params))
    }

    /// Waits for the reply to a request sent before. Replies to other requests that come meanwhile are lost.
    pub fn receive(&mut self, id: &Value, method: &str) -> Result<Value, ClientError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.next_message(deadline)? {
                None => return Err(ClientError::Timeout { method: method.to_owned(), waited: self.timeout }),
                Some(Message::Reply { id: got, result, error }) if got == *id || got.is_null() => {
                    if error.is_null() {
                        return Ok(result);
                    }
                    let (error, details) = explain(&error);
                    return Err(ClientError::Refused { error, details });
                }
                Some(Message::Reply { .. }) => {}
                Some(Message::Notification { method, params }) => {
                    self.notices.push_back(Notice { method, params })
                }
                Some(Message::Request { id, method, params }) => self.serve(&id, &method, params)?,
            }
        }
    }

    /// Runs a transaction; the results of its operations, or the first that failed.
    pub fn transact(&mut self, database: &str, operations: Vec<Value>) -> Result<Vec<Value>, ClientError> {
        let mut params = vec![json!(database)];
        params.extend(operations);
        let reply = self.call("transact", &Value::Array(params))?;
        let Value::Array(results) = reply else {
            return Err(ClientError::Protocol("transact was not answered with an array".to_owned()));
        };
        for (operation, result) in results.iter().enumerate() {
            if result.get("error").is_some() {
                let (error, details) = explain(result);
                return Err(ClientError::Transaction { operation, error, details });
            }
        }
        Ok(results)
    }

    /// Starts a monitor and gives its initial contents; changes come through [`Client::next_update`].
    pub fn monitor(&mut self, database: &str, id: &str, requests: &Value) -> Result<Value, ClientError> {
        self.call("monitor", &json!([database, id, requests]))
    }

    /// The next notification, waiting at most `timeout`; `None` if there is none by then.
    pub fn next_update(&mut self, timeout: Duration) -> Result<Option<Notice>, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(notice) = self.notices.pop_front() {
                return Ok(Some(notice));
            }
            match self.next_message(deadline)? {
                None => return Ok(None),
                Some(Message::Notification { method, params }) => return Ok(Some(Notice { method, params })),
                Some(Message::Request { id, method, params }) => self.serve(&id, &method, params)?,
                Some(Message::Reply { .. }) => {}
            }
        }
    }

    /// Servers ask whether we are alive.
    fn serve(&mut self, id: &Value, method: &str, params: Vec<Value>) -> Result<(), ClientError> {
        if method == "echo" {
            self.write(&reply(id, &Value::Array(params)))?;
        }
        Ok(())
    }

    fn write(&mut self, message: &Value) -> Result<(), ClientError> {
        self.stream.set_write_timeout(Some(self.timeout.max(Duration::from_millis(1))))?;
        Ok(self.stream.write_all(message.to_string().as_bytes())?)
    }

    fn next_message(&mut self, deadline: Instant) -> Result<Option<Message>, ClientError> {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(Some(message));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut chunk = [0u8; 16 * 1024];
            let count = match self.stream.read(&mut chunk) {
                Ok(0) => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => count,
                Err(fault) => match fault.kind() {
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => return Ok(None),
                    std::io::ErrorKind::Interrupted => continue,
                    _ => return Err(fault.into()),
                },
            };
            for json in self.framer.feed(chunk.get(..count).unwrap_or_default())? {
                self.inbox.push_back(Message::from_json(json).map_err(ClientError::Protocol)?);
            }
        }
    }
}

/// Tag and details of an error object, or of a bare string as some servers send.
fn explain(error: &Value) -> (String, String) {
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match error.as_str() {
        Some(tag) => (tag.to_owned(), String::new()),
        None => (text("error"), text("details")),
    }
}
