//! Which file systems are special to a guest: those that it may not look into, and automounters.
//!
//! What the kernel makes up (`/proc`, `/sys`, control groups, debugging) is about the node and its processes,
//! the keeper among them, not about the job's files. The guest's node covers these with its own; here they are empty
//! directories, so that there is something to mount upon and nothing to read.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::statfs::fstatfs;

/// `f_type` of the file systems that are veiled, from `linux/magic.h` and the file systems' own sources.
const VEILED: [u64; 19] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x6265_6570, // configfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x6c6f_6f70, // binderfs
    0x1980_0202, // mqueue
    0x1cd1,      // devpts
    0x6573_5543, // fusectl
    0x6e73_6673, // nsfs
    0x0765_5821, // resctrl
];

/// `f_type` of autofs.
const AUTOFS: u64 = 0x0187;

/// What kind of file system something is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// One that keeps files.
    Plain,
    /// One that guests must not look into.
    Veiled,
    /// One whose directories become mounts when somebody goes there.
    Automounter,
}

/// What kind of file system the directory or file is on.
pub(super) fn nature_of(file: impl AsFd) -> Result<Nature, Errno> {
    Ok(match u64::try_from(fstatfs(file)?.filesystem_type().0) {
        Ok(AUTOFS) => Nature::Automounter,
        Ok(kind) if VEILED.contains(&kind) => Nature::Veiled,
        _ => Nature::Plain,
    })
}
