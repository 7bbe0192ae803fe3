//! What another node says of a job that is to begin here is looked at before it does.
//!
//! Who the job is, its streams, CPUs and control groups are this node's or the offer's, whatever the newborn says. What
//! would put a guest before the node's own work is taken from it; what `om run` never sends is refused.

use std::path::PathBuf;

use crate::limits;
use crate::nest::{Credentials, Launch};
use crate::net::message::JobSpec;
use crate::stdio::StreamKind;

/// The job as it may be launched here, of this owner.
///
/// # Errors
/// What is wrong with it, in one line.
pub fn admit(
    asked: &Launch,
    spec: &JobSpec,
    owner: &Credentials,
    joined: &[PathBuf],
) -> Result<Launch, String> {
    if asked.argv.is_empty() {
        return Err("the job has no command".into());
    }
    if asked.cwd.first() != Some(&b'/') {
        return Err("the job's working directory is no absolute path".into());
    }
    if [&asked.argv, &asked.env].into_iter().flatten().chain([&asked.cwd]).any(|text| text.contains(&0)) {
        return Err("the job's command, environment or working directory has a zero byte".into());
    }
    let limits = limits::of_guest(asked.limits.clone()).ok_or("the job's limits are no limits")?;
    Ok(Launch {
        argv: asked.argv.clone(),
        env: asked.env.clone(),
        cwd: asked.cwd.clone(),
        streams: spec.streams.map(StreamKind::letter),
        credentials: owner.clone(),
        umask: asked.umask & 0o777,
        nice: asked.nice.max(0),
        limits,
        // Home's numbers are not this node's.
        cpus: Vec::new(),
        ignored_signals: asked.ignored_signals,
        bounding: asked.bounding,
        no_new_privileges: asked.no_new_privileges,
        oom_score: asked.oom_score.max(0),
        joined: joined.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::net::preamble::JobId;

    fn spec() -> JobSpec {
        JobSpec {
            id: JobId([7; 16]),
            home: IpAddr::V4(Ipv4Addr::LOCALHOST),
            deputy: 1,
            credentials: Credentials { uid: 1000, gid: 1000, groups: vec![27, 1000] },
            command: "true".into(),
            started_us: 0,
            streams: [StreamKind::Null; 3],
            bounds: Default::default(),
            cpu: Default::default(),
        }
    }

    fn owner() -> Credentials {
        Credentials { groups: vec![1000], ..spec().credentials }
    }

    fn asked() -> Launch {
        Launch {
            argv: vec![b"true".to_vec()],
            env: vec![b"A=b".to_vec()],
            cwd: b"/home".to_vec(),
            streams: *b"ttt",
            credentials: Credentials { uid: 0, gid: 0, groups: vec![0] },
            umask: 0o22,
            nice: 5,
            limits: vec![(1, 2); 16],
            cpus: vec![3],
            ignored_signals: 0,
            bounding: 0,
            no_new_privileges: true,
            oom_score: 1,
            joined: vec!["/elsewhere".into()],
        }
    }

    #[test]
    fn who_a_job_is_and_where_it_belongs_is_not_taken_from_its_newborn() {
        let launch = admit(&asked(), &spec(), &owner(), &["/guests".into()]).unwrap();
        assert_eq!(launch.credentials, owner());
        assert_eq!(launch.streams, *b"nnn");
        assert!(launch.cpus.is_empty());
        assert_eq!(launch.joined, [PathBuf::from("/guests")]);
        assert!(launch.no_new_privileges);
        assert_eq!(launch.nice, 5);
    }

    #[test]
    fn a_newborn_is_not_put_before_the_nodes_own_work() {
        let launch =
            admit(&Launch { nice: -20, oom_score: -1000, umask: !0, ..asked() }, &spec(), &owner(), &[])
                .unwrap();
        assert_eq!((launch.nice, launch.oom_score, launch.umask), (0, 0, 0o777));
    }

    #[test]
    fn what_om_run_never_sends_is_refused() {
        for cwd in ["", ".", "../..", "/a\0b"] {
            assert!(
                admit(&Launch { cwd: cwd.into(), ..asked() }, &spec(), &owner(), &[]).is_err(),
                "{cwd:?}"
            );
        }
        assert!(admit(&Launch { argv: vec![], ..asked() }, &spec(), &owner(), &[]).is_err());
        assert!(admit(&Launch { argv: vec![b"a\0".to_vec()], ..asked() }, &spec(), &owner(), &[]).is_err());
        assert!(admit(&Launch { env: vec![b"\0".to_vec()], ..asked() }, &spec(), &owner(), &[]).is_err());
        assert!(admit(&Launch { limits: vec![], ..asked() }, &spec(), &owner(), &[]).is_err());
    }
}
