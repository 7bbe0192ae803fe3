//! A question that any node may ask another: what do you know of this job and epoch?
//!
//! | who asks | whom | because |
//! |---|---|---|
//! | a source in doubt | the target | it cannot reach home, and the target may know what home has decided |
//! | home | where the job is | the link is broken; without a keeper there the job is lost |
//! | where the job is | home | home closes its connections; without a keeper there the job has lost its home |
//!
//! A node without a keeper of the job answers by a short-lived one, so that the answer is as trustworthy as any other: a
//! connection that is just closed says nothing.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};

use om_proto::frame;

use super::event::Event;
use super::run::{Keeper, Side};
use super::threads;
use crate::handover::arbiter::Fate;
use crate::handover::{source, target};
use crate::net::identity::Identity;
use crate::net::message::Answer;
use crate::net::preamble::{JobId, Preamble, Purpose};
use crate::net::tls::Stream;

/// The longest frame either way.
const MAX_FRAME: usize = 16;

/// Asks. An error means that there was no answer.
pub fn ask(identity: &Identity, node: SocketAddr, job: JobId, epoch: u64) -> io::Result<Answer> {
    let mut stream = identity.connect(node, &Preamble { purpose: Purpose::Inquiry, job })?;
    frame::write(&mut stream, &epoch)?;
    frame::read(&mut stream, MAX_FRAME)
}

/// Answers for a node that has no keeper of the job.
pub fn answer_for_nobody(identity: &Identity, job: JobId, socket: TcpStream) -> io::Result<()> {
    let (_, mut stream) = read(identity, job, socket)?;
    frame::write(&mut stream, &Answer::Nothing)
}

/// Reads a question, in a thread.
pub fn read_aside(
    socket: TcpStream,
    identity: Identity,
    job: JobId,
    events: crossbeam_channel::Sender<Event>,
) {
    threads::spawn("inquiry", move || match read(&identity, job, socket) {
        Ok((epoch, stream)) => drop(events.send(Event::Inquiry(epoch, Box::new(stream)))),
        Err(error) => log::debug!("an inquiry that could not be read: {error}"),
    });
}

fn read(identity: &Identity, job: JobId, socket: TcpStream) -> io::Result<(u64, Stream)> {
    let mut stream = identity.accept(socket, &Preamble { purpose: Purpose::Inquiry, job })?;
    let epoch = frame::read(&mut stream, MAX_FRAME)?;
    Ok((epoch, stream))
}

impl Keeper {
    /// Answers.
    pub(super) fn handle_inquiry(&self, epoch: u64, mut stream: Stream) {
        let answer = match &self.arrival {
            Some(arrival) if arrival.target.epoch() == epoch => match arrival.target.fate() {
                Some(Fate::Granted) => Answer::Granted,
                Some(Fate::Aborted) => Answer::Aborted,
                None => Answer::Undecided,
            },
            _ if self.source.held() >= epoch => Answer::Granted,
            _ => Answer::Undecided,
        };
        if let Err(error) = frame::write(&mut stream, &answer) {
            log::debug!("cannot answer an inquiry: {error}");
        }
    }

    /// Asks in a thread, one at a time; no answer is no news.
    pub(super) fn inquire(&mut self, node: IpAddr, epoch: u64) {
        let Some(identity) = self.identity.clone().filter(|_| !self.inquiring) else { return };
        self.inquiring = true;
        let (address, job, events) =
            (SocketAddr::from((node, self.birth.port)), self.spec.id, self.events.clone());
        threads::spawn("inquiry", move || {
            let answer = ask(&identity, address, job, epoch);
            if let Err(error) = &answer {
                log::debug!("{node} does not tell what it knows of job {job}: {error}");
            }
            let _ = events.send(Event::Answer(epoch, answer.ok()));
        });
    }

    pub(super) fn handle_answer(&mut self, epoch: u64, answer: Option<Answer>) {
        self.inquiring = false;
        match (answer, &self.side) {
            (Some(Answer::Nothing), Side::Home(home))
                if self.guest_lost.is_some() && home.arbiter.holder() == epoch =>
            {
                self.lose_job("has nothing of it any more: it was restarted, or the job's keeper was killed");
            }
            (Some(Answer::Granted), Side::Guest(_)) => self.source_hears(epoch, source::Input::Granted, ""),
            (Some(Answer::Aborted), Side::Guest(_)) => {
                self.source_hears(epoch, source::Input::Aborted, "the target has given up");
            }
            _ => {}
        }
    }

    /// On a guest's node: home is dead, or has been silent for so long that it counts as that.
    pub(super) fn lose_home(&mut self, why: &str) {
        if self.is_over() {
            return self.finish();
        }
        if self.arrival.is_some() {
            return self.target_handles(target::Input::HomeDead);
        }
        log::error!("job {}: its home {} {why}: it ends here", self.spec.id, self.spec.home);
        self.source_handles(source::Input::HomeDead, "");
    }
}
