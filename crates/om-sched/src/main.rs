//! om-sched
fn main() {}
