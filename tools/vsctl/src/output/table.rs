//! Tables in the formats of `--format`: aligned columns, one `name : value` line per column, CSV or JSON.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Cell;

/// The layouts of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns under headings.
    Table,
    /// One line per column, records separated by blank lines; what `list` and `find` print by default.
    List,
    /// Comma-separated values (RFC 4180) with a line of headings.
    Csv,
    /// One JSON object with "headings" and "data".
    Json,
}

/// The forms of `--data`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Data {
    /// Quoted and bracketed as in `ovs-vsctl`.
    #[default]
    String,
    /// No quotes, no brackets.
    Bare,
    /// OVSDB's JSON form of each value.
    Json,
}

/// How the user wants tables printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// The layout; `None` leaves it to the command.
    pub(crate) format: Option<Format>,
    /// The form of values in all layouts but JSON.
    pub(crate) data: Data,
    /// Whether to print headings.
    pub(crate) headings: bool,
}

/// Rows under headings.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Names of the columns.
    pub(crate) headings: Vec<String>,
    /// Rows of as many cells as there are headings.
    pub(crate) rows: Vec<Vec<Cell>>,
    /// The layout if the user has no wish.
    pub(crate) default_format: Format,
}

impl Table {
    /// An empty table with these headings, printed as aligned columns by default.
    pub(crate) fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Self {
        let headings = headings.into_iter().map(str::to_owned).collect();
        Self { headings, rows: Vec::new(), default_format: Format::Table }
    }

    /// The table as text, with a line end unless it is empty.
    pub(crate) fn render(&self, style: Style) -> String {
        match style.format.unwrap_or(self.default_format) {
            Format::Table => self.render_table(style),
            Format::List => self.render_list(style),
            Format::Csv => self.render_csv(style),
            Format::Json => self.to_json().to_string() + "\n",
        }
    }

    fn to_json(&self) -> Value {
        let row = |row: &Vec<Cell>| row.iter().map(|cell| cell.json.clone()).collect::<Vec<_>>();
        // The order of keys is ovs-vsctl's, for those who compare text.
        json!({"data": self.rows.iter().map(row).collect::<Vec<_>>(), "headings": self.headings})
    }

    fn render_table(&self, style: Style) -> String {
        let body = self.rows.iter().map(|row| row.iter().map(|cell| form(cell, style.data)).collect());
        let mut lines: Vec<Vec<String>> = Vec::new();
        if style.headings {
            lines.push(self.headings.clone());
        }
        lines.extend(body);
        let column = |at: usize| lines.iter().filter_map(move |line| line.get(at));
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|at| column(at).map(|text| text.chars().count()).max().unwrap_or(0))
            .collect();
        if style.headings {
            lines.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect());
        }
        let mut text = String::new();
        for line in lines {
            let mut out = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                let _ = write!(out, "{cell:<width$} ");
            }
            text.push_str(out.trim_end());
            text.push('\n');
        }
        text
    }

    fn render_list(&self, style: Style) -> String {
        let record = |row: &Vec<Cell>| {
            let mut text = String::new();
            for (heading, cell) in self.headings.iter().zip(row) {
                let value = form(cell, style.data);
                let _ = if style.headings {
                    writeln!(text, "{heading:<20}: {value}")
                } else {
                    writeln!(text, "{value}")
                };
            }
            text
        };
        self.rows.iter().map(record).collect::<Vec<_>>().join("\n")
    }

    fn render_csv(&self, style: Style) -> String {
        let line =
            |cells: Vec<String>| cells.iter().map(|cell| csv(cell)).collect::<Vec<_>>().join(",") + "\n";
        let mut text = if style.headings { line(self.headings.clone()) } else { String::new() };
        for row in &self.rows {
            text.push_str(&line(row.iter().map(|cell| form(cell, style.data)).collect()));
        }
        text
    }
}

fn form(cell: &Cell, data: Data) -> String {
    match data {
        Data::String => cell.text.clone(),
        Data::Bare => cell.bare.clone(),
        Data::Json => cell.json.to_string(),
    }
}

fn csv(cell: &str) -> String {
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["name", "n"]);
        table.rows.push(vec![Cell::text("a,\"b\""), Cell::count(5)]);
        table.rows.push(vec![Cell::text("c"), Cell::count(1000)]);
        table
    }

    fn render(format: Format, headings: bool) -> String {
        table().render(Style { format: Some(format), data: Data::String, headings })
    }

    #[test]
    fn aligned_columns_have_no_trailing_blanks() {
        assert_eq!(render(Format::Table, true), "name  n\n----- ----\na,\"b\" 5\nc     1000\n");
        assert_eq!(render(Format::Table, false), "a,\"b\" 5\nc     1000\n");
    }

    #[test]
    fn records_are_separated_by_a_blank_line() {
        let expected = "name                : a,\"b\"\nn                   : 5\n\n\
                        name                : c\nn                   : 1000\n";
        assert_eq!(render(Format::List, true), expected);
        assert_eq!(render(Format::List, false), "a,\"b\"\n5\n\nc\n1000\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(render(Format::Csv, true), "name,n\n\"a,\"\"b\"\"\",5\nc,1000\n");
    }

    #[test]
    fn json_keeps_numbers_as_numbers() {
        let json: Value = serde_json::from_str(&render(Format::Json, true)).unwrap();
        assert_eq!(json, json!({"headings": ["name", "n"], "data": [["a,\"b\"", 5], ["c", 1000]]}));
    }
}
