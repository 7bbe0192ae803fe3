//! Where a new job starts: a few nodes are asked before it runs its first instruction.
//!
//! ```text
//!   a CPU is free here, no node is faster ──────────────────▶ here
//!   else ask some nodes ──▶ one has a CPU free ─────────────▶ there
//!           ▲                  │ none has
//!           └── ask others ◀───┤
//!                              └─ asked often enough ───────▶ where the new job and all others lose least
//! ```
//!
//! Starting elsewhere costs next to nothing, moving later costs a move; but nothing is known of a job that is yet to
//! start. So it goes where it shares its CPU with the fewest. Reports are no help: a node that was idle a second ago has
//! been found by everybody since. Nodes are asked at random, and as they are now. The question is the one that is asked
//! before a move, for a job without memory; every node promises, and all promises but one are taken back.
//!
//! A job that its user wants on certain nodes is asked for there and nowhere else, and starts here only if none of them
//! takes it.

use std::net::IpAddr;

use om_proto::offer::{Answer, Ask};
use om_proto::omfs::Bounds;

use super::viewing::target_view;
use super::{Core, Output};
use crate::Time;
use crate::figures::{Figures, to_milli};
use crate::guard;
use crate::history::{Decision, Outcome};
use crate::offer::Offer;
use crate::start::{Asked, NewJob, Reply, Start};
use crate::view::Target;

/// How many nodes are looked at for each one that is asked: some are not fit to be asked.
const LOOK_AT: usize = 4;
/// A node that is faster by less than this is no reason to ask.
const FASTER: f64 = 1.15;

impl Core {
    pub(super) fn handle_starting(&mut self, now: Time, ticket: u64, job: NewJob) {
        let start = Start { ticket, job, since: now, asked: Vec::new(), rounds: 0, deadline: now };
        if let Some(start) = self.ask_more(now, start) {
            self.start_here(start.ticket, start.job.tasks);
        }
    }

    pub(super) fn hear_start_answer(&mut self, now: Time, from: IpAddr, answer: &Answer) {
        if let Some(start) = self.starts.answered(from, answer) {
            self.go_on(now, start);
        }
    }

    pub(super) fn end_starts(&mut self, now: Time) {
        while let Some(start) = self.starts.take_due(now) {
            self.go_on(now, start);
        }
    }

    /// All that were asked have answered, or have had the time for it.
    fn go_on(&mut self, now: Time, start: Start) {
        let has_room = |asked: &Asked| match asked.reply {
            Reply::Yes(figures) => figures.load() + start.job.tasks <= figures.cpus,
            _ => false,
        };
        let enough = start.rounds >= self.settings.start_rounds || start.asked.iter().any(has_room);
        let start = if enough { Some(start) } else { self.ask_more(now, start) };
        if let Some(start) = start {
            self.end_start(now, &start);
        }
    }

    /// Asks nodes that have not been asked yet. The start is given back if there are none.
    fn ask_more(&mut self, now: Time, mut start: Start) -> Option<Start> {
        let to = self.nodes_to_ask(now, &start);
        if to.is_empty() {
            return Some(start);
        }
        let cpu_features = self.features_for(now, start.job.cpu);
        for to in to {
            let ask = Ask {
                nonce: self.random.bits(),
                rss_bytes: 0,
                runnable_milli: to_milli(start.job.tasks).max(1),
                cpu_features,
                coming_home: false,
            };
            start.asked.push(Asked { to, nonce: ask.nonce, reply: Reply::Awaited });
            self.outputs.push_back(Output::Send { to, offer: Offer::Ask(ask) });
        }
        start.rounds += 1;
        start.deadline = now + self.settings.start_timeout;
        self.starts.put(start);
        None
    }

    fn end_start(&mut self, now: Time, start: &Start) {
        let would_take_it = |asked: &Asked| match asked.reply {
            Reply::Yes(figures) => {
                let target = target_view(now, &self.nodes.get(asked.to)?)?;
                Some((asked.nonce, Target { figures, fresh: true, ..target }))
            }
            _ => None,
        };
        let (nonces, there): (Vec<u64>, Vec<Target>) = start.asked.iter().filter_map(would_take_it).unzip();
        let here = self.own(now).ok().and_then(|own| self.figures_for_start(&own.node, None));
        let chosen = match here {
            Some(here) if self.is_wanted_here(start) => self.policy.start(&start.job, &here, &there),
            _ => least_burdened(&there, start.job.tasks),
        };
        let chosen = chosen.and_then(|index| Some((*nonces.get(index)?, *there.get(index)?)));
        for asked in &start.asked {
            if asked.reply != Reply::No && chosen.is_none_or(|(nonce, _)| nonce != asked.nonce) {
                self.withdraw(asked.to, asked.nonce);
            }
        }
        self.note_start(now, start, here, chosen.map(|(_, target)| target));
        match chosen {
            Some((_, target)) => {
                self.outputs.push_back(Output::Start { ticket: start.ticket, to: Some(target.address) });
            }
            None => self.start_here(start.ticket, start.job.tasks),
        }
    }

    /// Writes down where a job starts about which others were asked, and what it may expect.
    fn note_start(&mut self, now: Time, start: &Start, here: Option<Figures>, to: Option<Target>) {
        let Some(from) = self.here.filter(|_| !start.asked.is_empty()) else { return };
        let job = &start.job;
        let expected_here = here.map_or(0.0, |here| here.share(job.tasks));
        let reason = match to {
            _ if !self.is_wanted_here(start) => "its user wants it elsewhere".to_owned(),
            Some(target) => {
                let expected = target.figures.share(job.tasks);
                format!("may get {expected:.2} CPUs there and {expected_here:.2} here")
            }
            None => format!("may get {expected_here:.2} CPUs here, and none of those asked offers more"),
        };
        let asked = start.asked.len();
        let took_ms = guard::millis(now.saturating_sub(start.since));
        let outcome = Outcome::Started { asked, took_ms, share: None };
        let decision = self.tell_decision(Decision {
            id: 0,
            at: start.since,
            changed: now,
            pid: job.pid,
            command: job.command.clone(),
            from,
            to: to.map_or(from, |target| target.address),
            reason,
            weighing: None,
            rss_bytes: 0,
            outcome: outcome.clone(),
        });
        if let Some(target) = to.filter(|_| job.pid != 0) {
            self.watch(now, (decision, job.pid, target.address), expected_here, outcome);
        }
    }

    fn start_here(&mut self, ticket: u64, tasks: f64) {
        self.jobs.started(tasks);
        self.outputs.push_back(Output::Start { ticket, to: None });
    }

    fn is_wanted_here(&self, start: &Start) -> bool {
        self.here.is_none_or(|here| start.job.bounds.wants(here, here).is_ok())
    }

    /// Nodes to look at, in random order: those that the user has named, or some of all.
    fn nodes_to_look_at(&mut self, among: usize, bounds: &Bounds) -> Vec<IpAddr> {
        let count = self.nodes.count();
        if !bounds.on.is_empty() {
            let mut named = bounds.on.clone();
            self.random.shuffle(&mut named);
            return named;
        }
        let looks: Vec<usize> = if among * LOOK_AT >= count {
            let mut all: Vec<usize> = (0..count).collect();
            self.random.shuffle(&mut all);
            all
        } else {
            (0..among * LOOK_AT).map(|_| self.random.below(count)).collect()
        };
        looks.into_iter().filter_map(|index| self.nodes.at(index)).map(|node| node.address).collect()
    }

    /// Nobody, if the job does well here.
    fn nodes_to_ask(&mut self, now: Time, start: &Start) -> Vec<IpAddr> {
        let among = self.settings.asked_in_round(start.rounds);
        let keeps_own = self.jobs.admin().stay || self.jobs.admin().bring;
        if among == 0
            || self.settings.dry_run
            || keeps_own
            || start.job.bounds.stay
            || self.jobs.read_at().is_none()
        {
            return Vec::new();
        }
        let looks = self.nodes_to_look_at(among, &start.job.bounds);
        let Ok(own) = self.own(now) else { return Vec::new() };
        let Some(here) = self.figures_for_start(&own.node, None) else { return Vec::new() };
        let does_well_here = here.load() + start.job.tasks <= here.cpus && self.is_wanted_here(start);
        let mut to = Vec::new();
        for address in looks {
            if to.len() == among {
                break;
            }
            let Some(node) = self.nodes.get(address) else { continue };
            let Some(figures) = node.figures(now) else { continue };
            let is_open = node.migration.as_ref().is_some_and(|it| !it.block && !it.expel);
            if is_open
                && (!does_well_here || figures.speed >= here.speed * FASTER)
                && start.job.bounds.wants(address, own.node.address).is_ok()
                && !to.contains(&node.address)
                && start.asked.iter().all(|asked| asked.to != node.address)
                && guard::check_node(now, &own, &node).is_ok()
                && self.is_free_to_start(now, node.address).is_ok()
            {
                to.push(node.address);
            }
        }
        to
    }
}

/// The node where a job of so many tasks hurts least.
fn least_burdened(there: &[Target], tasks: f64) -> Option<usize> {
    let burdens = there.iter().map(|target| target.figures.burden(tasks)).enumerate();
    burdens.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(index, _)| index)
}
