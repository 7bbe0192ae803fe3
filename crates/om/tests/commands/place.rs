//! A directory with om files, and `om` started in it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use om_proto::omfs::{Bounds, JobStat, JobState};
use tempfile::TempDir;

pub struct Place {
    dir: TempDir,
}

impl Place {
    /// With the node's switches and no jobs.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        for switch in ["block", "stay", "expel", "bring"] {
            place.write(&format!("om/hpc/admin/{switch}"), "0\n");
        }
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A job of node 127.0.0.1, which is this one, or a guest.
    pub fn add_job(&self, pid: u32, home: &str, place: &str, stay: &str, command: &str) {
        let stat = JobStat {
            job: format!("{pid:032x}"),
            uid: 0,
            home_pid: 17,
            state: JobState::Running,
            cpu_us: 62_340_000,
            runnable: 2,
            rss_bytes: 12 << 20,
            threads: 4,
            age_ms: 90_000,
            since_move_ms: 8000,
            moves_ms: 51,
            bounds: Bounds::default(),
            cpu: om_proto::cpu::Baseline::Native,
            command: command.to_owned(),
        };
        let files = [
            ("where", format!("{place}\n")),
            ("stay", stay.to_owned()),
            ("lock", "0\n".to_owned()),
            ("nmigs", "3\n".to_owned()),
            ("home", format!("{home}\n")),
            ("stat", stat.to_string()),
            ("result", String::new()),
        ];
        for (file, text) in files {
            self.write(&format!("om/{pid}/om/{file}"), &text);
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_om"));
        command.args(arguments).env_remove("OM_ROOT").env("OM_ROOT", self.path("om"));
        command
    }

    /// Exit status, stdout and stderr.
    pub fn om(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}
