//! What mount(2) wants to hear.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;

/// The arguments of mount(2) besides the place.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What `/proc/mounts` shows as mounted.
    pub source: String,
    /// The file system's type.
    pub fstype: &'static str,
    /// Set-user-id programs and devices of home have no power here.
    pub flags: MsFlags,
    /// The file system's own options; they name the device by its number, so mount in this process or a child.
    pub data: String,
}

/// Opens the FUSE device for one mount.
pub fn open_device() -> io::Result<OwnedFd> {
    // Several threads wait for the same device and race for what it brings, hence not blocking.
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    Ok(open("/dev/fuse", flags, Mode::empty())?)
}

/// How to mount what `device` carries. `home` is for people who read `/proc/mounts`.
///
/// Whoever calls, root and CRIU too, acts as the job's user at home: `allow_other` lets them in, and
/// permissions are home's affair (no `default_permissions`).
pub fn mount_options(device: &OwnedFd, home: &str) -> MountOptions {
    MountOptions {
        source: format!("om:{home}"),
        fstype: "fuse",
        flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        data: format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd()),
    }
}
