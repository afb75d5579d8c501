//! What commands print: plain text, or a table in the form `--format` asks for.

mod cell;
mod table;

pub(crate) use cell::Cell;
pub(crate) use table::{Data, Format, Style, Table};

use crate::plan::RowId;

/// What one command has to say.
#[derive(Debug, Default)]
pub(crate) enum Output {
    /// Nothing; success is the message.
    #[default]
    Nothing,
    /// Text, complete with its line ends.
    Text(String),
    /// Rows and columns, formatted as `--format` says.
    Table(Table),
    /// Names: one per line, or a table of one column if `--format` is given.
    Names {
        /// The heading of that column.
        heading: &'static str,
        /// The names in order.
        names: Vec<String>,
    },
    /// The UUID of a row, which the server chooses when it commits.
    Created(RowId),
}

impl Output {
    /// One line per item.
    pub(crate) fn lines(items: impl IntoIterator<Item = String>) -> Self {
        Self::Text(items.into_iter().map(|item| item + "\n").collect())
    }

    /// A list of names.
    pub(crate) fn names(heading: &'static str, names: Vec<String>) -> Self {
        Self::Names { heading, names }
    }

    /// The text to print; `uuid` tells the UUIDs of rows that were created.
    pub(crate) fn render(&self, style: Style, uuid: &dyn Fn(RowId) -> Option<String>) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Text(text) => text.clone(),
            Self::Table(table) => table.render(style),
            Self::Names { names, .. } if style.format.is_none() => {
                names.iter().map(|name| format!("{name}\n")).collect()
            }
            Self::Names { heading, names } => {
                let mut table = Table::new([*heading]);
                table.rows = names.iter().map(|name| vec![Cell::text(name)]).collect();
                table.render(style)
            }
            Self::Created(row) => uuid(*row).map(|uuid| uuid + "\n").unwrap_or_default(),
        }
    }
}

/// Puts the text of one command on one line: what `--oneline` promises to scripts.
pub(crate) fn one_line(text: &str) -> String {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.replace('\\', "\\\\").replace('\n', "\\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_can_be_undone() {
        assert_eq!(one_line("a\nb\\c\n"), "a\\nb\\\\c\n");
        assert_eq!(one_line(""), "\n");
    }

    #[test]
    fn names_become_a_table_on_request() {
        let names = Output::names("name", vec!["a".to_owned()]);
        let style = |format| Style { format, data: Data::String, headings: true };
        assert_eq!(names.render(style(None), &|_| None), "a\n");
        assert_eq!(names.render(style(Some(Format::Csv)), &|_| None), "name\na\n");
        assert!(names.render(style(Some(Format::Json)), &|_| None).contains("[[\"a\"]]"));
    }
}
