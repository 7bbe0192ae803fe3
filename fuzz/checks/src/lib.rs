//! What must hold whatever the bytes are: a check for each parser of what comes from elsewhere.
//!
//! A check takes any bytes and panics if a promise is broken: no panic inside, nothing decoded that cannot be encoded to
//! the same again, no message of more than a line, no table beyond its bounds. The fuzz targets call these with what a
//! fuzzer invents, and the test in `tests/` with what it has found and what was known before.

mod configuration;
mod files;
mod migration;
mod proto;

pub use configuration::{configuration, trace};
pub use files::files;
pub use migration::{migration, preamble};
pub use proto::{datagram, om_files, table};

/// A check.
pub type Check = fn(&[u8]);

/// Every check under the name of its target and of its directory in the corpus.
pub const CHECKS: [(&str, Check); 8] = [
    ("configuration", configuration),
    ("datagram", datagram),
    ("files", files),
    ("migration", migration),
    ("om_files", om_files),
    ("preamble", preamble),
    ("table", table),
    ("trace", trace),
];
