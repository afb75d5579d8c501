//! The guest's initramfs: busybox, iperf3, ethtool and the virtio-net driver in one uncompressed cpio archive.
//!
//! Uncompressed because unpacking costs an emulated processor more than copying. There is no root file system and no
//! distribution in the guest, only what is listed here, so it reaches its first command within seconds of QEMU's start.
//! The archive is built from the cache in well under a second and named by a hash of what went into it, so a changed
//! `guest/init` or a new kernel gets a new image.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{During as _, Failure, Result};

/// The program that runs as process 1 in the guest.
const INIT: &str = include_str!("../../guest/init");
/// Loaded in the guest, with what they depend on.
const DRIVERS: [&str; 2] = ["virtio_net", "8021q"];
/// Copied to the guest's `/bin`, with the shared libraries they need.
const PROGRAMS: [&str; 2] = ["usr/bin/iperf3", "usr/sbin/ethtool"];
/// Folder of the shared libraries, in the cache's `root/` and in the guest.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Loaded in a guest that plays the host, beside the others.
const HOST_DRIVERS: [&str; 3] = ["vfio_iommu_type1", "vfio_pci", "tun"];
/// Loaded in one that has guests of its own, for them and for the kernel's vDPA.
const NESTED_DRIVERS: [&str; 3] = ["kvm_amd", "vduse", "vhost_vdpa"];
/// Copied to the `/bin` of such a guest, with the shared libraries they need.
const NESTED_PROGRAMS: [&str; 1] = ["usr/sbin/vdpa"];
/// Where QEMU 11 finds what it starts machines with.
const FIRMWARE: [&str; 4] = ["qboot.rom", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin"];

/// Loaded when a test wants the kernel to have a card.
const CARD_DRIVERS: [&str; 1] = ["igb"];
/// The kernel that has them, in the cache; and the one that all other guests have.
const CARDS_KERNEL: &str = "kernel-cards";
const KERNEL: &str = "kernel";

/// What a guest that plays the host has more: VFIO, and `programs` of this machine in `/host`, each with the loader and libraries of
/// this machine behind a script of its name. To be put behind the image; the kernel unpacks one after the other.
pub(super) fn host_archive(cache: &Path, programs: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = Cpio::default();
    archive.folder("host");
    archive.folder("host/lib");
    let mut libraries = BTreeSet::new();
    for program in programs {
        let name = file_name(program);
        archive.file(&format!("host/lib/{name}"), &stripped(program)?);
        let out = Command::new("ldd").arg(program).output().during("starting ldd")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let words = text.split_whitespace().filter(|word| word.starts_with('/'));
        libraries.extend(words.map(|word| PathBuf::from(word.trim_end_matches(':'))));
        let script = format!(
            "#!/bin/sh\nexec /host/lib/ld-linux-x86-64.so.2 --library-path /host/lib /host/lib/{name} \"$@\"\n"
        );
        archive.file(&format!("host/{name}"), script.as_bytes());
    }
    for library in libraries {
        archive.file(&format!("host/lib/{}", file_name(&library)), &read(&library)?);
    }
    more_drivers(&mut archive, cache, &HOST_DRIVERS, 'h')?;
    Ok(archive.finish())
}

/// What a host guest with guests of its own has more: KVM, the kernel's vDPA with the tool for it, and in `/nested` QEMU 11, the kernel and the image of those guests.
/// `/nested/qemu ARGUMENTS` starts one. To be put behind the image, as [`host_archive`].
pub(super) fn nested_archive(cache: &Path, kernel: &Path, image: &Path) -> Result<Vec<u8>> {
    let mut archive = Cpio::default();
    let root = cache.join("root11");
    let qemu = root.join("usr/bin/qemu-system-x86_64");
    for folder in ["nested", "nested/lib", "nested/share"] {
        archive.folder(folder);
    }
    archive.file("nested/lib/qemu", &read(&qemu)?);
    archive.file("nested/lib/ld.so", &read(&root.join("usr/lib64/ld-linux-x86-64.so.2"))?);
    for library in shared_libraries(&root, &qemu)? {
        archive.file(&format!("nested/lib/{}", file_name(&library)), &read(&library)?);
    }
    for name in FIRMWARE {
        let found = ["qemu", "seabios"].map(|folder| root.join("usr/share").join(folder).join(name));
        let path = found.iter().find(|path| path.exists());
        let path = path.ok_or_else(|| Failure::new(format!("{name} is not in {}", root.display())))?;
        archive.file(&format!("nested/share/{name}"), &read(path)?);
    }
    archive.file("nested/kernel", &read(kernel)?);
    archive.file("nested/image", &read(image)?);
    let script = "#!/bin/sh\nexec /nested/lib/ld.so --library-path /nested/lib /nested/lib/qemu -L /nested/share \"$@\"\n";
    archive.file("nested/qemu", script.as_bytes());
    add_programs(&mut archive, &cache.join("root"), &NESTED_PROGRAMS)?;
    more_drivers(&mut archive, cache, &NESTED_DRIVERS, 'n')?;
    Ok(archive.finish())
}

/// What a host guest with the kernel of `tools/lab/kernel-with-cards.sh` has more: that kernel's modules, instead of those it cannot load, and in
/// `/host/modules` the drivers of cards, for when a test wants the kernel to have one. To be put behind the image, as [`host_archive`].
pub(super) fn cards_archive(cache: &Path) -> Result<Vec<u8>> {
    let mut archive = Cpio::default();
    let wanted: Vec<&str> = DRIVERS.into_iter().chain(HOST_DRIVERS).collect();
    let usual = drivers(cache, CARDS_KERNEL, &wanted)?;
    for (i, (name, bytes)) in usual.iter().enumerate() {
        archive.file(&format!("modules/k{i:02}-{name}.ko"), bytes);
    }
    archive.folder("host/modules");
    let cards = drivers(cache, CARDS_KERNEL, &CARD_DRIVERS)?;
    let new = cards.iter().filter(|(name, _)| usual.iter().all(|(have, _)| have != name));
    for (i, (name, bytes)) in new.enumerate() {
        archive.file(&format!("host/modules/{i:02}-{name}.ko"), bytes);
    }
    Ok(archive.finish())
}

/// Adds modules that the image does not have. They are loaded in the order of their names, so those of a smaller `letter` first.
fn more_drivers(archive: &mut Cpio, cache: &Path, wanted: &[&str], letter: char) -> Result<()> {
    let usual = drivers(cache, KERNEL, &DRIVERS)?;
    let more = drivers(cache, KERNEL, wanted)?;
    let new = more.iter().filter(|(name, _)| usual.iter().all(|(have, _)| have != name));
    for (i, (name, bytes)) in new.enumerate() {
        archive.file(&format!("modules/{letter}{i:02}-{name}.ko"), bytes);
    }
    Ok(())
}

/// The program without debug information, if there is a `strip`: the guest unpacks it the faster.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let out = Command::new("strip").args(["-o", "/dev/stdout"]).arg(program).output();
    match out {
        Ok(out) if out.status.success() && !out.stdout.is_empty() => Ok(out.stdout),
        _ => read(program),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Builds the image if it is not there yet.
pub(super) fn ensure(cache: &Path) -> Result<PathBuf> {
    let recipe = fs::read_to_string(cache.join("recipe")).during("the cache has no recipe file")?;
    let mut hasher = DefaultHasher::new();
    (INIT, DRIVERS, PROGRAMS, recipe, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    let image = cache.join(format!("guest-{:016x}.cpio", hasher.finish()));
    if !image.exists() {
        let bytes = build(cache)?;
        let draft = image.with_extension(format!("{}", std::process::id()));
        fs::write(&draft, bytes).during(draft.display())?;
        fs::rename(&draft, &image).during(image.display())?;
    }
    Ok(image)
}

fn build(cache: &Path) -> Result<Vec<u8>> {
    let root = cache.join("root");
    let mut archive = Cpio::default();
    for folder in
        ["bin", "dev", "etc", "lib64", "modules", "proc", "root", "run", "sys", "tmp", "usr", "usr/lib"]
    {
        archive.folder(folder);
    }
    archive.folder(LIBRARIES);
    archive.link("var", "/tmp");
    archive.file("init", INIT.as_bytes());
    archive.file("bin/busybox", &read(&cache.join("bin/busybox"))?);
    archive.file("lib64/ld-linux-x86-64.so.2", &read(&root.join("usr/lib64/ld-linux-x86-64.so.2"))?);
    add_programs(&mut archive, &root, &PROGRAMS)?;
    for (i, (name, bytes)) in drivers(cache, KERNEL, &DRIVERS)?.iter().enumerate() {
        archive.file(&format!("modules/{i:02}-{name}.ko"), bytes);
    }
    Ok(archive.finish())
}

/// Adds programs of the cache, and what they load.
fn add_programs(archive: &mut Cpio, root: &Path, programs: &[&str]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        let path = root.join(program);
        let name = file_name(&path);
        archive.file(&format!("bin/{name}"), &read(&path)?);
        libraries.extend(shared_libraries(root, &path)?);
    }
    for library in libraries {
        let name = file_name(&library);
        archive.file(&format!("{LIBRARIES}/{name}"), &read(&library)?);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).during(path.display())
}

/// What the cache's own loader would load for `program`.
fn shared_libraries(root: &Path, program: &Path) -> Result<Vec<PathBuf>> {
    let folder = root.join(LIBRARIES);
    let out = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"))
        .arg("--library-path")
        .arg(&folder)
        .arg("--list")
        .arg(program)
        .output()
        .during("listing shared libraries")?;
    if !out.status.success() {
        return Err(Failure::new(format!(
            "{}: a shared library is missing from the cache",
            program.display()
        )));
    }
    Ok(String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| line.split("=> ").nth(1)?.split(' ').next())
        .filter(|path| path.starts_with('/') && !path.contains("/ld-linux"))
        .map(PathBuf::from)
        .collect())
}

/// The kernel modules to load, in an order in which each finds what it needs.
fn drivers(cache: &Path, kernel: &str, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let modules = cache.join(kernel).join("lib/modules");
    let mut files = Vec::new();
    walk(&modules, &mut files)?;
    let mut ordered = Vec::new();
    for driver in wanted {
        add_driver(cache, &files, driver, &mut ordered)?;
    }
    Ok(ordered)
}

fn add_driver(
    cache: &Path,
    files: &[PathBuf],
    name: &str,
    ordered: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if ordered.iter().any(|(have, _)| have == name) {
        return Ok(());
    }
    let Some(file) = files.iter().find(|f| module_name(f).as_deref() == Some(name)) else {
        return Err(Failure::new(format!("kernel module {name} is not in the kernel package")));
    };
    let bytes = if file.extension().is_some_and(|e| e == "xz") {
        let out = Command::new(cache.join("bin/xz")).arg("-dc").arg(file).output().during("starting xz")?;
        if !out.status.success() {
            return Err(Failure::new(format!("xz cannot unpack {}", file.display())));
        }
        out.stdout
    } else {
        read(file)?
    };
    for dependency in module_depends(&bytes) {
        add_driver(cache, files, &dependency, ordered)?;
    }
    ordered.push((name.to_owned(), bytes));
    Ok(())
}

/// `.../virtio_net.ko.xz` is the module `virtio_net`; file names may have a dash where module names have `_`.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.split_once(".ko")?.0.replace('-', "_"))
}

/// The comma-separated `depends=` entry of a module's `.modinfo` section.
fn module_depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let value: Vec<u8> = module.iter().skip(at + KEY.len()).copied().take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&value)
        .split(',')
        .filter(|s| !s.is_empty())
        .map(|s| s.replace('-', "_"))
        .collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).during(folder.display())?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// A cpio archive in the "newc" format, the one the kernel unpacks (Documentation/driver-api/early-userspace/
/// buffer-format.rst): per entry a header of 8-digit hexadecimal fields, the name, the data, each padded to 4 bytes.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, data: &[u8]) {
        self.entry(name, 0o100_755, data);
    }

    fn link(&mut self, name: &str, target: &str) {
        self.entry(name, 0o120_777, target.as_bytes());
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let links = 1;
        let header =
            [self.entries, mode, 0, 0, links, 0, short(data.len()), 0, 0, 0, 0, short(name.len() + 1), 0];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

fn short(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_depends_on() {
        assert_eq!(
            module_depends(b"\x7fELF..license=GPL\0depends=net_failover,fail-over\0name=x"),
            ["net_failover", "fail_over"]
        );
        assert!(module_depends(b"license=GPL\0depends=\0").is_empty());
    }

    #[test]
    fn archive_entries_are_padded_and_closed() {
        let mut archive = Cpio::default();
        archive.file("a", b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        // 110 header bytes, "a\0", data at the next multiple of four.
        assert_eq!(bytes.get(112..117), Some(&b"12345"[..]));
        assert!(bytes.windows(11).any(|w| w == b"TRAILER!!!\0"));
    }
}
