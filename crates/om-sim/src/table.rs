//! A comparison as people read it.

use std::fmt::{self, Write};

use crate::run::{Comparison, Row};

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rows) in self.policies.chunk_by(|one, other| one.load == other.load).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.write_load(f, rows)?;
        }
        Ok(())
    }
}

impl Comparison {
    fn write_load(&self, f: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
        let Some(first) = rows.first() else { return Ok(()) };
        let seeds = first.seeds.len();
        write!(f, "{} nodes, ", self.nodes)?;
        if let Some(load) = first.load {
            write!(f, "load {load}, ")?;
        }
        let runs = match seeds {
            1 => String::new(),
            _ => format!(" in {seeds} runs, ± standard deviation over the seeds"),
        };
        let jobs = first.mean.jobs + first.mean.lost;
        let s = if jobs == 1 { "" } else { "s" };
        writeln!(f, "workload {}, {jobs} job{s}{runs}", self.workload)?;

        let heads = first.mean.ratios.named().map(|(name, _)| name.to_owned());
        let mut lines = vec![line("policy", heads)];
        lines.extend(rows.iter().map(|row| line(&row.policy, cells(row))));
        if let Some(pooled) = self.pooled.iter().find(|pooled| Some(pooled.load) == first.load) {
            let spread = if seeds == 1 { "" } else { "       " };
            lines.push(line("ideal pooled", [digits(pooled.mean_slowdown) + spread]));
        }
        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
        let remarks = [None].into_iter().chain(rows.iter().map(Some)).chain([None]);
        for (line, row) in lines.iter().zip(remarks) {
            let mut text = format!("{:<1$}", line[0], widths[0]);
            for (cell, width) in line.iter().zip(&widths).skip(1) {
                write!(text, "  {cell:>width$}")?;
            }
            write!(f, "{}", text.trim_end())?;
            if let Some(lost) = row.map(|row| row.mean.lost).filter(|lost| *lost > 0) {
                write!(f, "   {lost} jobs lost")?;
            }
            if let Some(violations) = row.map(|row| row.mean.violations).filter(|count| *count > 0) {
                write!(f, "   {violations} INVARIANTS BROKEN")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn line(name: &str, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(cells).collect()
}

/// The figures of a row, of several seeds with their spread.
fn cells(row: &Row) -> Vec<String> {
    let spreads = row.standard_deviation.named();
    let pairs = row.mean.ratios.named().into_iter().zip(spreads);
    let cell = |((_, value), (_, spread))| {
        if row.seeds.len() == 1 { digits(value) } else { format!("{} ±{}", digits(value), digits(spread)) }
    };
    pairs.map(cell).collect()
}

/// As many as anybody reads.
fn digits(value: f64) -> String {
    if value >= 100.0 { format!("{value:.1}") } else { format!("{value:.3}") }
}
