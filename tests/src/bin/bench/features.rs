//! What a vhost-user port offers, asked as a front-end would.

use std::path::Path;

use tests::failure::{During as _, Result};
use vhost::VhostBackend as _;
use vhost::vhost_user::Frontend;

/// `VIRTIO_F_RING_PACKED` (virtio 1.3, 6).
const RING_PACKED: u32 = 34;

/// Whether the port that listens on `socket` offers packed rings.
///
/// # Errors
/// Nobody answers there.
pub(crate) fn packed(socket: &Path) -> Result<bool> {
    let frontend = Frontend::connect(socket, 1).during(socket.display())?;
    frontend.set_owner().during(socket.display())?;
    let features = frontend.get_features().during(socket.display())?;
    Ok(features & (1 << RING_PACKED) != 0)
}
