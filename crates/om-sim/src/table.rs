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
        let jobs = first.mean.jobs + first.mean.lost;
        let s = if seeds == 1 { "" } else { "s, ± standard deviation over the seeds" };
        writeln!(f, "workload {}, {jobs} jobs in {seeds} run{s}", self.workload)?;
        let width = if seeds == 1 { 14 } else { 16 };
        let mut head = format!("{:<14}", "policy");
        for (name, _) in first.mean.ratios.named() {
            write!(head, " {name:>width$}")?;
        }
        writeln!(f, "{head}")?;
        for row in rows {
            let mut line = format!("{:<14}", row.policy);
            let spreads = row.standard_deviation.named();
            for ((_, value), (_, spread)) in row.mean.ratios.named().into_iter().zip(spreads) {
                let cell = if seeds == 1 {
                    digits(value)
                } else {
                    format!("{} ±{}", digits(value), digits(spread))
                };
                write!(line, " {cell:>width$}")?;
            }
            write!(f, "{line}")?;
            if row.mean.lost > 0 {
                write!(f, "   {} jobs lost", row.mean.lost)?;
            }
            if row.mean.violations > 0 {
                write!(f, "   {} INVARIANTS BROKEN", row.mean.violations)?;
            }
            writeln!(f)?;
        }
        match self.pooled.iter().find(|pooled| Some(pooled.load) == first.load) {
            Some(pooled) => {
                let slowdown = digits(pooled.mean_slowdown);
                let cell = if seeds == 1 { slowdown } else { format!("{slowdown}{:7}", "") };
                writeln!(f, "{:<14} {cell:>width$}", "ideal pooled")
            }
            None => Ok(()),
        }
    }
}

/// As many as anybody reads.
fn digits(value: f64) -> String {
    if value >= 100.0 { format!("{value:.1}") } else { format!("{value:.3}") }
}
