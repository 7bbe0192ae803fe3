//! The `stat` file: what a scheduler needs to know of a job, one `key value` a line, the unit in the key.
//!
//! A reader requires every key it knows and passes over those it does not, so that lines can be added; the lines of a
//! job's bounds (`on`, `not_on`, `stay_home`) are there only if it has any. `command` is the last line, because it alone
//! is free text.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::bounds::{Bounds, list};
use super::error::ParseError;
use super::text::{escape, unescape};
use crate::cpu::Baseline;

/// Whether the job runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// It runs, or would if it were given a CPU.
    Running,
    /// The user has stopped it.
    Stopped,
    /// It is between two nodes.
    Migrating,
}

/// One job, summed over its processes and over every node where it has been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStat {
    /// The job's name in the cluster: 32 lower-case hexadecimal digits.
    pub job: String,
    /// Its owner.
    pub uid: u32,
    /// The pid that its user sees at home.
    pub home_pid: u32,
    /// Whether it runs.
    pub state: JobState,
    /// CPU time it has used so far, on all nodes, microseconds.
    pub cpu_us: u64,
    /// Tasks that are runnable now.
    pub runnable: u32,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// Threads of all its processes.
    pub threads: u32,
    /// Wall time since it was started, milliseconds.
    pub age_ms: u64,
    /// Wall time since it arrived where it is, milliseconds; its age if it has never moved.
    pub since_move_ms: u64,
    /// Downtime of its last move, milliseconds; 0 if there was none.
    pub moves_ms: u64,
    /// Where it may run.
    pub bounds: Bounds,
    /// What it uses of CPUs, and so demands of the node where it is to go.
    pub cpu: Baseline,
    /// The command line, arguments joined by a blank.
    pub command: String,
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Migrating => "migrating",
        })
    }
}

impl FromStr for JobState {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "running" => Ok(Self::Running),
            "stopped" => Ok(Self::Stopped),
            "migrating" => Ok(Self::Migrating),
            _ => Err(ParseError::new("running, stopped or migrating", text)),
        }
    }
}

impl fmt::Display for JobStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "job {}", self.job)?;
        writeln!(f, "uid {}", self.uid)?;
        writeln!(f, "home_pid {}", self.home_pid)?;
        writeln!(f, "state {}", self.state)?;
        writeln!(f, "cpu_us {}", self.cpu_us)?;
        writeln!(f, "runnable {}", self.runnable)?;
        writeln!(f, "rss_bytes {}", self.rss_bytes)?;
        writeln!(f, "threads {}", self.threads)?;
        writeln!(f, "age_ms {}", self.age_ms)?;
        writeln!(f, "since_move_ms {}", self.since_move_ms)?;
        writeln!(f, "moves_ms {}", self.moves_ms)?;
        writeln!(f, "cpu {}", self.cpu)?;
        for (key, nodes) in [("on", &self.bounds.on), ("not_on", &self.bounds.not_on)] {
            if !nodes.is_empty() {
                writeln!(f, "{key} {}", list(nodes, ","))?;
            }
        }
        if self.bounds.stay {
            writeln!(f, "stay_home 1")?;
        }
        writeln!(f, "command {}", escape(&self.command))
    }
}

impl FromStr for JobStat {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let lines = Lines(text);
        Ok(Self {
            job: lines.job_name()?,
            uid: lines.number("uid")?,
            home_pid: lines.number("home_pid")?,
            state: lines.value("state")?.parse()?,
            cpu_us: lines.number("cpu_us")?,
            runnable: lines.number("runnable")?,
            rss_bytes: lines.number("rss_bytes")?,
            threads: lines.number("threads")?,
            age_ms: lines.number("age_ms")?,
            since_move_ms: lines.number("since_move_ms")?,
            moves_ms: lines.number("moves_ms")?,
            bounds: lines.bounds()?,
            cpu: lines.baseline()?,
            command: lines.command()?,
        })
    }
}

/// The lines of a stat file; the first with a key counts.
struct Lines<'a>(&'a str);

impl<'a> Lines<'a> {
    fn find(&self, key: &str) -> Option<&'a str> {
        // Not lines(): a value may end in a carriage return, which would then be lost.
        self.0.split('\n').find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    fn value(&self, key: &'static str) -> Result<&'a str, ParseError> {
        self.find(key).ok_or_else(|| ParseError::new("a line with every key of a stat file", key))
    }

    fn bounds(&self) -> Result<Bounds, ParseError> {
        Ok(Bounds {
            on: self.nodes("on")?,
            not_on: self.nodes("not_on")?,
            stay: self.find("stay_home") == Some("1"),
        })
    }

    fn nodes(&self, key: &str) -> Result<Vec<IpAddr>, ParseError> {
        let Some(value) = self.find(key) else { return Ok(Vec::new()) };
        let parsed: Result<_, _> = value.split(',').map(str::parse).collect();
        parsed.map_err(|_| ParseError::new("addresses separated by commas", value))
    }

    fn number<N: FromStr>(&self, key: &'static str) -> Result<N, ParseError> {
        let value = self.value(key)?;
        value.parse().map_err(|_| ParseError::new("a number that fits its key", &format!("{key} {value}")))
    }

    fn job_name(&self) -> Result<String, ParseError> {
        let job = self.value("job")?;
        let is_hex = job.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if job.len() == 32 && is_hex {
            Ok(job.to_owned())
        } else {
            Err(ParseError::new("a job's name of 32 hexadecimal digits", job))
        }
    }

    fn baseline(&self) -> Result<Baseline, ParseError> {
        let value = self.value("cpu")?;
        value.parse().map_err(|_| ParseError::new("native or a level of x86-64", value))
    }

    fn command(&self) -> Result<String, ParseError> {
        let command = self.value("command")?;
        unescape(command)
            .ok_or_else(|| ParseError::new("a command with its control characters escaped", command))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_job() -> JobStat {
        JobStat {
            job: "00112233445566778899aabbccddeeff".to_owned(),
            uid: 1000,
            home_pid: 4711,
            state: JobState::Running,
            cpu_us: 12_345_678,
            runnable: 3,
            rss_bytes: 64 << 20,
            threads: 4,
            age_ms: 20_000,
            since_move_ms: 7_000,
            moves_ms: 87,
            bounds: Bounds::default(),
            cpu: Baseline::X86(2),
            command: "xz -9 big".to_owned(),
        }
    }

    #[test]
    fn the_file_is_exactly_this() {
        let text = "job 00112233445566778899aabbccddeeff\nuid 1000\nhome_pid 4711\nstate running\n\
                    cpu_us 12345678\nrunnable 3\nrss_bytes 67108864\nthreads 4\nage_ms 20000\n\
                    since_move_ms 7000\nmoves_ms 87\ncpu x86-64-v2\ncommand xz -9 big\n";
        assert_eq!(a_job().to_string(), text);
        assert_eq!(text.parse(), Ok(a_job()));
    }

    #[test]
    fn bounds_are_lines_of_their_own() {
        let bounds = Bounds {
            on: vec![IpAddr::from([10, 77, 0, 2]), IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 2])],
            not_on: vec![IpAddr::from([10, 77, 0, 3])],
            stay: true,
        };
        let job = JobStat { bounds, ..a_job() };
        let text = job.to_string();
        assert!(text.contains("\non 10.77.0.2,fe80::2\nnot_on 10.77.0.3\nstay_home 1\ncommand "), "{text}");
        assert_eq!(text.parse(), Ok(job));
        assert!(text.replace("10.77.0.3", "h3").parse::<JobStat>().is_err());
    }

    proptest! {
        #[test]
        fn any_command_comes_back(command in ".*", cpu_us: u64, uid: u32) {
            let job = JobStat { command, cpu_us, uid, state: JobState::Stopped, ..a_job() };
            prop_assert_eq!(job.to_string().parse(), Ok(job));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = text.parse::<JobStat>();
        }
    }

    #[test]
    fn a_line_from_a_newer_daemon_is_passed_over() {
        let text = a_job().to_string().replace("threads", "colour blue\nthreads");
        assert_eq!(text.parse(), Ok(a_job()));
    }

    #[test]
    fn a_missing_line_is_an_error_that_names_it() {
        for line in a_job().to_string().lines() {
            let without = a_job().to_string().replace(&format!("{line}\n"), "");
            let error = without.parse::<JobStat>().unwrap_err().to_string();
            let key = line.split(' ').next().unwrap();
            assert!(error.contains(key), "{error} does not name {key}");
        }
    }

    #[test]
    fn a_command_cannot_smuggle_in_a_line() {
        let job = JobStat { command: "x\nuid 0".to_owned(), ..a_job() };
        assert_eq!(job.to_string().parse::<JobStat>().unwrap().uid, 1000);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (good, bad) in
            [("uid 1000", "uid -1"), ("threads 4", "threads 4294967296"), ("runnable 3", "runnable 3.0")]
        {
            assert!(a_job().to_string().replace(good, bad).parse::<JobStat>().is_err(), "{bad}");
        }
    }
}
