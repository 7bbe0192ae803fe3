//! `om keygen`: makes the cluster's key, and changes it.
//!
//! The file is made with its final mode, so that there is no moment at which others could read it, and never in place
//! of one that is there: whoever overwrites a key takes his node out of its cluster.
//!
//! A change goes in three steps, each of which every node must have seen before the next:
//!
//! ```text
//! old ──add──▶ old, new ──sign──▶ new, old ──drop──▶ new        the first signs, all are accepted
//! ```
//!
//! At no time does a node sign with a key that another does not accept. Each step puts a whole new file in the old one's
//! place, with its owner.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use std::process::ExitCode;

use om_proto::key::{ClusterKeys, random};
use zeroize::Zeroizing;

use crate::cli::{KeygenArgs, Rotation};
use crate::error::Failure;

/// Makes a key file, or changes it.
pub fn run(args: &KeygenArgs) -> Result<ExitCode, Failure> {
    let path = &args.file;
    match args.rotate {
        Some(step) => rotate(path, step)?,
        None => make(path)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn make(path: &Path) -> Result<(), Failure> {
    match write_new(path) {
        Ok(()) => {
            println!(
                "{}: made; every node of the cluster needs the same file, with mode 0600",
                path.display()
            );
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::Refused(format!(
            "{}: there is a key already, and it was left alone; remove it first if this node is to have another",
            path.display()
        ))),
        Err(source) => Err(Failure::Io { what: format!("make {}", path.display()), source }),
    }
}

fn rotate(path: &Path, step: Rotation) -> Result<(), Failure> {
    let before = load(path)?;
    if before.is_empty() {
        return Err(Failure::Refused(format!(
            "{}: there is no key yet; om keygen makes one",
            path.display()
        )));
    }
    let failed = |source| Failure::Io { what: format!("change {}", path.display()), source };
    let mut keys = read_lines(path).map_err(failed)?;
    let next = match (step, keys.len()) {
        (Rotation::Add, 1) => {
            keys.push(new_line().map_err(failed)?);
            "the second key is accepted where this file is; bring it to every node, then om keygen --rotate sign"
        }
        (Rotation::Sign, 2) => {
            keys.swap(0, 1);
            "the first key signs where this file is; bring it to every node, then om keygen --rotate drop"
        }
        (Rotation::Drop, 2) => {
            keys.truncate(1);
            "the other key is not accepted any more where this file is; bring it to every node"
        }
        (Rotation::Add, _) => {
            return Err(Failure::Refused(format!(
                "{}: two keys {before:?} are live already; finish that change first, with sign and drop",
                path.display()
            )));
        }
        (Rotation::Sign | Rotation::Drop, _) => {
            return Err(Failure::Refused(format!(
                "{}: there is one key {before:?} only; a change begins with om keygen --rotate add",
                path.display()
            )));
        }
    };
    replace(path, &keys).map_err(failed)?;
    println!("{}: keys {:?}: {next}", path.display(), load(path)?);
    Ok(())
}

fn load(path: &Path) -> Result<ClusterKeys, Failure> {
    ClusterKeys::load(path).map_err(|error| Failure::Refused(error.to_string()))
}

type Line = Zeroizing<Vec<u8>>;

/// The keys of a file that was found to be right, a line each.
fn read_lines(path: &Path) -> io::Result<Vec<Line>> {
    let mut file = File::open(path)?;
    // In one piece, so that growing leaves no copy behind.
    let size = usize::try_from(file.metadata()?.size()).map_err(io::Error::other)?;
    let mut text = Zeroizing::new(Vec::with_capacity(size + 1));
    file.read_to_end(&mut text)?;
    let bare = |line: &[u8]| -> Line {
        let key = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        Zeroizing::new(key.trim_ascii().to_vec())
    };
    Ok(text.split(|byte| *byte == b'\n').map(bare).filter(|line| !line.is_empty()).collect())
}

fn new_line() -> io::Result<Line> {
    let key = Zeroizing::new(random::<32>()?);
    let mut line = Zeroizing::new(Vec::with_capacity(2 * key.len()));
    for byte in key.iter() {
        line.extend([byte >> 4, byte & 0xf].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    Ok(line)
}

fn write_new(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    write(path, &[new_line()?], None)
}

/// Puts a file with these keys in the place of the one that is there, at once and for the same owner.
fn replace(path: &Path, keys: &[Line]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    let old = fs::metadata(path)?;
    write(&fresh, keys, Some((old.uid(), old.gid())))?;
    fs::rename(&fresh, path).inspect_err(|_| drop(fs::remove_file(&fresh)))
}

fn write(path: &Path, keys: &[Line], owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut fill = || {
        if let Some((uid, gid)) = owner {
            fchown(&file, Some(uid), Some(gid))?;
        }
        for key in keys {
            file.write_all(key)?;
            file.write_all(b"\n")?;
        }
        file.sync_all()
    };
    // Half a key is worse than none, and it was made by us just now.
    fill().inspect_err(|_| drop(fs::remove_file(path)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_that_the_daemons_take_and_never_in_place_of_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/om/key");
        write_new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.len(), text.ends_with('\n')), (65, true));
        assert!(!ClusterKeys::load(&path).unwrap().is_empty());
        assert_eq!(write_new(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    /// Whether what a node with one file signs is accepted by one with the other, both ways.
    fn understand(one: &ClusterKeys, other: &ClusterKeys) -> bool {
        one.knows(other.signing_id()) && other.knows(one.signing_id())
    }

    #[test]
    fn at_every_step_of_a_change_old_and_new_files_understand_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path).unwrap();
        let first = ClusterKeys::load(&path).unwrap();
        let mut before = first.clone();
        for step in [Rotation::Add, Rotation::Sign, Rotation::Drop] {
            rotate(&path, step).unwrap();
            let after = ClusterKeys::load(&path).unwrap();
            assert!(understand(&before, &after), "{step:?}");
            before = after;
        }
        assert!(!understand(&first, &before), "the old key is of no use any more");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn steps_out_of_turn_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(rotate(&path, Rotation::Add).is_err() && !path.exists());
        write_new(&path).unwrap();
        let refused = |step| {
            let before = fs::read(&path).unwrap();
            rotate(&path, step).is_err() && fs::read(&path).unwrap() == before
        };
        assert!(refused(Rotation::Sign) && refused(Rotation::Drop));
        rotate(&path, Rotation::Add).unwrap();
        assert!(refused(Rotation::Add));
    }
}
