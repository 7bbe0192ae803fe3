//! The table of attacks in docs/threat-model.md names tests; each of them must exist.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All files below a directory.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, files),
            false => files.push(path),
        }
    }
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let document = fs::read_to_string(repository().join("docs/threat-model.md")).unwrap();
    let attacks = document.split("\n## Attacks that fail\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut files = Vec::new();
    for directory in ["crates", "tests", "fuzz/checks"] {
        walk(&repository().join(directory), &mut files);
    }
    let mut count = 0;
    for row in attacks.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in tests.split("; ") {
            let (file, name) = test.strip_prefix('`').and_then(|test| test.split_once("` ")).expect(row);
            let said = if file.ends_with(".rs") { format!("fn {name}(") } else { format!("try \"{name}\"") };
            let is_there = |path: &PathBuf| {
                path.ends_with(file) && fs::read_to_string(path).is_ok_and(|text| text.contains(&said))
            };
            assert!(files.iter().any(is_there), "no {said} in any {file}");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} tests are named");
}
