//! Jobs that somebody is about to start and for which other nodes are being asked.

use std::net::IpAddr;

use om_proto::cpu::Baseline;
use om_proto::offer::Answer;
use om_proto::omfs::Bounds;

use crate::Time;
use crate::figures::Figures;

/// What is known of a job that somebody is about to start.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// The process that will be the job; 0 if that cannot be told.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its command, as its user tells it, if it is long its beginning.
    pub command: String,
    /// Runnable tasks that it will have, as far as anybody can tell.
    pub tasks: f64,
    /// Where its user wants it.
    pub bounds: Bounds,
    /// What it will use of a CPU.
    pub cpu: Baseline,
}

/// One of the nodes that were asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    /// The node.
    pub to: IpAddr,
    /// The question's nonce.
    pub nonce: u64,
    /// What it answered.
    pub reply: Reply,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reply {
    /// Nothing yet.
    Awaited,
    /// It would take the job, and these are its figures.
    Yes(Figures),
    /// It would not.
    No,
}

/// A job that waits to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// What the caller calls it.
    pub ticket: u64,
    /// What is known of it.
    pub job: NewJob,
    /// When it was to start.
    pub since: Time,
    /// Who was asked.
    pub asked: Vec<Asked>,
    /// How often more nodes were asked.
    pub rounds: usize,
    /// When the answers that came will do.
    pub deadline: Time,
}

/// All that wait, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Starts {
    waiting: Vec<Start>,
}

impl Starts {
    /// One more.
    pub fn put(&mut self, start: Start) {
        self.waiting.push(start);
    }

    /// When the next has to start.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.waiting.iter().map(|start| start.deadline).min()
    }

    /// Notes an answer. The start that can go on now, which is taken out: all have answered, or this one has a CPU free.
    pub fn answered(&mut self, from: IpAddr, answer: &Answer) -> Option<Start> {
        let is_it = |asked: &Asked| (asked.to, asked.nonce) == (from, answer.nonce);
        let found = self.waiting.iter().position(|start| start.asked.iter().any(is_it))?;
        let asked = self.waiting[found].asked.iter_mut().find(|asked| is_it(asked))?;
        asked.reply = match Figures::from_answer(answer) {
            Some(figures) if answer.accepted => Reply::Yes(figures),
            _ => Reply::No,
        };
        let tasks = self.waiting[found].job.tasks;
        let has_room = Figures::from_answer(answer)
            .is_some_and(|figures| answer.accepted && figures.load() + tasks <= figures.cpus);
        let is_complete =
            has_room || self.waiting[found].asked.iter().all(|asked| asked.reply != Reply::Awaited);
        is_complete.then(|| self.waiting.remove(found))
    }

    /// A start whose time is up, which is taken out.
    pub fn take_due(&mut self, now: Time) -> Option<Start> {
        let due = self.waiting.iter().position(|start| start.deadline <= now)?;
        Some(self.waiting.remove(due))
    }
}
