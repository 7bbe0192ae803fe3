//! Which file systems no guest may look into.
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

/// Whether the directory or file is on a file system that guests must not look into.
pub(super) fn is_veiled(file: impl AsFd) -> Result<bool, Errno> {
    let kind = fstatfs(file)?.filesystem_type().0;
    Ok(VEILED.contains(&u64::try_from(kind).unwrap_or(u64::MAX)))
}
