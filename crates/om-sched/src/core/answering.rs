//! The core's other side: what this node says to the schedulers of other nodes.
//!
//! Answers are given on the spot, from the same figures that this node's own decisions use, with all promises in.
//! A refusal says why. An idle node does not wait to be asked: it invites the most loaded one.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::offer::{Answer, Ask, Invite};

use super::{Core, Output};
use crate::Time;
use crate::figures::{from_milli, to_milli};
use crate::guard::{self, Refusal};
use crate::offer::Offer;

/// One invitation at a time, and not more often than this.
const INVITE_EVERY: Duration = Duration::from_secs(1);
/// Of how many loaded nodes, picked at random, the most loaded one is invited.
const INVITE_AMONG: usize = 8;
/// So many nodes are looked at for that.
const INVITE_LOOKS: usize = 64;
/// A node is invited once it has this many tasks more than CPUs.
const OVERLOAD_TASKS: f64 = 0.5;

/// A job that is about to start has no memory yet.
fn is_start(ask: &Ask) -> bool {
    ask.rss_bytes == 0
}

impl Core {
    pub(super) fn handle_ask(&mut self, now: Time, from: IpAddr, ask: &Ask) {
        if ask.runnable_milli == 0 {
            self.promises.withdraw(from, ask.nonce);
            return;
        }
        let tasks = from_milli(ask.runnable_milli);
        let verdict = self.consider(now, from, ask).and_then(|()| {
            let kept =
                if is_start(ask) { self.settings.start_promise } else { self.promise_lasts(ask.rss_bytes) };
            if self.promises.make(from, ask, tasks, now + kept) {
                Ok(kept)
            } else {
                Err("it has promised enough to this node".to_owned())
            }
        });
        let answer = self.answer(now, from, ask.nonce, is_start(ask), verdict);
        self.outputs.push_back(Output::Send { to: from, offer: Offer::Answer(answer) });
    }

    /// Whether the job may come; the reason if not, in plain words for the other node's log.
    fn consider(&self, now: Time, from: IpAddr, ask: &Ask) -> Result<(), String> {
        let own = self.own(now).map_err(|refusal| match refusal {
            Refusal::NoKey => "it has no cluster key".to_owned(),
            _ => "its own omd is not heard".to_owned(),
        })?;
        let (Some(migration), Some(_)) = (&own.node.migration, self.jobs.read_at()) else {
            return Err(Refusal::MonitorsOnly.to_string());
        };
        if self.settings.dry_run {
            return Err(Refusal::DryRun.to_string());
        }
        match self.nodes.get(from) {
            None => return Err("it does not hear the asking node's omd".to_owned()),
            Some(asker) => guard::check_node(now, &own, &asker).map_err(|refusal| refusal.to_string())?,
        }
        if !guard::same_features(own.node.cpu_features, ask.cpu_features) {
            return Err(Refusal::OtherCpuFeatures.to_string());
        }
        let except = Some((from, ask.nonce));
        if !ask.coming_home {
            let admin = self.jobs.admin();
            if admin.block || admin.expel {
                return Err(Refusal::Blocked.to_string());
            }
            if self.jobs.guests() + self.promises.guests(except) >= migration.guest_limit {
                return Err(Refusal::Full.to_string());
            }
            if self.is_in_the_owners_way(now, from_milli(ask.runnable_milli), except) {
                return Err("its owner wants its CPUs (owner-first)".to_owned());
            }
        }
        let left = own
            .node
            .memory_available_bytes
            .map(|available| available.saturating_sub(self.promises.rss_bytes(except)));
        let (factor, reserve) = (self.settings.memory_factor, self.settings.memory_reserve);
        guard::check_memory(ask.rss_bytes, left, own.node.memory_total_bytes, factor, reserve)
            .map_err(|refusal| refusal.to_string())
    }

    /// An answer with fresh figures, the asked-for job not counted.
    fn answer(
        &self,
        now: Time,
        from: IpAddr,
        nonce: u64,
        start: bool,
        verdict: Result<Duration, String>,
    ) -> Answer {
        let except = Some((from, nonce));
        let figures = self.own(now).ok().and_then(|own| {
            if start {
                self.figures_for_start(&own.node, except)
            } else {
                self.own_figures(&own.node, |pid| self.moves.contains_key(&pid), except)
            }
        });
        let kept = verdict.as_ref().ok().copied().unwrap_or_default();
        Answer {
            nonce,
            accepted: verdict.is_ok(),
            reason: verdict.err().unwrap_or_default(),
            movable_milli: figures.map_or(0, |figures| to_milli(figures.movable)),
            background_milli: figures.map_or(0, |figures| to_milli(figures.background)),
            effective_cpus_milli: figures.map_or(0, |figures| to_milli(figures.cpus)),
            speed: figures.map_or(0, |figures| to_milli(figures.speed)),
            promise_ms: u32::try_from(guard::millis(kept)).unwrap_or(u32::MAX),
        }
    }

    fn promise_lasts(&self, rss_bytes: u64) -> Duration {
        self.settings.promise + Duration::from_secs_f64(2.0 * self.price.of(rss_bytes))
    }

    /// Pull: asks the most loaded node for work while a CPU here is idle.
    pub(super) fn invite(&mut self, now: Time) {
        if !self.settings.invite
            || self.settings.dry_run
            || self.invited.is_some_and(|invited| now.saturating_sub(invited) < INVITE_EVERY)
        {
            return;
        }
        let admin = self.jobs.admin();
        let count = self.nodes.count();
        let looks: Vec<usize> = if count <= INVITE_LOOKS {
            (0..count).collect()
        } else {
            (0..INVITE_LOOKS).map(|_| self.random.below(count)).collect()
        };
        let Ok(own) = self.own(now) else { return };
        let Some(migration) = &own.node.migration else { return };
        let Some(figures) = self.own_figures(&own.node, |pid| self.moves.contains_key(&pid), None) else {
            return;
        };
        let takes_none = admin.block
            || admin.expel
            || self.jobs.guests() >= migration.guest_limit
            || self.memory_short_bytes(&own.node) > 0
            || self.is_in_the_owners_way(now, 1.0, None);
        if takes_none || figures.load() + OVERLOAD_TASKS > figures.cpus {
            return;
        }
        let mut loaded: Vec<(f64, IpAddr)> = looks
            .into_iter()
            .filter_map(|index| self.nodes.at(index))
            .filter(|node| guard::check_node(now, &own, node).is_ok())
            .filter_map(|node| {
                let there = node.figures(now)?;
                (there.load() >= there.cpus + OVERLOAD_TASKS && there.load() > 1.0)
                    .then(|| (there.load() / there.cpus, node.address))
            })
            .collect();
        self.random.shuffle(&mut loaded);
        loaded.truncate(INVITE_AMONG);
        let Some((_, to)) = loaded.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)) else { return };
        let nonce = self.random.bits();
        let figures = self.answer(now, to, nonce, false, Ok(Duration::ZERO));
        self.outputs.push_back(Output::Send { to, offer: Offer::Invite(Invite { figures }) });
        self.invited = Some(now);
    }
}
