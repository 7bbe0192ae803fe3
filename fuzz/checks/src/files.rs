//! What a guest's node asks of the home file server, from the greeting to the kernel's answer.
//!
//! The export is a directory with little in it, which is not the job's: so the requests are parsed and executed, and
//! change nothing.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use om_homefs::server::{Export, Identity, Server, SessionId};

/// Who owns nothing.
const NOBODY: u32 = 65_534;
/// Operations of the protocol, some that do not exist among them.
const OPERATIONS: u8 = 60;
/// The inodes are numbered from 1 as they are looked up.
const NODES: u8 = 6;

/// Serves a connection on which these bytes come. The first byte says how: 255, as they are; else each request is
/// written as operation, inode, length of its body and body, and framed here.
pub fn files(bytes: &[u8]) {
    let incoming = match bytes.split_first() {
        Some((255, raw)) => raw.to_vec(),
        Some((_, requests)) => connection(requests),
        None => return,
    };
    // The serving thread takes on the job's credentials for good.
    let served = thread::spawn(move || {
        let Ok(export) = Export::open(export()) else { return };
        let server = Server::new(Identity { uid: NOBODY, gid: NOBODY, groups: vec![] }, export);
        let Ok(device) = File::open("/dev/null") else { return };
        let _ = server.serve(Wire { incoming: io::Cursor::new(incoming), device }, SessionId(1));
        server.end_session(SessionId(1));
        assert_eq!(server.locks_held(SessionId(1)), 0);
    });
    assert!(served.join().is_ok(), "the server panicked");
}

/// A greeting and then the requests.
fn connection(mut requests: &[u8]) -> Vec<u8> {
    let mut out = b"omhomefs\x01\0\0\0\0\0\0\0".to_vec();
    out.extend(std::env::consts::ARCH.bytes());
    out.resize(32, 0);
    let mut sequence = 0_u64;
    while let Some((&[operation, node, length], rest)) = requests.split_first_chunk::<3>() {
        let (body, rest) = rest.split_at(usize::from(length).min(rest.len()));
        requests = rest;
        sequence += 1;
        let Ok(length) = u32::try_from(40 + body.len()) else { return out };
        out.extend(length.to_le_bytes());
        out.extend([0; 4]);
        out.extend(sequence.to_le_bytes());
        out.extend(length.to_ne_bytes());
        out.extend(u32::from(operation % OPERATIONS).to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(u64::from(node % NODES).to_ne_bytes());
        out.extend([0; 16]);
        out.extend(body);
    }
    out
}

/// The directory that is served, made once.
fn export() -> &'static Path {
    static EXPORT: OnceLock<PathBuf> = OnceLock::new();
    EXPORT.get_or_init(|| {
        let root = std::env::temp_dir().join(format!("om-fuzz-files-{}", std::process::id()));
        let make = || -> io::Result<()> {
            fs::create_dir_all(root.join("d"))?;
            fs::write(root.join("f"), "content")?;
            symlink("f", root.join("l"))?;
            [root.join("d"), root.clone()]
                .iter()
                .try_for_each(|directory| fs::set_permissions(directory, Permissions::from_mode(0o555)))
        };
        assert!(make().is_ok(), "{} cannot be made", root.display());
        root
    })
}

/// One end of a connection whose other end has said everything already.
struct Wire {
    incoming: io::Cursor<Vec<u8>>,
    device: File,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A channel is strictly request and reply: one read never sees the beginning of the next frame.
        let at = usize::try_from(self.incoming.position()).unwrap_or(usize::MAX);
        let rest = self.incoming.get_ref().get(at..).unwrap_or_default();
        let greeting = usize::from(at == 0) * 32;
        let frame = rest.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length));
        let limit =
            if at == 0 { greeting } else { usize::try_from(frame).unwrap_or(usize::MAX).saturating_add(16) };
        let limit = limit.min(buffer.len());
        self.incoming.read(&mut buffer[..limit])
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}
