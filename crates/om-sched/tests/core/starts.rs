//! Where new jobs start.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::cpu::Baseline;
use om_proto::offer::{Answer, Ask};
use om_proto::omfs::Bounds;
use om_sched::Time;
use om_sched::core::{Core, Input, Output};
use om_sched::job::{Admin, LocalJob, Place, Snapshot};
use om_sched::offer::Offer;
use om_sched::start::NewJob;

use crate::rig::{asked, at, core, job, jobs, node, offer, outputs, told, yes};

/// Node 1 with two jobs on its CPU; nodes 2 and 3 are idle, as far as it knows.
fn busy() -> Core {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    told(3, 0).tell(&mut core, at(0));
    core.handle(at(1), jobs(vec![job(7), job(8)]));
    outputs(&mut core);
    core
}

/// Node 1 with nothing to do, and node 2.
fn core_with_an_idle_cpu() -> Core {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    core.handle(at(1), jobs(vec![]));
    core
}

fn on(last: &[u8]) -> Bounds {
    Bounds { on: last.iter().map(|last| node(*last)).collect(), ..Bounds::default() }
}

fn new_job() -> NewJob {
    let (bounds, cpu) = (Bounds::default(), Baseline::Native);
    NewJob { pid: 9, uid: 1000, command: "make".into(), tasks: 1.0, bounds, cpu }
}

fn not_on(last: u8) -> Bounds {
    Bounds { not_on: vec![node(last)], ..Bounds::default() }
}

/// Whom the core asks for a start, with the questions, and where it starts at once.
fn start(core: &mut Core, now: Time, bounds: Bounds) -> (Vec<(IpAddr, Ask)>, Option<Option<IpAddr>>) {
    core.handle(now, Input::Starting { ticket: 5, job: NewJob { bounds, ..new_job() } });
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
    assert_eq!(start(&mut core_with_an_idle_cpu(), at(5), Bounds::default()), (vec![], Some(None)));
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
    let mut core = core_with_an_idle_cpu();
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

#[test]
fn a_start_elsewhere_is_in_the_history_with_what_was_expected_and_what_it_got() {
    let mut core = busy();
    let (asked, _) = start(&mut core, at(5), Bounds::default());
    core.handle(at(7), offer(2, Offer::Answer(yes(asked[0].1.nonce))));
    assert_eq!(started(&mut core), Some(Some(node(2))));
    assert_eq!(
        last_decision(&core),
        "9 (make) to 10.77.0.2: starts there, 2 asked in 2 ms; may get 1.00 CPUs there and 0.33 here"
    );
    for second in 1..8 {
        let cpu = Duration::from_millis(900 * second);
        let away = LocalJob { place: Place::Away(node(2)), cpu, ..job(9) };
        core.handle(at(1000 * second), jobs(vec![job(7), job(8), away]));
    }
    assert!(last_decision(&core).contains("in 2 ms, got 0.90 CPUs; may get"), "{}", last_decision(&core));
}

#[test]
fn a_start_here_is_in_the_history_if_others_were_asked() {
    let mut core = busy();
    let (asked, _) = start(&mut core, at(5), on(&[2]));
    let no = Answer { accepted: false, ..yes(asked[0].1.nonce) };
    core.handle(at(6), offer(2, Offer::Answer(no)));
    let line = "9 (make) to 10.77.0.1: starts here, 1 asked in 1 ms; its user wants it elsewhere";
    assert_eq!(last_decision(&core), line);
    let mut idle = core_with_an_idle_cpu();
    start(&mut idle, at(5), Bounds::default());
    assert_eq!(idle.history().iter().count(), 0);
}

#[test]
fn a_job_that_keeps_to_a_baseline_may_start_on_another_cpu() {
    let features = |cpu| {
        let mut core = busy();
        core.handle(at(5), Input::Starting { ticket: 5, job: NewJob { cpu, ..new_job() } });
        asked(&mut core).unwrap().1.cpu_features
    };
    assert_eq!((features(Baseline::Native), features(Baseline::X86(2))), (77, 0));
}

fn last_decision(core: &Core) -> String {
    core.history().iter().next_back().map(ToString::to_string).unwrap_or_default()
}
