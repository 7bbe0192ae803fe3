//! A core that is spoken to by hand.

use std::net::IpAddr;
use std::time::Duration;

use om_proto::offer::{Answer, Ask};
use om_sched::Time;
use om_sched::core::{Core, Input, Output};
use om_sched::job::{Admin, LocalJob, Snapshot};
use om_sched::offer::Offer;
use om_sched::policy::{Cost, Policy, Proposal};
use om_sched::random::Random;
use om_sched::settings::Settings;
use om_sched::view::View;

use crate::heard::local_job;
pub(crate) use crate::told::Told;

pub(crate) fn node(last: u8) -> IpAddr {
    IpAddr::from([10, 77, 0, last])
}

pub(crate) fn at(ms: u64) -> Time {
    Duration::from_millis(ms)
}

/// Node `last` as it tells of itself.
pub(crate) fn told(last: u8, runnable: u32) -> Told {
    Told::new(node(last), runnable)
}

/// A job of node 1.
pub(crate) fn job(pid: u32) -> LocalJob {
    local_job(pid, node(1))
}

pub(crate) fn jobs(jobs: Vec<LocalJob>) -> Input<'static> {
    Input::Snapshot(Snapshot { jobs, admin: Admin::default() })
}

/// Wants every job on nodes 2 and 3, at once and twice, and nothing changes its mind.
pub(crate) struct Stubborn;

impl Policy for Stubborn {
    fn decide(&mut self, _now: Time, _view: &View, _random: &mut Random) -> Vec<Proposal> {
        let pairs = (7..10).flat_map(|pid| [(pid, node(2)), (pid, node(3)), (pid, node(2))]);
        let propose = |(pid, to)| Proposal { pid, to, reason: "I want it".into(), weighing: None };
        pairs.map(propose).collect()
    }
}

pub(crate) fn core_with(settings: Settings) -> Core {
    core_of(settings, Box::new(Cost::default()))
}

pub(crate) fn core_of(settings: Settings, policy: Box<dyn Policy>) -> Core {
    let mut core = Core::new(settings, policy, Random::from_seed(1));
    core.handle(at(0), Input::Here(node(1)));
    core
}

/// Node 1, with a key; its own report has been heard.
pub(crate) fn core() -> Core {
    let mut core = core_with(Settings { has_key: true, ..Settings::default() });
    told(1, 0).tell(&mut core, at(0));
    core
}

pub(crate) fn sent(core: &mut Core) -> Vec<(IpAddr, Offer)> {
    outputs(core)
        .into_iter()
        .filter_map(|it| if let Output::Send { to, offer } = it { Some((to, offer)) } else { None })
        .collect()
}

pub(crate) fn outputs(core: &mut Core) -> Vec<Output> {
    std::iter::from_fn(|| core.poll_output()).collect()
}

pub(crate) fn asked(core: &mut Core) -> Option<(IpAddr, Ask)> {
    sent(core).into_iter().find_map(|(to, offer)| match offer {
        Offer::Ask(ask) if ask.runnable_milli > 0 => Some((to, ask)),
        _ => None,
    })
}

pub(crate) fn ask(nonce: u64) -> Ask {
    Ask { nonce, rss_bytes: 8 << 20, runnable_milli: 1000, cpu_features: 77, coming_home: false }
}

pub(crate) fn yes(nonce: u64) -> Answer {
    Answer {
        nonce,
        accepted: true,
        reason: String::new(),
        movable_milli: 0,
        background_milli: 0,
        effective_cpus_milli: 1000,
        speed: 1000,
        promise_ms: 3000,
    }
}

pub(crate) fn offer(from: u8, offer: Offer) -> Input<'static> {
    Input::Offer { from: node(from), authenticated: true, offer }
}

/// What this node answers to a question of node 2.
pub(crate) fn answer_to(core: &mut Core, now: Time, ask: Ask) -> Answer {
    core.handle(now, offer(2, Offer::Ask(ask)));
    sent(core)
        .into_iter()
        .find_map(|(to, offer)| match offer {
            Offer::Answer(answer) => {
                assert_eq!(to, node(2));
                Some(answer)
            }
            _ => None,
        })
        .unwrap()
}

/// Who is asked when three jobs compete here and node 2 is as told.
pub(crate) fn asked_with(core: &mut Core, two: &Told) -> Option<IpAddr> {
    two.tell(core, at(10));
    core.handle(at(20), jobs(vec![job(7), job(8), job(9)]));
    asked(core).map(|(to, _)| to)
}
