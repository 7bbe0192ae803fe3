//! The mounts that the job sees.

use super::process::Process;

/// File systems on which CRIU cannot find a watched file again, as they give out no handles.
const WITHOUT_HANDLES: [&str; 9] =
    ["proc", "sysfs", "devpts", "debugfs", "tracefs", "securityfs", "mqueue", "ramfs", "overlay"];
/// File systems whose files are on other machines, or may be.
const REMOTE: [&str; 10] = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "lustre", "gpfs", "virtiofs"];

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number, as fdinfo has it.
    pub id: u32,
    /// The device of its files: major, minor.
    pub device: (u32, u32),
    /// The type of its file system.
    pub kind: String,
    /// Whether its files can be found again by their handles.
    pub has_handles: bool,
}

impl Mount {
    /// Whether its files may be on another machine, so that looking for one can wait for that.
    pub fn is_remote(&self) -> bool {
        self.kind.starts_with("fuse") || REMOTE.contains(&self.kind.as_str())
    }

    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let id = fields.next()?.parse().ok()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let mut fields = file_system.split(' ');
        let kind = fields.next()?.to_owned();
        let exported =
            fields.nth(1).is_some_and(|options| options.split(',').any(|option| option == "nfs_export=on"));
        let has_handles = exported || !WITHOUT_HANDLES.contains(&kind.as_str());
        Some(Self { id, device, kind, has_handles })
    }
}

/// All of them.
#[derive(Debug)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Those that this process sees; nothing if it has gone.
    pub fn of(process: &Process) -> Option<Self> {
        process.directory.read("mountinfo").ok().map(|text| Self::parse(&text))
    }

    fn parse(mountinfo: &str) -> Self {
        Self(mountinfo.lines().filter_map(Mount::parse).collect())
    }

    /// The one with this number.
    pub fn get(&self, id: u32) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// One whose files are on this device.
    pub fn on(&self, device: (u32, u32)) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.device == device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_device() {
        let mounts = Mounts::parse(
            "517 600 254:0 / / rw,relatime master:1 - ext4 /dev/vda rw\n\
             519 517 0:21 / /proc rw - proc proc rw\n\
             575 574 0:69 / /a\\040b rw,noatime shared:5 - fuse.om om rw,user_id=0\n\
             576 517 0:77 / /o rw - overlay o rw,lowerdir=/a\n\
             577 517 0:78 / /p rw - overlay o rw,index=on,nfs_export=on\n\
             odd\n",
        );
        assert_eq!(mounts.get(517).map(|mount| mount.kind.as_str()), Some("ext4"));
        assert_eq!(mounts.on((0, 21)).map(|mount| (mount.id, mount.has_handles)), Some((519, false)));
        assert!(mounts.get(575).unwrap().is_remote() && !mounts.get(517).unwrap().is_remote());
        assert!(!mounts.get(576).unwrap().has_handles && mounts.get(577).unwrap().has_handles);
        assert_eq!(mounts.get(600), None);
    }
}
