//! The core, stepped through a time of its own.

use om_proto::report::{Load, Memory, Migration};
use om_proto::wire::Datagram;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> Settings {
    Settings { period: SECOND, smoothing: SECOND * 2 }
}

fn a_node(number: u8) -> Node {
    Node {
        name: IpAddr::from([10, 77, 0, number]),
        epoch: 5,
        identity: Identity {
            host_name: "heron".to_owned(),
            boot_id: [1; 16],
            period_ms: 1000,
            addresses: vec![IpAddr::from([10, 77, 0, number])],
        },
        machine: Machine {
            arch: "x86_64".to_owned(),
            kernel_release: "6.18.0".to_owned(),
            cpu_model: "Imaginary 3000".to_owned(),
            cpu_features: 1,
            online_cpus: 2,
            om_version: "0.1.0".to_owned(),
        },
        seed: u64::from(number),
    }
}

fn a_sample() -> Sample {
    Sample {
        capacity: Capacity {
            effective_cpus_milli: 2000,
            speed: 1000,
            mem_total_kib: Some(8 << 20),
            swap_total_kib: Some(0),
        },
        load: Load {
            runnable: Some(1),
            exported_milli: None,
            smoothed_milli: None,
            busy_permille: Some(500),
            steal_permille: Some(0),
            psi_cpu_some_us: Some(1 << 40),
            psi_memory_some_us: Some(1 << 30),
            psi_io_some_us: Some(1 << 30),
            processes: Some(1000),
        },
        memory: Memory { available_kib: Some(4 << 20), swap_free_kib: Some(0) },
        migration: Some(Migration {
            guests: 3,
            guest_limit: 64,
            own_jobs: 2,
            block: false,
            stay: false,
            expel: false,
            bring: false,
        }),
    }
}

/// A core, its time, and everything it has sent: when, what, to whom.
struct Stage {
    core: Core,
    now: Duration,
    sample: Sample,
    samples: usize,
    sent: Vec<(Duration, Vec<u8>, Route)>,
}

impl Stage {
    fn new(number: u8) -> Self {
        let core = Core::new(Duration::ZERO, settings(), ClusterKeys::for_tests(&[7]), a_node(number));
        let mut stage = Self { core, now: Duration::ZERO, sample: a_sample(), samples: 0, sent: Vec::new() };
        stage.drain();
        stage
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Sample => {
                    self.samples += 1;
                    self.core.handle_sample(self.now, self.sample.clone());
                }
                Output::Send { bytes, route } => self.sent.push((self.now, bytes, route)),
            }
        }
    }

    fn run_until(&mut self, end: Duration) {
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            assert!(due >= self.now || self.samples == 0, "the core wants to go back in time");
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.now = self.now.max(end);
    }

    fn ask(&mut self, from: Option<IpAddr>) {
        self.core.handle_ask(self.now, from, None);
        self.drain();
    }

    fn challenge(&mut self, nonce: u16) {
        self.core.handle_ask(self.now, None, Some(nonce_of(nonce)));
        self.drain();
    }

    /// What has been echoed to everybody since, and in how many datagrams.
    fn echoed(&self, since: Duration) -> (Vec<Nonce>, usize) {
        let told = self.sent.iter().filter(|(at, _, route)| *at > since && *route == Route::All);
        let echoes: Vec<Echo> = told.filter_map(|(_, bytes, _)| decode(bytes).section()).collect();
        let count = echoes.len();
        let mut nonces: Vec<Nonce> = echoes.into_iter().flat_map(|echo| echo.nonces).collect();
        nonces.sort_unstable();
        (nonces, count)
    }

    fn kinds(&self) -> Vec<Kind> {
        self.sent.iter().map(|(_, bytes, _)| decode(bytes).header.kind).collect()
    }
}

fn nonce_of(number: u16) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[..2].copy_from_slice(&number.to_be_bytes());
    nonce
}

fn decode(bytes: &[u8]) -> Datagram<'_> {
    Datagram::decode(bytes, &ClusterKeys::for_tests(&[7])).unwrap()
}

fn is_full(bytes: &[u8]) -> bool {
    let datagram = decode(bytes);
    datagram.section::<Identity>().is_some()
        && datagram.section::<Machine>().is_some()
        && datagram.section::<Capacity>().is_some()
}

#[test]
fn at_its_start_a_node_asks_and_tells_everything_at_once() {
    let mut stage = Stage::new(1);
    stage.run_until(Duration::ZERO);
    assert_eq!(stage.kinds(), [Kind::Ask, Kind::Report]);
    assert!(is_full(&stage.sent[1].1));
    let datagram = decode(&stage.sent[1].1);
    assert!(datagram.authenticated);
    assert_eq!(datagram.section::<Load>().unwrap().exported_milli, Some(1000));
    assert_eq!(datagram.section(), stage.sample.migration);
}

#[test]
fn reports_come_once_a_period_on_average_and_never_in_step() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 100);
    let times: Vec<f64> = stage.sent[1..].iter().map(|(at, ..)| at.as_secs_f64()).collect();
    assert!((95..=106).contains(&times.len()), "{}", times.len());
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (0.9..1.1).contains(gap)));
    assert!(gaps.windows(2).any(|pair| (pair[0] - pair[1]).abs() > 0.01));

    let mut other = Stage::new(2);
    other.run_until(SECOND * 100);
    assert_ne!(stage.sent[50].0, other.sent[50].0);
}

#[test]
fn a_node_sends_few_bytes() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 60);
    let bytes: usize = stage.sent.iter().map(|(_, bytes, _)| bytes.len()).sum();
    // Each goes out over IPv4 and IPv6.
    assert!(2 * bytes / 60 <= 300, "{} bytes a second", 2 * bytes / 60);
}

#[test]
fn sequences_only_grow() {
    let mut stage = Stage::new(1);
    stage.ask(None);
    stage.run_until(SECOND * 5);
    let sequences: Vec<u64> = stage.sent.iter().map(|(_, bytes, _)| decode(bytes).header.sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
}

#[test]
fn a_question_is_answered_in_full_within_a_quarter_of_a_second() {
    let mut spread = Vec::new();
    for number in 1..=200 {
        let mut stage = Stage::new(number);
        stage.run_until(Duration::from_millis(5_300));
        let before = stage.sent.len();
        stage.ask(None);
        stage.run_until(stage.now + Duration::from_millis(250));
        let answer = stage.sent[before..].iter().find(|(_, bytes, _)| is_full(bytes)).unwrap();
        assert_eq!(answer.2, Route::All);
        spread.push(answer.0 - Duration::from_millis(5_300));
    }
    assert!(spread.iter().all(|delay| *delay <= ANSWER_WITHIN));
    let early = spread.iter().filter(|delay| **delay < ANSWER_WITHIN / 2).count();
    assert!((60..=140).contains(&early), "{early} of 200 answered in the first half");
}

#[test]
fn many_questions_at_once_get_one_answer_and_a_flood_of_them_a_few() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 10);
    let before = stage.sent.len();
    for _ in 0..100 {
        stage.ask(None);
    }
    stage.run_until(SECOND * 10 + ANSWER_WITHIN);
    assert!((1..=2).contains(&(stage.sent.len() - before)));
    for _ in 0..10_000 {
        stage.ask(None);
        stage.run_until(stage.now + Duration::from_millis(1));
    }
    assert!(stage.sent.len() - before <= 11 + 8 + 20 + 2, "{}", stage.sent.len() - before);
    assert!(stage.samples < 60, "{} samples", stage.samples);
}

#[test]
fn who_asks_by_unicast_is_answered_by_unicast() {
    let mut stage = Stage::new(1);
    stage.run_until(Duration::from_millis(200));
    let before = stage.sent.len();
    let asker = IpAddr::from([192, 168, 0, 9]);
    stage.ask(Some(asker));
    stage.ask(Some(asker));
    stage.run_until(Duration::from_millis(400));
    let routes: Vec<Route> = stage.sent[before..].iter().map(|(.., route)| *route).collect();
    assert_eq!(routes, [Route::One(asker)]);
    assert!(is_full(&stage.sent[before].1));
}

#[test]
fn a_new_capacity_is_told_with_the_next_report() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 4);
    let before = stage.sent.len();
    stage.sample.capacity.effective_cpus_milli = 500;
    stage.run_until(SECOND * 6);
    let told: Option<Capacity> = decode(&stage.sent[before].1).section();
    assert_eq!(told.unwrap().effective_cpus_milli, 500);
    assert!(decode(&stage.sent[before + 1].1).section::<Capacity>().is_none());
}

#[test]
fn a_monitoring_node_sends_no_migration_section() {
    let mut stage = Stage::new(1);
    stage.sample.migration = None;
    stage.run_until(SECOND * 40);
    assert!(stage.sent.iter().all(|(_, bytes, _)| decode(bytes).section::<Migration>().is_none()));
}

#[test]
fn a_goodbye_is_the_last_word() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 3);
    stage.ask(None);
    stage.core.handle_stop();
    stage.drain();
    assert_eq!(stage.kinds().last(), Some(&Kind::Goodbye));
    let count = stage.sent.len();
    stage.ask(None);
    stage.core.handle_new_network(stage.now);
    stage.core.handle_sample(stage.now, a_sample());
    stage.core.handle_stop();
    stage.run_until(SECOND * 60);
    assert_eq!(stage.sent.len(), count);
    assert_eq!(stage.core.poll_timeout(), None);
}

#[test]
fn a_stop_in_the_middle_of_a_sample_still_says_goodbye() {
    let mut stage = Stage::new(1);
    stage.core.handle_timeout(Duration::ZERO);
    assert_eq!(stage.core.poll_output(), Some(Output::Sample));
    stage.core.handle_stop();
    stage.core.handle_sample(Duration::ZERO, a_sample());
    stage.drain();
    assert_eq!(stage.kinds(), [Kind::Ask, Kind::Goodbye]);
}

#[test]
fn on_a_new_network_the_node_asks_and_introduces_itself() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 3);
    let before = stage.sent.len();
    stage.core.handle_new_network(stage.now);
    stage.drain();
    stage.run_until(stage.now);
    assert_eq!(stage.kinds()[before..], [Kind::Ask, Kind::Report]);
    assert!(is_full(&stage.sent[before + 1].1));
}

#[test]
fn a_renamed_node_says_goodbye_under_its_old_name() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 3);
    let before = stage.sent.len();
    let name = IpAddr::from([10, 0, 0, 9]);
    stage.core.handle_rename(stage.now, name);
    stage.drain();
    stage.run_until(stage.now);
    assert_eq!(stage.kinds()[before..], [Kind::Goodbye, Kind::Report]);
    assert_eq!(decode(&stage.sent[before].1).header.sender, IpAddr::from([10, 77, 0, 1]));
    assert_eq!(decode(&stage.sent[before + 1].1).header.sender, name);
}

#[test]
fn a_changed_host_name_is_told_at_once_and_an_unchanged_one_is_not() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 3);
    let node = a_node(1);
    let before = stage.sent.len();
    stage.core.handle_node(stage.now, node.identity.clone(), node.machine.clone());
    stage.run_until(stage.now);
    assert_eq!(stage.sent.len(), before);
    let identity = Identity { host_name: "egret".to_owned(), ..node.identity };
    stage.core.handle_node(stage.now, identity.clone(), node.machine);
    stage.run_until(stage.now);
    assert_eq!(decode(&stage.sent[before].1).section(), Some(identity));
}

#[test]
fn a_node_knows_its_own_datagrams() {
    let stage = Stage::new(1);
    assert!(stage.core.is_own(&decode(&stage.sent[0].1).header));
    assert!(!stage.core.is_own(&decode(&Stage::new(2).sent[0].1).header));
}

#[test]
fn all_who_ask_for_a_proof_get_it_in_one_answer_to_everybody() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND / 2);
    let since = stage.now;
    (0..70).for_each(|nonce| stage.challenge(nonce));
    stage.run_until(since + ANSWER_WITHIN);
    let all: Vec<Nonce> = (0..70).map(nonce_of).collect();
    assert_eq!(stage.echoed(since), (all, 3));
    let first = stage.sent.iter().find(|(at, ..)| *at > since).unwrap();
    assert!(first.1.len() <= MAX_DATAGRAM && is_full(&first.1));
    let since = stage.now;
    stage.run_until(since + SECOND * 2);
    assert_eq!(stage.echoed(since), (Vec::new(), 0), "a proof is given once");
}

#[test]
fn a_flood_of_questions_keeps_nobody_from_a_proof_within_a_period() {
    let mut stage = Stage::new(1);
    stage.run_until(SECOND * 2);
    for _ in 0..2000 {
        let next = stage.now + Duration::from_millis(1);
        stage.run_until(next);
        stage.ask(None);
    }
    let since = stage.now;
    (0..u16::MAX).for_each(|nonce| stage.challenge(nonce));
    stage.run_until(since + SECOND * 11 / 10);
    let (nonces, count) = stage.echoed(since);
    assert_eq!((nonces.len(), count), (CHALLENGE_LIMIT, 16));
}
