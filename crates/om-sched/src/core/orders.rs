//! What is done whatever the policy thinks: what the node's administrator ordered, what its owner needs, and what the
//! users of jobs said.
//!
//! ```text
//! expel         guests go home                                 at once, without a question
//! bring         own jobs come home                             the same
//! owner-first   guests leave while the owner's own load        to the node where they hurt least, which is asked first
//!               wants the CPUs
//! bounds        a job that its user wants elsewhere goes       the same
//! ```
//!
//! Locks and stay reasons hold for all of them, and so do the guard's questions about the other node.

use std::net::IpAddr;
use std::time::Duration;

use super::Core;
use super::viewing::target_view;
use crate::Time;
use crate::guard;
use crate::history::Outcome;
use crate::job::{LocalJob, Place};
use crate::policy::Proposal;

/// The owner's own load counts as such from so many tasks on: less is what daemons do.
const OWNER_TASKS: f64 = 0.25;
/// For so long after the owner's load was seen the node takes no guests that would be in its way: it may come back.
const OWNER_LINGERS: Duration = Duration::from_secs(10);

/// The owner's load as it was last seen to be one.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnerLoad {
    at: Time,
    tasks: f64,
}

impl Core {
    pub(super) fn follow_orders(&mut self, now: Time) {
        self.note_owner(now);
        let admin = self.jobs.admin();
        let Ok(own) = self.own(now) else { return };
        let here = own.node.address;
        let mut orders = Vec::new();
        for job in self.jobs.iter().filter(|job| self.may_be_ordered(now, job)) {
            match job.place {
                Place::Here if admin.expel && !job.is_own => {
                    let home = self.nodes.get(job.home);
                    if home.is_some_and(|home| guard::check_node(now, &own, &home).is_ok()) {
                        orders.push((job.pid, job.home, "this node sends its guests home (expel)"));
                    }
                }
                Place::Away(_) if admin.bring && job.is_own => {
                    orders.push((job.pid, here, "this node calls its jobs home (bring)"));
                }
                _ => {}
            }
        }
        for (pid, to, reason) in orders {
            if self.free_slots() == 0 {
                return;
            }
            if self.settings.dry_run {
                self.tell_order(now, pid, to, reason);
                continue;
            }
            let decision = self.record(now, pid, to, reason.to_owned(), None, Outcome::Asked);
            self.request(now, pid, to, decision, None);
        }
        if !admin.stay && !admin.bring {
            self.send_strays(now);
        }
        if self.settings.owner_first && !admin.expel {
            self.make_way(now);
        }
    }

    fn may_be_ordered(&self, now: Time, job: &LocalJob) -> bool {
        let rests = self.jobs.tracked(job.pid).and_then(|tracked| tracked.rests_until);
        !self.is_under_way(job.pid) && job.can_move() && rests.is_none_or(|until| until <= now)
    }

    /// Own jobs whose user wants them on other nodes go there as soon as one takes them.
    fn send_strays(&mut self, now: Time) {
        let strays: Vec<u32> = self
            .jobs
            .iter()
            .filter(|job| job.is_own && job.place == Place::Here && self.may_be_ordered(now, job))
            .filter(|job| job.bounds.wants(job.home, job.home).is_err())
            .map(|job| job.pid)
            .collect();
        for pid in strays {
            self.order_away(now, pid, "its owner wants it on another node (om run --on, --not-on)");
        }
    }

    /// Guests leave, the cheapest to move first, until the owner's load has CPUs enough.
    fn make_way(&mut self, now: Time) {
        let Ok(own) = self.own(now) else { return };
        let Some((cpus, _)) = own.node.capacity else { return };
        let owner = self.jobs.owner_tasks();
        let is_guest = |job: &&LocalJob| !job.is_own && job.place == Place::Here;
        let mut guests: Vec<(u64, u32, f64)> = self
            .jobs
            .iter()
            .filter(is_guest)
            .filter(|job| !self.is_under_way(job.pid))
            .map(|job| (job.rss_bytes, job.pid, self.jobs.tasks(job.pid)))
            .collect();
        guests.sort_unstable_by_key(|guest| (guest.0, guest.1));
        let mut tasks: f64 = guests.iter().map(|guest| guest.2).sum();
        for (_, pid, of_job) in guests {
            if !is_crowded(owner, tasks, cpus) {
                return;
            }
            let may_leave = self.jobs.get(pid).is_some_and(|job| self.may_be_ordered(now, job));
            if may_leave && self.order_away(now, pid, "this node's owner wants its CPUs (owner-first)") {
                tasks -= of_job;
            }
        }
    }

    /// Asks the node where a job would hurt least, among those that may take it, whether it does. Whether one was found.
    fn order_away(&mut self, now: Time, pid: u32, reason: &str) -> bool {
        if self.free_slots() == 0 {
            return false;
        }
        let Ok(view) = self.view_here(now, None) else { return false };
        let Some(job) = view.jobs.iter().find(|job| job.pid == pid) else { return false };
        let burden = |it: &&crate::view::Target| it.figures.burden(job.tasks);
        let targets = self.targets(now, None);
        let target = targets
            .iter()
            .filter(|target| !self.questions.asks(target.address) && view.allows(job, target).is_ok())
            .min_by(|one, other| burden(one).total_cmp(&burden(other)));
        // Home, if there is no better place, takes back its own.
        let to = target.map(|target| target.address).or_else(|| {
            let own = self.own(now).ok()?;
            let home = self.nodes.get(job.home).filter(|home| guard::check_node(now, &own, home).is_ok())?;
            target_view(now, &home).map(|home| home.address)
        });
        let Some(to) = to else { return false };
        if self.settings.dry_run {
            self.tell_order(now, pid, to, reason);
            return true;
        }
        let weighing = target.and_then(|target| self.policy.weigh(&view, job, target));
        let proposal = Proposal { pid, to, reason: reason.to_owned(), weighing };
        self.ask(now, job, proposal, true);
        true
    }

    fn tell_order(&mut self, now: Time, pid: u32, to: IpAddr, reason: &str) {
        if self.history.last_of(now, pid, super::TELL_AGAIN).is_none() {
            self.record(now, pid, to, reason.to_owned(), None, Outcome::WouldMove);
        }
    }

    fn note_owner(&mut self, now: Time) {
        let tasks = self.jobs.owner_tasks();
        if tasks >= OWNER_TASKS {
            self.owner = Some(OwnerLoad { at: now, tasks });
        }
    }

    /// Whether `more` tasks of guests would be in the way of the owner, who is or was here a moment ago.
    pub(super) fn is_in_the_owners_way(&self, now: Time, more: f64, except: Option<(IpAddr, u64)>) -> bool {
        if !self.settings.owner_first {
            return false;
        }
        let Some(cpus) = self.own(now).ok().and_then(|own| own.node.capacity).map(|(cpus, _)| cpus) else {
            return false;
        };
        let seen = self.owner.filter(|seen| now.saturating_sub(seen.at) <= OWNER_LINGERS);
        let owner = self.jobs.owner_tasks().max(seen.map_or(0.0, |seen| seen.tasks));
        is_crowded(owner, self.jobs.guest_tasks() + self.promises.tasks(except) + more, cpus)
    }
}

/// Whether guests keep the owner from the CPUs.
fn is_crowded(owner: f64, guests: f64, cpus: f64) -> bool {
    owner >= OWNER_TASKS && guests > 0.0 && owner + guests > cpus
}
