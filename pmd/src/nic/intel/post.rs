//! A mailbox of the 82576 between two played functions: what both models read and write.

use std::sync::{Arc, Mutex};

use super::vf_messages::WORDS;

/// The words, and who has said what.
#[derive(Debug)]
pub(crate) struct Post {
    pub(crate) words: [u32; WORDS],
    /// Who has the words.
    pub(crate) vf_has: bool,
    pub(crate) pf_has: bool,
    /// For the virtual function: there is a message; its own was read; the card was reset and is ready; the card is in reset.
    pub(crate) message: bool,
    pub(crate) was_read: bool,
    pub(crate) reset_done: bool,
    pub(crate) in_reset: bool,
    /// For the physical function: there is a request; its message was read; the function was reset.
    pub(crate) asked: bool,
    pub(crate) pf_was_read: bool,
    pub(crate) vf_reset: bool,
}

/// One that both have.
pub(crate) type SharedPost = Arc<Mutex<Post>>;

/// Before the driver of the physical function has come.
pub(crate) fn post() -> SharedPost {
    Arc::new(Mutex::new(Post {
        words: [0; WORDS],
        vf_has: false,
        pf_has: false,
        message: false,
        was_read: false,
        reset_done: false,
        in_reset: true,
        asked: false,
        pf_was_read: false,
        vf_reset: false,
    }))
}
