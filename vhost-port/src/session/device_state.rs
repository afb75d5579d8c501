//! A device's state on its way to another back-end: SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE.
//!
//! What a front-end cannot carry over by its own messages is little: the address a driver has set by the configuration space, the MTU
//! and the device status that the front-end once told. It travels in a few bytes of fixed length, with a mark and a version in
//! front: a back-end of another kind refuses it, one of another version says which it knows.
//!
//! ```text
//!   0 mark, 4 version, 8 acknowledged features, 16 device status, 24 MTU told (0: none), 26 whether there is an address, 27 the address, 33 zero
//! ```
//!
//! Nothing here waits. The state is smaller than any pipe, so it is written at once or not at all; it is read when the front-end asks whether it
//! arrived, and by then it has closed its end.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use vhost::vhost_user::Result as VhostResult;
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostUserProtocolFeatures};

use super::features;
use super::machine::{Session, refuse};

const MARK: [u8; 4] = *b"vsns";
const VERSION: u32 = 1;
const LEN: usize = 40;

/// A transfer that the front-end has asked for and not yet asked about.
#[derive(Debug)]
pub(super) enum Transfer {
    /// The state was written, or not.
    Saved(Result<(), String>),
    /// It comes by this descriptor.
    Loading(OwnedFd),
}

/// The state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DeviceState {
    features: u64,
    device_status: u64,
    mtu: Option<u16>,
    mac: Option<[u8; 6]>,
}

impl DeviceState {
    fn to_bytes(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(&MARK);
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.features.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.device_status.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        bytes[26] = self.mac.is_some().into();
        bytes[27..33].copy_from_slice(&self.mac.unwrap_or_default());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<DeviceState, String> {
        let (mark, rest) = bytes.split_first_chunk().ok_or("device state with no mark")?;
        if *mark != MARK {
            return Err("device state that is not of this switch".to_owned());
        }
        let version = rest.first_chunk().map(|version| u32::from_le_bytes(*version));
        if version != Some(VERSION) {
            return Err(format!("device state of version {version:?}; this switch knows version {VERSION}"));
        }
        let bytes: &[u8; LEN] = bytes
            .try_into()
            .map_err(|_| format!("device state of {} bytes instead of {LEN}", bytes.len()))?;
        let number =
            |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
        let mtu = number(24) as u16;
        let mut mac = [0; 6];
        mac.copy_from_slice(&bytes[27..33]);
        match bytes[26] {
            flag @ (0 | 1) => Ok(DeviceState {
                features: number(8),
                device_status: number(16),
                mtu: (mtu != 0).then_some(mtu),
                mac: (flag == 1).then_some(mac),
            }),
            other => Err(format!("device state with flag {other}")),
        }
    }
}

/// Checks that a descriptor is one that nobody can make us wait on.
fn pipe(file: File) -> Result<OwnedFd, String> {
    let fd = OwnedFd::from(file);
    let fail = |e: Errno| format!("cannot look at the descriptor for device state: {e}");
    match FileType::from_raw_mode(fstat(&fd).map_err(fail)?.st_mode) {
        FileType::Fifo | FileType::Socket => {}
        other => return Err(format!("device state by a descriptor that is no pipe: {other:?}")),
    }
    let flags = fcntl_getfl(&fd).map_err(fail)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(fail)?;
    Ok(fd)
}

/// Reads all there is, up to the end.
fn read_all(fd: &OwnedFd) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut part = [0; LEN + 1];
    loop {
        match rustix::io::read(fd, &mut part) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend(part.iter().take(n)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err("device state whose sender has not closed its end".to_owned()),
            Err(e) => return Err(format!("device state: {e}")),
        }
        if bytes.len() > LEN {
            return Err(format!("device state of more than {LEN} bytes"));
        }
    }
}

impl Session {
    /// Begins a transfer. The front-end's descriptor is always good enough, so none goes back.
    pub(super) fn begin_transfer(
        &mut self,
        direction: VhostTransferStateDirection,
        file: File,
    ) -> Result<(), String> {
        self.transfer = None;
        if self.protocol_features & VhostUserProtocolFeatures::DEVICE_STATE.bits() == 0 {
            return Err("SET_DEVICE_STATE_FD, whose feature was not negotiated".to_owned());
        }
        if self.rings.iter().any(|ring| ring.started) {
            return Err("SET_DEVICE_STATE_FD while rings run".to_owned());
        }
        let fd = pipe(file)?;
        self.transfer = Some(match direction {
            VhostTransferStateDirection::SAVE => Transfer::Saved(self.save(&fd)),
            VhostTransferStateDirection::LOAD => Transfer::Loading(fd),
        });
        Ok(())
    }

    /// Ends a transfer: an error says that the state has not arrived.
    pub(super) fn check_transfer(&mut self) -> Result<(), String> {
        match self.transfer.take() {
            None => Err("CHECK_DEVICE_STATE without a transfer".to_owned()),
            Some(Transfer::Saved(result)) => result,
            Some(Transfer::Loading(fd)) => {
                let state = DeviceState::from_bytes(&read_all(&fd)?)?;
                self.load(state)
            }
        }
    }

    /// The answer carries no reason, and the connection goes on: the log and the port's error say it.
    pub(super) fn note_transfer(&mut self, result: Result<(), String>) -> VhostResult<()> {
        result.map_err(|reason| {
            log::error!("{}: {reason}", self.shared.config.name);
            self.shared.peer().error = Some(reason.clone());
            self.changed = true;
            refuse(reason)
        })
    }

    fn save(&self, fd: &OwnedFd) -> Result<(), String> {
        let (mtu, mac) = {
            let peer = self.shared.peer();
            (peer.mtu, peer.mac)
        };
        let state = DeviceState { features: self.features, device_status: self.device_status, mtu, mac };
        match rustix::io::write(fd, &state.to_bytes()) {
            Ok(LEN) => Ok(()),
            Ok(n) => Err(format!("device state: {n} of {LEN} bytes fit the pipe")),
            Err(e) => Err(format!("device state: {e}")),
        }
    }

    fn load(&mut self, state: DeviceState) -> Result<(), String> {
        let unknown = state.features & !features::offered(&self.shared.config);
        if unknown != 0 {
            return Err(format!("device state with features that this port does not offer: {unknown:#x}"));
        }
        self.device_status = state.device_status;
        {
            let mut peer = self.shared.peer();
            peer.mtu = state.mtu.filter(|&mtu| mtu >= 68);
            peer.mac = state.mac;
        }
        self.shared.changed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: DeviceState = DeviceState {
        features: 1 << 32 | 5,
        device_status: 15,
        mtu: Some(9000),
        mac: Some([2, 0, 0, 0, 0, 9]),
    };

    #[test]
    fn state_comes_back_from_its_bytes() {
        for state in [STATE, DeviceState { mtu: None, mac: None, ..STATE }] {
            assert_eq!(DeviceState::from_bytes(&state.to_bytes()), Ok(state));
        }
    }

    #[test]
    fn bytes_that_are_no_state_are_refused() {
        let refused = |change: fn(&mut Vec<u8>)| {
            let mut bytes = STATE.to_bytes().to_vec();
            change(&mut bytes);
            DeviceState::from_bytes(&bytes).unwrap_err()
        };
        assert!(refused(Vec::clear).contains("no mark"));
        assert!(refused(|b| b[0] = 0).contains("not of this switch"));
        assert!(refused(|b| b[4] = 2).contains("version Some(2)"));
        assert!(refused(|b| b.truncate(30)).contains("30 bytes"));
        assert!(refused(|b| b.push(0)).contains("41 bytes"));
        assert!(refused(|b| b[26] = 7).contains("flag 7"));
    }
}
