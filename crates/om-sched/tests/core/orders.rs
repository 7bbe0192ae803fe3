//! What happens whatever the policy thinks: owners of nodes come first, and users say where their jobs run.

use std::net::IpAddr;

use om_proto::offer::Ask;
use om_proto::omfs::Bounds;
use om_sched::Time;
use om_sched::core::{Core, Input, MoveEnd, Output};
use om_sched::history::{Outcome, Share};
use om_sched::job::{LocalJob, Place};
use om_sched::offer::Offer;
use om_sched::policy::{Nothing, Policy};
use om_sched::settings::Settings;

use crate::rig::{answer_to, ask, asked, at, core, core_of, job, jobs, node, offer, outputs, told, yes};

fn guest(pid: u32) -> LocalJob {
    let moved = Some(at(60_000));
    LocalJob { home: node(2), is_own: false, moves: 1, since_move: moved, ..job(pid) }
}

/// Node 1, whose owner comes first, under a policy that does nothing.
fn owned(policy: Box<dyn Policy>) -> Core {
    let settings = Settings { has_key: true, owner_first: true, ..Settings::default() };
    core_of(settings, policy)
}

/// Everybody tells how busy node 1 is with other things; three times, as that many reports are needed. Who is asked then.
fn tell(core: &mut Core, now: Time, load_of_others: u32, jobs_here: &[LocalJob]) -> Option<(IpAddr, Ask)> {
    let runnable = load_of_others + u32::try_from(jobs_here.len()).unwrap();
    for turn in 0..3 {
        let now = now + at(turn * 10);
        core.handle(now, jobs(jobs_here.to_vec()));
        told(1, runnable).tell(core, now);
        told(2, 0).tell(core, now);
    }
    core.handle(now + at(100), jobs(jobs_here.to_vec()));
    asked(core)
}

#[test]
fn guests_leave_while_the_owner_wants_the_cpu() {
    let mut core = owned(Box::new(Nothing));
    let (to, question) = tell(&mut core, at(100), 1, &[guest(7)]).unwrap();
    assert_eq!((to, question.coming_home), (node(2), true));
    core.handle(at(301), offer(2, Offer::Answer(yes(question.nonce))));
    assert!(outputs(&mut core).contains(&Output::Move { pid: 7, to: node(2), home: true }));
}

#[test]
fn a_guest_goes_home_for_the_owner_s_sake_even_where_its_user_does_not_want_it() {
    let mut core = owned(Box::new(Nothing));
    let bounds = Bounds { not_on: vec![node(2)], ..Bounds::default() };
    let unwanted_at_home = LocalJob { bounds, ..guest(7) };
    let (to, question) = tell(&mut core, at(100), 1, &[unwanted_at_home]).unwrap();
    assert_eq!(to, node(2));
    core.handle(at(301), offer(2, Offer::Answer(yes(question.nonce))));
    assert!(outputs(&mut core).contains(&Output::Move { pid: 7, to: node(2), home: true }));
}

#[test]
fn guests_stay_where_the_owner_s_own_jobs_leave_them_room_and_everywhere_else() {
    let mut idle = owned(Box::new(Nothing));
    assert_eq!(tell(&mut idle, at(100), 0, &[guest(7)]), None, "nobody wants the CPU");
    let mut other = core_of(Settings { has_key: true, ..Settings::default() }, Box::new(Nothing));
    assert_eq!(tell(&mut other, at(100), 1, &[guest(7)]), None, "the owner does not come first");
}

#[test]
fn an_own_job_is_the_owner_s_load_too() {
    let mut core = owned(Box::new(Nothing));
    let asked = tell(&mut core, at(100), 0, &[guest(7), job(8)]);
    assert_eq!(asked.map(|(to, _)| to), Some(node(2)));
}

#[test]
fn no_guest_is_taken_in_the_owner_s_way_and_for_ten_seconds_after() {
    let mut core = owned(Box::new(Nothing));
    assert_eq!(tell(&mut core, at(100), 1, &[]), None);
    assert_eq!(answer_to(&mut core, at(301), ask(1)).reason, "its owner wants its CPUs (owner-first)");
    assert!(answer_to(&mut core, at(302), Ask { coming_home: true, ..ask(2) }).accepted);
    assert_eq!(tell(&mut core, at(3000), 0, &[]), None);
    assert!(!answer_to(&mut core, at(3201), ask(3)).accepted, "the owner may be back at once");
    assert_eq!(tell(&mut core, at(14_000), 0, &[]), None);
    assert!(answer_to(&mut core, at(14_201), ask(4)).accepted);
}

fn bound(pid: u32, on: u8) -> LocalJob {
    LocalJob { bounds: Bounds { on: vec![node(on)], ..Bounds::default() }, ..job(pid) }
}

#[test]
fn a_job_goes_where_its_user_wants_it_whatever_the_policy() {
    let mut core = core_of(Settings { has_key: true, ..Settings::default() }, Box::new(Nothing));
    told(1, 1).tell(&mut core, at(0));
    for last in [2, 3] {
        told(last, 5).tell(&mut core, at(0));
    }
    core.handle(at(10), jobs(vec![bound(7, 3)]));
    let (to, question) = asked(&mut core).unwrap();
    assert_eq!(to, node(3));
    core.handle(at(11), offer(3, Offer::Answer(yes(question.nonce))));
    assert!(outputs(&mut core).contains(&Output::Move { pid: 7, to: node(3), home: false }));
}

#[test]
fn a_policy_cannot_send_a_job_where_its_user_does_not_want_it() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(10));
    let bounds = Bounds { not_on: vec![node(2)], ..Bounds::default() };
    let barred = |pid| LocalJob { bounds: bounds.clone(), ..job(pid) };
    core.handle(at(20), jobs(vec![barred(7), barred(8), barred(9)]));
    assert_eq!(asked(&mut core), None);
    let candidate = core.explain_jobs(at(20)).remove(0).candidates.remove(0);
    let why = "its owner does not let it run on 10.77.0.2 (om run --not-on)";
    assert_eq!(candidate.refusal.as_deref(), Some(why));
}

/// Three jobs share this node's CPU; one of them goes to node 2 and has it for itself.
#[test]
fn the_history_tells_what_a_move_has_brought() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    let used = |pid, place, ms| LocalJob { cpu: at(ms), place, ..job(pid) };
    let here = |ms| (7..10).map(|pid| used(pid, Place::Here, ms)).collect::<Vec<_>>();
    core.handle(at(1000), jobs(here(2000)));
    core.handle(at(2000), jobs(here(2333)));
    let (_, question) = asked(&mut core).unwrap();
    core.handle(at(2001), offer(2, Offer::Answer(yes(question.nonce))));
    let moved = outputs(&mut core).into_iter().find_map(|output| match output {
        Output::Move { pid, .. } => Some(pid),
        _ => None,
    });
    let pid = moved.unwrap();
    core.handle(at(2200), Input::MoveEnded { pid, end: MoveEnd::Done { downtime: Some(at(80)) } });
    let mut left = here(2400);
    for (ms, cpu_ms) in [(3000, 2400), (5500, 4900), (8000, 7400)] {
        let away = used(pid, Place::Away(node(2)), cpu_ms);
        left.iter_mut().filter(|job| job.pid == pid).for_each(|job| *job = away.clone());
        core.handle(at(ms), jobs(left.clone()));
    }
    let outcome = core.history().iter().find(|it| it.pid == pid).map(|it| it.outcome.clone());
    let Some(Outcome::Moved { share: Some(Share { before, after }), .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert!((before - 0.333).abs() < 0.01 && (after - 1.0).abs() < 0.01, "{before} {after}");
}

#[test]
fn a_job_that_ends_at_once_after_its_move_tells_nothing() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    core.handle(at(10), jobs(vec![job(7), job(8), job(9)]));
    let (_, question): (IpAddr, _) = asked(&mut core).unwrap();
    core.handle(at(11), offer(2, Offer::Answer(yes(question.nonce))));
    core.handle(at(90), Input::MoveEnded { pid: 7, end: MoveEnd::Done { downtime: None } });
    core.handle(at(100), jobs(vec![job(8), job(9)]));
    let outcome = core.history().iter().find(|it| it.pid == 7).map(|it| it.outcome.clone());
    assert!(matches!(outcome, Some(Outcome::Moved { share: None, .. })), "{outcome:?}");
}
