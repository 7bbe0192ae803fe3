//! Replays the fuzz targets' corpus with an ordinary compiler: what a fuzzer has found once stays found.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::path::{Path, PathBuf};

use om_fuzz_checks::CHECKS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn nothing_in_the_corpus_breaks_a_promise() {
    for (target, check) in CHECKS {
        let directory = fuzz().join("corpus").join(target);
        let mut count = 0;
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            check(&fs::read(&path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{} is empty", directory.display());
    }
}

#[test]
fn every_check_has_a_fuzz_target() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for (target, _) in CHECKS {
        let program = fs::read_to_string(fuzz().join(format!("fuzz_targets/{target}.rs"))).unwrap();
        assert!(program.contains(&format!("om_fuzz_checks::{target}(bytes)")), "{target}");
        assert!(manifest.contains(&format!("name = \"{target}\"\n")), "{target}");
    }
}
