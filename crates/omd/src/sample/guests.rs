//! Guests and switches, from the om files.
//!
//! The om files are served by another daemon, and a read waits for as long as that daemon pleases. So a thread of
//! its own reads them, and the sampler waits for it a moment only: if `om-migd` hangs, this node becomes a
//! monitoring node, and does not fall silent.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use om_proto::omfs::{OmError, OmRoot};
use om_proto::report::Migration;

/// An answer takes far less if the daemon is well.
const PATIENCE: Duration = Duration::from_millis(20);
/// For so many samples the last answer stands: as long as others believe a node that they do not hear.
const ANSWER_LASTS: u32 = 3;
/// The thread calls nothing that needs more.
const STACK: usize = 96 << 10;
/// A job's home never changes, but its pid may get another owner: looked at again after so many samples.
const HOME_LASTS: u32 = 10;

#[derive(Debug)]
pub(super) struct GuestWatch {
    questions: Sender<Vec<IpAddr>>,
    answers: Receiver<Option<Migration>>,
    addresses: Vec<IpAddr>,
    waiting: bool,
    last: Option<Migration>,
    /// Samples since the last answer.
    missed: u32,
}

impl GuestWatch {
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start(root: OmRoot) -> io::Result<Self> {
        let (questions, to_answer) = bounded::<Vec<IpAddr>>(1);
        let (answered, answers) = bounded(1);
        thread::Builder::new().name("om files".to_owned()).stack_size(STACK).spawn(move || {
            let mut census = Census { root, homes: HashMap::new(), round: 0 };
            for own_addresses in to_answer {
                if answered.send(census.take(&own_addresses)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers, addresses: Vec::new(), waiting: false, last: None, missed: 0 })
    }

    pub(super) fn set_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
    }

    /// Sets the thread to work. While it has not finished the last time it is left alone.
    pub(super) fn ask(&mut self) {
        if !self.waiting {
            self.waiting = self.questions.try_send(self.addresses.clone()).is_ok();
        }
    }

    /// What the thread found; `None` if there is no migration daemon, or if it has not answered for long.
    pub(super) fn answer(&mut self) -> Option<Migration> {
        let answer = self.answers.recv_timeout(PATIENCE);
        self.waiting = answer.is_err();
        match answer {
            Ok(found) => (self.last, self.missed) = (found, 0),
            Err(_) => self.missed = self.missed.saturating_add(1),
        }
        self.last.clone().filter(|_| self.missed <= ANSWER_LASTS)
    }
}

/// Counts jobs.
struct Census {
    root: OmRoot,
    /// Each job's home, and the round in which it was read.
    homes: HashMap<u32, (IpAddr, u32)>,
    round: u32,
}

impl Census {
    fn take(&mut self, own_addresses: &[IpAddr]) -> Option<Migration> {
        self.try_take(own_addresses).ok()
    }

    fn try_take(&mut self, own_addresses: &[IpAddr]) -> Result<Migration, OmError> {
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let admin = self.root.admin()?;
        let pids = self.root.pids()?;
        self.homes.retain(|pid, (_, since)| {
            round.wrapping_sub(*since) < HOME_LASTS && pids.binary_search(pid).is_ok()
        });
        let (mut guests, mut own_jobs) = (0, 0);
        for pid in pids {
            let home = match self.homes.get(&pid) {
                Some((home, _)) => *home,
                None => match self.root.process(pid).home() {
                    Ok(home) => {
                        self.homes.insert(pid, (home, round));
                        home
                    }
                    // It ended meanwhile, or it is no job.
                    Err(_) => continue,
                },
            };
            if own_addresses.contains(&home) {
                own_jobs += 1;
            } else {
                guests += 1;
            }
        }
        Ok(Migration {
            guests,
            guest_limit: self.root.guest_limit()?.unwrap_or(u32::MAX),
            own_jobs,
            block: admin.block,
            stay: admin.stay,
            expel: admin.expel,
            bring: admin.bring,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn a_root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (switch, value) in [("block", "1"), ("stay", "0"), ("expel", "0"), ("bring", "0")] {
            put(dir.path(), &format!("hpc/admin/{switch}"), value);
        }
        put(dir.path(), "10/om/home", "10.77.0.1\n");
        put(dir.path(), "11/om/home", "10.77.0.2\n");
        put(dir.path(), "12/om/home", "fd77::1\n");
        dir
    }

    fn own() -> Vec<IpAddr> {
        vec!["10.77.0.1".parse().unwrap(), "fd77::1".parse().unwrap()]
    }

    #[test]
    fn guests_are_told_from_own_jobs_by_their_home() {
        let dir = a_root();
        let mut watch = GuestWatch::start(OmRoot::discover(Some(dir.path()))).unwrap();
        watch.set_addresses(own());
        watch.ask();
        let found = watch.answers.recv().unwrap().unwrap();
        assert_eq!((found.guests, found.own_jobs), (1, 2));
        assert!(found.block && !found.stay);
        assert_eq!(found.guest_limit, u32::MAX);
    }

    #[test]
    fn a_guest_limit_is_told_if_there_is_one() {
        let dir = a_root();
        put(dir.path(), "hpc/admin/guest_limit", "8\n");
        let mut census = Census { root: OmRoot::discover(Some(dir.path())), homes: HashMap::new(), round: 0 };
        assert_eq!(census.take(&own()).unwrap().guest_limit, 8);
    }

    #[test]
    fn a_pid_that_gets_another_owner_is_noticed() {
        let dir = a_root();
        let mut census = Census { root: OmRoot::discover(Some(dir.path())), homes: HashMap::new(), round: 0 };
        assert_eq!(census.take(&own()).unwrap().guests, 1);
        put(dir.path(), "10/om/home", "10.77.0.3\n");
        let found = (0..=HOME_LASTS).filter_map(|_| census.take(&own())).last().unwrap();
        assert_eq!((found.guests, found.own_jobs), (2, 1));
    }

    #[test]
    fn without_a_migration_daemon_there_is_no_section() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = GuestWatch::start(OmRoot::discover(Some(&dir.path().join("om")))).unwrap();
        watch.ask();
        assert_eq!(watch.answers.recv().unwrap(), None);
    }

    #[test]
    fn a_late_answer_makes_no_monitoring_node_at_once() {
        let (questions, _to_answer) = bounded(1);
        let (answered, answers) = bounded(1);
        let mut watch =
            GuestWatch { questions, answers, addresses: Vec::new(), waiting: false, last: None, missed: 0 };
        let root = a_root();
        let root = OmRoot::discover(Some(root.path()));
        let found = Census { root, homes: HashMap::new(), round: 0 }.take(&own()).unwrap();
        answered.send(Some(found.clone())).unwrap();
        for _ in 0..=ANSWER_LASTS {
            assert_eq!(watch.answer(), Some(found.clone()));
        }
        assert_eq!(watch.answer(), None, "it hangs");
        answered.send(Some(found.clone())).unwrap();
        assert_eq!(watch.answer(), Some(found));
        answered.send(None).unwrap();
        assert_eq!(watch.answer(), None, "it has ended");
    }

    #[test]
    fn a_daemon_that_hangs_makes_a_monitoring_node_and_no_silent_one() {
        let (questions, to_answer) = bounded(1);
        let (_answered, answers) = bounded(1);
        let mut watch =
            GuestWatch { questions, answers, addresses: Vec::new(), waiting: false, last: None, missed: 0 };
        for _ in 0..3 {
            watch.ask();
            assert_eq!(watch.answer(), None);
        }
        assert_eq!(to_answer.len(), 1, "it is asked once, however long it takes");
    }
}
