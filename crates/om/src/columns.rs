//! Tables for people: columns as wide as their widest cell, numbers to the right, and no line wider than the terminal.

use std::fmt;
use std::io::{self, IsTerminal};

use crate::sys;

/// A table in the making.
pub struct Columns {
    /// Each column's head; one that begins with `>` is aligned to the right.
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
    limit: Option<usize>,
}

impl Columns {
    /// An empty table. On a terminal its lines are cut off at the terminal's width.
    pub fn new(heads: &'static [&'static str]) -> Self {
        Self { heads, rows: Vec::new(), limit: None }
    }

    /// Cuts lines off at the width of the terminal, if the table goes to one.
    pub fn cut_at_terminal(self) -> Self {
        let width = io::stdout().is_terminal().then(|| sys::window_size(io::stdout()).ok()).flatten();
        let width = width.map(|(_, columns)| usize::from(columns)).filter(|columns| *columns > 0);
        Self { limit: width, ..self }
    }

    /// Cuts lines off at this many characters.
    pub fn cut_at(self, limit: usize) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Adds a row; it has a cell for each head.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The lines, the heads first.
    pub fn lines(&self) -> Vec<String> {
        let heads: Vec<&str> = self.heads.iter().map(|head| head.trim_start_matches('>')).collect();
        let widths: Vec<usize> = (0..heads.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
                cells.chain([width(heads[column])]).max().unwrap_or(0)
            })
            .collect();
        let head = heads.iter().map(ToString::to_string).collect();
        let all = std::iter::once(&head).chain(&self.rows);
        all.map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, (cell, wide)) in row.iter().zip(widths).enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            let pad = " ".repeat(wide - width(cell).min(*wide));
            if self.heads[column].starts_with('>') {
                line.push_str(&pad);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&pad);
            }
        }
        line.truncate(line.trim_end().len());
        match self.limit {
            Some(limit) => line.chars().take(limit).collect(),
            None => line,
        }
    }
}

impl fmt::Display for Columns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// The text with everything that could disturb a terminal replaced.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_the_last_has_no_tail() {
        let mut table = Columns::new(&[">PID", "WHERE", "COMMAND"]);
        table.row(vec!["7".into(), "home".into(), "sort big".into()]);
        table.row(vec!["12345".into(), "10.77.0.2".into(), "xz".into()]);
        assert_eq!(
            table.to_string(),
            "  PID  WHERE      COMMAND\n    7  home       sort big\n12345  10.77.0.2  xz\n"
        );
        assert_eq!(table.cut_at(9).lines()[1], "    7  ho");
    }
}
