//! om-sched with one more policy: `policy = "round-robin"`.

use std::process::ExitCode;

fn main() -> ExitCode {
    om_sched::main(&example_round_robin::registry())
}
