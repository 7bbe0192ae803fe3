//! Who may change what: the owner of a job, root, and members of the group `om`. "If you can kill it, you may move it." And
//! who may start jobs, and how many.

use std::fs;

use nix::unistd::{Group, User};

use super::config::Config;
use crate::nest::Credentials;

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
        Self { group: Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()) }
    }

    /// Whether this process of that user may change everybody's jobs and the node's switches.
    #[must_use]
    pub fn may_administer(self, uid: u32, gid: u32, pid: u32) -> bool {
        uid == 0 || self.group.is_some_and(|group| gid == group || groups_of(pid).contains(&group))
    }
}

/// Who may start jobs here.
#[derive(Clone, Debug)]
pub struct Starters {
    /// These users and groups, and root; everybody if there are none.
    only: Option<(Vec<u32>, Vec<u32>)>,
    /// The most jobs in all, and of one user.
    limits: (usize, usize),
}

impl Starters {
    /// Looks up who is named in the configuration. A name that nobody has lets nobody in.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let user = |name: &String| {
            let found = User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
            found.or_else(|| unknown("allow-users", name))
        };
        let group = |name: &String| {
            let found = Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw());
            found.or_else(|| unknown("allow-groups", name))
        };
        let is_open = config.allow_users.is_empty() && config.allow_groups.is_empty();
        let only = || {
            let users = config.allow_users.iter().filter_map(user).collect();
            (users, config.allow_groups.iter().filter_map(group).collect())
        };
        let limit = |limit| usize::try_from(limit).unwrap_or(usize::MAX);
        Self { only: (!is_open).then(only), limits: (limit(config.job_limit), limit(config.user_job_limit)) }
    }

    /// Whether this user may start one more job, with so many there in all and of this user.
    ///
    /// # Errors
    /// Why not, in one line for the user.
    pub fn admit(&self, who: &Credentials, in_all: usize, of_user: usize) -> Result<(), String> {
        let is_named = |(users, groups): &(Vec<u32>, Vec<u32>)| {
            users.contains(&who.uid) || who.groups.iter().chain([&who.gid]).any(|gid| groups.contains(gid))
        };
        if who.uid != 0 && !self.only.as_ref().is_none_or(is_named) {
            return Err("you may not start jobs on this node (allow-users, allow-groups)".into());
        }
        if in_all >= self.limits.0 {
            return Err(format!("there are {in_all} jobs on this node already (job-limit)"));
        }
        if who.uid != 0 && of_user >= self.limits.1 {
            return Err(format!("you have {of_user} jobs on this node already (user-job-limit)"));
        }
        Ok(())
    }
}

fn unknown(key: &str, name: &str) -> Option<u32> {
    log::warn!("{key}: there is no {name:?} on this node");
    None
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

    fn starters(users: &[&str], groups: &[&str]) -> Starters {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let (allow_users, allow_groups) = (names(users), names(groups));
        Starters::of(&Config {
            allow_users,
            allow_groups,
            job_limit: 10,
            user_job_limit: 3,
            ..Config::default()
        })
    }

    fn someone(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials { uid, gid, groups: groups.to_vec() }
    }

    #[test]
    fn without_names_everybody_may_start_jobs_with_names_only_they_and_root() {
        let someone_else = someone(4242, 4242, &[4243]);
        assert!(starters(&[], &[]).admit(&someone_else, 0, 0).is_ok());
        let named = starters(&["daemon"], &["bin"]);
        let [daemon, bin] =
            [User::from_name("daemon"), User::from_name("bin")].map(|user| user.unwrap().unwrap());
        assert!(named.admit(&someone_else, 0, 0).is_err());
        assert!(named.admit(&someone(0, 0, &[]), 0, 0).is_ok());
        assert!(named.admit(&someone(daemon.uid.as_raw(), 4242, &[]), 0, 0).is_ok());
        assert!(named.admit(&someone(4242, bin.gid.as_raw(), &[]), 0, 0).is_ok());
        assert!(named.admit(&someone(4242, 4242, &[bin.gid.as_raw()]), 0, 0).is_ok());
        assert!(starters(&["no such user"], &[]).admit(&someone_else, 0, 0).is_err());
    }

    #[test]
    fn a_user_has_a_limit_and_the_node_has_one() {
        let starters = starters(&[], &[]);
        let someone = someone(4242, 4242, &[]);
        assert!(starters.admit(&someone, 9, 2).is_ok());
        assert!(starters.admit(&someone, 9, 3).unwrap_err().contains("user-job-limit"));
        assert!(starters.admit(&someone, 10, 0).unwrap_err().contains("(job-limit)"));
        assert!(starters.admit(&Credentials { uid: 0, ..someone }, 9, 9).is_ok());
    }

    #[test]
    fn root_and_the_group_may_and_others_may_not() {
        let access = Access { group: Some(4242) };
        assert!(access.may_administer(0, 0, 0));
        assert!(access.may_administer(1001, 4242, 0));
        assert!(!access.may_administer(1001, 1001, 0));
    }
}
