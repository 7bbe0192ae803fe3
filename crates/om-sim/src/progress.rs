//! A bar for whoever waits at a terminal, and nothing for everybody else.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 20;
/// A line that is longer than the terminal is wide would not be taken away again.
const LINE: usize = 79;
/// Not drawn more often than this.
const EVERY: Duration = Duration::from_millis(100);

/// How far a comparison has come.
#[derive(Debug)]
pub struct Progress {
    runs: usize,
    done: usize,
    started: Instant,
    drawn: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    /// None of `runs` runs has been done.
    #[must_use]
    pub fn new(runs: usize) -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self { runs, done: 0, started: Instant::now(), drawn: None, is_terminal }
    }

    /// The run called `name` has come so far, 0 to 1.
    pub fn within(&mut self, name: &str, share: f64) {
        if !self.is_terminal || self.drawn.is_some_and(|drawn| drawn.elapsed() < EVERY) {
            return;
        }
        self.drawn = Some(Instant::now());
        let done = (self.done as f64 + share) / self.runs.max(1) as f64;
        say(&bar(done, self.started.elapsed(), name));
    }

    /// A run is done.
    pub fn done(&mut self) {
        self.done += 1;
    }

    /// Takes the bar away.
    pub fn end(self) {
        if self.is_terminal {
            say("");
        }
    }
}

fn say(what: &str) {
    let mut out = io::stderr();
    // Nobody is hurt if it cannot be said.
    let _ = write!(out, "\r\x1b[K{what}").and_then(|()| out.flush());
}

fn bar(done: f64, elapsed: Duration, name: &str) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the width")]
    let full = (done * WIDTH as f64).clamp(0.0, WIDTH as f64) as usize;
    let left_s = elapsed.as_secs_f64() * (1.0 - done) / done.max(1e-9);
    // The first guess would be a wild one.
    let left = if done > 0.01 { format!(", {left_s:.0} s left") } else { String::new() };
    let line =
        format!("[{}{}] {:3.0} %  {name}{left}", "#".repeat(full), " ".repeat(WIDTH - full), done * 100.0);
    line.chars().take(LINE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_tells_how_much_is_done_and_left() {
        let half = bar(0.5, Duration::from_secs(20), "cost at load 0.7, seed 3");
        assert_eq!(half, "[##########          ]  50 %  cost at load 0.7, seed 3, 20 s left");
        assert_eq!(bar(0.5, Duration::MAX, &"long ".repeat(20)).len(), 79);
        assert!(bar(0.0, Duration::ZERO, "none").starts_with("[                    ]   0 %  none"));
    }
}
