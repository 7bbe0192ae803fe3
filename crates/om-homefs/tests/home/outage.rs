//! Home out of reach: requests wait, and go on where they were.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use om_homefs::Stream;
use om_homefs::client::{Connect, Session, mount_options, open_device};
use om_homefs::server::{Server, SessionId};

use crate::rig::{NOBODY, Rig, Wire, cannot_mount};

/// A line to home that can be cut.
struct Line {
    server: Arc<Server>,
    is_cut: AtomicBool,
}

impl Connect for Line {
    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        let server = self.server.clone();
        thread::spawn(move || server.serve(theirs, SessionId(9)));
        Ok(Box::new(ours))
    }
}

#[test]
fn requests_wait_while_home_is_out_of_reach_and_end_with_the_session() {
    if cannot_mount("requests_wait_while_home_is_out_of_reach_and_end_with_the_session") {
        return;
    }
    let rig = Rig::new(NOBODY, Wire::Pair);
    let place = rig.home.with_file_name("cut");
    fs::create_dir(&place).unwrap();
    let device = open_device().unwrap();
    let options = mount_options(&device, "cut");
    let (source, data) = (options.source.as_str(), options.data.as_str());
    nix::mount::mount(Some(source), &place, Some(options.fstype), options.flags, Some(data)).unwrap();
    let line = Arc::new(Line { server: rig.server.clone(), is_cut: AtomicBool::new(true) });
    let session = Session::new(device, line.clone()).unwrap();
    session.run().unwrap();

    let writer = {
        let path = place.join("file");
        thread::spawn(move || fs::write(path, "waited"))
    };
    thread::sleep(Duration::from_millis(200));
    assert!(!writer.is_finished());
    line.is_cut.store(false, Ordering::SeqCst);
    writer.join().unwrap().unwrap();
    assert_eq!(fs::read_to_string(rig.home.join("file")).unwrap(), "waited");

    line.is_cut.store(true, Ordering::SeqCst);
    let waiters: Vec<_> = (0..10)
        .map(|number| {
            let path = place.join(format!("new{number}"));
            thread::spawn(move || fs::write(path, ""))
        })
        .collect();
    thread::sleep(Duration::from_millis(50));
    let start = Instant::now();
    session.close();
    // Those over a connection that still stood may have come through; none may hang.
    for waiter in waiters {
        let _ = waiter.join().unwrap();
    }
    assert!(fs::metadata(place.join("late")).is_err());
    assert!(start.elapsed() < Duration::from_secs(2));
    umount2(&place, MntFlags::MNT_DETACH).unwrap();
}
