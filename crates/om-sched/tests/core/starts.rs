//! Where new jobs start.

use std::net::IpAddr;

use om_proto::offer::{Answer, Ask};
use om_proto::omfs::Bounds;
use om_sched::Time;
use om_sched::core::{Core, Input, Output};
use om_sched::job::{Admin, Snapshot};
use om_sched::offer::Offer;

use crate::rig::{Told, at, core, job, jobs, node, offer, outputs, yes};

/// Node 1 with two jobs on its CPU; nodes 2 and 3 are idle, as far as it knows.
fn busy() -> Core {
    let mut core = core();
    Told::new(2, 0).tell(&mut core, at(0));
    Told::new(3, 0).tell(&mut core, at(0));
    core.handle(at(1), jobs(vec![job(7), job(8)]));
    outputs(&mut core);
    core
}

fn on(last: &[u8]) -> Bounds {
    Bounds { on: last.iter().map(|last| node(*last)).collect(), ..Bounds::default() }
}

fn not_on(last: u8) -> Bounds {
    Bounds { not_on: vec![node(last)], ..Bounds::default() }
}

/// Whom the core asks for a start, with the questions, and where it starts at once.
fn start(core: &mut Core, now: Time, bounds: Bounds) -> (Vec<(IpAddr, Ask)>, Option<Option<IpAddr>>) {
    core.handle(now, Input::Starting { ticket: 5, tasks: 1.0, bounds });
    let mut asked = Vec::new();
    let mut started = None;
    for output in outputs(core) {
        match output {
            Output::Send { to, offer: Offer::Ask(ask) } if ask.runnable_milli > 0 => asked.push((to, ask)),
            Output::Start { ticket: 5, to } => started = Some(to),
            _ => {}
        }
    }
    asked.sort_by_key(|(to, _)| *to);
    (asked, started)
}

fn started(core: &mut Core) -> Option<Option<IpAddr>> {
    outputs(core).into_iter().find_map(|output| match output {
        Output::Start { to, .. } => Some(to),
        _ => None,
    })
}

fn nodes(asked: &[(IpAddr, Ask)]) -> Vec<IpAddr> {
    asked.iter().map(|(to, _)| *to).collect()
}

#[test]
fn a_busy_node_asks_others_and_an_idle_one_starts_the_job_itself() {
    let (asked, begun) = start(&mut busy(), at(5), Bounds::default());
    assert_eq!((nodes(&asked), begun), (vec![node(2), node(3)], None));
    let mut idle = core();
    Told::new(2, 0).tell(&mut idle, at(0));
    idle.handle(at(1), jobs(vec![]));
    assert_eq!(start(&mut idle, at(5), Bounds::default()), (vec![], Some(None)));
}

#[test]
fn only_nodes_that_the_user_wants_are_asked() {
    assert_eq!(nodes(&start(&mut busy(), at(5), on(&[3])).0), vec![node(3)]);
    assert_eq!(nodes(&start(&mut busy(), at(5), not_on(3)).0), vec![node(2)]);
    let stays = Bounds { stay: true, ..Bounds::default() };
    assert_eq!(start(&mut busy(), at(5), stays), (vec![], Some(None)));
}

#[test]
fn a_job_that_is_not_wanted_here_goes_where_it_is_wanted_however_busy_that_is() {
    let mut core = core();
    Told::new(2, 0).tell(&mut core, at(0));
    core.handle(at(1), jobs(vec![]));
    let (asked, _) = start(&mut core, at(5), on(&[2]));
    let busy = Answer { movable_milli: 9000, ..yes(asked[0].1.nonce) };
    core.handle(at(6), offer(2, Offer::Answer(busy)));
    assert_eq!(started(&mut core), Some(Some(node(2))), "nobody else can be asked");
}

#[test]
fn a_job_that_nobody_takes_starts_here() {
    let mut core = busy();
    let (asked, _) = start(&mut core, at(5), on(&[2]));
    let no = Answer { accepted: false, ..yes(asked[0].1.nonce) };
    core.handle(at(6), offer(2, Offer::Answer(no)));
    assert_eq!(started(&mut core), Some(None));
}

#[test]
fn while_own_jobs_are_kept_or_called_home_they_start_here() {
    for admin in [Admin { stay: true, ..Admin::default() }, Admin { bring: true, ..Admin::default() }] {
        let mut core = busy();
        core.handle(at(2), Input::Snapshot(Snapshot { jobs: vec![job(7), job(8)], admin }));
        outputs(&mut core);
        assert_eq!(start(&mut core, at(5), Bounds::default()), (vec![], Some(None)));
    }
}
