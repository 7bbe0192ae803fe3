//! Where a new job starts: a few nodes are asked before it runs its first instruction.
//!
//! Starting elsewhere costs next to nothing, moving later costs a move; but nothing is known of a job that is yet to
//! start. So only as much is asked as can be answered at once: who would share its CPU with the fewest. While a CPU is
//! free here and no node is faster, nobody is asked at all. The question is the one that is asked before a move, for a
//! job without memory; every node promises, and all promises but one are taken back.

use std::net::IpAddr;

use om_proto::offer::{Answer, Ask};

use super::{Core, Output};
use crate::Time;
use crate::figures::{Figures, to_milli};
use crate::guard;
use crate::offer::Offer;
use crate::start::{Asked, Reply, Start};

/// Of how many nodes, picked at random, those that seem least loaded are asked, for each one that is asked.
const LOOK_AT: usize = 4;
/// A node that is faster by less than this is no reason to ask.
const FASTER: f64 = 1.15;

impl Core {
    pub(super) fn handle_starting(&mut self, now: Time, ticket: u64, tasks: f64) {
        let to = self.nodes_to_ask(now, tasks);
        if to.is_empty() {
            self.start_here(ticket, tasks);
            return;
        }
        let cpu_features = self.own(now).map_or(0, |own| own.node.cpu_features);
        let mut asked = Vec::with_capacity(to.len());
        for to in to {
            let ask = Ask {
                nonce: self.random.bits(),
                rss_bytes: 0,
                runnable_milli: to_milli(tasks).max(1),
                cpu_features,
                coming_home: false,
            };
            asked.push(Asked { to, nonce: ask.nonce, reply: Reply::Awaited });
            self.outputs.push_back(Output::Send { to, offer: Offer::Ask(ask) });
        }
        let deadline = now + self.settings.start_timeout;
        self.starts.put(Start { ticket, tasks, asked, deadline });
    }

    pub(super) fn hear_start_answer(&mut self, now: Time, from: IpAddr, answer: &Answer) {
        if let Some(start) = self.starts.answered(from, answer) {
            self.end_start(now, start);
        }
    }

    pub(super) fn end_starts(&mut self, now: Time) {
        while let Some(start) = self.starts.take_due(now) {
            self.end_start(now, start);
        }
    }

    fn end_start(&mut self, now: Time, start: Start) {
        let yes: Vec<(Asked, Figures)> = start
            .asked
            .iter()
            .filter_map(|asked| match asked.reply {
                Reply::Yes(figures) => Some((*asked, figures)),
                _ => None,
            })
            .collect();
        let there: Vec<Figures> = yes.iter().map(|(_, figures)| *figures).collect();
        let here = self.own(now).ok().and_then(|own| self.figures_for_start(own.node, None));
        let chosen = here
            .and_then(|here| self.policy.start(&here, &there, start.tasks))
            .and_then(|index| yes.get(index))
            .map(|(asked, _)| *asked);
        for asked in &start.asked {
            if asked.reply != Reply::No && chosen.is_none_or(|chosen| chosen.nonce != asked.nonce) {
                self.withdraw(asked.to, asked.nonce);
            }
        }
        match chosen {
            Some(Asked { to, .. }) => {
                self.outputs.push_back(Output::Start { ticket: start.ticket, to: Some(to) });
            }
            None => self.start_here(start.ticket, start.tasks),
        }
    }

    fn start_here(&mut self, ticket: u64, tasks: f64) {
        self.jobs.started(tasks);
        self.outputs.push_back(Output::Start { ticket, to: None });
    }

    /// Nobody, if the job does well here.
    fn nodes_to_ask(&mut self, now: Time, tasks: f64) -> Vec<IpAddr> {
        let among = self.settings.start_among;
        if among == 0 || self.settings.dry_run || self.jobs.admin().stay || self.jobs.read_at().is_none() {
            return Vec::new();
        }
        let count = self.nodes.len();
        // A few more than are wanted, since some may not be fit to be asked; all of them in a small cluster.
        let looks: Vec<usize> = if among * LOOK_AT >= count {
            (0..count).collect()
        } else {
            (0..among * LOOK_AT).map(|_| self.random.below(count)).collect()
        };
        let Ok(own) = self.own(now) else { return Vec::new() };
        let Some(here) = self.figures_for_start(own.node, None) else { return Vec::new() };
        let fits_here = here.load() + tasks <= here.cpus;
        let mut seen: Vec<(f64, IpAddr)> = Vec::new();
        for index in looks {
            let Some(node) = self.nodes.at(index) else { continue };
            let Some(figures) = node.figures(now) else { continue };
            let is_open = node.migration.as_ref().is_some_and(|it| !it.block && !it.expel);
            if !is_open
                || (fits_here && figures.speed < here.speed * FASTER)
                || seen.iter().any(|(_, address)| *address == node.address)
                || guard::check_node(now, own, node).is_err()
                || self.is_free_to_start(now, node.address).is_err()
            {
                continue;
            }
            seen.push((figures.burden(tasks), node.address));
        }
        self.random.shuffle(&mut seen);
        seen.sort_by(|one, other| one.0.total_cmp(&other.0));
        seen.truncate(among);
        seen.into_iter().map(|(_, address)| address).collect()
    }
}
