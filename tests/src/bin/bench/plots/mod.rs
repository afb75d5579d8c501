//! The plots in `docs/perf/`: one SVG per table of `results.json` and one of all goals.
//!
//! Written by hand rather than by a plotting library: two kinds of charts are all there is, and a reader of the
//! repository sees them without building anything.

mod bars;
mod lines;
mod overview;
mod scale;
mod svg;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ::tests::failure::{During as _, Result};

use crate::results::Results;

/// Draws everything into `folder`: `ROW.svg`, `ROW-2.svg` and so on for a row of several tables, and `goals.svg`.
///
/// # Errors
/// The folder is not writable.
pub(crate) fn draw(results: &Results, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).during(folder.display())?;
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    for entry in &results.entries {
        let number = numbers.entry(&entry.row).or_insert(0);
        *number += 1;
        if entry.table.series.is_empty() {
            continue;
        }
        let text =
            if entry.table.axis.is_some() { lines::draw(&entry.table) } else { bars::draw(&entry.table) };
        let name = if *number == 1 { entry.row.clone() } else { format!("{}-{number}", entry.row) };
        write(folder, &name, &text)?;
    }
    write(folder, "goals", &overview::draw(results))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(format!("{name}.svg"));
    fs::write(&path, text).during(path.display())
}

#[cfg(test)]
mod tests {
    use super::draw;
    use crate::results::{Entry, Results};
    use crate::table::Table;

    #[test]
    fn a_row_of_two_tables_gives_two_files() {
        let mut table = Table::new("t", "ms");
        table.add("vswitchd", 1.0);
        let entry = Entry { row: "idle".into(), date: String::new(), commit: String::new(), table };
        let results = Results { entries: vec![entry.clone(), entry], ..Results::default() };
        let folder = tempfile::tempdir().unwrap();
        draw(&results, folder.path()).unwrap();
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["goals.svg", "idle-2.svg", "idle.svg"]);
    }
}
