//! Why a device did not do what it was asked.

use std::fmt;
use std::io;

/// At what a device failed. The port decides by it what to do next; the words are in [`VdpaError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VdpaProblem {
    /// The name is of no device, or the device is of a kind that no code here knows.
    Name,
    /// It is somebody else's now: no permission, bound to another driver, open elsewhere.
    NotOurs,
    /// It cannot do what the guest has negotiated: features, number or size of rings, a ring that does not begin at zero.
    Unfit,
    /// Memory could not be mapped for it: beyond the reach of its IOMMU, locked memory at its limit.
    Memory,
    /// It refused, or did not answer in time.
    Refused,
    /// It has gone.
    Gone,
}

/// A device's error: what was wrong, where, and what to do.
#[derive(Debug)]
pub struct VdpaError {
    problem: VdpaProblem,
    what: String,
    remedy: String,
    source: Option<io::Error>,
}

impl VdpaError {
    /// An error that says `what` was wrong, naming the device, and what the operator can do about it: a clause that may be empty.
    pub fn new(problem: VdpaProblem, what: impl Into<String>, remedy: impl Into<String>) -> VdpaError {
        VdpaError { problem, what: what.into(), remedy: remedy.into(), source: None }
    }

    /// The same, with the kernel's answer.
    pub fn system(
        problem: VdpaProblem,
        what: impl Into<String>,
        remedy: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> VdpaError {
        VdpaError { source: Some(source.into()), ..VdpaError::new(problem, what, remedy) }
    }

    /// At what it failed.
    pub fn problem(&self) -> VdpaProblem {
        self.problem
    }
}

impl fmt::Display for VdpaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

impl std::error::Error for VdpaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_and_what_to_do() {
        let plain = VdpaError::new(VdpaProblem::Unfit, "0000:03:10.0 has rings of 256", "set queue-size=256");
        assert_eq!(plain.to_string(), "0000:03:10.0 has rings of 256; set queue-size=256");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let system = VdpaError::system(VdpaProblem::NotOurs, "/dev/vfio/7", "", denied);
        assert_eq!(system.to_string(), "/dev/vfio/7: permission denied");
        assert_eq!(system.problem(), VdpaProblem::NotOurs);
    }
}
