//! The lab: where its programs are, and one at a time.
//!
//! [`Lab::open`] fills the cache folder by `tools/lab/setup.sh` when needed (see there for what and how), builds the
//! guest image, and takes the machine-wide lab lock: a guest under software emulation needs a core, so two scenarios at
//! once only make each other slow and flaky. The lock is a file lock, so it also holds between test programs, `make demo`
//! and `make bench`.

mod binaries;
mod image;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::failure::{During as _, Failure, Result};
use crate::process;

pub use binaries::Binaries;

/// Programs, images and a scratch folder for one scenario.
#[derive(Debug)]
pub struct Lab {
    cache: PathBuf,
    kernel: PathBuf,
    image: PathBuf,
    binaries: Binaries,
    scratch: TempDir,
    // Last, so that it is released only after the scratch folder is gone.
    _lock: File,
}

/// What is prepared once per test program.
struct Prepared {
    cache: PathBuf,
    kernel: PathBuf,
    image: PathBuf,
    binaries: Binaries,
}

impl Lab {
    /// Prepares the cache, the guest image and our own programs (once per process) and waits for the lab to be free.
    ///
    /// # Errors
    /// Not root, no network on first use, a build failure: the message says which and what to do.
    pub fn open() -> Result<Self> {
        static PREPARED: OnceLock<std::result::Result<Prepared, String>> = OnceLock::new();
        let prepared = PREPARED.get_or_init(|| prepare().map_err(|e| e.to_string()));
        let p = prepared.as_ref().map_err(|e| Failure::new(e.clone()))?;
        let path = p.cache.join("in-use");
        let lock = File::options().create(true).append(true).open(&path).during(path.display())?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("lab: another test, demo or bench is using the lab; waiting for it to end");
            flock(&lock, FlockOperation::LockExclusive).during("waiting for the lab")?;
        }
        // Short names: a unix socket path is limited to 107 bytes.
        let scratch =
            tempfile::Builder::new().prefix("vsl").tempdir_in("/tmp").during("scratch folder in /tmp")?;
        Ok(Self {
            cache: p.cache.clone(),
            kernel: p.kernel.clone(),
            image: p.image.clone(),
            binaries: p.binaries.clone(),
            scratch,
            _lock: lock,
        })
    }

    /// A program of the cache, for example `qemu-system-x86_64`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    /// Runs a program of the cache to its end and gives what it printed.
    ///
    /// # Errors
    /// As [`process::run`].
    pub fn run(&self, name: &str, arguments: &[&str]) -> Result<String> {
        process::run(&self.program(name), arguments)
    }

    /// The cache folder.
    #[must_use]
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The guest's kernel.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The guest's initramfs.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// What a guest that plays the host has more than others: VFIO, our own programs, and `more` programs of this machine. An archive to put
    /// behind [`Self::image`].
    ///
    /// # Errors
    /// A file is missing.
    pub fn host_archive(&self, more: &[PathBuf]) -> Result<Vec<u8>> {
        let programs = [&[self.binaries.vswitchd(), self.binaries.vsctl()], more].concat();
        image::host_archive(&self.cache, &programs)
    }

    /// Fetches QEMU 11 when needed: [`Self::qemu11`] and [`Self::nested_archive`] have it then.
    ///
    /// # Errors
    /// `tools/lab/qemu11.sh` fails; it has said why.
    pub fn fetch_qemu11(&self) -> Result<()> {
        script("qemu11.sh").map(drop)
    }

    /// QEMU 11, which can play SR-IOV, after [`Self::fetch_qemu11`].
    #[must_use]
    pub fn qemu11(&self) -> PathBuf {
        self.cache.join("root11/qemu")
    }

    /// Fetches the kernel with drivers of cards when needed: [`Self::cards_kernel`] and [`Self::cards_archive`] have it then.
    ///
    /// # Errors
    /// `tools/lab/kernel-with-cards.sh` fails; it has said why.
    pub fn fetch_cards_kernel(&self) -> Result<()> {
        script("kernel-with-cards.sh").map(drop)
    }

    /// A kernel that has drivers of cards.
    ///
    /// # Errors
    /// There is none, before [`Self::fetch_cards_kernel`].
    pub fn cards_kernel(&self) -> Result<PathBuf> {
        find_kernel(&self.cache.join("kernel-cards/boot"))
    }

    /// Modules of that kernel for a host guest. An archive as [`Self::host_archive`]; after [`Self::fetch_cards_kernel`].
    ///
    /// # Errors
    /// A file is missing.
    pub fn cards_archive(&self) -> Result<Vec<u8>> {
        image::cards_archive(&self.cache)
    }

    /// What a host guest has more that runs guests of its own: KVM, QEMU 11, and kernel and image of those guests. An archive as
    /// [`Self::host_archive`]; after [`Self::fetch_qemu11`].
    ///
    /// # Errors
    /// A file is missing.
    pub fn nested_archive(&self) -> Result<Vec<u8>> {
        image::nested_archive(&self.cache, &self.kernel, &self.image)
    }

    /// Our own programs.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The scratch folder of this scenario; it goes away with the `Lab`.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A path in the scratch folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A name for a network device that no other run uses, at most 15 bytes with a `role` of up to 4.
    #[must_use]
    pub fn device(&self, role: &str) -> String {
        format!("vs{role}{}", std::process::id())
    }

    /// Leaves the scratch folder behind, for `make demo KEEP=1`, and gives its path.
    pub fn keep_scratch(&mut self) -> PathBuf {
        self.scratch.disable_cleanup(true);
        self.scratch.path().to_owned()
    }
}

/// The cache folder, whether it exists yet or not; the same rule as in `tools/lab/setup.sh`.
#[must_use]
pub fn cache_folder() -> PathBuf {
    if let Some(folder) = env::var_os("VSWITCH_LAB") {
        return folder.into();
    }
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(base) => PathBuf::from(base),
        None => Path::new(&env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
    };
    base.join("vswitch-lab")
}

/// The folder of the workspace, from where this package lies.
#[must_use]
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

fn prepare() -> Result<Prepared> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "the lab needs root: it creates TAP devices and network namespaces (CAP_NET_ADMIN, CAP_SYS_ADMIN); \
             run it again with sudo or as root. Nothing is installed or changed outside the cache folder",
        ));
    }
    let cache = fill()?;
    let kernel = find_kernel(&cache.join("kernel/boot"))?;
    let image = image::ensure(&cache)?;
    Ok(Prepared { cache, kernel, image, binaries: Binaries::build()? })
}

/// Fills the cache folder when needed, which takes no root, and gives its path.
///
/// # Errors
/// `tools/lab/setup.sh` fails; it has said why.
pub fn fill() -> Result<PathBuf> {
    script("setup.sh")
}

/// Runs a script of `tools/lab` that fills the cache, and gives the cache's path.
fn script(name: &str) -> Result<PathBuf> {
    let script = workspace().join("tools/lab").join(name);
    let out = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .during(format_args!("starting {}", script.display()))?;
    if !out.status.success() {
        return Err(Failure::new(format!(
            "{} could not fill the cache; its message is above",
            script.display()
        )));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()))
}

fn find_kernel(boot: &Path) -> Result<PathBuf> {
    fs::read_dir(boot)
        .during(boot.display())?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .ok_or_else(|| Failure::new(format!("no vmlinuz-* in {}", boot.display())))
}
