//! What `list` and `find` have in common: choosing columns, making a table of rows, testing conditions.

use crate::error::{Error, usage};
use crate::grammar::Call;
use crate::output::{Cell, Format, Output, Table};
use crate::plan::{Plan, RowId};
use crate::schema::UUID;
use crate::value::{Atom, ColumnType, Datum, Setting, parse_atom, parse_datum};

use super::VerbOption;

/// The option that chooses columns.
pub(super) const COLUMNS: VerbOption = VerbOption {
    name: "columns",
    value: Some("COLUMN,..."),
    help: "Print only these columns, in this order",
};

/// The rows as a table, `_uuid` first and the other columns in alphabetical order unless `--columns` says otherwise.
pub(super) fn table_of(call: &Call, plan: &Plan<'_>, table: &str, rows: &[RowId]) -> Result<Output, Error> {
    let schema = plan.schema();
    let mut columns = Vec::new();
    match call.option(COLUMNS.name) {
        Some(chosen) => {
            for column in chosen.split([',', ' ']).filter(|column| !column.is_empty()) {
                columns.push(schema.find_column(table, column)?);
            }
        }
        None => {
            columns.push(UUID);
            columns.extend(
                schema.table(table)?.columns.keys().map(String::as_str).filter(|column| *column != UUID),
            );
        }
    }
    let mut output = Table::new(columns.iter().copied());
    output.default_format = Format::List;
    for row in rows {
        let cell =
            |column: &&str| Ok(Cell::datum(&plan.get(*row, column)?, &schema.column(table, column)?.kind));
        output.rows.push(columns.iter().map(cell).collect::<Result<_, Error>>()?);
    }
    Ok(Output::Table(output))
}

/// Orders rows by name, where the table has names, and by UUID.
pub(super) fn sort(plan: &Plan<'_>, table: &str, rows: &mut [RowId]) {
    let named = plan.schema().column(table, "name").is_ok();
    rows.sort_by_cached_key(|row| (named.then(|| plan.text(*row, "name").ok()), plan.reference(*row)));
}

/// Whether `COLUMN[:KEY]` or `COLUMN[:KEY]<op>VALUE` holds for a row. Without operator: whether the column or key is set.
pub(super) fn holds(plan: &Plan<'_>, table: &str, row: RowId, condition: &str) -> Result<bool, Error> {
    let setting = Setting::parse(condition)?;
    let column = plan.schema().find_column(table, &setting.column)?;
    let kind = &plan.schema().column(table, column)?.kind;
    let datum = plan.get(row, column)?;
    let key = setting.key_atom(kind)?;
    let Some((operator, text)) = setting.comparison else {
        return Ok(key.map_or(!datum.is_empty(), |key| datum.lookup(&key).is_some()));
    };
    let named = |why: Error| usage!("{condition}: {why}");
    match (key, &kind.value) {
        (Some(key), Some(value_type)) => {
            let present: Vec<Atom> = datum.lookup(&key).cloned().into_iter().collect();
            if present.is_empty() && !operator.is_set() {
                return Ok(false);
            }
            let value = if operator.is_set() {
                let several = ColumnType::set_of(value_type.clone(), 0, usize::MAX);
                parse_datum(text, &several).map_err(named)?
            } else {
                Datum::scalar(parse_atom(text, value_type).map_err(named)?)
            };
            Ok(operator.holds(&Datum::Set(present.into_iter().collect()), &value))
        }
        _ => {
            // A relation between sets may name more values than the column can hold: tag{in}1,2,3.
            let wide = ColumnType {
                min: 0,
                max: if operator.is_set() { usize::MAX } else { kind.max },
                ..kind.clone()
            };
            let value = parse_datum(text, &wide).map_err(named)?;
            Ok(operator.holds(&datum, &value))
        }
    }
}
