//! A file behaves at the guest's as it does at home.

use std::fs;

use crate::rig::{NOBODY, Rig, Wire, as_user, cannot_mount};
use crate::story;

/// Tells the story at home and at the guest's, on the same file system, and compares.
fn compare(uid: u32, wire: Wire) {
    let rig = Rig::new(uid, wire);
    for name in ["plain", "mounted"] {
        fs::create_dir(rig.home.join(name)).unwrap();
        std::os::unix::fs::chown(rig.home.join(name), Some(uid), Some(uid)).unwrap();
    }
    let plain = as_user(uid, || story::tell(&rig.home.join("plain")));
    let mounted = as_user(uid, || story::tell(&rig.guest.join("mounted")));
    assert_eq!(plain.0.len(), mounted.0.len());
    let differ = |(plain, mounted): &(&String, &String)| plain != mounted;
    let different: Vec<_> = plain.0.iter().zip(&mounted.0).filter(differ).collect();
    assert!(different.is_empty(), "plain and mounted differ: {different:#?}");
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
