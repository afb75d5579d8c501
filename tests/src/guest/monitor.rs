//! QEMU's monitor (QMP): one JSON object a line, commands and answers in turn, events in between.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::{During as _, Failure, Result};

/// How long an answer may take. QEMU answers from its main loop, which a busy machine may keep waiting.
const ANSWER: Duration = Duration::from_secs(60);

/// An open monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects, if QEMU has made the socket yet, and gets past the greeting.
    pub(super) fn connect(path: &Path) -> Option<Self> {
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(ANSWER)).ok()?;
        let mut monitor = Self { reader: BufReader::new(stream) };
        monitor.execute("qmp_capabilities", &json!({})).ok()?;
        Some(monitor)
    }

    /// Executes a command and gives what it returned.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes()).during("writing to QEMU's monitor")?;
        loop {
            let mut line = String::new();
            let n = self.reader.read_line(&mut line).during(format_args!("QEMU's answer to {command}"))?;
            if n == 0 {
                return Err(Failure::new(format!("QEMU closed its monitor instead of answering {command}")));
            }
            let mut answer: Value =
                serde_json::from_str(&line).during(format_args!("QEMU's monitor: {line}"))?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(Failure::new(format!("QEMU refuses {command}: {error}")));
            }
            // The greeting, or an event.
        }
    }
}
