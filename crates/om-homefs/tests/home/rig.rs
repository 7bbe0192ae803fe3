//! A directory and a real mount of it, in a mount namespace of the test's own thread.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chown, geteuid, setfsgid, setfsuid, setgroups};
use om_homefs::Stream;
use om_homefs::client::{Connect, Session, mount_options, open_device};
use om_homefs::server::{Export, Identity, Server, SessionId};

use crate::random::Random;

/// The ordinary user of these tests.
pub const NOBODY: u32 = 65534;

/// How the two sides are connected.
#[derive(Clone, Copy, Debug)]
pub enum Wire {
    Pair,
    Tcp,
    /// Each read and write has one chance in so many to break the connection somewhere in the middle.
    Brittle(u64),
}

/// The directory `home`, mounted at `guest` for this thread, the threads that it starts and their children.
pub struct Rig {
    pub home: PathBuf,
    pub guest: PathBuf,
    pub server: Arc<Server>,
    pub session: Session,
    /// Connections made so far.
    pub connections: Arc<AtomicU32>,
    base: PathBuf,
}

/// Why mounts cannot be tested here, printed; or nothing.
pub fn cannot_mount(test: &str) -> bool {
    let reason = if !geteuid().is_root() {
        "needs root"
    } else if open_device().is_err() {
        "needs /dev/fuse"
    } else {
        // For the whole process, hence before it has a thread that serves: such a thread may not do this any
        // more, and the C library aborts the process if only some threads can.
        static ONCE: Once = Once::new();
        ONCE.call_once(|| setgroups(&[]).unwrap());
        return false;
    };
    println!("skipped {test}: {reason}");
    true
}

impl Rig {
    pub fn new(uid: u32, wire: Wire) -> Rig {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = std::env::temp_dir().join(format!("om-homefs-{}-{count}", std::process::id()));
        let (home, guest) = (base.join("home"), base.join("guest"));
        fs::create_dir_all(&home).unwrap();
        fs::create_dir_all(&guest).unwrap();
        chown(&home, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).unwrap();

        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        let identity = Identity { uid, gid: uid, groups: vec![] };
        let server = Arc::new(Server::new(identity, Export::open(&home).unwrap()));
        let connections = Arc::new(AtomicU32::new(0));
        let session = mount_session(&server, &guest, SessionId(1), wire, &connections);
        Rig { home, guest, server, session, connections, base }
    }

    /// One more mount of the same files, as a move to another node makes one.
    pub fn second_mount(&self, id: SessionId) -> (PathBuf, Session) {
        let place = self.base.join(format!("guest{}", id.0));
        fs::create_dir_all(&place).unwrap();
        let session = mount_session(&self.server, &place, id, Wire::Pair, &self.connections);
        (place, session)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.session.close();
        let _ = umount2(&self.guest, MntFlags::MNT_DETACH);
        while umount2(&self.home.join("mount"), MntFlags::MNT_DETACH).is_ok() {}
        let _ = fs::remove_dir_all(&self.base);
    }
}

fn mount_session(
    server: &Arc<Server>,
    place: &Path,
    id: SessionId,
    wire: Wire,
    connections: &Arc<AtomicU32>,
) -> Session {
    let device = open_device().unwrap();
    let options = mount_options(&device, "test");
    let (source, data) = (options.source.as_str(), options.data.as_str());
    mount(Some(source), place, Some(options.fstype), options.flags, Some(data)).unwrap();
    let connector: Arc<dyn Connect> = match wire {
        Wire::Pair | Wire::Brittle(_) => Arc::new(Pair {
            server: server.clone(),
            id,
            odds: match wire {
                Wire::Brittle(odds) => odds,
                _ => u64::MAX,
            },
            seed: AtomicU64::new(1),
            connections: connections.clone(),
        }),
        Wire::Tcp => Arc::new(Tcp(listen(server.clone(), id))),
    };
    let session = Session::new(device, connector).unwrap();
    session.run().unwrap();
    session
}

struct Tcp(SocketAddr);

impl Connect for Tcp {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect_timeout(&self.0, Duration::from_secs(3))?))
    }
}

fn listen(server: Arc<Server>, id: SessionId) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = server.clone();
            thread::spawn(move || server.serve(stream, id));
        }
    });
    address
}

/// Connects by a socket pair whose other end is served at once.
struct Pair {
    server: Arc<Server>,
    id: SessionId,
    odds: u64,
    seed: AtomicU64,
    connections: Arc<AtomicU32>,
}

impl Connect for Pair {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (ours, theirs) = UnixStream::pair()?;
        let (server, id) = (self.server.clone(), self.id);
        thread::spawn(move || server.serve(theirs, id));
        self.connections.fetch_add(1, Ordering::Relaxed);
        let random = Random::new(self.seed.fetch_add(1, Ordering::Relaxed));
        Ok(Box::new(Brittle { stream: ours, odds: self.odds, random: Mutex::new(random) }))
    }
}

/// A connection that breaks at a random byte now and then.
struct Brittle {
    stream: UnixStream,
    odds: u64,
    random: Mutex<Random>,
}

impl Brittle {
    /// After how many bytes of `length` it breaks now.
    fn breaks(&self, length: usize) -> Option<usize> {
        let mut random = self.random.lock().unwrap();
        (random.below(self.odds) == 0).then(|| random.below(length as u64 + 1) as usize)
    }

    fn break_off(&self) -> io::Error {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        io::ErrorKind::BrokenPipe.into()
    }
}

impl Read for Brittle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.breaks(0).is_some() {
            return Err(self.break_off());
        }
        self.stream.read(buffer)
    }
}

impl Write for Brittle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(after) = self.breaks(bytes.len()) {
            self.stream.write_all(&bytes[..after])?;
            return Err(self.break_off());
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Brittle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Runs `work` in a thread that is this user as far as files go.
pub fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setfsgid(Gid::from_raw(uid));
            setfsuid(Uid::from_raw(uid));
            work()
        });
        thread.join().unwrap()
    })
}
