//! How a keeper begins: told by om-migd over descriptor 3 what it is for, it starts a job for `om run`, or takes in a job
//! that another node offers.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::unbounded;
use om_homefs::server::{Export, Identity as FileIdentity, Server};
use om_proto::control::{self, Reply, Start};
use om_proto::cpu::Cpu;
use om_proto::frame;

use super::begin::CANNOT;
use super::caller::{Caller, kind_of, same_file};
use super::event::Event;
use super::guest::Guest;
use super::home::{Holder, Home};
use super::run::{Keeper, Side};
use super::{inquiry, offer, threads};
use crate::baseline;
use crate::guest_groups;
use crate::handover::arbiter::Arbiter;
use crate::handover::source::Source;
use crate::inspect;
use crate::nest::{Credentials, Launch};
use crate::net::identity::Identity;
use crate::net::message::{JobSpec, Newborn, Offer, OfferAnswer};
use crate::net::preamble::JobId;
use crate::passing::{receive_frame, send_frame};
use crate::snapshot::{self, Birth, Cause, Command, News};
use crate::stdio::inlet::Inlet;
use crate::stdio::outlet::Outlet;
use crate::stdio::{INPUTS, OUTPUTS, StreamKind, TERMINAL_INPUT, TERMINAL_OUTPUT};
use crate::sys;

/// Who has connected for a job and does not say which makes room for others after this.
const START_LIMIT: Duration = Duration::from_secs(5);

/// The keeper process.
pub fn main() -> i32 {
    let daemon = UnixStream::from(sys::inherited(3));
    match begin(&daemon) {
        Ok(keeper) => {
            keeper.into_iter().for_each(Keeper::run);
            0
        }
        Err(error) => {
            log::error!("{error}");
            1
        }
    }
}

/// None if there is nothing to keep.
fn begin(daemon: &UnixStream) -> io::Result<Option<Keeper>> {
    sys::become_subreaper()?;
    sys::leave_session_keyring();
    let (birth, mut fds): (Birth, _) = receive_frame(daemon, snapshot::MAX_FRAME)?;
    let connection = fds.pop().ok_or_else(|| io::Error::other("born without a connection"))?;
    send_frame(daemon, &News::Version(snapshot::VERSION), &[])?;
    match birth.cause {
        Cause::Start => start(daemon, birth, &UnixStream::from(connection)).map(Some),
        Cause::Arrival(job) => {
            // What a guest's CRIU says to its processes through such sockets goes on inside.
            if !sys::scope_abstract_sockets()? {
                log::debug!("this kernel cannot keep guests from its abstract Unix sockets");
            }
            arrival(daemon, birth, job, TcpStream::from(connection)).map(Some)
        }
        Cause::Absence(job) => {
            inquiry::answer_for_nobody(&identity(&birth)?, job, TcpStream::from(connection))?;
            Ok(None)
        }
    }
}

/// This process's place in the cluster.
pub fn identity(birth: &Birth) -> io::Result<Identity> {
    Identity::of_file(&birth.key_file, birth.address).map_err(io::Error::other)
}

/// Listens for the om-migds to come, and counts the one that started us as the first.
fn listen(
    birth: &Birth,
    job: JobId,
    daemon: &UnixStream,
    events: &crossbeam_channel::Sender<Event>,
) -> io::Result<()> {
    let path = birth.sockets.join(format!("{job}.sock"));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    threads::daemon_listener(listener, events.clone());
    threads::daemon(daemon, events.clone());
    let _ = events.send(Event::DaemonCame(daemon.try_clone()?));
    Ok(())
}

fn start(daemon: &UnixStream, birth: Birth, deputy: &UnixStream) -> io::Result<Keeper> {
    let result = try_start(daemon, birth, deputy);
    if let Err(error) = &result {
        let refusal = Reply::Refused { message: error.to_string(), status: CANNOT };
        let _ = frame::write(&mut &*deputy, &refusal);
    }
    result
}

fn try_start(daemon: &UnixStream, birth: Birth, deputy: &UnixStream) -> io::Result<Keeper> {
    let caller = Caller::of(deputy)?;
    deputy.set_read_timeout(Some(START_LIMIT))?;
    let (mut request, streams): (Start, Vec<OwnedFd>) = receive_frame(deputy, control::MAX_FRAME)?;
    deputy.set_read_timeout(None)?;
    if request.version != control::VERSION || request.argv.is_empty() {
        return Err(io::Error::other(
            "om and om-migd are of different releases: install the same on this node",
        ));
    }
    request.bounds.verify().map_err(io::Error::other)?;
    let [input, output, error]: [OwnedFd; 3] =
        streams.try_into().map_err(|_| io::Error::other("the job's standard streams are missing"))?;
    let cpu = request.cpu.unwrap_or(birth.cpu_baseline);
    let own = Cpu::read(std::path::Path::new("/proc"));
    own.fits(&own.demand(cpu)).map_err(|unfit| io::Error::other(format!("{cpu} cannot be used: {unfit}")))?;
    baseline::apply(cpu, &mut request.env);
    let job = JobId(random_name()?);
    let kinds = classify(&input, &output, &error);
    let spec = JobSpec {
        id: job,
        home: birth.address,
        deputy: caller.pid.as_raw().cast_unsigned(),
        credentials: caller.credentials.clone(),
        command: readable(&request.argv),
        started_us: inspect::now_us(),
        streams: kinds,
        bounds: request.bounds,
        cpu,
    };
    let confines = birth.hierarchies.of_caller(caller.pid)?;
    let terminal =
        [(&output, 1), (&input, 0), (&error, 2)].into_iter().find(|(_, n)| kinds[*n] == StreamKind::Terminal);
    let size =
        terminal.and_then(|(fd, _)| sys::window_size(std::os::fd::AsFd::as_fd(fd)).ok()).unwrap_or((24, 80));
    let launch = Launch {
        argv: request.argv,
        env: request.env,
        cwd: request.cwd,
        streams: kinds.map(StreamKind::letter),
        credentials: caller.credentials.clone(),
        umask: caller.umask,
        nice: caller.nice,
        limits: caller.limits,
        cpus: caller.cpus.clone(),
        ignored_signals: request.ignored_signals,
        bounding: caller.bounding,
        no_new_privileges: caller.no_new_privileges,
        oom_score: caller.oom_score,
        // Each node has its own.
        joined: Vec::new(),
    };

    let (sender, events) = unbounded();
    let owner = FileIdentity {
        uid: caller.credentials.uid,
        gid: caller.credentials.gid,
        groups: caller.credentials.groups,
    };
    let mut inlets: [Option<Inlet>; INPUTS] = [None, None];
    let mut outlets: [Option<Outlet>; OUTPUTS] = [None, None, None];
    if let Some((terminal, _)) = terminal {
        inlets[TERMINAL_INPUT] = Some(Inlet::start(terminal.try_clone()?, Some(owner.clone()))?);
        outlets[TERMINAL_OUTPUT] = Some(outlet(terminal.try_clone()?, TERMINAL_OUTPUT, &owner, &sender)?);
    }
    if kinds[0] == StreamKind::Pipe {
        inlets[0] = Some(Inlet::start(input, Some(owner.clone()))?);
    }
    for (index, fd) in [output, error].into_iter().enumerate() {
        if kinds[index + 1] == StreamKind::Pipe {
            outlets[index] = Some(outlet(fd, index, &owner, &sender)?);
        }
    }
    let identity =
        identity(&birth).inspect_err(|error| log::error!("{error}; the job {job} cannot move")).ok();
    let files = Server::new(owner, Export::open(std::path::Path::new("/")).map_err(io::Error::other)?);
    let home = Home {
        deputy: Some(deputy.try_clone()?),
        doomed: false,
        signals: Default::default(),
        inlets,
        outlets,
        delivered: [0; OUTPUTS],
        cpus: caller.cpus,
        arbiter: Arbiter::default(),
        holder: Holder::Here,
        candidate: None,
        files: Arc::new(files),
        remote: Default::default(),
        ending: None,
        input_read: None,
        gone: false,
        confines,
    };
    listen(&birth, job, daemon, &sender)?;
    threads::deputy(deputy.try_clone()?, sender.clone());
    let mut keeper = Keeper::new(birth, identity, spec, Side::Home(Box::new(home)), sender, events);
    keeper.source = Source::holding(1);
    let newborn = Newborn { launch, size, locked: request.lock };
    match request.begin_on {
        Some(node) => keeper.will_begin_on(node.to_canonical(), newborn),
        None => keeper.begin_here(newborn)?,
    }
    Ok(keeper)
}

fn outlet(
    fd: OwnedFd,
    index: usize,
    owner: &FileIdentity,
    events: &crossbeam_channel::Sender<Event>,
) -> io::Result<Outlet> {
    let events = events.clone();
    Outlet::start(fd, Some(owner.clone()), move |event| drop(events.send(Event::Output(index, event))))
}

fn classify(input: &OwnedFd, output: &OwnedFd, error: &OwnedFd) -> [StreamKind; 3] {
    let kind = |fd| kind_of(std::os::fd::AsFd::as_fd(fd));
    let mut kinds = [kind(input), kind(output), kind(error)];
    if kinds[1] == StreamKind::Pipe && kinds[2] == StreamKind::Pipe && same_file(output, error) {
        kinds[2] = StreamKind::SameAsOutput;
    }
    kinds
}

/// The command line for people: a line, at most 200 characters.
fn readable(argv: &[Vec<u8>]) -> String {
    let words: Vec<_> = argv.iter().map(|word| String::from_utf8_lossy(word)).collect();
    words.join(" ").chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

fn random_name() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

fn arrival(daemon: &UnixStream, birth: Birth, job: JobId, socket: TcpStream) -> io::Result<Keeper> {
    let identity = identity(&birth)?;
    let (mut offer, mut stream) = offer::read(&identity, job, socket)?;
    let owner = match acceptable(daemon, &birth, job, &mut offer) {
        Ok(owner) => owner,
        Err(reason) => {
            offer::answer(&mut stream, &OfferAnswer::Refused(reason.clone()))?;
            return Err(io::Error::other(format!("job {job} from {}: refused: {reason}", offer.from)));
        }
    };
    let (sender, events) = unbounded();
    let guest = Guest {
        epoch: offer.epoch,
        link: None,
        lost: None,
        inputs: [None, None],
        outputs: [None, None, None],
        files: None,
        ends: None,
        gone_told: false,
    };
    listen(&birth, job, daemon, &sender)?;
    let spec = offer.spec.clone();
    let mut keeper = Keeper::new(birth, Some(identity), spec, Side::Guest(Box::new(guest)), sender, events);
    keeper.prepare(offer, owner, stream);
    Ok(keeper)
}

/// Whether this node takes the guest, who it is here, and how its memory is to come: the node's own rules, then om-migd's.
fn acceptable(
    daemon: &UnixStream,
    birth: &Birth,
    job: JobId,
    offer: &mut Offer,
) -> Result<Credentials, String> {
    let credentials = &offer.spec.credentials;
    if offer.spec.id != job {
        return Err("it was announced under another name".into());
    }
    if credentials.uid == 0 && !birth.allow_root {
        return Err("jobs of root may not come here (allow-root)".into());
    }
    if credentials.uid != 0 && credentials.uid < birth.min_uid {
        return Err(format!("user id {} is below min-uid {}", credentials.uid, birth.min_uid));
    }
    offer.spec.bounds.check(birth.address, offer.spec.home).map_err(|error| error.to_string())?;
    if !birth.uid_map.is_same(credentials.uid) {
        return Err(format!("user id {} may not come here (uid-map)", credentials.uid));
    }
    let owner = birth.guest_groups.admit(credentials, &guest_groups::of_user(credentials.uid))?;
    offer.way = offer::fits(birth, offer)?;
    let question = News::Admit { rss_bytes: offer.rss_bytes };
    send_frame(daemon, &question, &[]).map_err(|error| error.to_string())?;
    match receive_frame(daemon, snapshot::MAX_FRAME) {
        Ok((Command::Admission(answer), _)) => answer.map(|()| owner),
        Ok((other, _)) => Err(format!("om-migd answers {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_made_readable() {
        assert_eq!(readable(&[b"sh".to_vec(), b"-c".to_vec(), b"a\nb".to_vec()]), "sh -c a b");
    }
}
