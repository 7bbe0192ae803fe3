//! `why` and `history`: the test is the scheduler.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::thread;

use serde_json::{Value, json};

use crate::place::Place;

fn document() -> Value {
    let weighing = |gain: f64| {
        json!({ "tasks": 1.0, "delta_j": 1.0, "remaining_s": 20.0, "cost_s": 0.25, "gain_s": gain, "is_enough": gain > 1.0,
                "here": { "cpus": 1.0 }, "there": { "cpus": 1.0 } })
    };
    let decision = |id: u32, pid: u32| json!({ "id": id, "pid": pid, "to": "10.77.0.2", "decided_ms_ago": 12_000, "text": format!("decision {id}") });
    json!({
        "version": 1, "policy": "cost", "dry_run": false, "problem": null,
        "jobs": [{ "pid": 42, "command": "sort big", "tasks": 1.0, "refusal": null, "candidates": [
            { "address": "10.77.0.2", "weighing": weighing(19.75), "refusal": null },
            { "address": "10.77.0.5", "weighing": weighing(0.5), "refusal": null },
            { "address": "10.77.0.3", "weighing": weighing(-0.5), "refusal": null },
            { "address": "10.77.0.4", "weighing": null, "refusal": "takes no guests" },
        ]}],
        "decisions": [decision(1, 42), decision(2, 7), decision(3, 42)],
    })
}

fn serve(place: &Place, text: String) -> String {
    let path = place.path("sched.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(text.as_bytes());
        }
    });
    path.to_str().unwrap().to_owned()
}

#[test]
fn why_a_job_is_where_it_is() {
    let place = Place::new();
    let socket = serve(&place, document().to_string());
    let (status, output, error) = place.om(&["why", "42", "--socket", &socket]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert_eq!(
        output,
        "\
42 (sort big): 1.0 runnable tasks, policy cost; it could move
NODE          GAIN  STILL NEEDS  SLOWDOWN SAVED  MOVE COSTS  VERDICT
10.77.0.2  19.75 s      20.00 s            1.00      0.25 s  pays
10.77.0.5   0.50 s      20.00 s            1.00      0.25 s  wins too little
10.77.0.3  -0.50 s      20.00 s            1.00      0.25 s  not worth it
10.77.0.4        -            -               -           -  takes no guests
12s ago: decision 1
12s ago: decision 3
"
    );
    let (_, output, _) = place.om(&["why", "42", "--json", "--socket", &socket]);
    let told: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(told["decisions"].as_array().unwrap().len(), 2);
    assert_eq!(told["job"]["candidates"][0]["weighing"]["gain_s"], 19.75);
    let (status, _, error) = place.om(&["why", "43", "--socket", &socket]);
    assert_eq!(status, 1);
    assert!(error.contains("knows no such job"), "{error}");
}

#[test]
fn the_history_is_told_from_the_oldest_on() {
    let place = Place::new();
    let socket = serve(&place, document().to_string());
    let (_, output, _) = place.om(&["history", "-n", "2", "--socket", &socket]);
    assert_eq!(output, " 12s ago  decision 2\n 12s ago  decision 3\n");
    let (_, output, _) = place.om(&["history", "--json", "--socket", &socket]);
    let told: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(told["decisions"], document()["decisions"]);
}

#[test]
fn a_scheduler_that_is_not_there_or_of_another_release_is_said_to_be_so() {
    let place = Place::new();
    let nowhere = place.path("none");
    let (status, _, error) = place.om(&["history", "--socket", nowhere.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(error.contains("it is not running"), "{error}");
    for (text, complaint) in [("{\"version\":2}", "of another release"), ("{", "is not understood")] {
        let socket = serve(&place, text.into());
        let (status, _, error) = place.om(&["why", "1", "--socket", &socket]);
        assert_eq!(status, 1);
        assert!(error.contains(complaint) && error.lines().count() == 1, "{error}");
    }
}
