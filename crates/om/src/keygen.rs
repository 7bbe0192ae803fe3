//! `om keygen`: makes the cluster's key.
//!
//! The file is made with its final mode, so that there is no moment at which others could read it, and never in place
//! of one that is there: whoever overwrites a key takes his node out of its cluster.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;

use zeroize::Zeroizing;

use crate::cli::KeygenArgs;
use crate::error::Failure;

const KEY_LEN: usize = 32;

/// Makes a key file.
pub fn run(args: &KeygenArgs) -> Result<ExitCode, Failure> {
    let path = &args.file;
    match write_key(path) {
        Ok(()) => {
            println!(
                "{}: made; every node of the cluster needs the same file, with mode 0600",
                path.display()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::Refused(format!(
            "{}: there is a key already, and it was left alone; remove it first if this node is to have another",
            path.display()
        ))),
        Err(source) => Err(Failure::Io { what: format!("make {}", path.display()), source }),
    }
}

fn write_key(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    File::open("/dev/urandom")?.read_exact(key.as_mut_slice())?;
    let mut line = Zeroizing::new(Vec::with_capacity(2 * KEY_LEN + 1));
    for byte in key.iter() {
        line.extend([byte >> 4, byte & 0xf].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    line.push(b'\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&line).and_then(|()| file.sync_all()).inspect_err(|_| {
        // Half a key is worse than none, and it was made by us just now.
        let _ = fs::remove_file(path);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use om_proto::key::ClusterKeys;

    use super::*;

    #[test]
    fn a_key_is_made_that_the_daemons_take_and_never_in_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/om/key");
        write_key(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.len(), text.ends_with('\n')), (65, true));
        assert!(!ClusterKeys::load(&path).unwrap().is_empty());
        assert_eq!(write_key(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
