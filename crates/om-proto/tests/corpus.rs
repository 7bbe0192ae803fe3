//! Replays the fuzz targets' corpus with an ordinary compiler: what a fuzzer has found once stays found.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::path::PathBuf;

#[path = "../../../fuzz/src/checks.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets' library has it public")]
mod checks;

/// Runs every file of the target's corpus through its check.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", dir.display());
}

#[test]
fn no_datagram_of_the_corpus_breaks_a_reader() {
    replay("datagram", checks::datagram);
}

#[test]
fn no_datagrams_of_the_corpus_take_the_table_out_of_its_bounds() {
    replay("table", checks::table);
}

#[test]
fn no_text_of_the_corpus_breaks_a_parser_of_the_om_files() {
    replay("om_files", checks::om_files);
}
