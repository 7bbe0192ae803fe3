//! A file behaves at the guest's as it does at home.

use std::fs;
use std::path::Path;

use crate::rig::{NOBODY, Rig, Wire, as_user, cannot_mount};
use crate::story::{self, Story};

/// Tells the story twice on the same names of the same file system, so that inode numbers too should differ
/// only where they must, and compares.
fn compare(uid: u32, wire: Wire) {
    let rig = Rig::new(uid, wire);
    let tell = |root: &Path| as_user(uid, || story::tell(root));
    fs::create_dir(rig.home.join("plain")).unwrap();
    fs::create_dir(rig.home.join("mounted")).unwrap();
    for name in ["plain", "mounted"] {
        std::os::unix::fs::chown(rig.home.join(name), Some(uid), Some(uid)).unwrap();
    }
    let plain = tell(&rig.home.join("plain"));
    let mounted = tell(&rig.guest.join("mounted"));
    if std::env::var_os("STORY").is_some() {
        for l in &mounted.0 {
            println!("{}", l.chars().take(200).collect::<String>());
        }
    }
    assert_eq!(plain.0.len(), mounted.0.len());
    let different: Vec<_> = without_numbers(&plain)
        .into_iter()
        .zip(without_numbers(&mounted))
        .filter(|(plain, mounted)| plain != mounted)
        .collect();
    assert!(different.is_empty(), "plain and mounted differ: {different:#?}");
}

/// Inode numbers of two directories differ; that the guest sees home's is tested by itself.
fn without_numbers(story: &Story) -> Vec<String> {
    let number = |line: &str| {
        let mut out = String::new();
        for word in line.split(' ') {
            let digits = word.trim_matches(|c: char| !c.is_ascii_digit());
            let is_ino =
                digits.len() >= 5 && digits.parse::<u64>().is_ok_and(|n| n > 10_000 && n < 100_000_000);
            out.push_str(if is_ino { "#" } else { word });
            out.push(' ');
        }
        out
    };
    story.0.iter().map(|line| number(line)).collect()
}

#[test]
fn a_story_told_as_root_is_the_same() {
    if !cannot_mount("a_story_told_as_root_is_the_same") {
        compare(0, Wire::Pair);
    }
}

#[test]
fn a_story_told_as_an_ordinary_user_is_the_same() {
    if !cannot_mount("a_story_told_as_an_ordinary_user_is_the_same") {
        compare(NOBODY, Wire::Tcp);
    }
}

#[test]
fn a_story_told_over_a_brittle_connection_is_the_same() {
    if !cannot_mount("a_story_told_over_a_brittle_connection_is_the_same") {
        compare(NOBODY, Wire::Brittle(60));
    }
}
