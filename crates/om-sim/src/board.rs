//! What all nodes have reported lately, kept once for all cores.
//!
//! Every node hears every report: a thousand nodes hear a million of them a second, and look at a few. So a report is
//! decoded once and hung up here, and each core looks it up through [`Ears`] of its own, which know what that node has
//! lost: it follows from the numbers of both, whoever looks first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use om_sched::Time;
use om_sched::node::{FORGET_PERIODS, Report, Reported, Told};
use om_sched::nodes::Reports;
use om_sched::random::Random;

use crate::chance;
use crate::world::node_of;

/// Of each node so many reports are kept: whoever has lost all of them takes the node for gone.
const KEPT: usize = FORGET_PERIODS as usize + 1;

#[derive(Clone, Debug)]
struct Posted {
    number: u64,
    heard: Time,
    told: Rc<Told>,
}

/// The reports that are up, each node's newest last.
#[derive(Debug, Default)]
struct Posts {
    nodes: Vec<VecDeque<Posted>>,
    count: u64,
    fastest: f64,
}

/// The board.
#[derive(Debug)]
pub struct Board {
    posts: Rc<RefCell<Posts>>,
    loss: f64,
    seed: u64,
}

impl Board {
    /// A board of so many nodes without any report. A node loses this share of what the others say.
    #[must_use]
    pub fn new(nodes: usize, loss: f64, seed: u64) -> Self {
        let posts = Posts { nodes: vec![VecDeque::new(); nodes], count: 0, fastest: 0.0 };
        Self { posts: Rc::new(RefCell::new(posts)), loss, seed }
    }

    /// A report of `node` arrives everywhere.
    pub fn post(&self, now: Time, node: u32, report: &Report<'_>) {
        let mut posts = self.posts.borrow_mut();
        posts.count += 1;
        let number = posts.count;
        let reports = &mut posts.nodes[node as usize];
        // Most often nobody holds the oldest one any more, and its memory serves again.
        let oldest = if reports.len() == KEPT { reports.pop_front() } else { None };
        let mut told = oldest.map_or_else(|| Rc::new(Told::new(report.address)), |oldest| oldest.told);
        Rc::make_mut(&mut told).hear(report);
        let speed = told.capacity.map_or(0.0, |(_, speed)| speed);
        reports.push_back(Posted { number, heard: now, told });
        posts.fastest = posts.fastest.max(speed);
    }

    /// The ears of `node`, which hear what comes from now on.
    #[must_use]
    pub fn ears(&self, node: u32) -> Ears {
        let since = self.posts.borrow().count;
        let posts = Rc::clone(&self.posts);
        Ears { posts, node, since, loss: self.loss, seed: self.seed, now: Time::ZERO }
    }
}

/// What one node has heard.
#[derive(Debug)]
pub struct Ears {
    posts: Rc<RefCell<Posts>>,
    node: u32,
    since: u64,
    loss: f64,
    seed: u64,
    now: Time,
}

impl Ears {
    fn hears(&self, from: usize, number: u64) -> bool {
        number > self.since && !(from != self.node as usize && self.loses(number))
    }

    fn loses(&self, number: u64) -> bool {
        let seed = self.seed ^ number.wrapping_mul(0x0000_0100_0000_01b3) ^ (u64::from(self.node) << 40);
        self.loss > 0.0 && chance::uniform(&mut Random::from_seed(seed)) < self.loss
    }
}

impl Reports for Ears {
    /// It is on the board.
    fn hear(&mut self, _now: Time, _report: &Report<'_>) {}

    /// Nobody says goodbye here.
    fn forget(&mut self, _address: IpAddr) {}

    fn forget_gone(&mut self, now: Time) {
        self.now = now;
    }

    fn count(&self) -> usize {
        self.posts.borrow().nodes.len()
    }

    fn at(&self, position: usize) -> Option<Reported> {
        let posts = self.posts.borrow();
        let newest = posts.nodes.get(position)?.iter().rev().find(|it| self.hears(position, it.number))?;
        let reported = Reported { heard: newest.heard, told: Rc::clone(&newest.told) };
        (!reported.is_gone(self.now)).then_some(reported)
    }

    fn find(&self, address: IpAddr) -> Option<usize> {
        usize::try_from(node_of(address)?).ok().filter(|position| *position < self.count())
    }

    fn fastest(&self) -> f64 {
        self.posts.borrow().fastest
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::world::address;

    fn post(board: &Board, at_s: u64, node: u32) {
        let report = Report {
            address: address(node),
            authenticated: false,
            period: Duration::from_secs(1),
            machine: None,
            capacity: None,
            load: None,
            memory: None,
            migration: None,
        };
        board.post(Time::from_secs(at_s), node, &report);
    }

    #[test]
    fn a_node_hears_what_was_said_since_its_start() {
        let board = Board::new(2, 0.0, 1);
        post(&board, 1, 0);
        let ears = board.ears(1);
        assert!(ears.at(0).is_none());
        post(&board, 2, 0);
        assert_eq!(ears.at(0).unwrap().heard, Time::from_secs(2));
        assert_eq!(ears.find(address(1)), Some(1));
        assert_eq!(ears.find(address(2)), None);
    }

    #[test]
    fn what_is_lost_is_lost_for_some_and_leaves_the_one_before() {
        let board = Board::new(200, 0.5, 1);
        post(&board, 1, 0);
        let (early, nobody): (Vec<Ears>, Vec<Ears>) =
            (1..200).map(|node| Ears { since: 0, ..board.ears(node) }).partition(|ears| ears.at(0).is_some());
        assert!((60..140).contains(&early.len()), "{}", early.len());
        post(&board, 2, 0);
        let later = |ears: &&Ears| ears.at(0).is_some_and(|it| it.heard == Time::from_secs(2));
        assert!(early.iter().any(|ears| !later(&ears)) && nobody.iter().any(|ears| later(&ears)));
        assert!(early.iter().all(|ears| ears.at(0).is_some()));
        assert!(Ears { since: 0, ..board.ears(0) }.at(0).is_some(), "nobody loses his own");
    }

    #[test]
    fn who_is_silent_for_long_is_gone() {
        let board = Board::new(2, 0.0, 1);
        let mut ears = board.ears(1);
        post(&board, 1, 0);
        ears.forget_gone(Time::from_secs(11));
        assert!(ears.at(0).is_some());
        ears.forget_gone(Time::from_secs(12));
        assert!(ears.at(0).is_none());
    }
}
