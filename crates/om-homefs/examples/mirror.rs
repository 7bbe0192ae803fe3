//! Shows a directory at another place, through the whole of the home file system: for trying and debugging.
//!
//! ```text
//! cargo run -p om-homefs --example mirror -- DIR MOUNTPOINT [UID:GID]
//! ```
//!
//! Needs root. Ends when MOUNTPOINT is unmounted. `RUST_LOG=om_homefs=trace` shows each request.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use om_homefs::Stream;
use om_homefs::client::{Connect, Session, mount_options, open_device};
use om_homefs::server::{Export, Identity, Server, SessionId};

/// Connects to the server by TCP, as a real guest's node does, but without TLS.
struct Tcp(std::net::SocketAddr);

impl Connect for Tcp {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect_timeout(&self.0, Duration::from_secs(3))?))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, place, ids) = match arguments.as_slice() {
        [directory, place] => (directory, place, "0:0"),
        [directory, place, ids] => (directory, place, ids.as_str()),
        _ => return Err("usage: mirror DIR MOUNTPOINT [UID:GID]".into()),
    };
    let (uid, gid) = ids.split_once(':').ok_or("UID:GID, please")?;
    let identity = Identity { uid: uid.parse()?, gid: gid.parse()?, groups: vec![] };
    let server = Arc::new(Server::new(identity, Export::open(Path::new(directory))?));

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let server = server.clone();
            thread::spawn(move || {
                if let Err(error) = server.serve(stream, SessionId(1)) {
                    log::warn!("{error}");
                }
            });
        }
    });

    let device = open_device()?;
    let options = mount_options(&device, "mirror");
    let data = Some(options.data.as_str());
    nix::mount::mount(
        Some(options.source.as_str()),
        place.as_str(),
        Some(options.fstype),
        options.flags,
        data,
    )?;
    let session = Session::new(device, Arc::new(Tcp(address)))?;
    session.run()?;
    while !session.is_over() {
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
