//! Counting in a `/proc` of one's own.

use std::fs;

use super::*;

/// A `/proc` of one's own.
struct FakeProc(tempfile::TempDir);

impl FakeProc {
    fn new() -> Self {
        let proc = Self(tempfile::tempdir().unwrap());
        fs::create_dir(proc.0.path().join("sys")).unwrap();
        proc
    }

    fn process(&self, pid: u32, name: &str, state: char, ticks: u64, threads: u32) {
        self.file(&format!("{pid}/stat"), &stat(pid, name, state, 0, ticks, threads));
    }

    fn thread(&self, pid: u32, tid: u32, state: char) {
        self.file(&format!("{pid}/task/{tid}/stat"), &stat(tid, "thread", state, 0, 0, 1));
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.0.path().join(pid.to_string())).unwrap();
    }

    fn counter(&self) -> TaskCounter {
        TaskCounter::open(self.0.path(), 1).unwrap()
    }
}

fn stat(pid: u32, name: &str, state: char, flags: u64, ticks: u64, threads: u32) -> String {
    format!("{pid} ({name}) {state} 1 1 1 0 -1 {flags} 0 0 0 0 {ticks} 1 0 0 20 0 {threads} 0 100 0 0\n")
}

fn runnable(counter: &mut TaskCounter) -> u32 {
    counter.count().unwrap().runnable
}

#[test]
fn a_command_name_cannot_fool_the_parser() {
    let stat = parse_stat(stat(7, "a) R 9 (b", 'S', 64, 40, 3).as_bytes()).unwrap();
    assert_eq!(stat, Stat { runnable: false, flags: 64, ticks: 41, threads: 3 });
    for text in ["", "7", "7 (x)", "7 (x) ", "7 (x) R", "7 (x) R 1 1 1 0 -1 x 0 0 0 0 1 1 0 0 20 0 1"] {
        assert_eq!(parse_stat(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn runnable_processes_are_counted_and_the_sampler_is_not() {
    let proc = FakeProc::new();
    proc.process(1, "omd", 'R', 0, 1);
    proc.process(2, "busy", 'R', 0, 1);
    proc.process(3, "idle", 'S', 0, 1);
    proc.process(4, "disk", 'D', 0, 1);
    proc.process(5, "dead", 'Z', 0, 1);
    assert_eq!(proc.counter().count(), Some(Tasks { runnable: 1, processes: 5 }));
}

#[test]
fn threads_are_counted_one_by_one() {
    let proc = FakeProc::new();
    proc.process(2, "threads", 'S', 10, 3);
    proc.thread(2, 2, 'S');
    proc.thread(2, 20, 'R');
    proc.thread(2, 21, 'R');
    let mut counter = proc.counter();
    assert_eq!(runnable(&mut counter), 2);
    // Starved: no CPU time since, but they were runnable.
    assert_eq!(runnable(&mut counter), 2);
}

#[test]
fn threads_that_slept_and_used_no_cpu_time_are_not_looked_at() {
    let proc = FakeProc::new();
    proc.process(2, "threads", 'S', 10, 2);
    proc.thread(2, 2, 'S');
    proc.thread(2, 20, 'S');
    let mut counter = proc.counter();
    assert_eq!(runnable(&mut counter), 0);
    proc.thread(2, 20, 'R');
    assert_eq!(runnable(&mut counter), 0, "nothing hints at it yet");
    proc.process(2, "threads", 'S', 11, 2);
    assert_eq!(runnable(&mut counter), 1);
}

#[test]
fn kernel_threads_are_no_processes() {
    let proc = FakeProc::new();
    proc.file("9/stat", &stat(9, "kworker/0:0", 'R', KERNEL_THREAD | 0x40, 5, 1));
    let mut counter = proc.counter();
    assert_eq!(counter.count(), Some(Tasks { runnable: 0, processes: 0 }));
    // Long after, its pid may be a process's.
    proc.process(9, "busy", 'R', 0, 1);
    let found = (0..=KERNEL_THREAD_LASTS).map(|_| runnable(&mut counter)).last();
    assert_eq!(found, Some(1));
}

#[test]
fn processes_that_come_and_go_leave_nothing_open() {
    let proc = FakeProc::new();
    for pid in 2..50 {
        proc.process(pid, "x", 'R', 0, 1);
    }
    let mut counter = proc.counter();
    assert_eq!(runnable(&mut counter), 48);
    assert_eq!(counter.kept, 48);
    for pid in 2..49 {
        proc.remove(pid);
    }
    assert_eq!(runnable(&mut counter), 1);
    assert_eq!((counter.kept, counter.known.len()), (1, 1));
}

#[test]
fn a_process_that_has_not_run_is_asleep_and_its_stat_is_not_read() {
    let proc = FakeProc::new();
    proc.process(2, "x", 'S', 10, 1);
    proc.file("2/schedstat", "1000 5 7\n");
    let mut counter = proc.counter();
    assert_eq!(runnable(&mut counter), 0);
    assert_eq!(runnable(&mut counter), 0);
    proc.process(2, "x", 'R', 10, 1);
    assert_eq!(runnable(&mut counter), 0, "nothing hints at it yet");
    proc.file("2/schedstat", "1000 5 8\n");
    assert_eq!(runnable(&mut counter), 1);
    assert_eq!(runnable(&mut counter), 1, "starved, but it was runnable");
    proc.process(2, "x", 'S', 10, 1);
    assert_eq!(runnable(&mut counter), 0);
}

#[test]
fn a_process_that_starts_threads_is_looked_at_anew() {
    let proc = FakeProc::new();
    proc.process(2, "x", 'S', 10, 1);
    proc.file("2/schedstat", "1000 5 7\n");
    let mut counter = proc.counter();
    assert_eq!(runnable(&mut counter), 0);
    assert_eq!(runnable(&mut counter), 0);
    proc.process(2, "x", 'S', 11, 2);
    proc.thread(2, 2, 'S');
    proc.thread(2, 20, 'R');
    proc.file("2/schedstat", "2000 5 8\n");
    assert_eq!((runnable(&mut counter), runnable(&mut counter)), (1, 1));
    assert_eq!(counter.kept, 1);
}

#[test]
fn a_process_that_runs_all_the_time_is_asked_by_its_stat_alone() {
    let proc = FakeProc::new();
    proc.process(2, "x", 'S', 10, 1);
    let mut counter = proc.counter();
    for round in 0..10 {
        proc.file("2/schedstat", &format!("{round} 5 {round}\n"));
        assert_eq!(runnable(&mut counter), 0);
    }
    assert!(matches!(counter.known[&2].kept, Kept::Stat(_)));
    proc.process(2, "x", 'R', 10, 1);
    assert_eq!(runnable(&mut counter), 1);
    proc.process(2, "x", 'S', 10, 1);
    for _ in 0..=2 * ACTIVE_LASTS {
        assert_eq!(runnable(&mut counter), 0);
    }
    assert!(matches!(counter.known[&2].kept, Kept::Schedstat(_)), "it sleeps most of the time again");
    assert_eq!(counter.kept, 1);
}

#[test]
fn the_directory_is_listed_when_a_process_was_started_and_now_and_then() {
    let proc = FakeProc::new();
    proc.file("loadavg", "0.00 0.00 0.00 1/50 100\n");
    proc.process(2, "x", 'R', 0, 1);
    let mut counter = proc.counter();
    // Unlike /proc's, a plain file can be read after it was removed.
    counter.may_keep = 0;
    assert_eq!(runnable(&mut counter), 1);
    proc.process(3, "x", 'R', 0, 1);
    assert_eq!(runnable(&mut counter), 1, "nobody said so");
    proc.file("loadavg", "0.00 0.00 0.00 1/50 101\n");
    assert_eq!(runnable(&mut counter), 2);
    proc.remove(3);
    assert_eq!(runnable(&mut counter), 1, "an end is seen without a list");
    proc.process(3, "x", 'R', 0, 1);
    let found = (0..LIST_EVERY).map(|_| runnable(&mut counter)).last();
    assert_eq!(found, Some(2));
}

#[test]
fn with_no_file_kept_open_the_count_is_the_same() {
    let proc = FakeProc::new();
    for pid in 2..50 {
        proc.process(pid, "x", 'R', 0, 1);
    }
    let mut counter = proc.counter();
    counter.may_keep = 5;
    for _ in 0..3 {
        assert_eq!(runnable(&mut counter), 48);
        assert_eq!(counter.kept, 5);
    }
}

#[test]
fn on_this_host_a_busy_thread_is_seen() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        // Counted by a sampler that calls itself another process.
        let mut counter = TaskCounter::open(Path::new("/proc"), u32::MAX).unwrap();
        let seen = counter.runnable_of(std::process::id());
        stop.store(true, Ordering::Relaxed);
        assert!(seen.unwrap() >= 1);
    });
}
