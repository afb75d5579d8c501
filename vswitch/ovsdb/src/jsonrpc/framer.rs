//! Cuts a byte stream into JSON objects without trusting its writer.
//!
//! Messages follow each other with nothing between them (RFC 7047 section 4), so their ends are found by
//! counting brackets outside strings. Size, depth and the number of values are refused while bytes arrive,
//! before a parser sees them: memory held is at most the size limit plus one read, and a message parsed is
//! at most the value limit.

use serde_json::Value;

/// Bounds on one message.
#[derive(Copy, Clone, Debug)]
pub struct FrameLimits {
    /// Bytes.
    pub size: usize,
    /// Nested objects and arrays. `serde_json` refuses 128 itself.
    pub depth: usize,
    /// Scalars, arrays and objects, roughly: bounds the parsed form, which is larger than the text.
    pub values: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        FrameLimits { size: 16 << 20, depth: 64, values: 1 << 20 }
    }
}

/// Why a stream cannot be followed any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message larger than the limit.
    #[error("a message is larger than {0} bytes; split it")]
    TooLong(usize),
    /// A message nested deeper than the limit.
    #[error("a message is nested deeper than {0} levels")]
    TooDeep(usize),
    /// A message with more values than the limit.
    #[error("a message has more than {0} values; split it")]
    TooMany(usize),
    /// Something other than an object between messages.
    #[error("a message should start with '{{', not byte {0:#04x}")]
    NoObject(u8),
    /// An object that is not JSON.
    #[error("a message is not JSON: {0}")]
    NotJson(String),
}

/// The state of one stream.
#[derive(Debug, Default)]
pub struct Framer {
    limits: FrameLimits,
    buffer: Vec<u8>,
    depth: usize,
    values: usize,
    in_string: bool,
    escaped: bool,
}

impl Framer {
    /// A fresh stream under these limits.
    pub fn new(limits: FrameLimits) -> Framer {
        Framer { limits, ..Framer::default() }
    }

    /// Takes the next bytes and gives the messages they complete. After an error the stream is lost.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Value>, FrameError> {
        let mut messages = Vec::new();
        let mut start = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            let began = self.depth > 0;
            if !began && byte.is_ascii_whitespace() {
                start = at + 1;
                continue;
            }
            let complete = self.step(byte)?;
            if self.buffer.len() + (at + 1 - start) > self.limits.size {
                return Err(FrameError::TooLong(self.limits.size));
            }
            if complete {
                self.buffer.extend_from_slice(bytes.get(start..=at).unwrap_or_default());
                start = at + 1;
                let parsed = serde_json::from_slice(&self.buffer);
                messages.push(parsed.map_err(|fault| FrameError::NotJson(fault.to_string()))?);
                // A large message must not leave its buffer behind for the life of the connection.
                self.buffer = Vec::new();
                self.values = 0;
            }
        }
        self.buffer.extend_from_slice(bytes.get(start..).unwrap_or_default());
        Ok(messages)
    }

    /// Whether the stream stands in the middle of a message.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Follows one byte; true when it ends a message.
    fn step(&mut self, byte: u8) -> Result<bool, FrameError> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'{' | b'[' if self.depth > 0 || byte == b'{' => {
                self.depth += 1;
                self.values += 1;
                if self.depth > self.limits.depth {
                    return Err(FrameError::TooDeep(self.limits.depth));
                }
            }
            _ if self.depth == 0 => return Err(FrameError::NoObject(byte)),
            b'}' | b']' => {
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            b',' => self.values += 1,
            b'"' => self.in_string = true,
            _ => {}
        }
        if self.values > self.limits.values {
            return Err(FrameError::TooMany(self.limits.values));
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn small() -> Framer {
        Framer::new(FrameLimits { size: 64, depth: 3, values: 10 })
    }

    #[test]
    fn limits_hold_before_the_message_is_complete() {
        assert_eq!(small().feed(&[b'{'; 4]), Err(FrameError::TooDeep(3)));
        assert_eq!(
            small().feed(format!("{{\"a\":\"{}", "x".repeat(64)).as_bytes()),
            Err(FrameError::TooLong(64))
        );
        assert_eq!(small().feed(b"{\"a\":[1,1,1,1,1,1,1,1,1,1,1"), Err(FrameError::TooMany(10)));
        assert_eq!(small().feed(b"  [1]"), Err(FrameError::NoObject(b'[')));
        assert_eq!(small().feed(b"}"), Err(FrameError::NoObject(b'}')));
        assert!(matches!(small().feed(b"{]"), Err(FrameError::NotJson(_))));
        assert!(matches!(small().feed(b"{nonsense}"), Err(FrameError::NotJson(_))));
    }

    #[test]
    fn a_message_of_exactly_the_limit_passes() {
        let text = format!("{{\"a\":\"{}\"}}", "x".repeat(64 - 8));
        assert_eq!(text.len(), 64);
        assert_eq!(small().feed(text.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn the_size_limit_spans_feeds() {
        let mut framer = small();
        assert_eq!(framer.feed(b"{\"a\":\""), Ok(vec![]));
        assert_eq!(framer.feed(&[b'x'; 50]), Ok(vec![]));
        assert_eq!(framer.feed(&[b'x'; 50]), Err(FrameError::TooLong(64)));
    }

    #[test]
    fn brackets_and_quotes_in_strings_do_not_count() {
        let value = json!({"a": "}{][\"\\\" \\"});
        assert_eq!(Framer::default().feed(value.to_string().as_bytes()), Ok(vec![value]));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(texts in proptest::collection::vec("[a-z\"{}\\\\\\[\\]é,:]{0,12}", 1..5),
                                           cuts in proptest::collection::vec(0usize..400, 0..12)) {
            let messages: Vec<Value> = texts.iter().map(|t| json!({"method": t, "params": [[], {}]})).collect();
            let stream: String = messages.iter().map(|m| format!("{m}\n ")).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % (stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut framer = Framer::default();
            let mut got = Vec::new();
            for pair in cuts.windows(2) {
                got.extend(framer.feed(&stream.as_bytes()[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(got, messages);
            prop_assert!(!framer.is_partial());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..6)) {
            let mut framer = small();
            for chunk in chunks {
                if framer.feed(&chunk).is_err() {
                    break;
                }
            }
        }
    }
}
