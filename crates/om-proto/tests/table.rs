//! The table of nodes, stepped through a time of its own.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::net::IpAddr;
use std::time::Duration;

use om_proto::key::ClusterKeys;
use om_proto::proof::{Challenge, Echo};
use om_proto::report::{Capacity, Identity, Load, Machine, Memory, Migration};
use om_proto::table::{Heard, NodeTable, TEXT_LIMIT, UNSIGNED_LIMIT};
use om_proto::wire::{DatagramWriter, Header, Kind, MAX_DATAGRAM, Reject};
use proptest::prelude::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(number: u32) -> IpAddr {
    IpAddr::from((0x0a4d_0000 + number).to_be_bytes())
}

/// A node that tells; each method gives the bytes of its next datagram.
struct Teller {
    address: IpAddr,
    epoch: u64,
    sequence: u64,
    keys: ClusterKeys,
    /// Goes into every report.
    echo: Option<Echo>,
}

impl Teller {
    fn new(number: u32) -> Self {
        Self { address: address(number), epoch: 1, sequence: 0, keys: ClusterKeys::none(), echo: None }
    }

    fn signed(number: u32) -> Self {
        Self { keys: ClusterKeys::for_tests(&[7]), ..Self::new(number) }
    }

    fn restarted(mut self, epoch: u64) -> Self {
        (self.epoch, self.sequence) = (epoch, 0);
        self
    }

    fn answering(mut self, challenge: &Challenge) -> Self {
        self.echo = Some(Echo { nonces: vec![[9; 8], challenge.nonce] });
        self
    }

    fn datagram(&mut self, kind: Kind, fill: impl Fn(&mut DatagramWriter<'_>)) -> Vec<u8> {
        self.sequence += 1;
        let (epoch, sequence, sender) = (self.epoch, self.sequence, self.address);
        let mut buffer = [0; MAX_DATAGRAM];
        let mut writer =
            DatagramWriter::new(&mut buffer, Header { kind, flags: 0, key_id: 0, epoch, sequence, sender });
        fill(&mut writer);
        if let Some(echo) = &self.echo {
            writer.section(echo).unwrap();
        }
        writer.finish(&self.keys).to_vec()
    }

    fn report(&mut self) -> Vec<u8> {
        self.datagram(Kind::Report, |writer| {
            writer.section(&a_load()).unwrap();
            writer.section(&Memory { available_kib: Some(1), swap_free_kib: None }).unwrap();
            writer.section(&a_migration()).unwrap();
        })
    }

    fn full_report(&mut self) -> Vec<u8> {
        self.full_report_of(&an_identity())
    }

    fn full_report_of(&mut self, identity: &Identity) -> Vec<u8> {
        self.datagram(Kind::Report, |writer| {
            writer.section(identity).unwrap();
            writer.section(&a_machine()).unwrap();
            writer.section(&a_capacity()).unwrap();
            writer.section(&a_load()).unwrap();
        })
    }

    fn goodbye(&mut self) -> Vec<u8> {
        self.datagram(Kind::Goodbye, |_| {})
    }
}

fn an_identity() -> Identity {
    Identity { host_name: "heron".to_owned(), boot_id: [1; 16], period_ms: 1000, addresses: vec![] }
}

fn a_machine() -> Machine {
    Machine {
        arch: "x86_64".to_owned(),
        kernel_release: "6.18.0".to_owned(),
        cpu_model: "Imaginary 3000".to_owned(),
        cpu_features: 1,
        online_cpus: 8,
        om_version: "0.1.0".to_owned(),
    }
}

fn a_capacity() -> Capacity {
    Capacity { effective_cpus_milli: 8_000, speed: 1000, mem_total_kib: None, swap_total_kib: None }
}

fn a_load() -> Load {
    Load {
        runnable: Some(2),
        exported_milli: None,
        smoothed_milli: None,
        busy_permille: None,
        steal_permille: None,
        psi_cpu_some_us: None,
        psi_memory_some_us: None,
        psi_io_some_us: None,
        processes: None,
    }
}

fn a_migration() -> Migration {
    Migration {
        guests: 0,
        guest_limit: 1,
        own_jobs: 0,
        block: false,
        stay: false,
        expel: false,
        bring: false,
    }
}

/// A table with keys, as a node of a cluster has it.
struct Ear {
    table: NodeTable,
    keys: ClusterKeys,
}

impl Ear {
    fn new() -> Self {
        Self { table: NodeTable::new([1; 32]), keys: ClusterKeys::for_tests(&[7]) }
    }

    /// A node that signs, and answers what is being asked at this moment.
    fn member(&mut self, now: u64, number: u32) -> Teller {
        Teller::signed(number).answering(&self.table.challenge(seconds(now)))
    }

    fn hear(&mut self, now: u64, bytes: &[u8]) -> Result<Heard, Reject> {
        self.table.receive(seconds(now), bytes, address(99), &self.keys)
    }
}

#[test]
fn a_node_is_kept_with_all_it_said() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1);
    assert_eq!(ear.hear(0, &node.full_report()), Ok(Heard::Joined(address(1))));
    assert_eq!(ear.hear(1, &node.report()), Ok(Heard::Updated(address(1))));
    let known = ear.table.get(address(1)).unwrap();
    assert_eq!(known.identity, Some(an_identity()));
    assert_eq!(known.machine.as_deref(), Some(&a_machine()));
    assert_eq!(known.capacity, Some(a_capacity()));
    assert_eq!(known.load, Some(a_load()));
    assert_eq!(known.migration, Some(a_migration()));
    assert_eq!((known.heard, known.heard_from, known.authenticated), (seconds(1), address(99), true));
}

#[test]
fn what_a_report_leaves_out_is_unknown_from_then_on() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1);
    ear.hear(0, &node.report()).unwrap();
    assert!(ear.table.get(address(1)).unwrap().migration.is_some());
    ear.hear(1, &node.full_report()).unwrap();
    assert!(ear.table.get(address(1)).unwrap().migration.is_none());
    assert!(ear.table.get(address(1)).unwrap().memory.is_none());
}

#[test]
fn a_copy_that_came_another_way_counts_once() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1);
    let first = node.report();
    let second = node.report();
    assert!(ear.hear(0, &first).is_ok());
    assert_eq!(ear.hear(0, &first), Err(Reject::NotNewer));
    assert!(ear.hear(1, &second).is_ok());
    assert_eq!(ear.hear(1, &first), Err(Reject::NotNewer));
    assert_eq!(ear.table.rejects().of(Reject::NotNewer), 2);
    assert_eq!(ear.table.rejects().bad(), 0);
}

#[test]
fn a_silent_node_goes_stale_after_three_of_its_periods_and_is_forgotten_after_ten() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1);
    ear.hear(0, &node.full_report()).unwrap();
    let slow = Identity { period_ms: 10_000, ..an_identity() };
    let mut node = ear.member(0, 2);
    ear.hear(0, &node.full_report_of(&slow)).unwrap();
    let stale = |ear: &Ear, number, now| ear.table.get(address(number)).unwrap().is_stale(seconds(now));
    assert!(!stale(&ear, 1, 3) && stale(&ear, 1, 4));
    assert!(!stale(&ear, 2, 30) && stale(&ear, 2, 31));
    ear.table.expire(seconds(10));
    assert_eq!(ear.table.len(), 2);
    ear.table.expire(seconds(11));
    assert_eq!(ear.table.iter().map(|node| node.address).collect::<Vec<_>>(), [address(2)]);
    ear.table.expire(seconds(101));
    assert!(ear.table.is_empty());
}

#[test]
fn a_goodbye_takes_a_node_out_at_once_and_a_late_report_does_not_bring_it_back() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1);
    ear.hear(0, &node.full_report()).unwrap();
    let late = node.report();
    assert_eq!(ear.hear(0, &node.goodbye()), Ok(Heard::Left(address(1))));
    assert!(ear.table.is_empty() && ear.table.get(address(1)).is_none());
    assert_eq!(ear.hear(0, &late), Err(Reject::NotNewer));
    assert!(ear.table.is_empty());
    let mut node = node.restarted(2).answering(&ear.table.challenge(seconds(1)));
    assert_eq!(ear.hear(1, &node.report()), Ok(Heard::Joined(address(1))));
    let known = ear.table.get(address(1)).unwrap();
    assert!(known.identity.is_none(), "nothing from before the goodbye");
}

#[test]
fn a_restarted_node_is_a_new_one() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1);
    ear.hear(0, &node.full_report()).unwrap();
    let mut node = node.restarted(2).answering(&ear.table.challenge(seconds(1)));
    assert_eq!(ear.hear(1, &node.report()), Ok(Heard::Updated(address(1))));
    assert!(ear.table.get(address(1)).unwrap().identity.is_none());
}

#[test]
fn an_epoch_that_nobody_has_proved_is_dropped_and_its_sender_asked_once_a_second() {
    let mut ear = Ear::new();
    let mut node = Teller::signed(1);
    assert_eq!(ear.hear(0, &node.full_report()), Err(Reject::UnprovenEpoch));
    assert!(ear.table.is_empty());
    let (asked, challenge) = ear.table.poll_question(seconds(0)).unwrap();
    assert_eq!(asked, address(1));
    assert_eq!(ear.hear(0, &node.report()), Err(Reject::UnprovenEpoch));
    assert_eq!(ear.table.poll_question(seconds(0)), None);
    assert_eq!(ear.hear(1, &node.report()), Err(Reject::UnprovenEpoch));
    assert!(ear.table.poll_question(seconds(1)).is_some());
    let mut node = node.answering(&challenge);
    assert_eq!(ear.hear(1, &node.full_report()), Ok(Heard::Joined(address(1))));
    node.echo = None;
    assert_eq!(ear.hear(2, &node.report()), Ok(Heard::Updated(address(1))));
    assert_eq!(ear.table.rejects().bad(), 0);
}

#[test]
fn a_node_whose_clock_is_wrong_by_a_year_is_taken_with_its_first_answer() {
    const YEAR_US: u64 = 365 * 86_400 * 1_000_000;
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1).restarted(5 * YEAR_US);
    ear.hear(0, &node.full_report()).unwrap();
    for (now, epoch) in [(1, 4 * YEAR_US), (2, 6 * YEAR_US), (3, 1)] {
        let mut node = Teller::signed(1).restarted(epoch);
        assert_eq!(ear.hear(now, &node.report()), Err(Reject::UnprovenEpoch));
        let (_, challenge) = ear.table.poll_question(seconds(now)).unwrap();
        let mut node = node.answering(&challenge);
        assert_eq!(ear.hear(now, &node.report()), Ok(Heard::Updated(address(1))));
        assert_eq!(ear.table.get(address(1)).unwrap().epoch(), epoch);
    }
}

#[test]
fn what_was_recorded_before_a_restart_of_the_node_or_of_the_listener_is_worthless() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1).restarted(100);
    let recorded: Vec<Vec<u8>> = (0..5).map(|_| node.full_report()).collect();
    for report in &recorded {
        ear.hear(0, report).unwrap();
    }
    // The node has been restarted, with its clock set back even; the old reports hold an answer that was good once.
    let mut node = Teller::signed(1).restarted(50).answering(&ear.table.challenge(seconds(1)));
    ear.hear(1, &node.report()).unwrap();
    for report in &recorded {
        assert_eq!(ear.hear(1, report), Err(Reject::UnprovenEpoch));
    }
    // The listener has been restarted; nobody of this name lives any more.
    let mut ear = Ear { table: NodeTable::new([2; 32]), ..Ear::new() };
    for report in &recorded {
        assert_eq!(ear.hear(0, report), Err(Reject::UnprovenEpoch));
    }
    assert!(ear.table.is_empty());
}

#[test]
fn a_recorded_goodbye_of_an_earlier_start_takes_nobody_out() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1).restarted(100);
    ear.hear(0, &node.full_report()).unwrap();
    let goodbye = node.goodbye();
    let mut node = node.restarted(50).answering(&ear.table.challenge(seconds(1)));
    ear.hear(1, &node.full_report()).unwrap();
    assert_eq!(ear.hear(1, &goodbye), Err(Reject::UnprovenEpoch));
    assert_eq!((ear.table.len(), ear.table.poll_question(seconds(1))), (1, None));
}

#[test]
fn without_keys_a_node_whose_clock_was_set_back_is_taken_once_its_old_self_is_stale() {
    let mut ear = Ear { keys: ClusterKeys::none(), ..Ear::new() };
    ear.hear(0, &Teller::new(1).restarted(1000).full_report()).unwrap();
    let mut node = Teller::new(1).restarted(500);
    assert_eq!(ear.hear(3, &node.full_report()), Err(Reject::NotNewer));
    assert_eq!(ear.hear(4, &node.full_report()), Ok(Heard::Updated(address(1))));
    assert_eq!(ear.hear(5, &node.full_report()), Ok(Heard::Updated(address(1))));
}

#[test]
fn an_unsigned_datagram_never_touches_a_signed_node() {
    let mut ear = Ear::new();
    let mut node = ear.member(0, 1);
    ear.hear(0, &node.full_report()).unwrap();
    let mut liar = Teller::new(1).restarted(9);
    assert_eq!(ear.hear(1, &liar.goodbye()), Err(Reject::Downgrade));
    assert_eq!(ear.hear(1, &liar.full_report()), Err(Reject::Downgrade));
    assert!(ear.table.get(address(1)).unwrap().authenticated);
}

#[test]
fn a_signed_datagram_takes_an_unsigned_node_over_whatever_it_counted() {
    let mut ear = Ear::new();
    ear.hear(0, &Teller::new(1).restarted(u64::MAX).full_report()).unwrap();
    assert!(!ear.table.get(address(1)).unwrap().authenticated);
    let mut node = ear.member(0, 1);
    assert_eq!(ear.hear(0, &node.report()), Ok(Heard::Updated(address(1))));
    let known = ear.table.get(address(1)).unwrap();
    assert!(known.authenticated && known.identity.is_none());
}

#[test]
fn in_a_full_table_strangers_make_room_for_members_and_never_the_other_way_round() {
    let mut ear = Ear::new();
    ear.table = NodeTable::with_limit(4, [1; 32]);
    for number in 0..4 {
        ear.hear(0, &Teller::new(number).report()).unwrap();
    }
    assert_eq!(ear.hear(0, &Teller::new(4).report()), Err(Reject::TableFull));
    for number in 10..14 {
        let mut member = ear.member(0, number);
        assert_eq!(ear.hear(0, &member.report()), Ok(Heard::Joined(address(number))));
        assert_eq!(ear.table.len(), 4);
    }
    assert!(ear.table.iter().all(|node| node.authenticated));
    let mut member = ear.member(0, 14);
    assert_eq!(ear.hear(0, &member.report()), Err(Reject::TableFull));
    ear.table.expire(seconds(20));
    assert_eq!(ear.hear(20, &Teller::new(4).report()), Ok(Heard::Joined(address(4))));
}

#[test]
fn where_there_are_keys_invented_nodes_take_little_room() {
    let mut ear = Ear::new();
    let taken = (0..10_000).filter(|number| ear.hear(0, &Teller::new(*number).full_report()).is_ok()).count();
    assert_eq!((taken, ear.table.len()), (UNSIGNED_LIMIT, UNSIGNED_LIMIT));
    let mut member = ear.member(0, 20_000);
    assert_eq!(ear.hear(0, &member.report()), Ok(Heard::Joined(address(20_000))));
}

#[test]
fn an_address_that_is_no_nodes_is_refused() {
    let mut ear = Ear::new();
    for address in ["0.0.0.0", "::", "224.0.0.181", "ff02::1", "255.255.255.255"] {
        let mut node = Teller { address: address.parse().unwrap(), ..Teller::signed(1) };
        assert_eq!(ear.hear(0, &node.report()), Err(Reject::BadSender), "{address}");
    }
}

#[test]
fn questions_leave_the_table_as_it_is() {
    let mut ear = Ear::new();
    let ask = Teller::signed(1).datagram(Kind::Ask, |_| {});
    assert_eq!(ear.hear(0, &ask), Ok(Heard::Nothing));
    assert!(ear.table.is_empty());
}

#[test]
fn texts_are_kept_short_and_without_control_characters() {
    let mut ear = Ear::new();
    let rude =
        Identity { host_name: format!("\u{1b}[2J{}", "ü".repeat(300)), period_ms: 0, ..an_identity() };
    ear.hear(0, &Teller::new(1).full_report_of(&rude)).unwrap();
    let known = ear.table.get(address(1)).unwrap();
    let name = &known.identity.as_ref().unwrap().host_name;
    assert!(name.starts_with("[2J") && name.chars().count() == TEXT_LIMIT);
    assert_eq!(known.period(), Duration::from_millis(100), "a period of 0 would make every node stale");
}

#[test]
fn nodes_come_in_the_order_of_their_addresses() {
    let mut ear = Ear::new();
    for number in [300, 2, 10, 1] {
        let mut member = ear.member(0, number);
        ear.hear(0, &member.report()).unwrap();
    }
    let order: Vec<IpAddr> = ear.table.iter().map(|node| node.address).collect();
    assert_eq!(order, [1, 2, 10, 300].map(address));
}

/// One thing that may happen to a table.
#[derive(Clone, Debug)]
enum Step {
    Report { node: u32, epoch: u64, sequence: u64, signed: bool, answers: bool },
    Goodbye { node: u32, epoch: u64, sequence: u64, signed: bool },
    Wait(u64),
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = (0u32..6, 1u64..4, 0u64..8, any::<bool>(), any::<bool>());
    let step = prop_oneof![
        4 => node.clone().prop_map(|(node, epoch, sequence, signed, answers)| {
            Step::Report { node, epoch, sequence, signed, answers }
        }),
        1 => node.prop_map(|(node, epoch, sequence, signed, _)| Step::Goodbye { node, epoch, sequence, signed }),
        2 => (0u64..5).prop_map(Step::Wait),
        1 => Just(Step::Expire),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn whatever_happens_the_table_stays_within_its_rules(steps in steps()) {
        let mut ear = Ear::new();
        ear.table = NodeTable::with_limit(4, [1; 32]);
        let mut now = 0;
        for step in steps {
            match step {
                Step::Report { node, epoch, sequence, signed, answers } => {
                    let mut teller = if signed { Teller::signed(node) } else { Teller::new(node) };
                    if answers {
                        teller = teller.answering(&ear.table.challenge(seconds(now)));
                    }
                    let before = ear.table.get(address(node)).cloned();
                    let heard = ear.hear(now, &Teller { epoch, sequence, ..teller }.report());
                    match (before, heard) {
                        (Some(before), Err(_)) => prop_assert_eq!(Some(&before), ear.table.get(address(node))),
                        (_, Ok(_)) => prop_assert_eq!(ear.table.get(address(node)).unwrap().heard, seconds(now)),
                        (None, Err(_)) => prop_assert!(ear.table.get(address(node)).is_none()),
                    }
                }
                Step::Goodbye { node, epoch, sequence, signed } => {
                    let teller = if signed { Teller::signed(node) } else { Teller::new(node) };
                    if let Ok(Heard::Left(left)) = ear.hear(now, &Teller { epoch, sequence, ..teller }.goodbye()) {
                        prop_assert!(ear.table.get(left).is_none());
                    }
                }
                Step::Wait(time) => now += time,
                Step::Expire => {
                    ear.table.expire(seconds(now));
                    prop_assert!(ear.table.iter().all(|node| node.silence(seconds(now)) <= seconds(10)));
                }
            }
            prop_assert!(ear.table.len() <= 4);
        }
    }
}
