//! Our own programs: built by the cargo that runs us, so a test never meets a stale switch.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::workspace;
use crate::failure::{During as _, Failure, Result};

/// Where `vswitchd`, `vsctl` and `vsgen` are.
#[derive(Debug, Clone)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// Builds the programs with the profile of the running program, or takes the folder `VSWITCH_BIN_DIR` names.
    ///
    /// # Errors
    /// The build fails (its output has been shown).
    pub fn build() -> Result<Self> {
        if let Some(folder) = env::var_os("VSWITCH_BIN_DIR") {
            return Ok(Self { folder: folder.into() });
        }
        let me = env::current_exe().during("finding the target folder")?;
        // target/PROFILE/name, or target/PROFILE/deps/name for a test.
        let folder = me
            .ancestors()
            .skip(1)
            .find(|p| p.file_name().is_some_and(|n| n != "deps"))
            .ok_or_else(|| Failure::new(format!("{} is not in a target folder", me.display())))?;
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(workspace()).args(["build", "--quiet", "--bins"]);
        cargo.args(["-p", "vswitch", "-p", "vsctl", "-p", "vsgen"]);
        cargo.stdin(Stdio::null()).stdout(Stdio::null());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        if let Some(target) = folder.parent() {
            cargo.arg("--target-dir").arg(target);
        }
        if !cargo.status().during("starting cargo")?.success() {
            return Err(Failure::new("vswitchd, vsctl and vsgen do not build; see above"));
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Programs built earlier, for example of another commit to compare with.
    ///
    /// # Errors
    /// The switch and its tool are not in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Result<Self> {
        let binaries = Self { folder: folder.into() };
        for program in [binaries.vswitchd(), binaries.vsctl()] {
            if !program.exists() {
                return Err(Failure::new(format!("there is no {}", program.display())));
            }
        }
        Ok(binaries)
    }

    /// The folder they are in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The switch.
    #[must_use]
    pub fn vswitchd(&self) -> PathBuf {
        self.folder.join("vswitchd")
    }

    /// Its command-line tool.
    #[must_use]
    pub fn vsctl(&self) -> PathBuf {
        self.folder.join("vsctl")
    }

    /// The traffic generator.
    #[must_use]
    pub fn vsgen(&self) -> PathBuf {
        self.folder.join("vsgen")
    }
}
