//! Asks the kernel about one Unix socket, by sock_diag(7): far cheaper than a list of all of them.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;
/// Of the answer, without its attributes.
const MESSAGE: usize = 16;
const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const NAME: u16 = 0;
const PEER: u16 = 2;

/// The inode of the socket at the other end; none if there is none any more, or nobody has it yet.
pub fn peer(inode: u64) -> Option<u32> {
    let answer = ask(u32::try_from(inode).ok()?, SHOW_PEER)?;
    let peer = u32::from_ne_bytes(attribute(&answer, PEER)?.try_into().ok()?);
    (peer != 0).then_some(peer)
}

/// The address that a socket is bound to; an abstract one begins with `@`.
pub fn name(inode: u32) -> Option<String> {
    let answer = ask(inode, SHOW_NAME)?;
    let name = String::from_utf8_lossy(attribute(&answer, NAME)?).replace('\0', "@");
    let name = if name.starts_with('@') { name.as_str() } else { name.trim_end_matches('@') };
    (!name.is_empty()).then(|| name.to_owned())
}

fn ask(inode: u32, show: u32) -> Option<Vec<u8>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        socket(AddressFamily::Netlink, SockType::Datagram, flags, SockProtocol::NetlinkSockDiag).ok()?;
    send(socket.as_raw_fd(), &request(inode, show), MsgFlags::empty()).ok()?;
    let mut answer = vec![0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).ok()?;
    answer.truncate(length);
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    // Anything else is an error: the socket has gone, or the kernel lacks unix_diag.
    (kind == SOCK_DIAG_BY_FAMILY).then_some(answer)
}

/// A netlink header and a `struct unix_diag_req`.
fn request(inode: u32, show: u32) -> Vec<u8> {
    const ANY_STATE: u32 = u32::MAX;
    const NO_COOKIE: u32 = u32::MAX;
    const LENGTH: u32 = 40;
    let mut request = Vec::with_capacity(40);
    request.extend(LENGTH.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence, port
    request.extend([1, 0, 0, 0]); // AF_UNIX
    for number in [ANY_STATE, inode, show, NO_COOKIE, NO_COOKIE] {
        request.extend(number.to_ne_bytes());
    }
    request
}

/// The content of an attribute of an answer.
fn attribute(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = answer.get(HEADER + MESSAGE..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return rest.get(4..length);
        }
        // An attribute is at least its own header long, so this goes on.
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn inode(socket: &impl std::os::fd::AsFd) -> u64 {
        nix::sys::stat::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn the_kernel_tells_who_is_at_the_other_end() {
        let (one, other) = UnixStream::pair().unwrap();
        assert_eq!(peer(inode(&one)).map(u64::from), Some(inode(&other)));
        let inode = inode(&one);
        drop(other);
        assert_eq!(peer(inode), None, "the other end is closed");
        drop(one);
        assert_eq!(peer(inode), None, "it is gone");
    }

    #[test]
    fn the_kernel_tells_a_sockets_name() {
        let directory = std::env::temp_dir().join(format!("om-stay-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let told = name(u32::try_from(inode(&listener)).unwrap());
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(told.as_deref(), path.to_str());
    }

    #[test]
    fn odd_answers_have_no_attributes() {
        assert_eq!(attribute(&[], NAME), None);
        assert_eq!(attribute(&[0; 40], PEER), None);
    }
}
