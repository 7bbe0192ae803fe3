//! One core, spoken to by hand: what the guard keeps from happening, and how questions are answered.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "../shared/heard.rs"]
mod heard;
mod orders;
mod rig;
mod starts;
#[path = "../shared/told.rs"]
mod told;

use std::net::IpAddr;
use std::time::Duration;

use om_proto::offer::{Answer, Ask};
use om_proto::report::{Load, Machine, Memory, Migration};
use om_sched::core::{Core, Input, MoveEnd, Output};
use om_sched::history::Outcome;
use om_sched::job::{Admin, LocalJob, Place, Snapshot};
use om_sched::offer::Offer;
use om_sched::settings::Settings;

use self::rig::{
    Stubborn, Told, answer_to, ask, asked, asked_with, at, core, core_of, core_with, job, jobs, node, offer,
    outputs, sent, told, yes,
};

#[test]
fn an_idle_node_is_asked_for_the_job_that_wins_most() {
    let mut core = core();
    assert_eq!(asked_with(&mut core, &told(2, 0)), Some(node(2)));
}

#[test]
fn nodes_that_the_guard_refuses_are_not_even_asked() {
    let two = || told(2, 0);
    let features = |it: Told| Told { machine: Machine { cpu_features: 78, ..it.machine.clone() }, ..it };
    let arch = |it: Told| Told { machine: Machine { arch: "aarch64".into(), ..it.machine.clone() }, ..it };
    let memory =
        |it: Told| Told { memory: Memory { available_kib: Some(200 << 10), swap_free_kib: None }, ..it };
    let migration = |change: fn(&mut Migration)| {
        let mut it = two();
        change(it.migration.as_mut().unwrap());
        it
    };
    let refused = [
        ("unsigned", Told { authenticated: false, ..two() }),
        ("without migration daemon", Told { migration: None, ..two() }),
        ("other features", features(two())),
        ("other architecture", arch(two())),
        ("short of memory", memory(two())),
        ("blocked", migration(|it| it.block = true)),
        ("expelling", migration(|it| it.expel = true)),
        ("full", migration(|it| it.guests = 2)),
        ("without load", Told { load: Load { runnable: None, exported_milli: None, ..two().load }, ..two() }),
    ];
    for (name, told) in refused {
        assert_eq!(asked_with(&mut core(), &told), None, "{name}");
    }
}

#[test]
fn a_job_under_a_baseline_may_go_to_a_cpu_with_other_features() {
    let mut core = core();
    let two = told(2, 0);
    let other = Told { machine: Machine { cpu_features: 78, ..two.machine.clone() }, ..two };
    other.tell(&mut core, at(10));
    let held = |pid| LocalJob { cpu_baseline: om_proto::cpu::Baseline::X86(2), ..job(pid) };
    core.handle(at(20), jobs(vec![held(7), job(8), job(9)]));
    let (to, ask) = asked(&mut core).unwrap();
    assert_eq!((to, ask.cpu_features), (node(2), 0));
}

#[test]
fn a_node_that_has_fallen_silent_is_not_asked() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    told(1, 3).tell(&mut core, at(3001));
    core.handle(at(3001), jobs(vec![job(7), job(8), job(9)]));
    assert_eq!(asked(&mut core), None);
}

#[test]
fn a_node_that_said_goodbye_is_not_asked() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    core.handle(at(1), Input::Goodbye(node(2)));
    core.handle(at(2), jobs(vec![job(7), job(8), job(9)]));
    assert_eq!(asked(&mut core), None);
}

#[test]
fn jobs_that_the_guard_keeps_are_not_asked_for() {
    let kept = [
        ("locked", LocalJob { locked: true, ..job(7) }),
        ("with a stay reason", LocalJob { stay_reasons: vec!["mem_lock".into()], ..job(7) }),
        ("in a move", LocalJob { place: Place::Moving, ..job(7) }),
        ("away", LocalJob { place: Place::Away(node(3)), ..job(7) }),
        ("just arrived", LocalJob { moves: 1, since_move: Some(at(500)), ..job(7) }),
    ];
    for (name, kept) in kept {
        let mut core = core();
        told(2, 0).tell(&mut core, at(10));
        // The node is loaded by something that nobody can move.
        told(1, 9).tell(&mut core, at(10));
        core.handle(at(20), jobs(vec![kept.clone()]));
        assert_eq!(asked(&mut core), None, "{name}");
    }
}

#[test]
fn a_stubborn_policy_gets_one_question_a_job_and_a_node_and_none_that_the_guard_refuses() {
    let settings = Settings { has_key: true, max_moves: 9, ..Settings::default() };
    let stubborn = || {
        let mut core = core_of(settings.clone(), Box::new(Stubborn));
        told(1, 0).tell(&mut core, at(0));
        core
    };
    let mut core = stubborn();
    told(2, 0).tell(&mut core, at(0));
    told(3, 0).tell(&mut core, at(0));
    core.handle(at(10), jobs(vec![job(7), job(8), job(9)]));
    core.handle(at(20), jobs(vec![job(7), job(8), job(9)]));
    let asked: Vec<IpAddr> = sent(&mut core).into_iter().map(|(to, _)| to).collect();
    assert_eq!(asked, vec![node(2), node(3)]);

    let mut core = stubborn();
    for mut told in [told(2, 0), told(3, 0)] {
        told.migration.as_mut().unwrap().block = true;
        told.tell(&mut core, at(0));
    }
    core.handle(at(10), jobs(vec![job(7), job(8), job(9)]));
    assert_eq!(sent(&mut core), vec![]);
}

#[test]
fn what_happens_between_question_and_answer_counts() {
    let settings = Settings { has_key: true, ..Settings::default() };
    let after = |change: &dyn Fn(&mut Core)| {
        let mut core = core_of(settings.clone(), Box::new(Stubborn));
        told(1, 0).tell(&mut core, at(0));
        told(2, 0).tell(&mut core, at(0));
        core.handle(at(10), jobs(vec![job(7)]));
        let (_, question) = asked(&mut core).unwrap();
        change(&mut core);
        core.handle(at(40), offer(2, Offer::Answer(yes(question.nonce))));
        assert!(!outputs(&mut core).iter().any(|output| matches!(output, Output::Move { .. })));
        let outcome = core.history().iter().next().unwrap().outcome.clone();
        let Outcome::Dropped { reason } = outcome else { panic!("{outcome:?}") };
        reason
    };
    let locked = after(&|core| core.handle(at(20), jobs(vec![LocalJob { locked: true, ..job(7) }])));
    assert_eq!(locked, "it is locked");
    let ended = after(&|core| core.handle(at(20), jobs(vec![])));
    assert_eq!(ended, "it does not run on this node");
    let blocked = after(&|core| {
        let mut told = told(2, 0);
        told.migration.as_mut().unwrap().block = true;
        told.tell(core, at(20));
    });
    assert_eq!(blocked, "it takes no guests (block or expel)");
}

#[test]
fn a_job_that_is_only_promised_a_place_drives_nobody_away() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(10));
    told(3, 0).tell(&mut core, at(10));
    core.handle(at(20), jobs(vec![job(7)]));
    assert!(answer_to(&mut core, at(30), Ask { runnable_milli: 2000, ..ask(1) }).accepted);
    core.handle(at(200), jobs(vec![job(7)]));
    assert_eq!(asked(&mut core), None);
    // Once they are here it is another matter.
    core.handle(at(400), jobs(vec![job(7), job(8), job(9)]));
    assert!(asked(&mut core).is_some());
}

#[test]
fn switches_keep_own_jobs_here_but_not_guests() {
    for (stay, bring) in [(true, false), (false, true)] {
        let guest =
            |pid| LocalJob { home: node(3), is_own: false, moves: 1, since_move: Some(at(9000)), ..job(pid) };
        let admin = Admin { stay, bring, ..Admin::default() };
        let mut core = core();
        told(2, 0).tell(&mut core, at(10));
        core.handle(at(20), Input::Snapshot(Snapshot { jobs: vec![job(7), job(8), job(9)], admin }));
        assert_eq!(asked(&mut core), None);
        core.handle(at(130), Input::Snapshot(Snapshot { jobs: vec![job(7), guest(8), job(9)], admin }));
        assert_eq!(asked(&mut core).map(|(to, _)| to), Some(node(2)));
    }
}

#[test]
fn without_a_key_nothing_is_asked_or_promised_unless_that_is_wanted() {
    let mut core = core_with(Settings::default());
    told(1, 0).tell(&mut core, at(0));
    assert_eq!(asked_with(&mut core, &told(2, 0)), None);
    let answer = answer_to(&mut core, at(30), ask(1));
    assert_eq!((answer.accepted, answer.reason.as_str()), (false, "it has no cluster key"));

    let mut core = core_with(Settings { allow_without_key: true, ..Settings::default() });
    told(1, 0).tell(&mut core, at(0));
    let unsigned = Told { authenticated: false, ..told(2, 0) };
    assert_eq!(asked_with(&mut core, &unsigned), Some(node(2)));
}

#[test]
fn what_is_not_signed_is_not_heard_by_a_node_with_a_key() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    core.handle(at(1), jobs(vec![]));
    let unsigned = Input::Offer { from: node(2), authenticated: false, offer: Offer::Ask(ask(1)) };
    core.handle(at(2), unsigned);
    assert_eq!(outputs(&mut core), vec![]);
}

#[test]
fn a_yes_leads_to_one_request_and_its_end_to_the_history() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(10));
    core.handle(at(20), jobs(vec![job(7), job(8), job(9)]));
    let (_, question) = asked(&mut core).unwrap();
    core.handle(at(25), offer(2, Offer::Answer(yes(question.nonce))));
    let moves = |core: &mut Core| {
        outputs(core).into_iter().filter(|it| matches!(it, Output::Move { .. })).collect::<Vec<_>>()
    };
    assert_eq!(moves(&mut core), vec![Output::Move { pid: 7, to: node(2), home: false }]);
    // The same answer again, and another reading while the move goes on.
    core.handle(at(26), offer(2, Offer::Answer(yes(question.nonce))));
    core.handle(at(27), jobs(vec![LocalJob { place: Place::Moving, ..job(7) }, job(8), job(9)]));
    assert_eq!(moves(&mut core), vec![]);
    let end = MoveEnd::Done { downtime: Some(at(50)) };
    core.handle(at(125), Input::MoveEnded { pid: 7, end });
    let decision = core.history().iter().next().unwrap();
    assert_eq!(decision.outcome, Outcome::Moved { took_ms: 100, downtime_ms: Some(50), share: None });
    assert_eq!(core.price().learned, 1);
}

/// Three jobs, of which 7 has been requested for node 2.
fn moving() -> Core {
    let mut core = core();
    told(2, 0).tell(&mut core, at(10));
    told(3, 9).tell(&mut core, at(10));
    core.handle(at(20), jobs(vec![LocalJob { cpu: at(9000), ..job(7) }, job(8), job(9)]));
    let (_, question) = asked(&mut core).unwrap();
    core.handle(at(25), offer(2, Offer::Answer(yes(question.nonce))));
    assert!(outputs(&mut core).contains(&Output::Move { pid: 7, to: node(2), home: false }));
    core
}

#[test]
fn a_job_that_has_left_is_no_load_any_more_even_before_the_files_are_read_again() {
    let mut core = moving();
    core.handle(at(90), Input::MoveEnded { pid: 7, end: MoveEnd::Done { downtime: None } });
    assert_eq!(asked(&mut core), None, "two are left here and one is there");
    told(2, 1).tell(&mut core, at(91));
    assert_eq!(answer_to(&mut core, at(95), ask(1)).movable_milli, 2000);
}

#[test]
fn a_job_whose_move_failed_rests_and_others_take_its_turn() {
    let mut core = moving();
    let end = MoveEnd::Failed { reason: "mem_lock".into(), only_the_job: true };
    core.handle(at(90), Input::MoveEnded { pid: 7, end });
    let decided = outputs(&mut core).into_iter().filter_map(|output| match output {
        Output::Decided(decision) if decision.outcome == Outcome::Asked => Some(decision.pid),
        _ => None,
    });
    assert_eq!(decided.collect::<Vec<_>>(), vec![8]);
}

#[test]
fn a_job_that_ended_before_its_move_is_no_failure_of_the_node() {
    let mut core = moving();
    core.handle(at(60), Input::MoveEnded { pid: 7, end: MoveEnd::JobEnded });
    assert_eq!(core.history().iter().next().unwrap().outcome, Outcome::Ended);
    let asks = |(to, offer)| match offer {
        Offer::Ask(ask) => Some((to, ask.runnable_milli)),
        _ => None,
    };
    // Its place is given back, and the next of the two that are left may have it at once.
    let sent: Vec<(IpAddr, u32)> = sent(&mut core).into_iter().filter_map(asks).collect();
    assert_eq!(sent, vec![(node(2), 0), (node(2), 1000)]);
    let next = core.history().iter().last().unwrap().clone();
    assert_eq!((next.outcome, next.pid), (Outcome::Asked, 8));
}

#[test]
fn an_unsigned_report_does_not_talk_over_a_signed_one() {
    let mut core = core();
    told(2, 9).tell(&mut core, at(0));
    Told { authenticated: false, ..told(2, 0) }.tell(&mut core, at(1));
    let figures = core.explain_nodes(at(2))[1].figures.unwrap();
    assert_eq!(figures.load(), 9.0);
}

#[test]
fn a_no_is_respected_for_longer_and_longer() {
    let mut core = core();
    let mut asked_at = Vec::new();
    for second in 0..40u64 {
        let now = at(second * 1000);
        told(1, 3).tell(&mut core, now);
        told(2, 0).tell(&mut core, now);
        core.handle(now, jobs(vec![job(7), job(8), job(9)]));
        if let Some((_, question)) = asked(&mut core) {
            asked_at.push(second);
            let no = Answer { accepted: false, reason: "not today".into(), ..yes(question.nonce) };
            core.handle(now, offer(2, Offer::Answer(no)));
        }
    }
    assert_eq!(asked_at, vec![0, 1, 3, 7, 15, 31]);
    let last = core.history().iter().next_back().unwrap();
    assert_eq!(last.outcome, Outcome::Refused { reason: "not today".into() });
}

#[test]
fn a_question_without_answer_is_put_twice_and_then_taken_back() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(10));
    core.handle(at(20), jobs(vec![job(7), job(8), job(9)]));
    let (_, question) = asked(&mut core).unwrap();
    assert_eq!(core.poll_timeout(), Some(at(320)));
    core.handle_timeout(at(320));
    assert_eq!(asked(&mut core), Some((node(2), question.clone())));
    core.handle_timeout(at(620));
    let taken_back = Ask { runnable_milli: 0, rss_bytes: 0, cpu_features: 0, ..question };
    assert_eq!(sent(&mut core), vec![(node(2), Offer::Ask(taken_back))]);
    assert_eq!(core.poll_timeout(), None);
}

#[test]
fn promises_count_in_the_next_answer_until_the_job_is_there_or_time_is_up() {
    let mut core = core();
    told(2, 5).tell(&mut core, at(0));
    core.handle(at(0), jobs(vec![]));
    let first = answer_to(&mut core, at(1), ask(1));
    assert!(first.accepted && first.promise_ms > 3000);
    assert_eq!(first.movable_milli, 0);
    // The same question again is the same promise.
    assert_eq!(answer_to(&mut core, at(2), ask(1)).movable_milli, 0);
    assert_eq!(answer_to(&mut core, at(3), ask(2)).movable_milli, 1000);
    // Two guests are promised, and two is the limit.
    let third = answer_to(&mut core, at(4), ask(3));
    assert_eq!((third.accepted, third.reason.as_str()), (false, "it has as many guests as it takes"));
    // One is taken back, the other arrives.
    core.handle(at(5), offer(2, Offer::Ask(Ask { runnable_milli: 0, ..ask(2) })));
    let guest = LocalJob { home: node(2), is_own: false, moves: 1, since_move: Some(at(0)), ..job(7) };
    core.handle(at(6), jobs(vec![guest.clone()]));
    assert_eq!(answer_to(&mut core, at(7), ask(4)).movable_milli, 1000);
    let over = at(8) + Duration::from_millis(u64::from(first.promise_ms));
    told(1, 1).tell(&mut core, over);
    told(2, 5).tell(&mut core, over);
    core.handle(over, jobs(vec![guest]));
    assert_eq!(answer_to(&mut core, over, ask(5)).movable_milli, 1000);
}

#[test]
fn a_job_may_always_come_home() {
    let admin = Admin { block: true, ..Admin::default() };
    let mut core = core();
    told(2, 5).tell(&mut core, at(0));
    core.handle(at(0), Input::Snapshot(Snapshot { jobs: vec![], admin }));
    assert!(!answer_to(&mut core, at(1), ask(1)).accepted);
    assert!(answer_to(&mut core, at(2), Ask { coming_home: true, ..ask(2) }).accepted);
}

#[test]
fn strangers_and_nodes_without_om_files_get_a_no_with_a_reason() {
    let mut core = core();
    let reason = |core: &mut Core, now| answer_to(core, now, ask(1)).reason;
    assert_eq!(reason(&mut core, at(1)), "it has no migration daemon");
    core.handle(at(2), jobs(vec![]));
    assert_eq!(reason(&mut core, at(3)), "it does not hear the asking node's omd");
    told(2, 5).tell(&mut core, at(4));
    assert_eq!(reason(&mut core, at(5)), "");
    assert_eq!(reason(&mut core, at(4001)), "its own omd is not heard");
}

#[test]
fn an_idle_node_invites_the_loaded_one_and_an_invitation_is_taken() {
    let mut idle = core();
    told(2, 3).tell(&mut idle, at(10));
    told(3, 2).tell(&mut idle, at(10));
    idle.handle(at(20), jobs(vec![]));
    let sent_by_idle = sent(&mut idle);
    let [(to, Offer::Invite(invite))] = &sent_by_idle[..] else { panic!("{sent_by_idle:?}") };
    assert_eq!((*to, invite.figures.movable_milli), (node(2), 0));
    idle.handle(at(30), jobs(vec![]));
    assert_eq!(sent(&mut idle), vec![], "not more than one a second");

    // The loaded node has old news of the idle one, and asks it nevertheless.
    let mut loaded = core();
    told(2, 3).tell(&mut loaded, at(10));
    loaded.handle(at(20), jobs(vec![job(7), job(8), job(9)]));
    assert_eq!(asked(&mut loaded), None);
    loaded.handle(at(30), offer(2, Offer::Invite(invite.clone())));
    assert_eq!(asked(&mut loaded).map(|(to, _)| to), Some(node(2)));
}

#[test]
fn a_dry_run_asks_promises_and_moves_nothing_and_tells_each_decision_once() {
    let mut core = core_with(Settings { has_key: true, dry_run: true, ..Settings::default() });
    told(1, 0).tell(&mut core, at(0));
    told(2, 0).tell(&mut core, at(0));
    for turn in 0..3 {
        core.handle(at(turn * 100), jobs(vec![job(7), job(8)]));
    }
    let told: Vec<Output> = outputs(&mut core);
    let [Output::Decided(decision)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(decision.outcome, Outcome::WouldMove);
    assert!(!answer_to(&mut core, at(400), ask(1)).accepted);
}

#[test]
fn of_a_job_that_is_away_another_scheduler_knows_why() {
    let mut core = core();
    told(2, 0).tell(&mut core, at(0));
    told(3, 0).tell(&mut core, at(0));
    let away = LocalJob { place: Place::Away(node(2)), ..job(7) };
    core.handle(at(10), jobs(vec![away, job(8)]));
    let away = core.explain_jobs(at(10)).remove(0);
    assert_eq!(away.refusal.as_deref(), Some("it runs on 10.77.0.2, and om-sched there decides about it"));
    assert_eq!(away.candidates, vec![]);
}

#[test]
fn why_tells_what_a_move_would_win_whatever_keeps_the_job() {
    let mut core = core_with(Settings { has_key: true, dry_run: true, ..Settings::default() });
    told(1, 0).tell(&mut core, at(0));
    told(2, 0).tell(&mut core, at(0));
    core.handle(at(10), jobs(vec![job(8), LocalJob { locked: true, ..job(9) }]));
    let jobs = core.explain_jobs(at(10));
    let [free, locked] = [0, 1].map(|index| jobs[index].candidates[0].weighing.unwrap());
    assert_eq!((free.here.movable, free.here.background, free.delta_j), (1.0, 1.0, 1.0));
    assert_eq!((locked.here.movable, locked.here.background, locked.delta_j), (2.0, 0.0, 2.0));
}

#[test]
fn why_names_gains_and_refusals() {
    let mut core = core_with(Settings { has_key: true, dry_run: true, ..Settings::default() });
    told(1, 0).tell(&mut core, at(0));
    told(2, 0).tell(&mut core, at(0));
    Told { migration: None, ..told(3, 0) }.tell(&mut core, at(0));
    let locked = LocalJob { locked: true, ..job(9) };
    core.handle(at(10), Input::Snapshot(Snapshot { jobs: vec![job(8), locked], admin: Admin::default() }));
    let jobs = core.explain_jobs(at(10));
    assert_eq!(jobs[1].refusal.as_deref(), Some("it is locked"));
    let candidates = &jobs[0].candidates;
    assert_eq!(candidates.len(), 2);
    let monitoring = candidates.iter().find(|it| it.address == node(3)).unwrap();
    assert_eq!(monitoring.refusal.as_deref(), Some("it has no migration daemon"));
    assert!(candidates.iter().find(|it| it.address == node(2)).unwrap().weighing.is_some());
}
