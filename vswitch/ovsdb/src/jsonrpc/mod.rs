//! JSON-RPC 1.0 over a byte stream: cutting it into messages, and the shapes of messages.

mod framer;
mod message;

pub use framer::{FrameError, FrameLimits, Framer};
pub use message::{Message, error_reply, notification, reply, request};
