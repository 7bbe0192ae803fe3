//! Who is at the other end of a local socket, as the kernel knows it from the moment of connecting. Nothing that the peer
//! says counts, and nothing that its process has become since.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;

use crate::nest::Credentials;
use crate::sys;

/// The process that connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pid in this pid namespace. It may have ended, and the pid may be another's by now.
    pub pid: Pid,
    /// Its effective user and group, and its supplementary groups.
    pub credentials: Credentials,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// If it cannot tell, or the peer is in a pid namespace that this one cannot see.
    pub fn of(socket: &UnixStream) -> io::Result<Self> {
        let peer = getsockopt(socket, sockopt::PeerCredentials)?;
        if peer.pid() == 0 {
            return Err(io::Error::other(
                "om run must be started outside of containers: this one has a pid namespace of its own",
            ));
        }
        let groups = sys::peer_groups(socket.as_fd())?;
        let credentials = Credentials { uid: peer.uid(), gid: peer.gid(), groups };
        Ok(Self { pid: Pid::from_raw(peer.pid()), credentials })
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::{getegid, geteuid, getgroups, getpid};

    use super::*;

    #[test]
    fn the_kernel_tells_who_connected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(&ours).unwrap();
        let own: Vec<u32> = getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        assert_eq!(peer.pid, getpid());
        assert_eq!((peer.credentials.uid, peer.credentials.gid), (geteuid().as_raw(), getegid().as_raw()));
        assert_eq!(peer.credentials.groups, own);
    }
}
