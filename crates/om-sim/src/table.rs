//! A comparison as people read it.

use std::fmt::{self, Write};

use crate::run::Comparison;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds = self.policies.first().map_or(0, |row| row.seeds.len());
        let jobs = self.policies.first().map_or(0, |row| row.mean.jobs);
        writeln!(
            f,
            "{} nodes, load {}, workload {}, {} jobs in {} run{}",
            self.nodes,
            self.load,
            self.workload,
            jobs,
            seeds,
            if seeds == 1 { "" } else { "s" }
        )?;
        let mut head = format!("{:<14}", "policy");
        let names = self.policies.first().map(|row| row.mean.named());
        for (name, _) in names.into_iter().flatten() {
            write!(head, " {name:>14}")?;
        }
        writeln!(f, "{head}")?;
        for row in &self.policies {
            let mut line = format!("{:<14}", row.policy);
            for (_, value) in row.mean.named() {
                write!(line, " {value:>14.3}")?;
            }
            write!(f, "{line}")?;
            if row.seeds.len() > 1 {
                write!(f, "   time/work ± {:.3}", row.total_time_over_work_sd)?;
            }
            if row.mean.lost > 0 {
                write!(f, "   {} jobs lost", row.mean.lost)?;
            }
            if row.mean.violations > 0 {
                write!(f, "   {} INVARIANTS BROKEN", row.mean.violations)?;
            }
            writeln!(f)?;
        }
        match self.pooled_slowdown {
            Some(slowdown) => writeln!(f, "{:<14} {slowdown:>14.3}", "ideal pooled"),
            None => Ok(()),
        }
    }
}
