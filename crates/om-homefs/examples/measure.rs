//! Measures the home file system over TCP on the loopback interface, without TLS.
//!
//! ```text
//! cargo run --release -p om-homefs --example measure [-- DIRECTORY]
//! ```
//!
//! Needs root. Makes its files below DIRECTORY (default: the temporary directory) and removes them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use om_homefs::Stream;
use om_homefs::client::{Connect, Session, mount_options, open_device};
use om_homefs::server::{Export, Identity, Server, SessionId};

/// Bytes of the large file.
const LARGE: usize = 1 << 30;
/// Files in the directory of small files.
const SMALL: usize = 2000;

struct Tcp(SocketAddr);

impl Connect for Tcp {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect_timeout(&self.0, Duration::from_secs(3))?))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let base = base.join(format!("om-measure-{}", std::process::id()));
    let (home, guest) = (base.join("home"), base.join("guest"));
    fs::create_dir_all(&home)?;
    fs::create_dir_all(&guest)?;
    let result = measure(&home, &guest);
    let _ = umount2(&guest, MntFlags::MNT_DETACH);
    fs::remove_dir_all(&base)?;
    result
}

fn measure(home: &Path, guest: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity { uid: 0, gid: 0, groups: vec![] };
    let server = Arc::new(Server::new(identity, Export::open(home)?));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = server.clone();
            thread::spawn(move || server.serve(stream, SessionId(1)));
        }
    });
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let device = open_device()?;
    let options = mount_options(&device, "measure");
    mount(
        Some(options.source.as_str()),
        guest,
        Some(options.fstype),
        options.flags,
        Some(options.data.as_str()),
    )?;
    let session = Session::new(device, Arc::new(Tcp(address)))?;
    session.run()?;

    let mut chunk = vec![0; 1 << 20];
    chunk.iter_mut().zip((0..251).cycle()).for_each(|(byte, value)| *byte = value);
    let mut file = File::create(home.join("large"))?;
    for _ in 0..LARGE >> 20 {
        file.write_all(&chunk)?;
    }
    for number in 0..SMALL {
        fs::write(home.join(format!("small{number}")), "x")?;
    }

    let rate = |bytes: usize, time: Duration| format!("{:.0} MB/s", bytes as f64 / 1e6 / time.as_secs_f64());
    let each = |count: usize, time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6 / count as f64);
    let row = |what: &str, value: String| println!("{what:<55} {value:>12}");

    for size in [4 << 10, 64 << 10, 128 << 10, 1 << 20] {
        let mut file = File::open(guest.join("large"))?;
        let (read, time) = read_all(&mut file, &mut chunk[..size])?;
        row(&format!("sequential read, home's cache warm, {} KiB a read", size >> 10), rate(read, time));
    }
    let mut file =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECT).open(guest.join("large"))?;
    let (read, time) = read_all(&mut file, &mut chunk)?;
    row("sequential read, O_DIRECT, 1024 KiB a read", rate(read, time));
    let mut file = File::open(guest.join("large"))?;
    read_all(&mut file, &mut chunk)?;
    for size in [4 << 10, 64 << 10] {
        file.seek(SeekFrom::Start(0))?;
        let (read, time) = read_all(&mut file, &mut chunk[..size])?;
        row(&format!("the same again, from the guest's cache, {} KiB a read", size >> 10), rate(read, time));
    }

    for size in [4 << 10, 64 << 10, 1 << 20] {
        let bytes = LARGE / if size < 65536 { 16 } else { 2 };
        let mut file = File::create(guest.join("written"))?;
        let start = Instant::now();
        for _ in 0..bytes / size {
            file.write_all(&chunk[..size])?;
        }
        row(&format!("sequential write, {} KiB a write", size >> 10), rate(bytes, start.elapsed()));
    }

    let rounds = 20_000;
    let start = Instant::now();
    for _ in 0..rounds {
        fs::metadata(guest.join("large"))?;
    }
    row("stat of a known file (one round trip)", each(rounds, start.elapsed()));
    let start = Instant::now();
    for number in 0..SMALL {
        fs::metadata(guest.join(format!("small{number}")))?;
    }
    row("stat of an unknown file", each(SMALL, start.elapsed()));
    let start = Instant::now();
    for number in 0..SMALL {
        fs::read(guest.join(format!("small{number}")))?;
    }
    row("open, read and close a small file", each(SMALL, start.elapsed()));
    let start = Instant::now();
    for number in 0..SMALL {
        fs::write(guest.join(format!("new{number}")), "x")?;
    }
    row("make, write and close a small file", each(SMALL, start.elapsed()));
    let start = Instant::now();
    for number in 0..SMALL {
        fs::remove_file(guest.join(format!("new{number}")))?;
    }
    row("remove a file", each(SMALL, start.elapsed()));
    let start = Instant::now();
    let count = fs::read_dir(guest)?.count();
    row("list a directory, each entry", each(count, start.elapsed()));
    Ok(())
}

fn read_all(file: &mut File, buffer: &mut [u8]) -> io::Result<(usize, Duration)> {
    let start = Instant::now();
    let mut total = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok((total, start.elapsed())),
            count => total += count,
        }
    }
}
