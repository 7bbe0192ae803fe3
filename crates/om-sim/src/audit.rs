//! What must hold whatever a policy does: of every move that a core wants, and of the simulation's own books.
//!
//! Cores see reports and answers; here they are judged by what the cluster is really like. And once in a simulated second all
//! books are balanced: every job is where its nodes think it is, in one place and at most one move, and counted once.
//! A breach is told with its time and counted, and makes `om-sim` fail.

use om_proto::table::STALE_PERIODS;

use crate::clock::{Nanos, nanos, time};
use crate::job::{Job, State};
use crate::world::{World, index};

/// Guests that a node takes.
pub(crate) const GUEST_LIMIT: u32 = 1024;
/// Time between two audits.
const AUDIT_EVERY: Nanos = 1_000_000_000;
/// A node answers by what its om files said no longer ago than this.
const READING: Nanos = 10_000_000;

impl World<'_> {
    /// Judges a move that the core on `from` wants.
    pub(crate) fn judge(&mut self, from: u32, pid: u32, to: u32) {
        for wrong in self.wrongs(from, pid, to) {
            self.violated(|| wrong);
        }
    }

    fn wrongs(&self, from: u32, pid: u32, to: u32) -> Vec<String> {
        let now = self.now;
        let mut wrongs = Vec::new();
        let mut must = |holds: bool, what: &dyn Fn() -> String| {
            if !holds {
                wrongs.push(what());
            }
        };
        let Some(job) = self.job(pid) else { return vec![format!("job {pid} moves, which has ended")] };
        let (arrival, target) = (job.arrival, &self.nodes[to as usize]);
        must(job.is_there(), &|| format!("job {pid} is in two moves"));
        must(from != to, &|| format!("job {pid} is on node {to} already"));
        let rests = job.arrived.is_some_and(|at| time(now - at) < self.setup.settings.cool_down);
        must(!rests, &|| format!("job {pid} moves on before its cool-down is over"));
        // A core may have heard the last report later than it was sent.
        let limit = self.setup.period * Nanos::from(STALE_PERIODS) + nanos(self.setup.quality.delay_s);
        let is_heard = target.reported.is_some_and(|reported| now - reported <= limit);
        must(is_heard, &|| format!("node {to} is a target although nobody can have heard of it"));
        // The answer may have been on its way when the node was blocked.
        let limit = READING + nanos(1.5 * self.setup.quality.delay_s);
        let is_blocked = target.blocked.is_some_and(|blocked| now - blocked > limit) && to != arrival.node;
        must(!is_blocked, &|| format!("node {to} is a target although it is blocked"));
        let is_full = target.is_alive && target.guests >= GUEST_LIMIT && to != arrival.node;
        must(!is_full, &|| format!("node {to} has more guests than it takes"));
        let fits = target.memory_used_bytes + arrival.rss_bytes <= target.host.shape().memory_bytes;
        must(fits, &|| format!("job {pid} does not fit node {to}"));
        let leaves =
            |job: &Job| matches!(job.state, State::Moving { .. }) && job.node == from && job.moved_by == from;
        let entries = self.nodes[from as usize].entries.iter();
        let leaving = entries.filter(|entry| self.job(**entry).is_some_and(leaves)).count();
        must(leaving < self.setup.settings.max_moves, &|| {
            format!("node {from} has more than {leaving} moves under way")
        });
        wrongs
    }

    /// Balances the books if that was not done for a while.
    pub(crate) fn audit_if_due(&mut self) {
        if self.now >= self.audited + AUDIT_EVERY {
            self.audited = self.now;
            self.audit();
        }
    }

    /// Balances the books.
    pub(crate) fn audit(&mut self) {
        let books = Books::of(self);
        for wrong in books.wrongs(self) {
            self.violated(|| wrong);
        }
    }
}

/// What a node has, counted anew from the jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Page {
    running: usize,
    threads: u32,
    guests: u32,
    /// Guests that are there, and that it lists.
    staying: u32,
    listed: u32,
    own_jobs: u32,
    memory_bytes: u64,
    /// Threads of jobs that are moving there.
    inbound: u32,
}

/// The same of all nodes.
struct Books {
    pages: Vec<Page>,
    jobs: usize,
    wrongs: Vec<String>,
}

impl Books {
    fn of(world: &World<'_>) -> Self {
        let pages = vec![Page::default(); world.nodes.len()];
        let mut books = Self { pages, jobs: 0, wrongs: Vec::new() };
        for (node, number) in world.nodes.iter().zip(0..) {
            let mut entries = node.entries.clone();
            entries.sort_unstable();
            entries.dedup();
            if entries.len() < node.entries.len() {
                books.wrongs.push(format!("node {number} lists a job twice"));
            }
            for pid in &entries {
                match world.job(*pid) {
                    Some(job) if job.arrival.node == number => books.enter(*pid, job),
                    Some(job) if job.node == number => books.pages[number as usize].listed += 1,
                    _ => books.wrongs.push(format!("node {number} lists job {pid}, which is not there")),
                }
            }
        }
        books
    }

    /// Enters a job, which its home lists.
    fn enter(&mut self, pid: u32, job: &Job) {
        let (arrival, home, node) = (job.arrival, job.arrival.node as usize, job.node as usize);
        self.jobs += 1;
        self.pages[home].own_jobs += 1;
        self.pages[node].staying += u32::from(node != home);
        let mut is_on = |on: usize| {
            self.pages[on].memory_bytes += arrival.rss_bytes;
            self.pages[on].guests += u32::from(on != home);
        };
        is_on(node);
        match job.state {
            State::Running { .. } => {
                self.pages[node].running += 1;
                self.pages[node].threads += arrival.threads;
            }
            State::Moving { to, .. } => {
                is_on(to as usize);
                self.pages[to as usize].inbound += arrival.threads;
            }
            State::Sleeping { .. } => {}
            State::Starting => self.wrongs.push(format!("job {pid} is listed before it has started")),
        }
    }

    fn wrongs(mut self, world: &World<'_>) -> Vec<String> {
        let mut on_their_way = 0;
        for ((node, page), number) in world.nodes.iter().zip(&self.pages).zip(0..) {
            on_their_way += page.inbound;
            let kept = Page {
                running: node.host.jobs().count(),
                threads: node.host.threads(),
                guests: node.guests,
                staying: page.listed,
                listed: page.listed,
                own_jobs: node.own_jobs,
                memory_bytes: node.memory_used_bytes,
                // Some may be about to start there.
                inbound: node.inbound.min(page.inbound),
            };
            if kept != *page {
                self.wrongs.push(format!("node {number} keeps {kept:?} and has {page:?}"));
            }
            if !node.is_alive && page.running > 0 {
                self.wrongs.push(format!("{} jobs run on node {number}, which is dead", page.running));
            }
        }
        if world.links.count() > on_their_way as usize {
            self.wrongs.push(format!("{} transfers for {on_their_way} moves", world.links.count()));
        }
        let alive = world.jobs.len() - (world.workload.len() - world.left).min(world.jobs.len());
        if self.jobs > alive || (world.left == 0 && index(self.jobs) > 0) {
            self.wrongs
                .push(format!("{} jobs are listed, and {alive} have neither ended nor died", self.jobs));
        }
        self.wrongs
    }
}

#[cfg(test)]
mod tests {
    use om_sched::policy::Registry;

    use super::*;
    use crate::setup::{Brain, Setup};
    use crate::workload::{Arrival, Shape};

    const NOW: Nanos = 10_000_000_000;
    const JOB: Arrival =
        Arrival { at: 0, node: 0, work_s: 100.0, threads: 1, rss_bytes: 1 << 20, rhythm: None };

    /// Job 0 runs on node 0 of two, both heard a moment ago, and something about it is wrong.
    fn with<T>(wrong: impl FnOnce(&mut World<'_>), look: impl FnOnce(&World<'_>) -> T) -> T {
        let setup = Setup::new(vec![Shape { cpus: 1, speed: 1.0, memory_bytes: 1 << 30 }; 2]);
        let workload = [JOB];
        let brain = Brain::named("none", Registry::stock(), &setup).unwrap();
        let mut world = World::new(&setup, &workload, brain, 1);
        world.jobs.push(Some(Box::new(Job::new(JOB))));
        world.begin(0, 0);
        world.now = NOW;
        for node in &mut world.nodes {
            node.reported = Some(NOW);
        }
        wrong(&mut world);
        look(&world)
    }

    fn of_a_move(wrong: impl FnOnce(&mut World<'_>)) -> Vec<String> {
        with(wrong, |world| world.wrongs(0, 0, 1))
    }

    fn in_the_books(wrong: impl FnOnce(&mut World<'_>)) -> usize {
        with(wrong, |world| Books::of(world).wrongs(world).len())
    }

    #[test]
    fn a_move_that_must_not_be_is_found_out() {
        assert_eq!(of_a_move(|_| ()), Vec::<String>::new());
        assert_eq!(with(|_| (), |world| world.wrongs(0, 0, 0)), ["job 0 is on node 0 already"]);
        let found = of_a_move(|world| world.freeze(0, 1, 0));
        assert_eq!(found, ["job 0 is in two moves"]);
        let found = of_a_move(|world| world.jobs[0].as_mut().unwrap().arrived = Some(NOW - 1));
        assert_eq!(found, ["job 0 moves on before its cool-down is over"]);
        let found = of_a_move(|world| world.nodes[1].reported = Some(NOW - 4_000_000_000));
        assert_eq!(found, ["node 1 is a target although nobody can have heard of it"]);
        let found = of_a_move(|world| world.nodes[1].blocked = Some(NOW - 1_000_000_000));
        assert_eq!(found, ["node 1 is a target although it is blocked"]);
        let found = of_a_move(|world| world.nodes[1].guests = GUEST_LIMIT);
        assert_eq!(found, ["node 1 has more guests than it takes"]);
        let found = of_a_move(|world| world.nodes[1].memory_used_bytes = 1 << 30);
        assert_eq!(found, ["job 0 does not fit node 1"]);
    }

    #[test]
    fn books_that_do_not_balance_are_found_out() {
        assert_eq!(in_the_books(|_| ()), 0);
        assert_eq!(in_the_books(|world| world.freeze(0, 1, 0)), 0);
        assert!(in_the_books(|world| world.nodes[0].guests += 1) > 0);
        assert!(in_the_books(|world| world.nodes[0].own_jobs += 1) > 0);
        assert!(in_the_books(|world| world.nodes[1].memory_used_bytes += 1) > 0);
        assert!(in_the_books(|world| world.nodes[0].entries.push(0)) > 0);
        assert!(in_the_books(|world| world.nodes[1].entries.push(0)) > 0);
        assert!(in_the_books(|world| world.nodes[0].entries.clear()) > 0);
        assert!(in_the_books(|world| world.nodes[0].is_alive = false) > 0);
        assert!(in_the_books(|world| world.jobs[0] = None) > 0);
        assert!(in_the_books(|world| world.left = 0) > 0);
    }
}
