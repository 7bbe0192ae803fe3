//! Named steps of a move, at which a test can hold a keeper while it breaks something. Release builds have none.
//!
//! A test puts a file with the step's name into the directory that om-migd finds in `$OM_STEPS`. The first keeper that
//! gets there renames it to `NAME.reached`, and goes on once that is gone, or after a while.
//!
//! | keeper | steps |
//! |---|---|
//! | source | `accepted`: the target waits; `frozen`; `dumped`; `sent`: before home is told |
//! | target | `offered`; `received`; `restored`: before home is told |
//! | home | `decided`: nobody has been told; `granted`: the target has, the source has not |

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a keeper waits at most.
const LIMIT: Duration = Duration::from_secs(5);

/// The job has come to this step.
pub fn at(name: &str) {
    if cfg!(debug_assertions)
        && let Some(directory) = std::env::var_os("OM_STEPS")
    {
        let directory = PathBuf::from(directory);
        let reached = directory.join(format!("{name}.reached"));
        if std::fs::rename(directory.join(name), &reached).is_ok() {
            log::debug!("held at {name}");
            let begin = Instant::now();
            while reached.exists() && begin.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
