//! The real commands against om files that are plain files, nodes that the tests play, and a scheduler's document.
//!
//! Plain files do what is written into them at once, so a move is over as soon as it was asked for.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod jobs;
mod nodes;
mod place;
mod scheduler;

use place::Place;

#[test]
fn what_is_not_understood_is_said_on_one_line() {
    let place = Place::new();
    for arguments in
        [&["mvoe"][..], &["move"], &["move", "x", "home"], &["run"], &["nodes", "--wait", "70000"], &[]]
    {
        let (status, output, error) = place.om(arguments);
        assert_eq!((status, output.as_str()), (2, ""), "{arguments:?}");
        assert!(error.starts_with("om: ") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn help_is_no_failure() {
    let place = Place::new();
    let (status, output, error) = place.om(&["run", "--help"]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert!(output.contains("125: om failed"));
}

#[test]
fn packages_get_completions_and_man_pages() {
    let place = Place::new();
    let (status, output, _) = place.om(&["completions", "bash"]);
    assert!(status == 0 && output.contains("complete -F _om"));
    let dir = place.path("man");
    let (status, _, error) = place.om(&["man", dir.to_str().unwrap()]);
    assert_eq!(status, 0, "{error}");
    assert!(std::fs::read_to_string(dir.join("om-run.1")).unwrap().contains("127: there is no such command"));
    assert!(dir.join("om.1").exists() && !dir.join("om-man.1").exists());
}
