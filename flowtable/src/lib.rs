//! The flow table: from the bytes of a frame to the actions that decide its fate.
//!
//! ```text
//!  frame head ──extract──▶ FlowKey ──▶ signature cache ──▶ megaflow table ──▶ actions
//!                                             (one worker each, single writer)
//!                             rules (priority, match) ──▶ the slow path derives megaflows from them
//! ```
//!
//! This crate is pure: no input or output, no threads, no clock (time is a parameter), and nothing of
//! ours below it. It never sees a packet buffer, only a byte slice of the frame's head.

pub mod actions;
pub mod cache;
pub mod key;
pub mod megaflow;
pub mod rules;
pub mod seeded;
pub mod simd;
pub mod text;
pub mod wire;
