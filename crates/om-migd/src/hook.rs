//! CRIU's action script, as a native program: `om-migd` run by `criu restore` with its environment.
//!
//! A shell script will not do: CRIU may run with differing real and effective ids, with which mount(8) refuses
//! and some shells drop their privileges.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};

use crate::nest::{self, ROOT};
use crate::sys;

/// The variable by which CRIU tells a script what it is about to do.
pub const ACTION: &str = "CRTOOLS_SCRIPT_ACTION";
/// The variable by which we tell the script the job's cgroup.
pub const CGROUP: &str = "OM_CGROUP";

/// Runs one action; the exit status tells CRIU whether to go on.
pub fn main(action: &str) -> i32 {
    let result = match action {
        "setup-namespaces" => init_pid().and_then(|pid| mount_proc(&pid)),
        "post-restore" => {
            init_pid().and_then(|pid| enter_cgroup(&pid, &cgroup())).and_then(|()| nest::follow_symlinks())
        }
        "pre-resume" => fs::write(cgroup().join("cgroup.freeze"), "1"),
        _ => Ok(()),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("om-migd: {action}: {error}");
            1
        }
    }
}

fn init_pid() -> io::Result<String> {
    env::var("CRTOOLS_INIT_PID").map_err(io::Error::other)
}

fn cgroup() -> PathBuf {
    env::var_os(CGROUP).map(PathBuf::from).unwrap_or_default()
}

/// Mounts the job's own `/proc`: it must be done by a member of the job's pid namespace.
fn mount_proc(pid: &str) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/pid"))?;
    sys::enter_pid_namespace(namespace.as_fd())?;
    let child = sys::fork_single_threaded(|| {
        let target = format!("{ROOT}/proc");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        match mount(Some("proc"), target.as_str(), Some("proc"), flags, None::<&str>) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("om-migd: cannot mount {target}: {error}");
                1
            }
        }
    })?;
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        other => Err(io::Error::other(format!("mounting the job's /proc: {other:?}"))),
    }
}

/// Puts every task of the job's pid namespace into its cgroup.
fn enter_cgroup(pid: &str, cgroup: &Path) -> io::Result<()> {
    let namespace = fs::read_link(format!("/proc/{pid}/ns/pid"))?;
    let members = cgroup.join("cgroup.procs");
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        if is_process && fs::read_link(entry.path().join("ns/pid")).is_ok_and(|found| found == namespace) {
            fs::write(&members, entry.file_name().as_encoded_bytes())?;
        }
    }
    Ok(())
}
