//! Everything that can happen to a keeper. Threads that wait for something post it; the main thread alone acts.

use std::net::{IpAddr, TcpStream};
use std::os::unix::net::UnixStream;

use om_proto::control::Request;

use super::arrive::Restored;
use super::depart::Accepted;
use super::offer::Preparation;
use crate::net::link::Sender;
use crate::net::message::{Answer, FromHome, Offer, ToHome};
use crate::net::preamble::Purpose;
use crate::net::tls::Stream;
use crate::snapshot::Command;
use crate::stdio::outlet;

/// What happened.
pub enum Event {
    /// At home: the job is to begin on this node.
    Begin(IpAddr),
    /// The deputy asks for something.
    Deputy(Request),
    /// The deputy has died.
    DeputyGone,
    /// om-migd has connected.
    DaemonCame(UnixStream),
    /// om-migd asks for something.
    Daemon(Command),
    /// om-migd has passed a connection on.
    Connection(Purpose, TcpStream),
    /// The job's PID 1 reports: kind and value.
    Report(u32, u32),
    /// The job's PID 1 has ended, and with it the job.
    InitEnded(u64),
    /// Something happened to an output stream at home.
    Output(usize, outlet::Event),
    /// On a guest's node: the job's pipe has got input up to this offset.
    InputTaken(u8, u64),
    /// At home: a node has opened a link.
    Linked {
        /// Its number here.
        id: u64,
        /// The way to answer.
        sender: Sender,
        /// The node that speaks.
        node: IpAddr,
        /// Its epoch.
        epoch: u64,
        /// Whether it has that epoch.
        holds: bool,
        /// Input that it has received.
        input_received: Vec<u64>,
    },
    /// At home: a message over a link.
    FromGuest(u64, ToHome),
    /// At home: a link is broken.
    LinkLost(u64),
    /// On a guest's node: the link home stands again.
    HomeLinked(Sender, Vec<u64>),
    /// On a guest's node: a message from home.
    FromHome(FromHome),
    /// On a guest's node: the link home is broken.
    HomeLost,
    /// On a guest's node: home has nothing of the job any more.
    HomeGone,
    /// As a source: the target's answer.
    Offered(u64, Result<Box<Accepted>, String>),
    /// As a source: everything was sent, or not.
    Sent(u64, Result<(), String>),
    /// As a source of a job that runs elsewhere already: its memory was handed out, or not.
    Served(u64, Result<(), String>),
    /// As its target: all of its memory has come, or will not.
    Fetched(u64, Result<(), String>),
    /// What another node knows of this epoch, if it has answered.
    Answer(u64, Option<Answer>),
    /// Another node asks about this epoch.
    Inquiry(u64, Box<Stream>),
    /// As a target: a source offers a job.
    Offer(Box<Offer>, Box<Stream>),
    /// As a target: the nest stands, or not.
    Prepared(u64, Result<Box<Preparation>, String>),
    /// As a target: the job is restored, frozen, or not.
    Arrived(u64, Result<Box<Restored>, String>),
}
