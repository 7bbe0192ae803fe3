//! `om move`: asks for a move through the om files and follows it to its end.
//!
//! ```text
//!  asked ──▶ queued, migrating ──▶ where it was to go, or no entry any more (a guest that went on): done
//!    │                 └─────────▶ where it was: failed, and `result` says why
//!    └─ still where it was, and nothing happens for some seconds: refused in silence, as some kernels do
//! ```

use std::net::IpAddr;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use om_proto::omfs::{Destination, Mode, MoveRequest, MoveResult, OmError, OmProcess, OmRoot, Where};

use crate::cli::{HearingArgs, MoveArgs};
use crate::ear::Ear;
use crate::error::Failure;
use crate::job::{Job, Reader};
use crate::node::NodeSeen;

/// How often a move is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// `where` may tell of the arrival a little before `result` tells how it went.
const RESULT_COMES_WITHIN: Duration = Duration::from_millis(500);
/// A request that shows no effect for this long was refused in silence.
const SILENT_REFUSAL: Duration = Duration::from_secs(3);
/// om-migd may be restarted during a move; for so long its files may be missing.
const PATIENCE_WITHOUT_DAEMON: Duration = Duration::from_secs(10);

/// Moves a job.
pub fn run(root: &OmRoot, args: &MoveArgs) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::of_job(root.path(), args.pid, error);
    let job = Reader::new(root).job(args.pid).map_err(failed)?;
    let destination = match choose(&args.to, &job, &args.hearing)? {
        Choice::Go(destination) => destination,
        Choice::StayHere(why) => {
            println!("{}: {why}", args.pid);
            return Ok(ExitCode::SUCCESS);
        }
    };
    if !job.guest && is_at(&job, destination) {
        println!("{}: is {} already", args.pid, at(&job.place));
        return Ok(ExitCode::SUCCESS);
    }
    let process = root.process(args.pid);
    let follow = Follow::new(&process, &job, destination).map_err(failed)?;
    let mode = args.lazy.then_some(Mode::Lazy);
    process.request(MoveRequest { to: destination, mode }).map_err(failed)?;
    if args.no_wait {
        println!("{}: asked to move {}", args.pid, to(destination));
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: {}", args.pid, follow.to_the_end(root)?);
    Ok(ExitCode::SUCCESS)
}

/// What `ADDR|home|best` comes to.
enum Choice {
    Go(Destination),
    StayHere(String),
}

fn choose(word: &str, job: &Job, hearing: &HearingArgs) -> Result<Choice, Failure> {
    if let Ok(destination) = word.parse::<Destination>() {
        return Ok(Choice::Go(destination));
    }
    let is_no_name = word.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':')
        || word.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_no_name {
        return Err(Failure::Usage(format!(
            "'{word}' is no address, no node's name, and neither home nor best"
        )));
    }
    let nodes = Ear::hear(hearing)?.nodes();
    if word == "best" { best(&nodes, job) } else { by_name(&nodes, word).map(Choice::Go) }
}

/// The node where the job would run fastest, by what the nodes tell.
fn best(nodes: &[NodeSeen], job: &Job) -> Result<Choice, Failure> {
    let home = job.home_address;
    let present = match (job.guest, job.place.parse()) {
        (false, Ok(Where::At(address))) => Some(address),
        (false, _) => home,
        (true, _) => nodes.iter().find(|node| node.here).map(|node| node.address),
    };
    // It is part of the load where it is, and is not counted twice there.
    let here = nodes.iter().find(|node| Some(node.address) == present);
    let slowdown_here = here.and_then(|node| {
        let more = node.slowdown_with_one_more()?;
        let (load, cpus, speed) = (node.load?, node.effective_cpus?, f64::from(node.speed?));
        Some((load.max(1.0) / cpus).max(1.0) * 1000.0 / speed).filter(|now| *now <= more)
    });
    let others = nodes.iter().filter(|node| Some(node.address) != present);
    // Home takes back its own whatever its switches say.
    let candidates =
        others.filter(|node| node.takes_guests() || (Some(node.address) == home && node.migrates));
    let rated = candidates.filter_map(|node| Some((node, node.slowdown_with_one_more()?)));
    let Some((node, slowdown)) = rated.min_by(|(_, one), (_, other)| one.total_cmp(other)) else {
        return Err(Failure::Refused(
            "no other node is heard that takes guests; om nodes shows who is there".into(),
        ));
    };
    if slowdown_here.is_some_and(|here| here <= slowdown) {
        return Ok(Choice::StayHere("is on the best node already".into()));
    }
    Ok(Choice::Go(if Some(node.address) == home { Destination::Home } else { node.address.into() }))
}

fn by_name(nodes: &[NodeSeen], name: &str) -> Result<Destination, Failure> {
    let called: Vec<IpAddr> = nodes
        .iter()
        .filter(|node| node.host_name.as_deref() == Some(name))
        .map(|node| node.address)
        .collect();
    match called.as_slice() {
        [address] => Ok((*address).into()),
        [] => Err(Failure::Refused(format!("no node called {name} is heard; om nodes shows who is there"))),
        several => {
            let list: Vec<String> = several.iter().map(IpAddr::to_string).collect();
            Err(Failure::Refused(format!("several nodes are called {name}: say which ({})", list.join(", "))))
        }
    }
}

fn is_at(job: &Job, destination: Destination) -> bool {
    match (job.place.parse(), destination) {
        (Ok(Where::Home), Destination::Home) => true,
        (Ok(Where::Home), Destination::Node(address)) => job.home_address == Some(address),
        (Ok(Where::At(address)), Destination::Node(wanted)) => address == wanted,
        _ => false,
    }
}

/// A move that has been asked for.
struct Follow<'a> {
    process: &'a OmProcess<'a>,
    from: Where,
    to: Destination,
    last_result: Option<MoveResult>,
    guest: bool,
}

impl<'a> Follow<'a> {
    fn new(process: &'a OmProcess<'a>, job: &Job, to: Destination) -> Result<Self, OmError> {
        Ok(Self { process, from: process.where_is()?, to, last_result: process.result()?, guest: job.guest })
    }

    /// Waits for the end; what there is to tell about a move that went well.
    fn to_the_end(&self, root: &OmRoot) -> Result<String, Failure> {
        let pid = self.process.pid();
        let begin = Instant::now();
        let mut seen_moving = false;
        let mut heard = begin;
        loop {
            match self.look() {
                Ok((Where::Queued | Where::Migrating, _)) => {
                    seen_moving = true;
                    heard = Instant::now();
                }
                Ok((place, news)) => {
                    heard = Instant::now();
                    if place != self.from {
                        return Ok(arrived(place, self.result_soon(news).as_ref()));
                    }
                    match news {
                        Some(MoveResult::Failed { reason, .. }) => {
                            return Err(Failure::Job {
                                pid,
                                what: format!("stays {}: {reason}", at(&place.to_string())),
                            });
                        }
                        // To where it was already, after a detour that was too short to be seen.
                        Some(MoveResult::Ok { .. }) => return Ok(arrived(place, news.as_ref())),
                        None if seen_moving || begin.elapsed() >= SILENT_REFUSAL => {
                            return Err(self.refused(pid));
                        }
                        None => {}
                    }
                }
                Err(OmError::Gone { .. }) if self.guest => return Ok(format!("has gone {}", to(self.to))),
                Err(OmError::Gone { .. }) => {
                    return Err(Failure::Job { pid, what: "the job ended before it was moved".into() });
                }
                Err(error) if error.is_retriable() && heard.elapsed() < PATIENCE_WITHOUT_DAEMON => {}
                Err(error) => return Err(Failure::of_job(root.path(), pid, error)),
            }
            sleep(LOOK_EVERY);
        }
    }

    /// Where it is, and how its last move went if that is news.
    fn look(&self) -> Result<(Where, Option<MoveResult>), OmError> {
        let place = self.process.where_is()?;
        Ok((place, self.process.result()?.filter(|result| Some(result) != self.last_result.as_ref())))
    }

    /// The news, or what it is a moment later. Kernels with om files of their own have none to tell.
    fn result_soon(&self, mut news: Option<MoveResult>) -> Option<MoveResult> {
        let begin = Instant::now();
        while news.is_none() && self.process.stat().is_ok() && begin.elapsed() < RESULT_COMES_WITHIN {
            sleep(LOOK_EVERY);
            news = self.look().ok()?.1;
        }
        news
    }

    /// A stay reason, or the last move's failure: it may read like that of the move before.
    fn refused(&self, pid: u32) -> Failure {
        let mut why = self.process.stay_reasons().unwrap_or_default().join("; ");
        if why.is_empty() {
            why = match self.process.result() {
                Ok(Some(MoveResult::Failed { reason, .. })) => reason,
                _ => "nothing says why".to_owned(),
            };
        }
        Failure::Job { pid, what: format!("stays {}: {why}", at(&self.from.to_string())) }
    }
}

fn arrived(place: Where, news: Option<&MoveResult>) -> String {
    let place = match place {
        Where::Home => "now at home".to_owned(),
        place => format!("now on {place}"),
    };
    match news {
        Some(MoveResult::Ok { seconds, .. }) => format!("{place}, {seconds:.3} s without running"),
        _ => place,
    }
}

fn at(place: &str) -> String {
    if place == "home" { "at home".to_owned() } else { format!("on {place}") }
}

fn to(destination: Destination) -> String {
    match destination {
        Destination::Home => "home".to_owned(),
        Destination::Node(address) => format!("to {address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str, load: f64, speed: u32) -> NodeSeen {
        let table_node = {
            use om_proto::key::ClusterKeys;
            use om_proto::report::{Capacity, Load, Migration};
            use om_proto::table::NodeTable;
            use om_proto::wire::{DatagramWriter, Header, Kind, MAX_DATAGRAM};
            let sender = address.parse().unwrap();
            let header = Header { kind: Kind::Report, flags: 0, key_id: 0, epoch: 1, sequence: 1, sender };
            let mut buffer = [0; MAX_DATAGRAM];
            let mut writer = DatagramWriter::new(&mut buffer, header);
            let capacity =
                Capacity { effective_cpus_milli: 1000, speed, mem_total_kib: None, swap_total_kib: None };
            writer.section(&capacity).unwrap();
            let exported = (load * 1000.0).round();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and positive")]
            let exported_milli = Some(exported as u32);
            let load = Load {
                runnable: None,
                exported_milli,
                smoothed_milli: None,
                busy_permille: None,
                steal_permille: None,
                psi_cpu_some_us: None,
                psi_memory_some_us: None,
                psi_io_some_us: None,
                processes: None,
            };
            writer.section(&load).unwrap();
            let migration = Migration {
                guests: 0,
                guest_limit: 8,
                own_jobs: 0,
                block: false,
                stay: false,
                expel: false,
                bring: false,
            };
            writer.section(&migration).unwrap();
            let keys = ClusterKeys::none();
            let mut table = NodeTable::new([0; 32]);
            table.receive(Duration::ZERO, writer.finish(&keys), sender, &keys).unwrap();
            table.get(sender).unwrap().clone()
        };
        NodeSeen::new(Duration::ZERO, &table_node, false, &[])
    }

    fn job(place: &str) -> Job {
        Job {
            pid: 7,
            job: None,
            uid: None,
            user: None,
            guest: false,
            home_address: Some("10.77.0.1".parse().unwrap()),
            place: place.into(),
            state: None,
            cpu_us: None,
            runnable: None,
            rss_bytes: None,
            threads: None,
            age_ms: None,
            since_move_ms: None,
            moves: None,
            last_downtime_ms: None,
            last_result: None,
            on: Vec::new(),
            not_on: Vec::new(),
            stay_home: false,
            locked: false,
            stay_reasons: Vec::new(),
            command: None,
        }
    }

    fn chosen(nodes: &[NodeSeen], place: &str) -> String {
        match best(nodes, &job(place)) {
            Ok(Choice::Go(destination)) => destination.to_string(),
            Ok(Choice::StayHere(_)) => "stays".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_best_node_is_where_one_more_task_runs_fastest() {
        let nodes =
            [node("10.77.0.1", 3.0, 1000), node("10.77.0.2", 1.0, 1000), node("10.77.0.3", 1.0, 1500)];
        assert_eq!(chosen(&nodes, "home"), "10.77.0.3");
        assert_eq!(chosen(&nodes, "10.77.0.3"), "stays");
        assert_eq!(chosen(&nodes[..1], "10.77.0.9"), "home");
        assert!(chosen(&nodes[..1], "home").starts_with("no other node"));
    }

    #[test]
    fn a_node_that_takes_no_guests_is_never_the_best() {
        let mut nodes = [node("10.77.0.1", 3.0, 1000), node("10.77.0.2", 0.0, 1000)];
        nodes[1].block = Some(true);
        assert!(chosen(&nodes, "home").starts_with("no other node"));
        nodes[1].block = Some(false);
        nodes[1].stale = true;
        assert!(chosen(&nodes, "home").starts_with("no other node"));
        nodes[1].stale = false;
        assert_eq!(chosen(&nodes, "home"), "10.77.0.2");
    }

    #[test]
    fn a_job_is_where_it_is() {
        assert!(is_at(&job("home"), Destination::Home));
        assert!(is_at(&job("home"), Destination::Node("10.77.0.1".parse().unwrap())));
        assert!(is_at(&job("10.77.0.2"), Destination::Node("10.77.0.2".parse().unwrap())));
        assert!(!is_at(&job("10.77.0.2"), Destination::Home));
        assert!(!is_at(&job("migrating"), Destination::Home));
    }
}
