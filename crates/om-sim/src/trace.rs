//! Jobs from a file instead of a generator: CSV of one's own, or the Standard Workload Format of the Parallel Workloads
//! Archive (Chapin and others, 1999).
//!
//! CSV: `submit_s,node,cpu_s,mem_mib[,threads]`, one job a line; a first line that does not begin with a digit is a heading,
//! empty lines and those with `#` are passed over. SWF: lines that begin with `;` are comments; of the 18 fields these
//! are used: submit time (2), run time (4), processors (5, or 8 if unknown), CPU time used (6), memory used in KiB a
//! processor (7, or 10), user (12). SWF knows no node: each user has one. Nodes beyond the simulated ones are folded
//! onto them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::clock::nanos;
use crate::workload::Arrival;

const MIB: f64 = 1_048_576.0;
/// Memory of a job that does not tell.
const DEFAULT_MIB: f64 = 32.0;
/// No job counts as shorter.
const LEAST_S: f64 = 0.001;

/// Why there are no jobs. Nothing was simulated.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error("{}: line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Reads the jobs of `path` for `nodes` nodes, in the order of their submission; `scale` times faster than they came. A file
/// whose name ends in `.swf` is taken for SWF.
///
/// # Errors
/// [`TraceError`].
pub fn read(path: &Path, nodes: u32, scale: f64) -> Result<Vec<Arrival>, TraceError> {
    let text =
        fs::read_to_string(path).map_err(|source| TraceError::Read { path: path.to_owned(), source })?;
    let is_swf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("swf"));
    parse(&text, is_swf, nodes, scale).map_err(|(line, message)| TraceError::Line {
        path: path.to_owned(),
        line,
        message,
    })
}

fn parse(text: &str, is_swf: bool, nodes: u32, scale: f64) -> Result<Vec<Arrival>, (usize, String)> {
    let mut jobs = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let is_heading = number == 1 && !is_swf && !line.starts_with(|c: char| c.is_ascii_digit());
        if line.is_empty() || line.starts_with([';', '#']) || is_heading {
            continue;
        }
        let job = if is_swf { swf(line) } else { csv(line) }.map_err(|message| (number, message))?;
        jobs.extend(job);
    }
    jobs.sort_by(|one: &Raw, other| one.submit_s.total_cmp(&other.submit_s));
    let first_s = jobs.first().map_or(0.0, |job| job.submit_s);
    Ok(jobs.into_iter().map(|job| job.arrival(first_s, nodes.max(1), scale)).collect())
}

/// A job as the file has it.
#[derive(Clone, Copy, Debug)]
struct Raw {
    submit_s: f64,
    node: u32,
    work_s: f64,
    memory_mib: f64,
    threads: u32,
}

impl Raw {
    fn arrival(self, first_s: f64, nodes: u32, scale: f64) -> Arrival {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast from f64 saturates"
        )]
        let rss_bytes = (self.memory_mib * MIB) as u64;
        Arrival {
            at: nanos((self.submit_s - first_s) / scale),
            node: self.node % nodes,
            work_s: self.work_s.max(LEAST_S),
            threads: self.threads.max(1),
            rss_bytes,
        }
    }
}

fn csv(line: &str) -> Result<Option<Raw>, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    if !(4..=5).contains(&fields.len()) {
        return Err(format!("{} fields; it takes submit_s,node,cpu_s,mem_mib[,threads]", fields.len()));
    }
    let positive = |name, text: &str| match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err(format!("{name} is '{text}'")),
    };
    let whole = |name, text: &str| text.parse::<u32>().map_err(|_| format!("{name} is '{text}'"));
    Ok(Some(Raw {
        submit_s: positive("submit_s", fields[0])?,
        node: whole("node", fields[1])?,
        work_s: positive("cpu_s", fields[2])?,
        memory_mib: positive("mem_mib", fields[3])?,
        threads: fields.get(4).map_or(Ok(1), |text| whole("threads", text))?,
    }))
}

/// `None`: a job that never ran.
fn swf(line: &str) -> Result<Option<Raw>, String> {
    let fields: Vec<f64> = line
        .split_whitespace()
        .map(|text| text.parse().map_err(|_| format!("'{text}' is no number")))
        .collect::<Result<_, _>>()?;
    let field = |number: usize| fields.get(number - 1).copied().filter(|value| *value >= 0.0);
    if fields.len() < 12 {
        return Err(format!("{} fields; the format has 18", fields.len()));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast from f64 saturates")]
    let whole = |value: f64| value as u32;
    let threads = field(5).filter(|count| *count > 0.0).or(field(8)).unwrap_or(1.0).max(1.0);
    let each_s = field(6).filter(|time| *time > 0.0).or(field(4)).unwrap_or(0.0);
    if each_s <= 0.0 {
        return Ok(None);
    }
    let memory_kib = field(7).filter(|kib| *kib > 0.0).or(field(10));
    Ok(Some(Raw {
        submit_s: field(2).ok_or("the submit time is missing")?,
        node: field(12).map_or(0, whole),
        work_s: each_s * threads,
        memory_mib: memory_kib.filter(|kib| *kib > 0.0).map_or(DEFAULT_MIB, |kib| kib * threads / 1024.0),
        threads: whole(threads),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_read_folded_and_sped_up() {
        let text = "submit_s,node,cpu_s,mem_mib,threads\n# a comment\n12, 9, 1.5, 2\n10,1,4,1,2\n";
        let jobs = parse(text, false, 8, 2.0).unwrap();
        let one = Arrival { at: 0, node: 1, work_s: 4.0, threads: 2, rss_bytes: 1 << 20 };
        let other = Arrival { at: 1_000_000_000, node: 1, work_s: 1.5, threads: 1, rss_bytes: 2 << 20 };
        assert_eq!(jobs, vec![one, other]);
    }

    #[test]
    fn swf_is_read_and_jobs_that_never_ran_are_left_out() {
        let text = "; Version: 2\n1 0 3 100 4 90 2048 4 -1 -1 1 7 1 1 1 1 -1 -1\n\
                    2 5 -1 -1 -1 -1 -1 4 -1 -1 0 8 1 1 1 1 -1 -1\n";
        let jobs = parse(text, true, 4, 1.0).unwrap();
        assert_eq!(jobs, vec![Arrival { at: 0, node: 3, work_s: 360.0, threads: 4, rss_bytes: 8 << 20 }]);
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line() {
        let told = parse("0,0,1,1\n0,x,1,1\n", false, 4, 1.0).unwrap_err();
        assert_eq!(told, (2, "node is 'x'".to_owned()));
        assert_eq!(parse("1,2,3\n", false, 4, 1.0).unwrap_err().0, 1);
        assert!(parse("1 2 x\n", true, 4, 1.0).is_err());
    }
}
