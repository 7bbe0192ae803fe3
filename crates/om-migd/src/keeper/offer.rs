//! What is offered to this node: how an offer is read, whether it fits, and what is made for its job before the source
//! freezes that.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Gid, Uid};
use om_proto::cpu::Cpu;
use om_proto::frame;

use super::event::Event;
use super::files::Connector;
use super::residence::{Ends, HomeFiles, Residence};
use super::threads::{self, HomeLine};
use super::{memory, newborn as births};
use crate::cgroup::Cgroup;
use crate::confines::Confines;
use crate::launcher::Launcher;
use crate::nest::{Credentials, Nest, Request};
use crate::net::identity::Identity;
use crate::net::message::{MAX_FRAME, Newborn, Offer, OfferAnswer, Way};
use crate::net::preamble::{JobId, Preamble, Purpose};
use crate::net::tls::Stream;
use crate::snapshot::Birth;
use crate::stdio::{INPUTS, StreamKind};
use crate::{criu, inspect};

/// Memory that must be left over beside what a restore takes, bytes.
const SPARE_BYTES: u64 = 64 << 20;

/// Everything that is needed before the source freezes.
pub struct Preparation {
    /// Where it is going to live.
    pub place: Place,
    /// The move's connection.
    pub stream: Stream,
    /// Who it is here.
    pub owner: Credentials,
    /// How its memory is to come.
    pub way: Way,
    /// A guest's home files.
    pub files: Option<Arc<om_homefs::client::Session>>,
}

/// What is made for a job that is offered.
pub enum Place {
    /// A nest, for a job that is going to be restored, and what is going to do it.
    Nest(Nest, Launcher),
    /// The whole of a job that has not begun.
    Newborn(Box<(Residence, Ends)>, Box<Newborn>),
}

impl Place {
    fn nest(nest: Nest, owner: &Credentials, confines: &Confines) -> io::Result<Self> {
        let ids = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        let launcher = Launcher::start(&nest, ids, confines)?;
        Ok(Self::Nest(nest, launcher))
    }
}

/// Takes a move connection and reads what is offered, and that it comes from the node that it says.
pub fn read(identity: &Identity, job: JobId, socket: TcpStream) -> io::Result<(Offer, Stream)> {
    let mut stream = identity.accept(socket, &Preamble { purpose: Purpose::Move, job })?;
    let offer: Offer = frame::read(&mut stream, MAX_FRAME)?;
    if !stream.peer()?.is(offer.from) {
        return Err(io::Error::other(format!("an offer in the name of {} is another node's", offer.from)));
    }
    Ok((offer, stream))
}

/// As [`read`], in a thread.
pub fn read_aside(
    socket: TcpStream,
    identity: Identity,
    job: JobId,
    events: crossbeam_channel::Sender<Event>,
) {
    threads::spawn("offer", move || match read(&identity, job, socket) {
        Ok((offer, stream)) => drop(events.send(Event::Offer(Box::new(offer), Box::new(stream)))),
        Err(error) => log::debug!("an offer that could not be read: {error}"),
    });
}

/// Answers an offer.
pub fn answer(stream: &mut Stream, answer: &OfferAnswer) -> io::Result<()> {
    frame::write(stream, answer)
}

/// Whether the job can run on this node at all, and how its memory is to come.
pub fn fits(birth: &Birth, offer: &Offer) -> Result<Way, String> {
    if birth.criu.is_none() {
        return Err(criu::Error::Missing.to_string());
    }
    if offer.arch != std::env::consts::ARCH {
        return Err(format!("it is for {}, this node is {}", offer.arch, std::env::consts::ARCH));
    }
    Cpu::read(Path::new("/proc")).fits(&offer.cpu).map_err(|unfit| unfit.to_string())?;
    let way = match offer.way {
        Way::Stream if !birth.can_follow => Way::Copy,
        Way::Lazy if !birth.can_follow => {
            return Err(format!("memory cannot follow a job there: {}", memory::why_not()));
        }
        way => way,
    };
    // At home it is no guest.
    let is_guest = offer.spec.home != birth.address;
    let of_guests = if is_guest { birth.guests.memory_left() } else { None };
    let available = inspect::available_bytes().into_iter().chain(of_guests).min();
    let can_follow = offer.can_follow && birth.can_follow;
    with_memory(way, offer.rss_bytes, can_follow, available.unwrap_or(u64::MAX))
}

/// The way that there is memory for.
fn with_memory(way: Way, rss_bytes: u64, can_follow: bool, available: u64) -> Result<Way, String> {
    // Of what is copied the images and the restored memory are here at the same time for a moment.
    let copies = if way == Way::Copy { 2 } else { 1 };
    let needed = rss_bytes.saturating_mul(copies).saturating_add(SPARE_BYTES);
    if needed <= available {
        return Ok(way);
    }
    if way == Way::Copy && can_follow {
        return with_memory(Way::Stream, rss_bytes, can_follow, available);
    }
    Err(format!("a restore needs {} MiB of memory, {} are free", needed >> 20, available >> 20))
}

/// Makes what the job needs here; for a guest the link home, which also asks home's leave.
pub fn prepare_place(
    offer: &Offer,
    owner: &Credentials,
    line: Option<HomeLine>,
    confines: &Confines,
    links: &Path,
    events: &crossbeam_channel::Sender<Event>,
) -> io::Result<(Place, Option<Arc<om_homefs::client::Session>>)> {
    let spec = &offer.spec;
    let terminal = spec.streams.contains(&StreamKind::Terminal);
    let mut request = Request {
        home_file_system: None,
        init: offer.init.0.clone(),
        terminal: terminal.then_some((spec.credentials.uid, 24, 80)),
        launch: None,
        waits: false,
        used_files: Vec::new(),
    };
    let Some(line) = line else {
        let nest = Nest::build(&request, &[], || Ok(()))?;
        return Ok((Place::nest(nest, owner, confines)?, None));
    };
    let (sender, receiver, output_received) =
        line.open(offer.epoch, false, [0; INPUTS]).map_err(|error| {
            io::Error::other(format!("the job's home {} cannot be reached: {error}", spec.home))
        })?;
    let _ = events.send(Event::HomeLinked(sender, output_received));
    HomeLine::listen(receiver, events.clone());
    let device = om_homefs::client::open_device()
        .map_err(|error| io::Error::other(format!("cannot open /dev/fuse: {error}")))?;
    let session = om_homefs::client::Session::new(
        device.try_clone()?,
        Arc::new(Connector { line, epoch: offer.epoch }),
    )?;
    if let Some(newborn) = offer.newborn.clone() {
        let launch =
            births::admit(&newborn.launch, spec, owner, &confines.joined).map_err(io::Error::other)?;
        let cgroup = Cgroup::create(&confines.parent, spec.id, offer.epoch, links)?;
        let files = HomeFiles { home: spec.home.to_string(), device: device.as_fd() };
        let init = offer.init.0.clone();
        let made = Residence::launch_waiting(
            launch,
            cgroup.clone(),
            spec.streams,
            newborn.size,
            init,
            files,
            || session.run(),
        );
        let made = made.inspect_err(|_| cgroup.remove())?;
        return Ok((Place::Newborn(Box::new(made), newborn), Some(Arc::new(session))));
    }
    request.home_file_system = Some(spec.home.to_string());
    request.used_files.clone_from(&offer.used_files);
    let nest = Nest::build(&request, &[device.as_fd()], || session.run())?;
    Ok((Place::nest(nest, owner, confines)?, Some(Arc::new(session))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_memory_to_copy_is_streamed_if_that_can_be() {
        let mib = |mib: u64| mib << 20;
        assert_eq!(with_memory(Way::Copy, mib(100), true, mib(264)), Ok(Way::Copy));
        assert_eq!(with_memory(Way::Copy, mib(100), true, mib(263)), Ok(Way::Stream));
        let refused = |needed| Err(format!("a restore needs {needed} MiB of memory, 163 are free"));
        assert_eq!(with_memory(Way::Copy, mib(100), true, mib(163)), refused(164));
        assert_eq!(with_memory(Way::Copy, mib(100), false, mib(163)), refused(264));
        assert_eq!(with_memory(Way::Lazy, mib(100), true, mib(163)), refused(164));
    }
}
