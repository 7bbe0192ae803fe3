//! om-sched with one more policy: `policy = "rules"`.

use std::process::ExitCode;

fn main() -> ExitCode {
    om_sched::main(&example_rules::registry())
}
