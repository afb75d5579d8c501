//! Which row a user means by `TABLE RECORD`.
//!
//! A record is a UUID (or its unique beginning, four digits or more), `@name` of the same command line, or the
//! name the table knows: most tables have a `name` column, the one row of Open_vSwitch is `.`, and rows that have
//! no name of their own go by that of the bridge or port that refers to them.

use super::{Plan, RowId};
use crate::error::{Error, failed};
use crate::value::RowRef;

/// One way to name a row of `table`.
struct Naming {
    table: &'static str,
    /// Where the name is: a table and its name column. No column means there is only one row, called `.`.
    holder: &'static str,
    name: Option<&'static str>,
    /// The column of the holder that refers to the row; `None` if the holder is the row itself.
    via: Option<&'static str>,
}

const fn own(table: &'static str, name: &'static str) -> Naming {
    Naming { table, holder: table, name: Some(name), via: None }
}

const fn of(table: &'static str, holder: &'static str, via: &'static str) -> Naming {
    Naming { table, holder, name: Some("name"), via: Some(via) }
}

const NAMINGS: &[Naming] = &[
    Naming { table: "Open_vSwitch", holder: "Open_vSwitch", name: None, via: None },
    Naming { table: "SSL", holder: "Open_vSwitch", name: None, via: Some("ssl") },
    own("Bridge", "name"),
    own("Port", "name"),
    own("Interface", "name"),
    own("Mirror", "name"),
    own("Flow_Table", "name"),
    own("Manager", "target"),
    of("Controller", "Bridge", "controller"),
    of("NetFlow", "Bridge", "netflow"),
    of("sFlow", "Bridge", "sflow"),
    of("IPFIX", "Bridge", "ipfix"),
    of("AutoAttach", "Bridge", "auto_attach"),
    of("QoS", "Port", "qos"),
];

/// Shortest beginning of a UUID that is accepted.
const MIN_UUID_PREFIX: usize = 4;

/// Tables whose rows must be in the copy to name a row of `table`: itself and the holders of its names.
pub(crate) fn tables_for(table: &str) -> Vec<&str> {
    let mut tables = vec![table];
    tables.extend(NAMINGS.iter().filter(|naming| naming.table == table).map(|naming| naming.holder));
    tables.dedup();
    tables
}

impl Plan<'_> {
    /// Finds the row a user means.
    ///
    /// # Errors
    /// When several rows fit.
    pub(crate) fn find_record(&mut self, table: &str, record: &str) -> Result<Option<RowId>, Error> {
        if record.starts_with('@') {
            let symbol = RowRef::Symbol(record.to_owned());
            return Ok(self.resolve(&symbol).filter(|id| self.table_of(*id) == table));
        }
        let complete = RowRef::Uuid(record.to_ascii_lowercase());
        if let Some(id) = self.resolve(&complete).filter(|id| self.table_of(*id) == table) {
            return Ok(Some(id));
        }
        for naming in NAMINGS.iter().filter(|naming| naming.table == table) {
            if let Some(id) = self.find_named(naming, record)? {
                return Ok(Some(id));
            }
        }
        // Last, because a name may look like the beginning of a UUID ("cafe").
        self.find_uuid_prefix(table, record)
    }

    /// Finds the row a user means, or says how to find out what there is.
    ///
    /// # Errors
    /// When no row or several fit.
    pub(crate) fn record(&mut self, table: &str, record: &str) -> Result<RowId, Error> {
        self.find_record(table, record)?.ok_or_else(|| {
            failed!("no row \"{record}\" in table {table} (see what there is: vsctl list {table})")
        })
    }

    fn find_uuid_prefix(&self, table: &str, text: &str) -> Result<Option<RowId>, Error> {
        let hex = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
        if !hex || text.len() < MIN_UUID_PREFIX {
            return Ok(None);
        }
        let wanted = text.to_ascii_lowercase();
        let fits =
            |id: &RowId| matches!(self.reference(*id), RowRef::Uuid(uuid) if uuid.starts_with(&wanted));
        let found: Vec<_> = self.rows(table)?.into_iter().filter(fits).collect();
        match found.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(*only)),
            _ => Err(failed!("\"{text}\" is the beginning of more than one UUID in table {table}")),
        }
    }

    fn find_named(&mut self, naming: &Naming, record: &str) -> Result<Option<RowId>, Error> {
        let mut holders = Vec::new();
        for id in self.rows(naming.holder)? {
            let fits = match naming.name {
                None => record == ".",
                Some(column) => self.text(id, column)? == record,
            };
            if fits {
                holders.push(id);
            }
        }
        let holder = match holders.as_slice() {
            [] => return Ok(None),
            [only] => *only,
            _ => return Err(failed!("more than one row of table {} is named \"{record}\"", naming.holder)),
        };
        let Some(via) = naming.via else { return Ok(Some(holder)) };
        self.guard(holder, via);
        match self.follow(holder, via)?.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(*only)),
            _ => Err(failed!(
                "{} \"{record}\" has more than one {}: name it by UUID",
                naming.holder,
                naming.table
            )),
        }
    }
}
