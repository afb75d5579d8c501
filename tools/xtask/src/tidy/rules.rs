//! The rules, as data. To change one, change a line here and say why in the commit.

/// The crates of ours each crate may depend on, also for its tests. A package that is not listed may depend on none.
pub(super) const CRATE_ARROWS: &[(&str, &[&str])] = &[
    ("flowtable", &[]),
    ("pmd", &[]),
    ("vswitch-ovsdb", &[]),
    ("vhost-port", &["pmd"]),
    ("vswitch", &["flowtable", "pmd", "vhost-port", "vswitch-ovsdb"]),
    ("vsctl", &["vswitch-ovsdb"]),
    // The generator needs rings and the front-end's session; its tests put real ports at the other end.
    ("vsgen", &["pmd", "vhost-port"]),
    ("xtask", &[]),
    // End-to-end tests and fuzz targets see everything; nothing imports them.
    ("tests", &["flowtable", "pmd", "vhost-port", "vswitch", "vswitch-ovsdb"]),
    ("fuzz", &["flowtable", "pmd", "vhost-port", "vswitch", "vswitch-ovsdb"]),
];

/// A rule about paths in source files.
pub(super) struct ImportRule {
    /// Files it is about: beginnings of paths.
    pub(super) files: &'static [&'static str],
    /// Files it is not about.
    pub(super) except: &'static [&'static str],
    /// Beginnings of paths that may not be named, `::` between segments.
    pub(super) forbidden: &'static [&'static str],
    /// Why, and where the thing belongs.
    pub(super) reason: &'static str,
}

/// Arrows between modules.
pub(super) const IMPORT_RULES: &[ImportRule] = &[
    ImportRule {
        files: &["vswitch/src/datapath/"],
        except: &[],
        forbidden: &[
            "crate::config",
            "crate::management",
            "crate::slowpath",
            "crate::translate",
            "crate::bridge",
        ],
        reason: "the data path meets configuration and slow path only at snapshots, commands and the upcall queue",
    },
    ImportRule {
        files: &[
            "vswitch/src/datapath/",
            "vswitch/src/bridge/",
            "vswitch/src/translate/",
            "vswitch/src/slowpath/",
        ],
        except: &[],
        forbidden: &["crate::switch", "crate::daemon", "crate::management", "crate::config"],
        reason: "switch and daemon put the parts together: a part may know neither them nor who manages them",
    },
    ImportRule {
        files: &[""],
        except: &["pmd/src/sys/", "tests/"],
        forbidden: &["libc"],
        reason: "raw system calls live in pmd::sys, behind safe functions",
    },
    ImportRule {
        files: &["vhost-port/src/net"],
        except: &[],
        forbidden: &["crate::session"],
        reason: "the data path of a vhost port sees running rings, never the session that sets them up",
    },
    ImportRule {
        files: &["flowtable/src/"],
        except: &[],
        forbidden: &[
            "std::time",
            "std::thread",
            "std::io",
            "std::fs",
            "std::process",
            "std::env",
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::sync::Condvar",
            "std::sync::mpsc",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::UdpSocket",
        ],
        reason: "flowtable is pure: time is a parameter, and there is no input, output or thread in it",
    },
];

/// Folders in which every child is a driver that may not import its siblings.
pub(super) const DRIVER_FOLDERS: &[(&str, &str)] = &[("pmd/src/drivers/", "crate::drivers")];

/// Files in a driver folder that all drivers share.
pub(super) const SHARED_BY_DRIVERS: &[&str] =
    &["mod", "link_watch", "netdev", "parked", "queue_slots", "test_net"];

/// Folders whose code runs per packet or per burst.
pub(super) const HOT_FOLDERS: &[&str] =
    &["vswitch/src/datapath/", "vhost-port/src/ring/", "vhost-port/src/net/"];

/// What a file in those folders does when a port is made, changed or asked about, never per packet.
pub(super) struct Allowance {
    /// The file.
    pub(super) file: &'static str,
    /// Words it may use; none listed means all.
    pub(super) words: &'static [&'static str],
    /// Why that is no cost per packet.
    pub(super) reason: &'static str,
}

/// Allowances that concern a whole file; a single line says `// tidy: REASON` instead.
pub(super) const ALLOWANCES: &[Allowance] = &[
    Allowance {
        file: "vhost-port/src/net/shared.rs",
        words: &["Mutex", "Arc::clone", "log::", "info!"],
        reason: "what control threads share; queues touch its atomics and rings only",
    },
    Allowance {
        file: "vhost-port/src/net/from_guest.rs",
        words: &["Arc::clone"],
        reason: "handing out the counters when the queue is placed on a worker",
    },
    Allowance {
        file: "vhost-port/src/net/to_guest.rs",
        words: &["Arc::clone"],
        reason: "handing out the counters when the queue is placed on a worker",
    },
    Allowance {
        file: "vhost-port/src/ring/config.rs",
        words: &["Arc::clone"],
        reason: "a ring takes its memory table when it starts",
    },
    Allowance {
        file: "vhost-port/src/ring/vring.rs",
        words: &["Mutex", "thread::sleep"],
        reason: "the waker is set and rung, and the lock waited for, by control threads; workers only try the lock",
    },
    Allowance {
        file: "vswitch/src/datapath/command.rs",
        words: &["thread::sleep"],
        reason: "the sender of commands waits for room, the worker never does",
    },
];

/// Words that do not belong there, and what to do instead. Matched as whole words in code without comments and strings.
pub(super) const HOT_WORDS: &[(&str, &str)] = &[
    ("Instant::now", "take the time as a parameter: the worker reads the clock once per iteration"),
    ("SystemTime", "take the time as a parameter: the worker reads the clock once per iteration"),
    ("Mutex", "workers never wait: publish a snapshot or use a bounded queue"),
    ("RwLock", "workers never wait: publish a snapshot or use a bounded queue"),
    ("Condvar", "workers never wait: publish a snapshot or use a bounded queue"),
    ("Arc::clone", "hold the Arc for the life of the snapshot and borrow from it"),
    ("format!", "no allocation per packet: count it, or hand a typed value to a thread that may format"),
    ("to_string", "no allocation per packet: count it, or hand a typed value to a thread that may format"),
    ("to_owned", "no allocation per packet: borrow, or use a buffer made once"),
    ("to_vec", "no allocation per packet: borrow, or use a buffer made once"),
    ("log::", "no log per packet: count a typed reason"),
    ("trace!", "no log per packet: count a typed reason"),
    ("debug!", "no log per packet: count a typed reason"),
    ("info!", "no log per packet: count a typed reason"),
    ("warn!", "no log per packet: count a typed reason"),
    ("error!", "no log per packet: count a typed reason"),
    ("print!", "no output on the data path"),
    ("println!", "no output on the data path"),
    ("eprintln!", "no output on the data path"),
    ("thread::sleep", "sleep in the waker, where a kick ends it"),
];

/// Longest file, with documentation and tests beside the code.
pub(super) const MAX_LINES: usize = 500;

/// File names that are lists or tests, whose length says nothing.
pub(super) const LONG_NAMES: &[&str] = &["tests.rs", "registers.rs"];

/// Files that are longer for a reason.
pub(super) const LONG_FILES: &[(&str, &str)] = &[];

/// Names that say nothing about what is inside.
pub(super) const EMPTY_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "misc"];
