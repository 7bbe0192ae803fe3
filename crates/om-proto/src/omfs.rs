//! The om files: `$root/$pid/om/where` and its neighbours, as the openMosix kernels had them.
//!
//! Two sides meet here. A scheduler or a person's tool reads and writes the files through [`OmRoot`] and
//! [`OmProcess`]; `om-migd`, which serves them on kernels that have none, prints and parses the same values with
//! the same types ([`Where`], [`Destination`], [`MoveResult`], [`JobStat`]), so that the two cannot disagree.
//!
//! The real kernels came in three generations, and the accessors get along with each:
//!
//! * the directory is called `om` or `pms`;
//! * one generation overwrites the last byte written, so a request always ends in exactly one newline;
//! * IPv6 was understood in its full form of eight groups only, so that is the form written;
//! * a request that cannot be granted may succeed and do nothing, so [`OmProcess::progress`] looks at `where` and
//!   reads `stay` when nothing moves;
//! * `lock`, `nmigs`, `home`, `stat` and `result` did not exist: [`OmError::Unsupported`].
//!
//! Nothing here waits, polls or retries; [`OmError`] says which failures are worth another try.

mod bounds;
mod error;
mod mode;
mod place;
mod process;
mod root;
mod stat;
mod text;

pub use bounds::{Bounds, MOST_NODES, OutOfBounds};
pub use error::{OmError, ParseError};
pub use mode::{Mode, MoveRequest};
pub use place::{Destination, MoveResult, Where};
pub use process::{OmProcess, Progress};
pub use root::{Admin, OmRoot, Switch};
pub use stat::{JobStat, JobState};
