//! Jobs from a file instead of a generator: CSV of one's own, or the Standard Workload Format of the Parallel Workloads
//! Archive (Chapin and others, 1999).
//!
//! CSV: `submit_s,node,cpu_s,mem_mib[,threads]`, one job a line; a first line that begins with `submit` is a heading,
//! empty lines and those with `#` are passed over. SWF: lines that begin with `;` are comments; of the 18 fields these
//! are used: submit time (2), run time (4), processors (5, or 8 if unknown), CPU time used (6), memory used in KiB a
//! processor (7, or 10), user (12). SWF knows no node: each user has one. Nodes beyond the simulated ones are folded
//! onto them.
//!
//! A file is a stranger's: whatever does not make sense is refused with its line, nothing is guessed.

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
/// What a line of CSV has.
const CSV: &str = "submit_s,node,cpu_s,mem_mib[,threads]";
/// The latest submission, three centuries after the first; some archives count from 1970.
const SUBMIT_S: f64 = 1e10;
/// The longest job, three years.
const CPU_S: f64 = 1e8;
/// The largest job, a tebibyte.
const MEMORY_MIB: f64 = 1_048_576.0;
const THREADS: u32 = 65_536;

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
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what is expected.
        message: String,
    },
    /// There is no job in it.
    #[error("{}: no job in it; expected one a line, {expected}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What a line has.
        expected: &'static str,
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
    let jobs = parse(&text, is_swf, nodes, scale).map_err(|(line, message)| TraceError::Line {
        path: path.to_owned(),
        line,
        message,
    })?;
    if jobs.is_empty() {
        let expected = if is_swf { "the 18 numbers of SWF" } else { CSV };
        return Err(TraceError::Empty { path: path.to_owned(), expected });
    }
    Ok(jobs)
}

/// Reads the jobs of a text; see [`read`].
///
/// # Errors
/// The line, from 1, and what is wrong there.
pub fn parse(text: &str, is_swf: bool, nodes: u32, scale: f64) -> Result<Vec<Arrival>, (usize, String)> {
    let mut jobs: Vec<Raw> = Vec::new();
    let mut may_be_heading = !is_swf;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if std::mem::take(&mut may_be_heading) && line.starts_with("submit") {
            continue;
        }
        let job =
            if is_swf { swf(line) } else { csv(line).map(Some) }.map_err(|message| (number, message))?;
        jobs.extend(job);
    }
    jobs.sort_by(|one, other| one.submit_s.total_cmp(&other.submit_s));
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
            reason = "checked when it was read"
        )]
        let rss_bytes = (self.memory_mib * MIB) as u64;
        Arrival {
            at: nanos((self.submit_s - first_s) / scale),
            node: self.node % nodes,
            work_s: self.work_s.max(LEAST_S),
            threads: self.threads,
            rss_bytes,
            rhythm: None,
        }
    }
}

/// A number from 0 to `most`.
fn number(name: &str, text: &str, most: f64) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=most).contains(value));
    value.ok_or_else(|| format!("{name} is '{}'; expected a number from 0 to {most}", short(text)))
}

/// A whole number from `least` to `most`.
fn whole(name: &str, text: &str, least: u32, most: u32) -> Result<u32, String> {
    let value = text.parse::<u32>().ok().filter(|value| (least..=most).contains(value));
    value
        .ok_or_else(|| format!("{name} is '{}'; expected a whole number from {least} to {most}", short(text)))
}

/// No more of a field than a line of a message can take.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(24).collect()
}

fn csv(line: &str) -> Result<Raw, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    if !(4..=5).contains(&fields.len()) {
        let (count, s) = (fields.len(), if fields.len() == 1 { "" } else { "s" });
        return Err(format!("{count} field{s}; expected {CSV}"));
    }
    Ok(Raw {
        submit_s: number("submit_s", fields[0], SUBMIT_S)?,
        node: whole("node", fields[1], 0, u32::MAX)?,
        work_s: number("cpu_s", fields[2], CPU_S)?,
        memory_mib: number("mem_mib", fields[3], MEMORY_MIB)?,
        threads: fields.get(4).map_or(Ok(1), |text| whole("threads", text, 1, THREADS))?,
    })
}

/// `None`: a job that never ran. What is unknown is -1 in this format.
fn swf(line: &str) -> Result<Option<Raw>, String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if fields.len() != 18 {
        return Err(format!("{} fields; expected the 18 of the Standard Workload Format", fields.len()));
    }
    let known = |name: &str, field: usize, most: f64| match fields[field - 1] {
        "-1" | "-1.0" | "-1.00" => Ok(None),
        text => number(&format!("{name} (field {field})"), text, most).map(Some),
    };
    let submit_s =
        known("submit time", 2, SUBMIT_S)?.ok_or("submit time (field 2) is missing; expected seconds")?;
    let run_s = known("run time", 4, CPU_S)?;
    let allocated = known("allocated processors", 5, THREADS.into())?.filter(|count| *count > 0.0);
    let requested = known("requested processors", 8, THREADS.into())?.filter(|count| *count > 0.0);
    let cpu_s = known("CPU time", 6, CPU_S)?.filter(|time| *time > 0.0);
    let kib = 1024.0 * MEMORY_MIB;
    let used = known("used memory", 7, kib)?.filter(|kib| *kib > 0.0);
    let wanted = known("requested memory", 10, kib)?.filter(|kib| *kib > 0.0);
    let user = known("user", 12, u32::MAX.into())?.unwrap_or(0.0);
    let Some(each_s) = cpu_s.or(run_s).filter(|time| *time > 0.0) else { return Ok(None) };
    let processors = allocated.or(requested).unwrap_or(1.0).max(1.0);
    let work_s = each_s * processors;
    let memory_mib = used.or(wanted).map_or(DEFAULT_MIB, |kib| kib * processors / 1024.0);
    if work_s > CPU_S || memory_mib > MEMORY_MIB {
        return Err(format!(
            "{work_s} CPU seconds and {memory_mib} MiB on all processors; expected no more than {CPU_S} and {MEMORY_MIB}"
        ));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let (node, threads) = (user as u32, processors as u32);
    Ok(Some(Raw { submit_s, node, work_s, memory_mib, threads }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_read_folded_and_sped_up() {
        let text = "# a comment\nsubmit_s,node,cpu_s,mem_mib,threads\n12, 9, 1.5, 2\n10,1,4,1,2\n";
        let jobs = parse(text, false, 8, 2.0).unwrap();
        let one = Arrival { at: 0, node: 1, work_s: 4.0, threads: 2, rss_bytes: 1 << 20, rhythm: None };
        let other = Arrival { at: 1_000_000_000, work_s: 1.5, threads: 1, rss_bytes: 2 << 20, ..one };
        assert_eq!(jobs, vec![one, other]);
    }

    #[test]
    fn swf_is_read_and_jobs_that_never_ran_are_left_out() {
        let text = "; Version: 2\n1 0 3 100 4 90 2048 4 -1 -1 1 7 1 1 1 1 -1 -1\n\
                    2 5 -1 -1 -1 -1 -1 4 -1 -1 0 8 1 1 1 1 -1 -1\n";
        let jobs = parse(text, true, 4, 1.0).unwrap();
        let job = Arrival { at: 0, node: 3, work_s: 360.0, threads: 4, rss_bytes: 8 << 20, rhythm: None };
        assert_eq!(jobs, vec![job]);
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_line_and_what_is_expected() {
        let told = |text, is_swf| parse(text, is_swf, 4, 1.0).unwrap_err();
        let node = "node is 'x'; expected a whole number from 0 to 4294967295";
        assert_eq!(told("0,0,1,1\n0,x,1,1\n", false), (2, node.to_owned()));
        let fields = "3 fields; expected submit_s,node,cpu_s,mem_mib[,threads]";
        assert_eq!(told("1,2,3\n", false), (1, fields.to_owned()));
        let fields = "3 fields; expected the 18 of the Standard Workload Format";
        assert_eq!(told(";\n1 2 x\n", true), (2, fields.to_owned()));
    }

    #[test]
    fn numbers_beyond_reason_are_refused() {
        for cpu_s in ["nan", "inf", "-1", "1e300", "", "1e9", "0x10"] {
            assert!(parse(&format!("0,0,{cpu_s},1"), false, 4, 1.0).is_err(), "{cpu_s}");
        }
        for line in
            ["-5,0,1,1", "1e99,0,1,1", "0,-1,1,1", "0,0,1,-1", "0,0,1,1e12", "0,0,1,1,0", "0,0,1,1,1e9"]
        {
            assert!(parse(line, false, 4, 1.0).is_err(), "{line}");
        }
        for field in [2, 4, 5, 6, 7, 8, 10, 12] {
            for wrong in ["nan", "-7", "1e300", "x"] {
                let mut fields =
                    "1 0 3 100 4 90 2048 4 -1 -1 1 7 1 1 1 1 -1 -1".split(' ').collect::<Vec<_>>();
                fields[field - 1] = wrong;
                assert!(parse(&fields.join(" "), true, 4, 1.0).is_err(), "field {field}: {wrong}");
            }
        }
    }
}
