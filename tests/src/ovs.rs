//! Open vSwitch from the cache: what we compare with.
//!
//! [`OpenVswitch`] is the one with the user-space datapath, for speed: with DPDK it needs hugepages ([`crate::hugepages`]) and
//! runs one polling thread on processor 1, without it serves devices of the kernel. [`DummyOvs`] is the same program on devices of its own invention, for behaviour: it needs nothing.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{During as _, Result};
use crate::lab::Lab;
use crate::process::{Process, run};

/// How long each of its two daemons may take.
const START: Duration = Duration::from_secs(30);

/// A running Open vSwitch with the bridge `br0`; ended when dropped.
#[derive(Debug)]
pub struct OpenVswitch {
    switch: Process,
    database: Process,
    folder: PathBuf,
    bin: PathBuf,
    ip: PathBuf,
}

impl OpenVswitch {
    /// Starts database and switch, with DPDK, in the folder `ovs` of the scratch folder.
    ///
    /// # Errors
    /// One of them does not come up; the message holds the end of its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_tuned(lab, &[])
    }

    /// Like [`Self::start`], with more settings (`other_config:KEY=VALUE`) in the database before the switch reads it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_tuned(lab: &Lab, more: &[&str]) -> Result<Self> {
        let plugins = std::fs::read_to_string(lab.cache().join("bin/.pmds")).during("plugin folder")?;
        // In one file, because a front-end may name only some files to its back-end, and names one for each page otherwise.
        let extra = format!(
            "other_config:dpdk-extra=--no-pci --in-memory --single-file-segments -d {}",
            plugins.trim()
        );
        let settings = [
            &extra,
            "other_config:dpdk-init=true",
            "other_config:dpdk-socket-mem=512",
            // Or its packet pools take whatever hugepages are free, and others find none.
            "other_config:dpdk-socket-limit=512",
            "other_config:pmd-cpu-mask=0x2",
        ];
        Self::start_with(lab, &[&settings, more].concat())
    }

    /// Starts database and switch without DPDK, for devices of the kernel; in the folder `ovs` of the scratch folder. With
    /// `tso`, segmentation is left to the devices (`userspace-tso-enable`, off by default).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_without_dpdk(lab: &Lab, tso: bool) -> Result<Self> {
        Self::start_with(lab, &[&format!("other_config:userspace-tso-enable={tso}")])
    }

    fn start_with(lab: &Lab, settings: &[&str]) -> Result<Self> {
        let folder = lab.path("ovs");
        let bin = lab.cache().join("bin");
        let database = database(lab, &folder, &bin)?;
        let db = format!("--db=unix:{}", folder.join("db.sock").display());
        let mut arguments = vec![db.as_str(), "--no-wait", "init", "--", "set", "Open_vSwitch", "."];
        arguments.extend(settings);
        lab.run("ovs-vsctl", &arguments)?;
        let switch = start_switch(&bin, &folder)?;
        let ovs = Self { switch, database, folder, bin, ip: lab.program("ip") };
        ovs.vsctl(&["add-br", "br0", "--", "set", "Bridge", "br0", "datapath_type=netdev"])?;
        Ok(ovs)
    }

    /// Ends both daemons and starts them again on the same database: the time when the first of them was started. Returns
    /// when the second has been started, which then still has to read its configuration.
    ///
    /// # Errors
    /// The database does not come up.
    pub fn relaunch(&mut self) -> Result<Instant> {
        self.switch.stop(START);
        self.database.stop(START);
        let began = Instant::now();
        self.database = start_database(&self.bin, &self.folder)?;
        let socket = self.folder.join("db.sock");
        while UnixStream::connect(&socket).is_err() {
            self.database.must_run()?;
            // Looked at often, because somebody measures.
            thread::sleep(Duration::from_micros(500));
        }
        self.switch = start_switch(&self.bin, &self.folder)?;
        Ok(began)
    }

    /// An error if one of the daemons has ended.
    ///
    /// # Errors
    /// That.
    pub fn must_run(&mut self) -> Result<()> {
        self.database.must_run()?;
        self.switch.must_run()
    }

    /// The switch's own control socket (`unixctl`, JSON-RPC).
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.folder.join("vs.ctl")
    }

    /// `ovs-vsctl ARGUMENTS`; returns when the change is live.
    ///
    /// # Errors
    /// As [`run`].
    pub fn vsctl(&self, arguments: &[&str]) -> Result<String> {
        vsctl(&self.bin, &self.folder, arguments)
    }

    /// Adds a vhost-user port that listens, and gives the path of its socket.
    ///
    /// # Errors
    /// As [`Self::vsctl`].
    pub fn vhost_port(&self, name: &str) -> Result<PathBuf> {
        self.vsctl(&["add-port", "br0", name, "--", "set", "Interface", name, "type=dpdkvhostuser"])?;
        Ok(self.folder.join(name))
    }

    /// Adds a vhost-user port that connects to a socket on which somebody else listens.
    ///
    /// # Errors
    /// As [`Self::vsctl`].
    pub fn vhost_client_port(&self, name: &str, path: &Path) -> Result<()> {
        let path = format!("options:vhost-server-path={}", path.display());
        let settings = ["type=dpdkvhostuserclient", &path];
        self.vsctl(&[&["add-port", "br0", name, "--", "set", "Interface", name], &settings[..]].concat())
            .map(drop)
    }

    /// `ovs-appctl ARGUMENTS` to the switch.
    ///
    /// # Errors
    /// As [`run`].
    pub fn appctl(&self, arguments: &[&str]) -> Result<String> {
        let target = format!("--target={}", self.folder.join("vs.ctl").display());
        let mut list = vec![target.as_str(), "--timeout=60"];
        list.extend_from_slice(arguments);
        run(&self.bin.join("ovs-appctl"), &list)
    }

    /// Forgets all rules and takes those in `file`, one a line: a million of them within five minutes, or it has failed.
    ///
    /// # Errors
    /// As [`run`].
    pub fn replace_flows(&self, file: &Path) -> Result<()> {
        self.ofctl("del-flows", "")?;
        self.ofctl("add-flows", &file.display().to_string())
    }

    /// Forwards everything from one port to another.
    ///
    /// # Errors
    /// As [`run`].
    pub fn forward(&self, from: &str, to: &str) -> Result<()> {
        let number = |port: &str| self.vsctl(&["get", "Interface", port, "ofport"]);
        let (from, to) = (number(from)?, number(to)?);
        let rule = format!("priority=100,in_port={},actions=output:{}", from.trim(), to.trim());
        self.ofctl("add-flow", &rule)
    }

    /// Forgets all rules and forwards like an ordinary learning bridge.
    ///
    /// # Errors
    /// As [`run`].
    pub fn learn(&self) -> Result<()> {
        // A filter that matches every rule.
        self.ofctl("del-flows", "")?;
        self.ofctl("add-flow", "priority=0,actions=NORMAL")
    }

    fn ofctl(&self, verb: &str, rule: &str) -> Result<()> {
        let management = format!("unix:{}", self.folder.join("br0.mgmt").display());
        run(&self.bin.join("ovs-ofctl"), &["--timeout=300", verb, &management, rule]).map(drop)
    }

    /// The switch's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.switch.pid()
    }
}

impl Drop for OpenVswitch {
    fn drop(&mut self) {
        self.switch.stop(Duration::from_secs(5));
        // Devices it leaves behind.
        for device in ["br0", "ovs-netdev"] {
            let _ = run(&self.ip, &["link", "del", device]);
        }
    }
}

/// An Open vSwitch whose devices exist only inside it; ended when dropped.
#[derive(Debug)]
pub struct DummyOvs {
    switch: Process,
    _database: Process,
    folder: PathBuf,
    bin: PathBuf,
}

impl DummyOvs {
    /// Starts database and switch in the folder `ovs-dummy` of the scratch folder. It understands two VLAN tags, as we do.
    ///
    /// # Errors
    /// One of them does not come up; the message holds the end of its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        let folder = lab.path("ovs-dummy");
        let bin = lab.cache().join("bin");
        let database = database(lab, &folder, &bin)?;
        let control = folder.join("vs.ctl");
        let arguments = [
            format!("unix:{}", folder.join("db.sock").display()),
            format!("--unixctl={}", control.display()),
            "--enable-dummy=override".to_owned(),
        ];
        vsctl(
            &bin,
            &folder,
            &["--no-wait", "init", "--", "set", "Open_vSwitch", ".", "other_config:vlan-limit=2"],
        )?;
        let mut switch = start(&bin, &folder, "ovs-vswitchd-dpdk", &arguments)?;
        switch.until("control socket", START, |_| control.exists().then_some(()))?;
        Ok(Self { switch, _database: database, folder, bin })
    }

    /// `ovs-vsctl ARGUMENTS`; returns when the change is live.
    ///
    /// # Errors
    /// As [`run`].
    pub fn vsctl(&self, arguments: &[&str]) -> Result<String> {
        vsctl(&self.bin, &self.folder, arguments)
    }

    /// `ovs-ofctl COMMAND BRIDGE ARGUMENTS`.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ofctl(&self, command: &str, bridge: &str, arguments: &[&str]) -> Result<String> {
        let management = format!("unix:{}", self.folder.join(format!("{bridge}.mgmt")).display());
        let mut list = vec![command, management.as_str()];
        list.extend_from_slice(arguments);
        run(&self.bin.join("ovs-ofctl"), &list)
    }

    /// Lets a frame come in by a device.
    ///
    /// # Errors
    /// As [`run`].
    pub fn receive(&self, device: &str, frame: &[u8]) -> Result<String> {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        let target = format!("--target={}", self.folder.join("vs.ctl").display());
        run(&self.bin.join("ovs-appctl"), &[&target, "netdev-dummy/receive", device, &hex])
    }
}

impl Drop for DummyOvs {
    fn drop(&mut self) {
        self.switch.stop(Duration::from_secs(5));
    }
}

/// Makes the folder afresh and starts a database with Open vSwitch's schema in it.
fn database(lab: &Lab, folder: &Path, bin: &Path) -> Result<Process> {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir(folder).during(folder.display())?;
    let database_file = folder.join("conf.db").display().to_string();
    let schema = lab.cache().join("root/usr/share/openvswitch/vswitch.ovsschema").display().to_string();
    lab.run("ovsdb-tool", &["create", &database_file, &schema])?;
    let mut database = start_database(bin, folder)?;
    let socket = folder.join("db.sock");
    database.until("database socket", START, |_| socket.exists().then_some(()))?;
    Ok(database)
}

fn start_database(bin: &Path, folder: &Path) -> Result<Process> {
    let file = folder.join("conf.db").display().to_string();
    let remote = format!("--remote=punix:{}", folder.join("db.sock").display());
    start(bin, folder, "ovsdb-server", &[file, remote, "--unixctl=none".to_owned()])
}

fn start_switch(bin: &Path, folder: &Path) -> Result<Process> {
    let remote = format!("unix:{}", folder.join("db.sock").display());
    let unixctl = format!("--unixctl={}", folder.join("vs.ctl").display());
    start(bin, folder, "ovs-vswitchd-dpdk", &[remote, unixctl])
}

fn vsctl(bin: &Path, folder: &Path, arguments: &[&str]) -> Result<String> {
    let db = format!("--db=unix:{}", folder.join("db.sock").display());
    let mut list = vec![db.as_str(), "--timeout=30"];
    list.extend_from_slice(arguments);
    run(&bin.join("ovs-vsctl"), &list)
}

/// Starts a daemon in the foreground with its files in `folder`.
fn start(bin: &Path, folder: &Path, program: &str, arguments: &[String]) -> Result<Process> {
    let mut list: Vec<String> = ["RUNDIR", "DBDIR", "LOGDIR", "SYSCONFDIR"]
        .map(|what| format!("OVS_{what}={}", folder.display()))
        .into();
    list.push(bin.join(program).display().to_string());
    list.extend_from_slice(arguments);
    Process::start(program, Path::new("env"), &list, &folder.join(format!("{program}.log")), false)
}
