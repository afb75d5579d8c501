//! The command channel into a guest: its second serial port, a unix socket on our side.
//!
//! `guest/init` reads "ID COMMAND" lines and answers with the command's output followed by a line "\x01ID STATUS". After
//! every boot it says "\x01ready SECONDS" once. Commands run one after the other; what should go on in the background is
//! started with `&` and its output sent to a file.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{During as _, Failure, Result};

/// Marks a line of the protocol among a command's output.
const MARK: u8 = 1;

/// An open command channel.
#[derive(Debug)]
pub(super) struct Console {
    stream: UnixStream,
    pending: Vec<u8>,
    last_id: u32,
}

impl Console {
    /// Connects, if QEMU has made the socket yet.
    pub(super) fn connect(path: &Path) -> Option<Self> {
        let stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        Some(Self { stream, pending: Vec::new(), last_id: 0 })
    }

    /// Waits for the guest's first word after a boot; `alive` is asked now and then whether waiting still makes sense.
    pub(super) fn ready(&mut self, patience: Duration, alive: impl FnMut() -> Result<()>) -> Result<()> {
        self.until_mark("ready", patience, alive).map(drop)
    }

    /// Runs `command` in the guest: its exit status and what it printed.
    pub(super) fn run(
        &mut self,
        command: &str,
        patience: Duration,
        alive: impl FnMut() -> Result<()>,
    ) -> Result<(i32, String)> {
        let id = self.send(command)?;
        let (output, status) = self.until_mark(&id, patience, alive).during(format_args!("`{command}`"))?;
        let status = status.trim().parse().during(format_args!("exit status of `{command}`"))?;
        Ok((status, output.trim_end().to_owned()))
    }

    /// Sends `command` without waiting for an answer.
    pub(super) fn send(&mut self, command: &str) -> Result<String> {
        if command.contains('\n') {
            return Err(Failure::new(format!("a guest command is one line, not {command:?}")));
        }
        self.last_id += 1;
        let id = self.last_id.to_string();
        // The guest's receive buffer is small and an emulated guest is slow to drain it.
        for piece in format!("{id} {command}\n").as_bytes().chunks(512) {
            self.stream.write_all(piece).during("writing to the guest's command channel")?;
        }
        Ok(id)
    }

    /// Reads up to the protocol line that starts with `word`: what came before it, and the rest of that line.
    fn until_mark(
        &mut self,
        word: &str,
        patience: Duration,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<(String, String)> {
        let deadline = Instant::now() + patience;
        let mut output = Vec::new();
        loop {
            while let Some(line) = self.line() {
                let text = String::from_utf8_lossy(&line).into_owned();
                match text.strip_prefix(char::from(MARK)).and_then(|rest| rest.trim_end().split_once(' ')) {
                    Some((first, rest)) if first == word => {
                        return Ok((String::from_utf8_lossy(&output).into_owned(), rest.to_owned()));
                    }
                    // The end of a command nobody waited for.
                    Some(_) => output.clear(),
                    None => output.extend_from_slice(&line),
                }
            }
            alive()?;
            if Instant::now() > deadline {
                return Err(Failure::new(format!(
                    "the guest said nothing final within {} s; so far: {}",
                    patience.as_secs(),
                    String::from_utf8_lossy(&output)
                )));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Failure::new("the guest's command channel closed (QEMU is gone)")),
            Ok(n) => {
                self.pending.extend_from_slice(chunk.get(..n).unwrap_or_default());
                Ok(())
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(Failure::new(format!("the guest's command channel: {e}"))),
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.pending.iter().position(|&b| b == b'\n')?;
        Some(self.pending.drain(..=end).collect())
    }
}
