//! The home file system's two ends: connections served at home, and the mount's session where the job is a guest.
//!
//! A session is named by the epoch of the stay that it belongs to. When home grants a later epoch it ends the old
//! session, so that a node that has lost the job can write nothing any more, however late it learns.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use om_homefs::Stream;
use om_homefs::client::Connect;
use om_homefs::server::{Server, SessionId};
use om_proto::frame;

use super::threads::{HomeLine, spawn};
use crate::net::identity::Identity;
use crate::net::preamble::{JobId, Preamble, Purpose};

/// The longest first frame: an epoch.
const MAX_EPOCH_FRAME: usize = 16;

/// At home: serves one connection in a thread of its own.
pub fn serve(server: Arc<Server>, job: JobId, socket: TcpStream, identity: Identity) {
    spawn("files", move || {
        let result =
            identity.accept(socket, &Preamble { purpose: Purpose::Files, job }).and_then(|mut stream| {
                let epoch: u64 = frame::read(&mut stream, MAX_EPOCH_FRAME)?;
                server.serve(stream, SessionId(epoch)).map_err(io::Error::other)
            });
        if let Err(error) = result {
            log::debug!("a connection of the home file system ended: {error}");
        }
    });
}

/// On a guest's node: opens connections for one stay.
pub struct Connector {
    /// How home is reached.
    pub line: HomeLine,
    /// The stay.
    pub epoch: u64,
}

impl Connect for Connector {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let mut stream = self.line.open_files()?;
        frame::write(&mut stream, &self.epoch)?;
        Ok(Box::new(stream))
    }
}
