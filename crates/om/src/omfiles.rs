//! Finds the om files, and waits a little for an om-migd that is being restarted.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;
use om_proto::omfs::OmRoot;

/// A restart takes a fraction of that.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The om files at `explicit`, or where they are found.
///
/// An om-migd that was stopped takes its files away with it; then there is nothing to wait for. One that died leaves a
/// mount that nobody serves, and something is likely to start it again.
pub fn find(explicit: Option<&Path>) -> OmRoot {
    let root = OmRoot::discover(explicit);
    if is_abandoned(root.path()) {
        let line = format!("om: {}: om-migd has died; waiting for it to come back", root.path().display());
        let _ = writeln!(io::stderr(), "{line}");
        let begin = Instant::now();
        while is_abandoned(root.path()) && begin.elapsed() < PATIENCE {
            sleep(LOOK_EVERY);
        }
    }
    root
}

fn is_abandoned(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.raw_os_error() == Some(libc::ENOTCONN))
}
