//! Frames with descriptors over a Unix stream socket. The descriptors ride on the frame's first byte.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use om_proto::frame;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys;

/// The most descriptors that travel with one frame.
const MOST_FDS: usize = 16;

/// Sends one frame and these descriptors.
pub fn send_frame<T: Serialize>(socket: &UnixStream, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = frame::encode(message)?;
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None)?;
    let mut socket = socket;
    socket.write_all(&bytes[sent..])
}

/// Receives one frame of at most `limit` bytes and the descriptors that came with it.
pub fn receive_frame<T: DeserializeOwned>(
    socket: &UnixStream,
    limit: usize,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut first = [0; 1];
    let mut space = nix::cmsg_space!([RawFd; MOST_FDS]);
    let mut fds = Vec::new();
    let count = loop {
        let mut slices = [IoSliceMut::new(&mut first)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            // With a time-out a process that is stopped or frozen for a moment is interrupted.
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                fds.extend(raw.into_iter().map(sys::inherited));
            }
        }
        break message.bytes;
    };
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut input = io::Read::chain(first.as_slice(), socket);
    Ok((frame::read(&mut input, limit)?, fds))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_stop_does_not_interrupt_who_waits_for_a_frame() {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let stop = "sleep 0.3; kill -STOP $PPID; sleep 0.1; kill -CONT $PPID; sleep 0.3";
        let mut stopper = Command::new("sh").args(["-c", stop]).spawn().unwrap();
        let sender = std::thread::spawn(move || {
            stopper.wait().unwrap();
            send_frame(&there, &7_u32, &[]).unwrap();
        });
        assert_eq!(receive_frame::<u32>(&here, 64).unwrap().0, 7);
        sender.join().unwrap();
    }
}
