//! Which of its groups a guest has on this node: the keys `min-gid` and `guest-groups`.
//!
//! A guest touches home's files with all groups that it has at home, since home itself does that for it. Here a group
//! id may be another group's, and one of the system's (`disk`, `docker`, `shadow`) is worth something to whoever has it. So
//! a guest has here those groups only that are people's own, those that the user of its id has on this node as well, and
//! those that the configuration names; the others it has again when it is back home. Its primary group it cannot leave
//! behind: a job whose primary group may not come does not come.

use std::ffi::CString;

use nix::unistd::{Group, Uid, User, getgrouplist};
use serde::{Deserialize, Serialize};

use crate::nest::Credentials;

/// The rule of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGroups {
    /// From this id on groups are people's own.
    least: u32,
    /// These are let in as well.
    named: Vec<u32>,
}

impl GuestGroups {
    /// Looks up the groups that are named, by name or number. Some distributions have no `users`.
    #[must_use]
    pub fn of(least: u32, names: &[String]) -> Self {
        let find = |name: &String| {
            let found = name.parse().ok();
            let found =
                found.or_else(|| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()));
            if found.is_none() && name != "users" {
                log::warn!("guest-groups: there is no {name:?} on this node");
            }
            found
        };
        Self { least, named: names.iter().filter_map(find).collect() }
    }

    /// Who a guest is here, whose user is in the groups `here` on this node.
    ///
    /// # Errors
    /// Why it must not come, in one line.
    pub fn admit(&self, who: &Credentials, here: &[u32]) -> Result<Credentials, String> {
        let may_come =
            |gid: u32| who.uid == 0 || gid >= self.least || self.named.contains(&gid) || here.contains(&gid);
        if !may_come(who.gid) {
            return Err(format!("its group {} may not come here (min-gid, guest-groups)", who.gid));
        }
        let groups = who.groups.iter().copied().filter(|gid| may_come(*gid)).collect();
        Ok(Credentials { groups, ..*who })
    }
}

/// The groups that a user has on this node; none if it is not known here.
#[must_use]
pub fn of_user(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    let groups = getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
    groups.into_iter().map(nix::unistd::Gid::as_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone(gid: u32, groups: &[u32]) -> Credentials {
        Credentials { uid: 1000, gid, groups: groups.to_vec() }
    }

    #[test]
    fn groups_of_the_system_stay_at_home_unless_the_user_has_them_here_too() {
        let rule = GuestGroups { least: 1000, named: vec![100] };
        let who = someone(1000, &[0, 6, 27, 42, 100, 998, 1000, 4242]);
        assert_eq!(rule.admit(&who, &[]).unwrap().groups, [100, 1000, 4242]);
        assert_eq!(rule.admit(&who, &[27, 1000]).unwrap().groups, [27, 100, 1000, 4242]);
        let root = Credentials { uid: 0, ..who };
        assert_eq!(rule.admit(&root, &[]), Ok(root));
    }

    #[test]
    fn a_primary_group_of_the_system_does_not_come() {
        let rule = GuestGroups { least: 1000, named: vec![100] };
        for gid in [0, 6, 999] {
            assert!(rule.admit(&someone(gid, &[]), &[]).unwrap_err().contains("min-gid"), "{gid}");
        }
        assert!(rule.admit(&someone(100, &[]), &[]).is_ok());
        assert!(rule.admit(&someone(999, &[]), &[999]).is_ok());
    }

    #[test]
    fn groups_are_named_by_name_or_number() {
        let rule = GuestGroups::of(1000, &["root".into(), "4".into(), "no such group".into()]);
        assert_eq!(rule.named, [0, 4]);
    }

    #[test]
    fn a_user_has_the_groups_of_this_nodes_own_list() {
        assert!(of_user(0).contains(&0));
        assert_eq!(of_user(u32::MAX - 7), [0; 0]);
    }
}
