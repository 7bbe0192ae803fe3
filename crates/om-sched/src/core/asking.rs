//! The core's own questions: from a proposal of the policy to the request of a move.
//!
//! ```text
//!   round ── a proposal ──▶ ask ──▶ answer: yes ── still worth it ──▶ request
//!                                     │ no           │ not any more
//!                                     ▼              ▼
//!                               the node rests   the question is taken back
//! ```
//!
//! The guard looks before the question and again before the request, whatever the policy says.

use std::net::IpAddr;

use om_proto::offer::{Answer, Ask};
use om_proto::omfs::Bounds;

use super::{Core, Move, Output, REST_AFTER_REFUSAL, TELL_AGAIN};
use crate::Time;
use crate::figures::{Figures, to_milli};
use crate::guard::{self, Refusal};
use crate::history::Outcome;
use crate::offer::{Offer, Question};
use crate::policy::Proposal;
use crate::view::{Job, View};

impl Core {
    /// One round: lets the policy propose, and asks the nodes that it chose.
    pub(super) fn round(&mut self, now: Time) {
        if self.jobs.read_at().is_none() || self.free_slots() == 0 {
            return;
        }
        let Ok(mut view) = self.view_here(now, None) else { return };
        if view.jobs.is_empty() || !self.policy.has_hope(&view.here, &view.jobs, self.nodes.fastest()) {
            return;
        }
        let among = self.sample(now);
        view.targets = self.targets(now, among.as_deref());
        if view.targets.is_empty() {
            return;
        }
        let proposals = self.policy.decide(now, &view, &mut self.random);
        for proposal in proposals {
            if self.free_slots() == 0 {
                return;
            }
            let job = view.jobs.iter().find(|job| job.pid == proposal.pid);
            let target = view.targets.iter().find(|target| target.address == proposal.to);
            // A policy that names what it was not shown, or the same twice, is not followed.
            let (Some(job), Some(target)) = (job, target) else { continue };
            if self.is_under_way(job.pid) || self.questions.asks(target.address) {
                continue;
            }
            if view.allows(job, target).is_err() {
                continue;
            }
            if self.settings.dry_run {
                self.tell_only(now, job, proposal);
            } else {
                self.ask(now, job, proposal, false);
            }
        }
    }

    fn tell_only(&mut self, now: Time, job: &Job, proposal: Proposal) {
        let told = self.history.last_of(now, job.pid, TELL_AGAIN);
        if told.is_some_and(|told| told.to == proposal.to) {
            return;
        }
        let to = proposal.to;
        self.record(now, job.pid, to, proposal.reason, proposal.weighing, Outcome::WouldMove);
    }

    pub(super) fn ask(&mut self, now: Time, job: &Job, proposal: Proposal, is_order: bool) {
        let ask = Ask {
            nonce: self.random.bits(),
            rss_bytes: job.rss_bytes,
            // No tasks at all would take the question back.
            runnable_milli: to_milli(job.tasks).max(1),
            cpu_features: job.cpu_features,
            coming_home: job.home == proposal.to,
        };
        let to = proposal.to;
        let decision =
            self.record(now, job.pid, to, proposal.reason.clone(), proposal.weighing, Outcome::Asked);
        if let Some(node) = self.nodes.known_mut(to) {
            node.expect(now, job.pid, job.tasks);
        }
        self.outputs.push_back(Output::Send { to, offer: Offer::Ask(ask.clone()) });
        let question = Question::new(ask, proposal, decision, is_order, now + self.settings.ask_timeout);
        self.questions.put(question);
    }

    pub(super) fn handle_answer(&mut self, now: Time, from: IpAddr, answer: &Answer) {
        let Some(question) = self.questions.answered(from, answer) else {
            self.hear_start_answer(now, from, answer);
            return;
        };
        if let (Some(node), Some(figures)) = (self.nodes.known_mut(from), Figures::from_answer(answer)) {
            node.forget_inbound(question.proposal.pid);
            node.hear_figures(now, figures);
            self.note_speaker(now, from);
        }
        if answer.accepted {
            self.decide_again(now, question);
        } else {
            self.forget_inbound(from, question.proposal.pid);
            let reason: String = answer.reason.chars().filter(|c| !c.is_control()).take(120).collect();
            self.rest(now, from, REST_AFTER_REFUSAL, &format!("it refused: {reason}"));
            self.outcome(now, question.decision, Outcome::Refused { reason });
        }
        self.round(now);
    }

    /// The node would take the job: is it still right to send it, on the figures that it gave?
    fn decide_again(&mut self, now: Time, question: Question) {
        let Proposal { pid, to, .. } = question.proposal;
        let verdict =
            self.view_pair(now, pid, to).map_err(|refusal| refusal.to_string()).and_then(|mut view| {
                if question.is_order {
                    // Where it can be nowhere else, a job comes home even if it is not wanted there.
                    let homeward = view.jobs.iter_mut().filter(|job| job.home == to);
                    homeward.for_each(|job| job.bounds = Bounds::default());
                }
                self.recheck(now, &view, pid, to)?;
                if question.is_order {
                    return Ok(question.proposal.clone());
                }
                self.policy.confirm(now, &view, &question.proposal)
            });
        match verdict {
            Ok(proposal) if (proposal.pid, proposal.to) == (pid, to) => {
                self.history.reweigh(question.decision, &proposal.reason, proposal.weighing);
                self.request(now, pid, to, question.decision, Some(question.ask.nonce));
            }
            verdict => {
                let reason = verdict.err().unwrap_or_else(|| "the policy changed its mind".to_owned());
                self.take_back(&question);
                self.outcome(now, question.decision, Outcome::Dropped { reason });
            }
        }
    }

    /// Says exactly what the guard has against a move that it allowed a moment ago.
    fn recheck(&self, now: Time, view: &View, pid: u32, to: IpAddr) -> Result<(), String> {
        let job = view.jobs.iter().find(|job| job.pid == pid).ok_or_else(|| {
            self.jobs
                .get(pid)
                .and_then(|job| self.check_job(now, job, true).err())
                .unwrap_or(Refusal::NotHere)
                .to_string()
        })?;
        let target = view.targets.iter().find(|target| target.address == to).ok_or_else(|| {
            let own = self.own(now).map_err(|refusal| refusal.to_string());
            match (own, self.nodes.get(to)) {
                (Ok(own), Some(node)) => {
                    guard::check_node(now, &own, &node).err().unwrap_or(Refusal::Untold).to_string()
                }
                (Err(refusal), _) => refusal,
                (_, None) => "it is not heard any more".to_owned(),
            }
        })?;
        view.allows(job, target).map_err(|refusal| refusal.to_string())
    }

    pub(super) fn request(&mut self, now: Time, pid: u32, to: IpAddr, decision: u64, nonce: Option<u64>) {
        let Some(job) = self.jobs.get(pid) else { return };
        let (rss_bytes, home) = (job.rss_bytes, job.home == to || (job.is_own && self.here == Some(to)));
        let tasks = self.jobs.tasks(pid);
        if let Some(node) = self.nodes.known_mut(to) {
            node.expect(now, pid, tasks);
        }
        let share = self.jobs.share(pid);
        self.moves.insert(pid, Move { to, since: now, rss_bytes, decision, nonce, share });
        self.outputs.push_back(Output::Move { pid, to, home });
        self.outcome(now, decision, Outcome::Requested);
    }

    pub(super) fn take_back(&mut self, question: &Question) {
        self.forget_inbound(question.proposal.to, question.proposal.pid);
        self.withdraw(question.proposal.to, question.ask.nonce);
    }

    pub(super) fn withdraw(&mut self, to: IpAddr, nonce: u64) {
        let ask = Ask { nonce, rss_bytes: 0, runnable_milli: 0, cpu_features: 0, coming_home: false };
        self.outputs.push_back(Output::Send { to, offer: Offer::Ask(ask) });
    }

    pub(super) fn is_under_way(&self, pid: u32) -> bool {
        self.moves.contains_key(&pid) || self.questions.is_about(pid)
    }

    pub(super) fn free_slots(&self) -> usize {
        self.settings.max_moves.saturating_sub(self.questions.len() + self.moves.len())
    }
}
