//! om-migd: serves the om files on today's kernels and moves processes.
//!
//! One program in five roles, each a process: the daemon ([`daemon`]), a keeper for each job ([`keeper`]), the helper
//! that makes a job's mount namespace ([`nest`]), what becomes CRIU ([`launcher`]), and CRIU's action script ([`hook`]).

pub mod baseline;
pub mod bytes;
pub mod cgroup;
pub mod confines;
pub mod criu;
pub mod daemon;
pub mod guest_groups;
pub mod handover;
pub mod hook;
pub mod inspect;
pub mod keeper;
pub mod launcher;
pub mod limits;
pub mod nest;
pub mod net;
pub mod passing;
pub mod peer;
pub mod protobuf;
pub mod snapshot;
pub mod stay;
pub mod stdio;
pub mod sys;
pub mod uid_map;
pub mod used_files;
