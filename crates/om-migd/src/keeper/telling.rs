//! What a keeper tells om-migd and home of its job.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use om_proto::omfs::{JobState, Where};

use super::home::Holder;
use super::run::{Keeper, Side};
use crate::handover::source::State;
use crate::inspect;
use crate::net::message::Status;
use crate::passing::send_frame;
use crate::snapshot::{News, Snapshot};
use crate::stay;

impl Keeper {
    pub(super) fn status(&self) -> Status {
        Status { stay: self.stay_reasons(), ..self.passing_status() }
    }

    /// The same without why it cannot move, which takes longest to find out.
    pub(super) fn passing_status(&self) -> Status {
        let activity =
            self.residence.as_ref().map(|residence| inspect::activity(&residence.cgroup)).unwrap_or_default();
        Status {
            cpu_us: self.cpu_us(),
            runnable: activity.runnable,
            rss_bytes: activity.rss_bytes,
            threads: activity.threads,
            stay: Vec::new(),
            migrating: self.source.moving().is_some(),
        }
    }

    /// Why the job cannot move from this node; empty where it is not.
    fn stay_reasons(&self) -> Vec<String> {
        let reasons = self.residence.as_ref().map(|residence| stay::reasons(&residence.cgroup));
        let fetching = self
            .fetching
            .as_ref()
            .map(|(from, _)| format!("fetching: its memory is still coming from {from}"));
        fetching.into_iter().chain(reasons.iter().flatten().map(ToString::to_string)).collect()
    }

    /// Tells every om-migd how the job stands. One that does not listen, since it is stopped, say, must not hold up the job:
    /// it is told at a later tick.
    pub(super) fn publish(&mut self) {
        let news = News::Job(Box::new(self.snapshot()));
        self.untold = false;
        self.daemons.retain(|daemon| match has_room(daemon) {
            true => send_frame(daemon, &news, &[]).is_ok(),
            false => {
                self.untold = true;
                true
            }
        });
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let queued = self.source.state() == State::Offering || self.relayed.is_some();
        let (own, location, remote, moving) = match &self.side {
            Side::Home(home) => {
                let moving = home.arbiter.moving().is_some();
                match &home.holder {
                    Holder::Here => (true, Where::Home, None, moving),
                    Holder::Away(away) => {
                        let moving = moving || home.remote.migrating;
                        (true, Where::At(away.node), Some(home.remote.clone()), moving)
                    }
                }
            }
            Side::Guest(_) => (false, Where::At(self.spec.home), None, false),
        };
        let moving = moving || self.source.state().is_frozen();
        let present = self.residence.is_some();
        let pid = if own {
            Some(self.spec.deputy)
        } else {
            let residence = self.residence.as_ref();
            residence.map(|residence| residence.command().unwrap_or(residence.init).as_raw().cast_unsigned())
        };
        Snapshot {
            job: self.spec.id,
            own,
            pid,
            location: if moving {
                Where::Migrating
            } else if queued {
                Where::Queued
            } else {
                location
            },
            home: self.spec.home,
            deputy: self.spec.deputy,
            uid: self.spec.credentials.uid,
            command: self.spec.command.clone(),
            bounds: self.spec.bounds.clone(),
            cpu: self.spec.cpu,
            moves: self.moves,
            locked: self.locked,
            fetching: self.fetching.as_ref().map(|(from, _)| *from),
            result: self.result.clone(),
            state: if moving {
                JobState::Migrating
            } else if self.stopped || self.command_stopped {
                JobState::Stopped
            } else {
                JobState::Running
            },
            started_us: self.spec.started_us,
            moved_us: self.moved_us,
            downtime_ms: self.downtime_us / 1000,
            cgroup: self.residence.as_ref().map(|residence| residence.cgroup.path().to_owned()),
            cpu_before_us: self.cpu_before,
            remote: if present { None } else { remote },
        }
    }
}

/// Whether a snapshot can be written without waiting. The kernel says so if three quarters of the socket's buffer are free,
/// which is more than any snapshot takes.
fn has_room(daemon: &UnixStream) -> bool {
    let mut fds = [PollFd::new(daemon.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_daemon_that_does_not_read_has_no_room_before_writing_would_wait() {
        let (keeper, mut daemon) = UnixStream::pair().unwrap();
        let frame = vec![0_u8; 4096];
        let mut sent = 0;
        while has_room(&keeper) {
            send_frame(&keeper, &frame, &[]).unwrap();
            sent += 1;
        }
        assert!(sent > 0);
        keeper.set_nonblocking(true).unwrap();
        send_frame(&keeper, &frame, &[]).unwrap();
        daemon.read_exact(&mut vec![0; sent * 4096]).unwrap();
        assert!(has_room(&keeper));
        drop(daemon);
        assert!(has_room(&keeper), "of one that has gone it is found out by writing");
    }
}
