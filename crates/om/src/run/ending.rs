//! How `om run` ends: as the command did.

use std::fmt::Write as _;
use std::process::ExitCode;

use nix::libc;
use om_proto::control::{Ending, Usage};

use crate::signals;

/// What became of the job.
pub enum Outcome {
    /// The command ended.
    Ended(Ending, Usage),
    /// It could not be executed: the message and the exit status.
    Refused(String, u8),
    /// The node where it ran is lost.
    Lost(String),
}

/// Leaves as the command did: with its exit code, or by the signal that ended it, which a shell shows as 128 and the
/// signal's number. With `from_keyboard`, a signal that keys make goes to the whole process group.
pub fn leave_as(ending: Ending, from_keyboard: bool) -> ExitCode {
    if let Ending::Signal(signal) = ending {
        let signal = i32::from(signal);
        let is_key = matches!(signal, libc::SIGINT | libc::SIGQUIT);
        signals::die(signal, is_key && from_keyboard);
    }
    // Still here: a code, or a signal that the caller had this process ignore or that ends nobody.
    ExitCode::from(ending.shell_status())
}

/// As `time -p` has it, with the moves.
pub fn time_report(usage: &Usage) -> String {
    let mut report = String::new();
    for (name, us) in [("real", usage.wall_us), ("user", usage.user_us), ("sys", usage.system_us)] {
        // Writing to a String cannot fail.
        let _ = writeln!(report, "{name} {}.{:02}", us / 1_000_000, us / 10_000 % 100);
    }
    let _ = writeln!(report, "moves {}", usage.moves);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_that_of_time_p_and_the_moves() {
        let usage = Usage { wall_us: 12_345_678, user_us: 9_990_000, system_us: 70_000, moves: 3 };
        assert_eq!(time_report(&usage), "real 12.34\nuser 9.99\nsys 0.07\nmoves 3\n");
    }
}
