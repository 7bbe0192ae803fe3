//! Ten thousand random operations over a connection that keeps breaking: nothing lost, nothing done twice.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::random::Random;
use crate::rig::{NOBODY, Rig, Wire, as_user, cannot_mount};

const OPERATIONS: u64 = 10_000;

/// Does random things below `root` and tells what came of each.
fn play(root: &Path, seed: u64) -> Vec<String> {
    let mut random = Random::new(seed);
    let mut open: Vec<File> = Vec::new();
    let mut told = Vec::new();
    for number in 0..3 {
        fs::create_dir(root.join(format!("d{number}"))).unwrap();
    }
    for number in 0..OPERATIONS {
        let (one, two) = (name(root, &mut random), name(root, &mut random));
        let what = random.below(14);
        let result: std::io::Result<String> = match what {
            0 => fs::create_dir(&one).map(|()| String::new()),
            1 => fs::remove_dir(&one).map(|()| String::new()),
            2 => File::create_new(&one).and_then(|mut file| {
                file.write_all(format!("made by {number}\n").as_bytes())?;
                open.push(file);
                Ok(String::new())
            }),
            3 | 4 => OpenOptions::new()
                .append(true)
                .create(true)
                .open(&one)
                .and_then(|mut file| file.write_all(format!("appended by {number}\n").as_bytes()))
                .map(|()| String::new()),
            5 => OpenOptions::new().write(true).open(&one).and_then(|file| {
                let at = random.below(20_000);
                file.write_all_at(&vec![number as u8; random.below(9000) as usize], at)?;
                Ok(String::new())
            }),
            6 => fs::rename(&one, &two).map(|()| String::new()),
            7 => fs::hard_link(&one, &two).map(|()| String::new()),
            8 => symlink(two.file_name().unwrap(), &one).map(|()| String::new()),
            9 => fs::remove_file(&one).map(|()| String::new()),
            10 => fs::read(&one).map(|bytes| digest(&bytes)),
            11 => fs::read_dir(&one).and_then(|entries| {
                let mut names = entries.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?;
                names.sort();
                Ok(format!("{names:?}"))
            }),
            12 if open.len() > 5 => {
                let file = open.remove(random.below(5) as usize);
                file.metadata().map(|m| format!("{} {}", m.nlink(), m.size()))
            }
            12 => fs::metadata(&one)
                .map(|m| format!("{:o} {} {}", m.mode(), m.nlink(), if m.is_file() { m.size() } else { 0 })),
            _ => OpenOptions::new().write(true).open(&one).and_then(|file| {
                file.set_len(random.below(30_000))?;
                Ok(String::new())
            }),
        };
        told.push(format!("{number}: {what} {:?}", result.map_err(|error| error.raw_os_error())));
    }
    told
}

/// One of a few names, in one of a few directories, sometimes a level deeper.
fn name(root: &Path, random: &mut Random) -> PathBuf {
    let mut path = root.join(format!("d{}", random.below(3)));
    for _ in 0..=(random.below(6) / 5) {
        path.push(format!("n{}", random.below(6)));
    }
    path
}

fn digest(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} bytes {sum:x}", bytes.len())
}

/// Everything below a directory, as seen at home.
fn tree(path: &Path, depth: usize, out: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(Result::unwrap).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.path().symlink_metadata().unwrap();
        let content = match meta.is_file() {
            true => digest(&fs::read(entry.path()).unwrap()),
            false => String::new(),
        };
        let _ = writeln!(out, "{:depth$}{:?} {:o} {content}", "", entry.file_name(), meta.mode());
        if meta.is_dir() {
            tree(&entry.path(), depth + 1, out);
        }
    }
}

#[test]
fn nothing_is_lost_or_done_twice_when_connections_break() {
    let test = "nothing_is_lost_or_done_twice_when_connections_break";
    if cannot_mount(test) {
        return;
    }
    let seed = std::env::var("OM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20);
    println!("{test}: seed {seed}");
    let rig = Rig::new(NOBODY, Wire::Brittle(30));
    for name in ["plain", "mounted"] {
        fs::create_dir(rig.home.join(name)).unwrap();
        std::os::unix::fs::chown(rig.home.join(name), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let plain = as_user(NOBODY, || play(&rig.home.join("plain"), seed));
    let mounted = as_user(NOBODY, || play(&rig.guest.join("mounted"), seed));
    for (plain, mounted) in plain.iter().zip(&mounted) {
        assert_eq!(plain, mounted);
    }
    let done = plain.iter().filter(|line| line.contains("Ok")).count();
    let broken = rig.connections.load(Ordering::Relaxed);
    println!("{done} of {} operations did something, {broken} connections", plain.len());
    assert!(done > 2000 && broken > 800, "too tame");
    let (mut at_plain, mut at_mounted) = (String::new(), String::new());
    tree(&rig.home.join("plain"), 0, &mut at_plain);
    tree(&rig.home.join("mounted"), 0, &mut at_mounted);
    assert_eq!(at_plain, at_mounted);
}
