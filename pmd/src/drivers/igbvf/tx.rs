//! Sending: the ring that Intel's cards share.

use crate::nic::intel::{Advanced, IntelTx};

/// The transmit ring.
pub(super) type IgbvfTx = IntelTx<Advanced>;
