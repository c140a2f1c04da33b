//! A view as plain tables, for a pipe or a file.

use std::io::{self, Write};

use super::tables::{tables, Shown};
use super::view::View;
use crate::output::{Colour, Out};

/// Prints the tables under a line with the time. An empty line separates them from the previous ones.
pub(super) fn print(view: &View, all: bool, is_next: bool, out: &mut Out) -> io::Result<()> {
    if is_next {
        writeln!(out)?;
    }
    let line = match view.interval_seconds {
        Some(seconds) => format!("{}  {}  over {seconds:.1} s", view.at, view.dir),
        None => format!("{}  {}", view.at, view.dir),
    };
    out.line(Colour::Faint, line)?;
    if view.topics.is_empty() {
        writeln!(out, "no topics yet")?;
    }
    for table in tables(view, Shown { history: false, all }) {
        writeln!(out)?;
        let rows: Vec<Vec<String>> = table
            .rows
            .into_iter()
            .map(|row| row.into_iter().map(|cell| cell.text).collect())
            .collect();
        out.table(&table.heading, &table.right, &rows)?;
    }
    Ok(())
}
