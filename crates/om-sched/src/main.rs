//! The stock scheduler: the library's daemon with the stock policies.

use std::process::ExitCode;

use om_sched::policy::Registry;

fn main() -> ExitCode {
    om_sched::main(&Registry::stock())
}
