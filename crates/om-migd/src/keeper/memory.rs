//! How a job's memory gets from node to node: before it is restored ([`Way::Copy`]), or behind it, into the restored
//! processes ([`Way::Stream`] and [`Way::Lazy`]).
//!
//! ```text
//! copy:     criu dump ─ pages ─▶ criu page-server ─▶ images;  then criu restore
//! behind:   criu dump ─ the rest ─▶ images ─▶ criu restore ─▶ faults
//!           criu dump ◀─ which pages? ─ whoever fetches ◀─────┘
//!                     ─ pages ────────▶
//! ```
//!
//! Who fetches is [`super::fetch`] for a job that is frozen until all has come, and `criu lazy-pages` for one that runs and
//! changes its memory meanwhile.
//!
//! CRIU at both ends talks over a socket pair to its keeper, and the keepers over the move's own connection. While memory
//! follows a job the source is kept frozen: were the dump to die, CRIU would let the processes go.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use om_proto::omfs::Mode;

use super::depart::Accepted;
use super::residence::Residence;
use super::{fetch, threads, transfer};
use crate::cgroup::Cgroup;
use crate::confines::Confines;
use crate::criu::{self, Criu, Memory};
use crate::nest::{Credentials, Nest};
use crate::net::link::{Receiver, Sender};
use crate::net::message::{Luggage, Way};

/// How long `criu lazy-pages` may take to be ready.
const FETCHER_LIMIT: Duration = Duration::from_secs(10);

/// The way to ask for; an error says why the one that is wanted cannot be had. To stream is faster than to copy, as memory goes
/// straight to where it belongs, and needs the target's memory once only.
pub fn choose(mode: Mode, can_follow: bool) -> Result<Way, String> {
    match mode {
        Mode::Copy => Ok(Way::Copy),
        Mode::Auto if !can_follow => Ok(Way::Copy),
        Mode::Stream | Mode::Lazy if !can_follow => {
            Err(format!("{mode} moves are not possible: {}", why_not()))
        }
        Mode::Stream | Mode::Auto => Ok(Way::Stream),
        Mode::Lazy => Ok(Way::Lazy),
    }
}

/// Why memory cannot follow a job on this node.
pub fn why_not() -> &'static str {
    "this node's kernel has no userfaultfd for it, or om-migd has no CAP_SYS_RESOURCE and fs.pipe-max-size is less than 8 MiB"
}

/// Dumps the job while its memory goes to the target.
pub fn copy(
    residence: &Residence,
    criu: &Path,
    credentials: &Credentials,
    accepted: Accepted,
) -> Result<(), String> {
    let Accepted { out, mut input, .. } = accepted;
    let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
    let answers = ours.try_clone().map_err(|error| error.to_string())?;
    threads::spawn("answers", move || transfer::receive_answers(&mut input, &answers));
    std::thread::scope(|scope| {
        let sending = threads::start_in(scope, "pages", || send_pages(&ours, &out));
        let dumped = residence.dump(criu, credentials, Memory { pages: theirs.as_fd(), dumped: None });
        drop(theirs);
        let _ = ours.shutdown(Shutdown::Write);
        match sending.join() {
            Ok(Err(error)) => Err(broken(&error)),
            _ => dumped.map_err(|error| error.to_string()),
        }
    })
}

fn send_pages(ours: &UnixStream, out: &Sender) -> io::Result<()> {
    let result = transfer::send_pages(ours, out);
    if result.is_err() {
        // CRIU must not wait for a target that is gone.
        let _ = ours.shutdown(Shutdown::Both);
    }
    result
}

fn broken(error: &io::Error) -> String {
    format!("the connection to the target broke: {error}")
}

/// A dump that hands out the job's memory.
pub struct Serving {
    dump: JoinHandle<Result<(), criu::Error>>,
    ours: UnixStream,
}

impl Serving {
    /// Dumps everything but the memory. The job is frozen, and stays so.
    pub fn start(residence: &Arc<Residence>, criu: &Path, credentials: &Credentials) -> Result<Self, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        let (dumped, dumped_there) = UnixStream::pair().map_err(|error| error.to_string())?;
        let (stay, criu, credentials) = (residence.clone(), criu.to_owned(), credentials.clone());
        let dump = threads::start("dump", move || {
            let memory = Memory { pages: theirs.as_fd(), dumped: Some(dumped_there.as_fd()) };
            stay.dump(&criu, &credentials, memory)
        });
        let serving = Self { dump, ours };
        match (&dumped).read(&mut [0]) {
            Ok(1..) => residence.cgroup.freeze().map_err(|error| error.to_string())?,
            _ => return Err(serving.ended().err().unwrap_or_else(|| "criu dump ended early".to_owned())),
        }
        Ok(serving)
    }

    /// Hands memory out until the target has all of it.
    pub fn serve(self, out: &Sender, mut input: Receiver) -> Result<(), String> {
        let asked = self.ours.try_clone().map_err(|error| error.to_string())?;
        threads::spawn("asked", move || transfer::receive_answers(&mut input, &asked));
        let sent = send_pages(&self.ours, out);
        self.ended()?;
        sent.map_err(|error| broken(&error))
    }

    /// Hands nothing out any more, and waits for the dump's end.
    pub fn give_up(self) {
        if let Err(error) = self.ended() {
            log::debug!("a dump that was given up: {error}");
        }
    }

    fn ended(self) -> Result<(), String> {
        let _ = self.ours.shutdown(Shutdown::Both);
        match self.dump.join() {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the thread of criu dump has died".to_owned()),
        }
    }
}

/// Receives everything of the job into the nest, its memory through a page server.
pub fn receive_copy(
    input: &mut Receiver,
    out: Sender,
    nest: &Nest,
    program: &Path,
    credentials: &Credentials,
    confines: &Confines,
) -> Result<Luggage, String> {
    let broken = |error: io::Error| format!("the source broke off: {error}");
    let (ours, theirs) = UnixStream::pair().map_err(broken)?;
    let answers = ours.try_clone().map_err(broken)?;
    let way_back = out.clone();
    threads::spawn("answers", move || transfer::send_answers(&answers, &out));
    std::thread::scope(|scope| {
        let server = threads::start_in(scope, "server", move || {
            let (namespace, images) = (nest.namespace.as_fd(), nest.images.as_fd());
            let confines = Some(confines);
            let criu = Criu { program, namespace, images, ids: ids(credentials), confines };
            // A dump that has sent everything waits for an answer.
            criu.serve_pages(theirs.as_fd()).inspect_err(|_| way_back.close())
        });
        let received = transfer::receive(input, nest, credentials, Some(&ours)).map_err(broken);
        let _ = ours.shutdown(Shutdown::Both);
        let served = server.join().unwrap_or(Ok(()));
        // A page server that failed explains a connection that broke.
        received.and_then(|luggage| served.map(|()| luggage).map_err(|error| error.to_string()))
    })
}

fn ids(credentials: &Credentials) -> (Uid, Gid) {
    (Uid::from_raw(credentials.uid), Gid::from_raw(credentials.gid))
}

/// Memory that is being fetched from the source.
pub struct Fetching {
    fetcher: JoinHandle<Result<(), String>>,
    guard: Guard,
}

/// Keeps a job whose memory is being fetched from running without it. Where CRIU stops fetching before all has come, the
/// kernel fills the rest with zeros: the job is frozen before, and whoever [waits](Fetching::wait) knows whether it may go
/// on. Clones guard the same job.
#[derive(Clone, Debug, Default)]
pub struct Guard(Arc<Mutex<Ward>>);

/// The job and whether the connection to the source has ended.
#[derive(Debug, Default)]
struct Ward {
    job: Option<Cgroup>,
    is_over: bool,
}

impl Ward {
    /// The job goes no further.
    fn stop(&self) {
        let Some(job) = &self.job else { return };
        if let Err(error) = job.hold() {
            log::error!("a job without its memory is killed, it cannot be frozen: {error}");
            job.kill();
        }
    }
}

impl Guard {
    fn lock(&self) -> MutexGuard<'_, Ward> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the job run, unless nothing more comes: then it stays frozen.
    pub fn thaw(&self) -> io::Result<()> {
        let ward = self.lock();
        ward.job.as_ref().filter(|_| !ward.is_over).map_or(Ok(()), Cgroup::thaw)
    }

    /// The connection to the source has ended.
    fn end(&self) {
        let mut ward = self.lock();
        ward.is_over = true;
        ward.stop();
    }
}

impl Fetching {
    /// Starts to fetch for a job that is frozen until all has come, as soon as a restore in this nest asks for it, over a
    /// connection whose luggage has come.
    pub fn start_whole(mut input: Receiver, out: Sender, nest: &Nest) -> Result<Self, String> {
        let start = || -> io::Result<Self> {
            let images = nest.images.try_clone()?;
            let listener = fetch::listen(&images)?;
            nest.restoring.watch(listener.try_clone()?.into());
            let fetcher = threads::start("fetcher", move || {
                let fetched = fetch::fetch(&listener, &images, transfer::Following::new(&mut input), &out);
                out.close();
                fetched
            });
            Ok(Self { fetcher, guard: Guard::default() })
        };
        start().map_err(|error| error.to_string())
    }

    /// Starts to fetch for a job that runs meanwhile, for a restore in this nest, over a connection whose luggage has come.
    pub fn start(
        mut input: Receiver,
        out: Sender,
        nest: &Nest,
        program: &Path,
        credentials: &Credentials,
        confines: &Confines,
    ) -> Result<Self, String> {
        let start = || -> io::Result<Self> {
            let (ours, theirs) = UnixStream::pair()?;
            let asks = ours.try_clone()?;
            let (namespace, images) = (nest.namespace.try_clone()?, nest.images.try_clone()?);
            let (ready, ready_there) = UnixStream::pair()?;
            let restoring = nest.restoring.clone();
            let (program, ids, confines) = (program.to_owned(), ids(credentials), confines.clone());
            threads::spawn("asks", move || {
                transfer::send_answers(&asks, &out);
                // All has come, or nothing more will.
                out.close();
            });
            let guard = Guard::default();
            let watched = guard.clone();
            threads::spawn("pages", move || {
                if let Err(error) = transfer::receive_pages(&mut input, &ours) {
                    log::debug!("memory that followed ends: {error}");
                }
                watched.end();
                let _ = ours.shutdown(Shutdown::Both);
            });
            let fetcher = threads::start("fetcher", move || {
                let (namespace, images) = (namespace.as_fd(), images.as_fd());
                let confines = Some(&confines);
                let criu = Criu { program: &program, namespace, images, ids, confines };
                criu.fetch_pages(theirs.as_fd(), ready_there.as_fd(), &restoring)
                    .map_err(|error| error.to_string())
            });
            ready.set_read_timeout(Some(FETCHER_LIMIT))?;
            // Without it the restore fails, and CRIU has said why.
            let _ = (&ready).read_exact(&mut [0]);
            Ok(Self { fetcher, guard })
        };
        start().map_err(|error| error.to_string())
    }

    /// Whether nothing more comes. That may be because all has come.
    pub fn is_over(&self) -> bool {
        self.guard.lock().is_over
    }

    /// Guards this job from now on, which is frozen.
    pub fn guard(&self, job: &Cgroup) -> Guard {
        self.guard.lock().job = Some(job.clone());
        self.guard.clone()
    }

    /// Waits until all of it has come.
    pub fn wait(self) -> Result<(), String> {
        let result = match self.fetcher.join() {
            Ok(result) => result,
            Err(_) => Err("the thread that fetches memory has died".to_owned()),
        };
        // CRIU knows by itself when it has everything; the connection's end, which comes later, means nothing then.
        let mut ward = self.guard.lock();
        if result.is_err() {
            ward.stop();
        }
        ward.job = None;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_with_all_of_its_memory_is_not_frozen_by_the_end_of_the_connection() {
        let path = std::env::temp_dir().join(format!("om-ward-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let state = |fetched: Result<(), String>, ended_before: bool| {
            let fetching = Fetching { fetcher: std::thread::spawn(|| fetched), guard: Guard::default() };
            let guard = fetching.guard(&Cgroup::at(path.clone()));
            guard.thaw().unwrap();
            if ended_before {
                guard.end();
                // A user who lets a stopped job go on.
                guard.thaw().unwrap();
                assert_eq!(std::fs::read_to_string(path.join("cgroup.freeze")).unwrap(), "1");
            }
            // As the keeper does when it hears of it.
            if fetching.wait().is_ok() {
                Cgroup::at(path.clone()).thaw().unwrap();
            }
            guard.end();
            std::fs::read_to_string(path.join("cgroup.freeze")).unwrap()
        };
        let failed = || Err("no memory".to_owned());
        assert_eq!(state(Ok(()), true), "0");
        assert_eq!(state(Ok(()), false), "0");
        assert_eq!(state(failed(), true), "1");
        assert_eq!(state(failed(), false), "1");
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn memory_is_streamed_where_it_can_be_unless_somebody_says_otherwise() {
        assert_eq!(choose(Mode::Auto, true), Ok(Way::Stream));
        assert_eq!(choose(Mode::Auto, false), Ok(Way::Copy));
        assert_eq!(choose(Mode::Copy, true), Ok(Way::Copy));
        assert_eq!(choose(Mode::Copy, false), Ok(Way::Copy));
        assert_eq!(choose(Mode::Stream, true), Ok(Way::Stream));
        assert_eq!(choose(Mode::Lazy, true), Ok(Way::Lazy));
        assert!(choose(Mode::Lazy, false).unwrap_err().contains("lazy"));
    }
}
