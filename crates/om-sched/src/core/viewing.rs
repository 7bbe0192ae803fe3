//! What the core lets a policy see, and the guard's questions about this node, its jobs and the others.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::cpu::Baseline;

use super::Core;
use crate::Time;
use crate::figures::Figures;
use crate::guard::{self, JobState, Own, Refusal};
use crate::job::LocalJob;
use crate::node::Node;
use crate::price::PriceLine;
use crate::view::{Here, Job, Target, View};

/// For so long it is remembered who has given figures.
const SPOKE: Duration = Duration::from_secs(2);

impl Core {
    /// What the policy gets to see of this node and its jobs, and no other node yet; with `only`, of that one job, as if
    /// nothing were under way for it.
    pub(super) fn view_here(&self, now: Time, only: Option<u32>) -> Result<View, Refusal> {
        let own = self.own(now)?;
        let wanted = |pid: u32| only.is_none_or(|job| job == pid);
        let leaves = |pid: u32| self.is_under_way(pid) && only != Some(pid);
        // Who is promised a place may not come after all; nobody is sent away for that.
        let figures = self.present_figures(&own.node, leaves).ok_or(Refusal::HereUnknown)?;
        let here = Here {
            address: own.node.address,
            figures,
            memory_available_bytes: own.node.memory_available_bytes,
            memory_short_bytes: self.memory_short_bytes(&own.node),
            memory_reserve: self.settings.memory_reserve,
            memory_factor: self.settings.memory_factor,
        };
        let price = self.price.line();
        let jobs: Vec<Job> = self
            .jobs
            .iter()
            .filter(|job| wanted(job.pid) && self.check_job(now, job, only.is_some()).is_ok())
            .map(|job| self.job_view(now, job, price))
            .collect();
        Ok(View { here, jobs, targets: Vec::new(), free_slots: self.free_slots() })
    }

    /// That one job and that one node, as if nothing were under way between them.
    pub(super) fn view_pair(&self, now: Time, pid: u32, to: IpAddr) -> Result<View, Refusal> {
        let mut view = self.view_here(now, Some(pid))?;
        view.targets = self.targets_of(now, self.nodes.get(to).into_iter());
        Ok(view)
    }

    /// The nodes that may take a job, of `among` or else of all.
    pub(super) fn targets(&self, now: Time, among: Option<&[IpAddr]>) -> Vec<Target> {
        let is_free = |node: &Node<'_>| self.is_free(now, node.address).is_ok();
        match among {
            Some(among) => {
                let nodes = among.iter().filter_map(|address| self.nodes.get(*address));
                self.targets_of(now, nodes.filter(is_free))
            }
            None => self.targets_of(now, self.nodes.iter().filter(is_free)),
        }
    }

    fn targets_of<'a>(&self, now: Time, nodes: impl Iterator<Item = Node<'a>>) -> Vec<Target> {
        let Ok(own) = self.own(now) else { return Vec::new() };
        let fit = nodes.filter(|node| guard::check_node(now, &own, node).is_ok());
        fit.filter_map(|node| target_view(now, &node)).collect()
    }

    /// The nodes that the policy gets to see in a cluster that is too large to be looked at as a whole: some at
    /// random, those that have spoken up themselves, and the homes of guests. `None`: all.
    pub(super) fn sample(&mut self, now: Time) -> Option<Vec<IpAddr>> {
        let count = self.nodes.count();
        let wanted = self.policy.wants(count);
        if wanted >= count {
            return None;
        }
        let mut among: Vec<IpAddr> = (0..wanted)
            .filter_map(|_| self.nodes.at(self.random.below(count)).map(|node| node.address))
            .collect();
        let homes = self.jobs.iter().filter(|job| !job.is_own).map(|job| job.home);
        let speakers =
            self.speakers.iter().filter(|(at, _)| now.saturating_sub(*at) <= SPOKE).map(|(_, it)| *it);
        among.extend(homes.chain(speakers));
        among.sort_unstable();
        among.dedup();
        Some(among)
    }

    pub(super) fn job_view(&self, now: Time, job: &LocalJob, price: PriceLine) -> Job {
        let since_read = now.saturating_sub(self.jobs.read_at().unwrap_or(now));
        Job {
            pid: job.pid,
            uid: job.uid,
            home: job.home,
            tasks: self.jobs.tasks(job.pid),
            cpu_s: job.cpu.as_secs_f64(),
            rss_bytes: job.rss_bytes,
            threads: job.threads,
            age_s: (job.age + since_read).as_secs_f64(),
            moves: job.moves,
            bounds: job.bounds.clone(),
            move_cost_s: price.fixed_s + job.rss_bytes as f64 / price.bytes_per_s,
            cpu_features: self.features_for(now, job.cpu_baseline),
            command: job.command.clone(),
        }
    }

    /// The CPU features that a node must have for a job of this node; 0 if any will do.
    pub(super) fn features_for(&self, now: Time, baseline: Baseline) -> u64 {
        match baseline {
            Baseline::Native => self.own(now).map_or(0, |own| own.node.cpu_features),
            // Every node has it or refuses when it is asked to take the job.
            Baseline::X86(_) => 0,
        }
    }

    /// This node, if it can decide anything.
    pub(super) fn own(&self, now: Time) -> Result<Own<'_>, Refusal> {
        if !self.settings.has_key && !self.settings.allow_without_key {
            return Err(Refusal::NoKey);
        }
        let node = self.here.and_then(|here| self.nodes.get(here)).ok_or(Refusal::HereUnknown)?;
        if node.is_stale(now) {
            return Err(Refusal::HereUnknown);
        }
        Ok(Own { node, has_key: self.settings.has_key })
    }

    /// Whether `job` may move; with `again`, the question about it that is under way is no obstacle.
    pub(super) fn check_job(&self, now: Time, job: &LocalJob, again: bool) -> Result<(), Refusal> {
        let tracked = self.jobs.tracked(job.pid);
        let asked = !again && self.questions.is_about(job.pid);
        let state = JobState {
            in_move: asked || self.moves.contains_key(&job.pid),
            rests_until: tracked.and_then(|tracked| tracked.rests_until),
            cool_down: self.settings.cool_down.max(Duration::from_secs_f64(self.price.of(job.rss_bytes))),
        };
        guard::check_job(now, self.jobs.read_at().unwrap_or(now), self.jobs.admin(), job, state)
    }

    /// Whether nothing is under way to a node and it is not resting.
    pub(super) fn is_free(&self, now: Time, address: IpAddr) -> Result<(), Refusal> {
        if self.questions.asks(address) || self.moves.values().any(|under_way| under_way.to == address) {
            return Err(Refusal::BeingAsked);
        }
        self.is_free_to_start(now, address)
    }

    /// Whether a node is not resting; that something else is under way to it does not matter for a start.
    pub(super) fn is_free_to_start(&self, now: Time, address: IpAddr) -> Result<(), Refusal> {
        match self.rests.get(&address) {
            Some(rest) if rest.until > now => Err(Refusal::Resting {
                reason: rest.reason.clone(),
                left_ms: guard::millis(rest.until - now),
            }),
            _ => Ok(()),
        }
    }

    /// L, b, c and s of this node as it is, without the jobs that leave.
    fn present_figures(&self, own: &Node<'_>, leaves: impl Fn(u32) -> bool) -> Option<Figures> {
        let (cpus, speed) = own.capacity?;
        let movable = self.jobs.movable_tasks(leaves);
        Some(Figures { movable, background: self.jobs.background(), cpus, speed })
    }

    /// The same with `job` among those that could move, whatever keeps it: what moving it would win.
    pub(super) fn figures_with(&self, own: &Node<'_>, job: &LocalJob) -> Option<Figures> {
        let others = self.present_figures(own, |pid| pid == job.pid || self.is_under_way(pid))?;
        let tasks = self.jobs.tasks(job.pid);
        let pinned = if job.can_move() { 0.0 } else { tasks };
        let background = (others.background - pinned).max(0.0);
        Some(Figures { movable: others.movable + tasks, background, ..others })
    }

    /// L, b, c and s of this node with what is promised; without the promise `except`.
    pub(super) fn own_figures(
        &self,
        own: &Node<'_>,
        leaves: impl Fn(u32) -> bool,
        except: Option<(IpAddr, u64)>,
    ) -> Option<Figures> {
        let figures = self.present_figures(own, leaves)?;
        Some(Figures { movable: figures.movable + self.promises.tasks(except), ..figures })
    }

    /// The same as a new job would find it: with the youngest jobs, and with those about to start.
    pub(super) fn figures_for_start(&self, own: &Node<'_>, except: Option<(IpAddr, u64)>) -> Option<Figures> {
        let figures = self.own_figures(own, |pid| self.moves.contains_key(&pid), except)?;
        let present = self.jobs.present_tasks(|pid| self.moves.contains_key(&pid));
        Some(Figures { movable: present + self.promises.tasks(except), ..figures })
    }

    pub(super) fn memory_short_bytes(&self, own: &Node<'_>) -> u64 {
        let (Some(total), Some(available)) = (own.memory_total_bytes, own.memory_available_bytes) else {
            return 0;
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a u64, 0 to 1"
        )]
        let reserve = (total as f64 * self.settings.memory_reserve) as u64;
        reserve.saturating_sub(available)
    }
}

pub(super) fn target_view(now: Time, node: &Node<'_>) -> Option<Target> {
    let migration = node.migration.as_ref()?;
    Some(Target {
        address: node.address,
        figures: node.figures(now)?,
        fresh: node.spoke_up(now),
        memory_total_bytes: node.memory_total_bytes,
        memory_available_bytes: node.memory_available_bytes,
        cpu_features: node.cpu_features,
        guests_left: migration.guest_limit.saturating_sub(migration.guests),
        blocked: migration.block || migration.expel,
    })
}
