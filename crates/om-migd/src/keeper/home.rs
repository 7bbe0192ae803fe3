//! What a keeper does at a job's home: the deputy, the user's ends of the streams, the arbiter, the links to where the
//! job runs or wants to run, and the home file system.

use std::io::Write;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use om_homefs::server::SessionId;
use om_proto::control::{Ending, Keyboard, Reply};
use om_proto::frame;

use super::signals::Signals;
use crate::bytes::Bytes;
use crate::confines::Confines;
use crate::handover::arbiter::Arbiter;
use crate::net::link::Sender;
use crate::net::message::{FromHome, Status};
use crate::stdio::inlet::{Inlet, Piece, SendPiece};
use crate::stdio::outlet::Outlet;
use crate::stdio::{INPUTS, OUTPUTS, TERMINAL_INPUT};

/// The job's home.
pub struct Home {
    /// The connection to `om run`; none once it has been told the end.
    pub deputy: Option<UnixStream>,
    /// `om run` has died, and the job is to be killed.
    pub doomed: bool,
    /// Signals on their way to where the job is.
    pub signals: Signals,
    /// The user's ends of the inputs.
    pub inlets: [Option<Inlet>; INPUTS],
    /// The user's ends of the outputs.
    pub outlets: [Option<Outlet>; OUTPUTS],
    /// Up to where the user has got each output; everything once nobody reads.
    pub delivered: [u64; OUTPUTS],
    /// The CPUs of this node that its caller may use.
    pub cpus: Vec<u32>,
    /// Who has the job.
    pub arbiter: Arbiter,
    /// Where the job is.
    pub holder: Holder,
    /// Who wants it.
    pub candidate: Option<Candidate>,
    /// The home file system.
    pub files: Arc<om_homefs::server::Server>,
    /// How the job is doing elsewhere.
    pub remote: Status,
    /// How the command ended, and where its outputs end.
    pub ending: Option<(Ending, [u64; OUTPUTS])>,
    /// Up to where the command had read its stdin, if it has ended and nobody is left who might read on.
    pub input_read: Option<u64>,
    /// The last process has ended.
    pub gone: bool,
    /// Where the job belongs while it is here.
    pub confines: Confines,
}

/// Where the job is.
#[derive(Clone)]
pub enum Holder {
    /// On this node.
    Here,
    /// On another.
    Away(Away),
}

/// A node where the job is.
#[derive(Clone)]
pub struct Away {
    /// Its address.
    pub node: IpAddr,
    /// The link to it, while there is one, with its number.
    pub link: Option<(u64, Sender)>,
}

/// Who wants the job.
pub struct Candidate {
    /// Its link with the number; none if it is this node.
    pub link: Option<(u64, Sender)>,
    /// Its address.
    pub node: IpAddr,
    /// Input that it has received with the job.
    pub input_received: [u64; INPUTS],
}

impl Home {
    /// Tells the deputy something. If that fails the deputy is dead, which its connection tells too.
    pub fn tell_deputy(&mut self, reply: &Reply) {
        if let Some(deputy) = &mut self.deputy
            && let Err(error) = frame::write(deputy, reply).and_then(|()| deputy.flush())
        {
            log::debug!("cannot tell the deputy: {error}");
        }
    }

    /// The link to where the job is.
    #[must_use]
    pub fn link(&self) -> Option<&Sender> {
        match &self.holder {
            Holder::Away(Away { link: Some((_, sender)), .. }) => Some(sender),
            _ => None,
        }
    }

    /// Tells the node where the job is; a broken link is noticed by its reader.
    pub fn tell_guest(&self, message: &FromHome) {
        if let Some(link) = self.link() {
            let _ = link.send(message);
        }
    }

    /// Up to where each output has come here.
    #[must_use]
    pub fn output_received(&self) -> [u64; OUTPUTS] {
        std::array::from_fn(|index| self.outlets[index].as_ref().map_or(0, Outlet::received))
    }

    /// Sends the user's input over this link from where the other side stands.
    pub fn route_input(&self, received: [u64; INPUTS], link: &Sender) {
        for (index, inlet) in self.inlets.iter().enumerate() {
            let (Some(inlet), Ok(stream)) = (inlet, u8::try_from(index)) else { continue };
            let link = link.clone();
            let send: SendPiece = Arc::new(move |piece| {
                let message = match piece {
                    Piece::Data(offset, bytes) => {
                        FromHome::Input { stream, offset, data: Bytes(bytes.to_vec()) }
                    }
                    Piece::End(offset) => FromHome::InputEnd(stream, offset),
                };
                link.send(&message).is_ok()
            });
            inlet.attach_remote(received[index], send);
        }
    }

    /// Tells who has the job now what it may not have heard: what was sent over a link that broke is lost, and a job that was
    /// packed before is as it was then.
    pub fn remind(&self, link: &Sender, stopped: bool) {
        let _ = link.send(&FromHome::Stop(stopped));
        if self.doomed {
            let _ = link.send(&FromHome::Kill);
        }
    }

    /// The keyboard of the user's terminal is theirs now.
    pub fn give_keyboard(&self, keyboard: Keyboard) {
        if let Some(terminal) = &self.inlets[TERMINAL_INPUT] {
            terminal.give_keyboard(keyboard);
        }
    }

    /// Nothing is delivered until the job is somewhere again.
    pub fn stop_input(&self) {
        self.inlets.iter().flatten().for_each(Inlet::detach);
    }

    /// The locks that the job holds while it is away, as a reason against a move: they would be lost.
    #[must_use]
    pub fn locks(&self) -> Option<String> {
        match self.files.locks_held(SessionId(self.arbiter.holder())) {
            0 => None,
            count => Some(format!("the job holds {count} file locks, which cannot be taken along")),
        }
    }

    /// Whether the user has got everything that the command wrote before it ended.
    #[must_use]
    pub fn delivered_to_the_end(&self) -> bool {
        self.ending.as_ref().is_some_and(|(_, ends)| {
            (0..OUTPUTS).all(|index| {
                self.outlets[index].as_ref().is_none_or(Outlet::closed)
                    || self.delivered[index] >= ends[index]
            })
        })
    }

    /// Ends the threads of the streams and our hold on the user's descriptors.
    pub fn finish_streams(&mut self) {
        self.inlets.iter_mut().filter_map(Option::take).for_each(|inlet| inlet.finish());
        self.outlets.iter_mut().filter_map(Option::take).for_each(|outlet| outlet.finish());
    }
}
