//! The command as users meet it: its errors are one line, its exit status tells.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn om_sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_om-sim")).arg("run").args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_bad_line_of_a_trace_is_told_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jobs.csv");
    fs::write(&file, "submit_s,node,cpu_s,mem_mib\n0,0,1,1\n0,0,nan,1\n").unwrap();
    let output = om_sim(&["--trace", file.to_str().unwrap()]);
    let expected =
        format!("om-sim: {}:3: cpu_s is 'nan'; expected a number from 0 to 100000000\n", file.display());
    assert_eq!((stderr(&output), output.status.code()), (expected, Some(1)));
}

#[test]
fn an_empty_trace_and_one_that_is_not_there_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jobs.swf");
    fs::write(&file, "; Version: 2.2\n").unwrap();
    let output = om_sim(&["--trace", file.to_str().unwrap()]);
    let expected =
        format!("om-sim: {}: no job in it; expected one a line, the 18 numbers of SWF\n", file.display());
    assert_eq!(stderr(&output), expected);
    let output = om_sim(&["--trace", "no-such.csv"]);
    assert_eq!(stderr(&output), "om-sim: no-such.csv: No such file or directory (os error 2)\n");
}

#[test]
fn numbers_that_make_no_sense_are_refused_by_name() {
    for (arguments, expected) in [
        (["--load", "0.5,1.5"], "om-sim: --load 1.5: must be more than 0 and at most 0.99\n"),
        (["--load", "nan"], "om-sim: --load NaN: must be more than 0 and at most 0.99\n"),
        (["--seconds", "-1"], "om-sim: --seconds -1: must be more than 0 and at most 10000000\n"),
        (["--loss", "inf"], "om-sim: --loss inf: must be 0 to 0.99\n"),
    ] {
        let arguments = [&format!("{}={}", arguments[0], arguments[1])[..]];
        let output = om_sim(&arguments);
        assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(2)), "{arguments:?}");
    }
}

#[test]
fn a_trace_and_a_load_contradict_each_other_and_no_job_is_no_result() {
    let output = om_sim(&["--trace", "jobs.csv", "--load", "0.5"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("'--trace <FILE>' cannot be used with '--load"), "{}", stderr(&output));
    let output = om_sim(&["--nodes", "1", "--seconds", "0.001"]);
    let expected =
        "om-sim: no job comes within --seconds 0.001 at a load of 0.7 with seed 1; let it be longer\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(2)));
}

#[test]
fn a_job_that_comes_as_the_last_one_ends_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jobs.csv");
    fs::write(&file, "0,0,1,1\n1,0,1,1\n").unwrap();
    let output = om_sim(&["--trace", file.to_str().unwrap(), "--nodes", "2", "--policy", "cost", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["policies"][0]["jobs"], 2);
}

#[test]
fn the_example_runs_and_is_drawn() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/trace.csv");
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("trace.svg");
    let arguments = ["--trace", example.to_str().unwrap(), "--nodes", "4", "--policy", "none,cost", "--plot"];
    let output = om_sim(&[&arguments[..], &[picture.to_str().unwrap()]].concat());
    assert_eq!((stderr(&output).as_str(), output.status.code()), ("", Some(0)));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("4 nodes, workload ") && table.contains("80 jobs\n"), "{table}");
    let svg = fs::read_to_string(&picture).unwrap();
    assert!(svg.matches("class=\"stay\"").count() >= 80 && svg.contains("class=\"move\""));
    let output = om_sim(&["--seconds", "1", "--plot", "no/such/directory.svg"]);
    let expected = "om-sim: no/such/directory.svg: No such file or directory (os error 2)\n";
    assert_eq!((stderr(&output).as_str(), output.status.code()), (expected, Some(1)));
}

#[test]
fn json_has_the_names_that_scripts_go_by() {
    let output = om_sim(&["--nodes", "2", "--seconds", "5", "--policy", "cost", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &json["policies"][0];
    assert_eq!(row["policy"], "cost");
    for key in [
        "load",
        "mean_slowdown",
        "bounded_slowdown",
        "total_time_over_work",
        "p99_slowdown",
        "moves_per_1000_jobs",
        "frozen_share",
        "makespan_over_bound",
    ] {
        assert!(row[key].is_number(), "{key}: {row}");
    }
    assert!(
        row["standard_deviation"]["mean_slowdown"].is_number()
            && json["pooled"][0]["mean_slowdown"].is_number()
    );
}
