//! Writing back what is: one transaction per pass, only columns of ours, only what changed.

use std::collections::BTreeMap;

use pmd::port::LinkState;
use vswitch_ovsdb::{Datum, Db, LocalTxn, OvsdbError, RowView, Snapshot, Uuid};

use super::apply::Running;
use super::kind::TYPES;
use super::model::Desired;
use crate::switch::PortReport;

type Columns = Vec<(&'static str, Datum)>;

/// Writes the state of everything. A pass after configuring (`configured`) acknowledges `next_cfg`; one that refreshes
/// also writes counters. Never both: a commit that always differs would wake its own thread for ever.
pub(super) fn write(
    db: &Db,
    desired: &Desired,
    running: &Running,
    reports: &[PortReport],
    configured: bool,
) -> Result<(), OvsdbError> {
    let by_name: BTreeMap<&str, &PortReport> = reports.iter().map(|report| (&*report.name, report)).collect();
    db.transact_local(|txn| {
        let mut writes: Vec<(&str, Uuid, Columns)> = Vec::new();
        let snapshot = txn.snapshot();
        for row in snapshot.table("Interface").rows() {
            let report = by_name.get(row.str("name")).copied();
            if let Some(mut columns) = interface(&row, desired, running, report) {
                let counted = !configured || row.datum("statistics").is_empty();
                columns.extend(report.filter(|_| counted).map(|report| ("statistics", statistics(report))));
                writes.push(("Interface", row.uuid(), columns));
            }
        }
        for row in snapshot.table("Bridge").rows() {
            if let Some(columns) = bridge(&row, desired, running, &by_name) {
                writes.push(("Bridge", row.uuid(), columns));
            }
        }
        if let Some(row) = snapshot.table("Open_vSwitch").first() {
            writes.push(("Open_vSwitch", row.uuid(), root(&row, desired, running, configured)));
        }
        write_all(txn, writes)
    })
}

fn write_all(txn: &mut LocalTxn<'_>, writes: Vec<(&str, Uuid, Columns)>) -> Result<(), OvsdbError> {
    for (table, row, columns) in writes {
        txn.update(table, row, columns)?;
    }
    Ok(())
}

/// The switch's own row. Open vSwitch has no column for what is wrong with its settings; `statistics` is the one map of
/// the row that the switch writes, so it stands there under `error`.
fn root(row: &RowView<'_>, desired: &Desired, running: &Running, configured: bool) -> Columns {
    let notes = desired.root_notes.iter().chain(&running.worker_error);
    let error = notes.map(String::as_str).collect::<Vec<_>>().join("; ");
    if !error.is_empty() && row.map_get("statistics", "error") != Some(&error) {
        log::warn!("{error}");
    }
    let mut columns = vec![
        ("ovs_version", Datum::from(env!("CARGO_PKG_VERSION"))),
        ("datapath_types", Datum::set(["netdev"])),
        ("iface_types", Datum::set(TYPES.iter().copied())),
        ("statistics", Datum::map((!error.is_empty()).then_some(("error", error.as_str())))),
    ];
    if configured {
        columns.push(("cur_cfg", Datum::from(desired.next_cfg)));
    }
    columns
}

/// `None` for a bridge that came after the pass began: the next one is about it.
fn bridge(
    row: &RowView<'_>,
    desired: &Desired,
    running: &Running,
    reports: &BTreeMap<&str, &PortReport>,
) -> Option<Columns> {
    let name = row.str("name");
    if let Some(fault) = desired.bridge_faults.get(name).or_else(|| running.bridge_errors.get(name)) {
        if row.map_get("status", "error") != Some(fault) {
            log::warn!("bridge {name}: {fault}");
        }
        return Some(vec![("status", Datum::map([("error", fault.as_str())]))]);
    }
    let config = running.bridges.get(name)?;
    let note = desired.bridge_notes.get(name);
    if let Some(note) = note.filter(|note| row.map_get("status", "note") != Some(note)) {
        log::warn!("bridge {name}: {note}");
    }
    let mac = reports.get(name).and_then(|report| report.info.mac);
    let id = config.datapath_id.unwrap_or_else(|| mac.map_or_else(|| id_from_uuid(row.uuid()), id_from_mac));
    Some(vec![
        ("datapath_id", Datum::from(format!("{id:016x}"))),
        ("datapath_version", Datum::from("<built-in>")),
        ("status", Datum::map(note.map(|note| ("note", note.as_str())))),
    ])
}

fn id_from_mac(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |id, byte| (id << 8) | u64::from(*byte))
}

/// A bridge without a MAC still needs an id that stays the same: the row's own.
fn id_from_uuid(uuid: Uuid) -> u64 {
    let text = uuid.to_string();
    text.rsplit('-').next().and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
}

/// `None` for an interface that came after the pass began.
fn interface(
    row: &RowView<'_>,
    desired: &Desired,
    running: &Running,
    report: Option<&PortReport>,
) -> Option<Columns> {
    let name = row.str("name");
    let complain = |error: Option<&str>| {
        if let Some(error) = error.filter(|error| row.opt_str("error") != Some(error)) {
            log::warn!("interface {name}: {error}");
        }
    };
    if let Some(fault) = desired.port_faults.get(name).or_else(|| running.port_errors.get(name)) {
        complain(Some(fault));
        return Some(absent(fault));
    }
    let live = running.ports.get(name)?;
    let info = report.map(|report| &report.info);
    let notes = [
        live.stand_in.as_ref(),
        live.complaint.as_ref(),
        desired.port_notes.get(name),
        info.and_then(|info| info.error.as_ref()),
    ];
    let notes: Vec<&str> = notes.into_iter().flatten().map(String::as_str).collect();
    let error = (!notes.is_empty()).then(|| notes.join("; "));
    complain(error.as_deref());
    let mut columns =
        vec![("ofport", Datum::from(i64::from(live.ofport))), ("error", Datum::optional(error))];
    if let Some(report) = report {
        let info = &report.info;
        let word = |up| Datum::from(if up { "up" } else { "down" });
        columns.extend([
            ("admin_state", word(report.admin_up)),
            ("link_state", word(info.link == LinkState::Up)),
            ("link_resets", Datum::from(count(info.link_resets))),
            ("mtu", Datum::from(i64::from(info.mtu))),
            ("mac_in_use", Datum::optional(info.mac.map(mac_text))),
            ("ifindex", Datum::optional(info.ifindex.map(i64::from))),
            ("status", Datum::map(info.status.iter().map(|(k, v)| (k.as_str(), v.as_str())))),
        ]);
    }
    Some(columns)
}

/// An interface that does not run.
fn absent(fault: &str) -> Columns {
    let cleared =
        ["admin_state", "link_state", "link_resets", "mtu", "mac_in_use", "ifindex", "status", "statistics"];
    let mut columns: Columns = cleared.map(|column| (column, Datum::empty())).into();
    columns.extend([("ofport", Datum::from(-1)), ("error", Datum::from(fault))]);
    columns
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Names as OVS has them, one counter per drop reason, and what was done in software.
fn statistics(report: &PortReport) -> Datum {
    let sum = |drops: &BTreeMap<&str, u64>, wanted: &dyn Fn(&str) -> bool| -> u64 {
        drops.iter().filter(|(reason, _)| wanted(reason)).map(|(_, n)| *n).sum()
    };
    // A frame that could not be what it claims is an error; one with no place to go is dropped.
    let lost =
        |reason: &str| matches!(reason, "rx_no_buffer" | "rx_ring_full" | "rx_disabled" | "rx_admin_down");
    let bad = |reason: &str| reason.starts_with("rx_") && !lost(reason) || reason == "tx_bad_ring";
    let good = |reason: &str| !bad(reason);
    let mut counters: BTreeMap<String, u64> = [
        ("rx_packets", report.rx.packets),
        ("rx_bytes", report.rx.bytes),
        ("rx_dropped", sum(&report.rx_drops, &good)),
        ("rx_errors", sum(&report.rx_drops, &bad)),
        ("tx_packets", report.tx.packets),
        ("tx_bytes", report.tx.bytes),
        ("tx_dropped", sum(&report.tx_drops, &good)),
        ("tx_errors", sum(&report.tx_drops, &bad)),
    ]
    .map(|(name, n)| (name.to_owned(), n))
    .into();
    for (reason, n) in report.rx_drops.iter().chain(&report.tx_drops) {
        *counters.entry(format!("drop_{reason}")).or_default() += n;
    }
    counters.extend(report.software().into_iter().map(|(name, n)| (name.to_owned(), n)));
    // What the device counts itself never takes the place of what the switch counts.
    for &(name, n) in &report.info.counters {
        counters.entry(name.to_owned()).or_insert(n);
    }
    Datum::map(counters.into_iter().map(|(name, n)| (name, count(n))))
}

/// Makes sure the one row of `Open_vSwitch` is there: clients and we hang everything on it.
pub(super) fn ensure_root(db: &Db) -> Result<(), OvsdbError> {
    let missing = |snapshot: &Snapshot| snapshot.table("Open_vSwitch").is_empty();
    db.transact_local(|txn| {
        if missing(txn.snapshot()) {
            txn.comment("vswitchd: new database");
            txn.insert("Open_vSwitch", [("db_version", Datum::from("8.3.1"))])?;
        }
        Ok(())
    })
}
