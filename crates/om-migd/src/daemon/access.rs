//! Who may change what: the owner of a job, root, and members of the group `om`. "If you can kill it, you may move it."

use std::fs;

/// The group whose members may move every process.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Its group id, if the group exists.
    pub group: Option<u32>,
}

impl Access {
    /// Looks the group up.
    #[must_use]
    pub fn of_group(name: &str) -> Self {
        Self { group: nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()) }
    }

    /// Whether this process of that user may change a job of `owner`.
    #[must_use]
    pub fn may_change(self, owner: u32, uid: u32, gid: u32, pid: u32) -> bool {
        uid == owner || self.may_administer(uid, gid, pid)
    }

    /// Whether this process of that user may change the node's switches.
    #[must_use]
    pub fn may_administer(self, uid: u32, gid: u32, pid: u32) -> bool {
        uid == 0 || self.group.is_some_and(|group| gid == group || groups_of(pid).contains(&group))
    }
}

/// The supplementary groups of a process; none if it has gone.
fn groups_of(pid: u32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_root_and_the_group_may_and_others_may_not() {
        let access = Access { group: Some(4242) };
        assert!(access.may_change(1000, 1000, 1000, 0));
        assert!(access.may_change(1000, 0, 0, 0));
        assert!(access.may_change(1000, 1001, 4242, 0));
        assert!(!access.may_change(1000, 1001, 1001, 0));
        assert!(!access.may_administer(1000, 1000, 0));
    }
}
