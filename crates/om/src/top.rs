//! `om top`: nodes and jobs on a screen that is drawn again every second.
//!
//! What is drawn is made by pure functions from what was heard and read; this file owns the terminal while it runs, and
//! gives it back as it was on every way out.

mod screen;

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use om_proto::omfs::OmRoot;

use crate::cli::TopArgs;
use crate::ear::Ear;
use crate::error::Failure;
use crate::job::Reader;
use crate::signals::{self, Caught, Signals};
use crate::{sys, terminal};

/// Between two pictures.
const EVERY: Duration = Duration::from_secs(1);
/// The first picture comes early, with whoever has answered by then.
const FIRST: Duration = Duration::from_millis(300);
/// Alternate screen on, cursor off; and the reverse.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Keys that have a meaning.
const CTRL_C: u8 = 3;
const CTRL_L: u8 = 12;
const CTRL_Z: u8 = 26;

/// Shows nodes and jobs until it is told to stop.
pub fn run(root: &OmRoot, args: &TopArgs) -> Result<ExitCode, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let why = "om top needs a terminal; om nodes --follow and om ps print to anything";
        return Err(Failure::Usage(why.into()));
    }
    let ear = Ear::open(&args.hearing)?;
    let signals = Signals::catch().map_err(Failure::io("catch signals"))?;
    terminal::restore_on_panic(LEAVE);
    let mut top = Top { root, ear, signals };
    let ended_by = enter().and_then(|()| top.show());
    leave();
    if let Some(signal) = ended_by.map_err(Failure::io("use the terminal"))? {
        signals::die(signal, false);
    }
    Ok(ExitCode::SUCCESS)
}

struct Top<'a> {
    root: &'a OmRoot,
    ear: Ear,
    signals: Signals,
}

/// What to do after something has happened.
enum Then {
    GoOn,
    Draw,
    Quit,
    EndBy(i32),
}

impl Top<'_> {
    /// Draws and waits until `q` or a signal; the signal to end by, if it was one.
    fn show(&mut self) -> io::Result<Option<i32>> {
        let mut next = Instant::now() + FIRST;
        loop {
            self.wait(next)?;
            self.ear.take();
            let mut then = if Instant::now() >= next { Then::Draw } else { Then::GoOn };
            while let Some(Caught { signal, .. }) = self.signals.next() {
                then = handle_signal(signal, then)?;
            }
            if has_input()? {
                let mut keys = [0; 64];
                let count = io::stdin().read(&mut keys)?;
                if count == 0 {
                    return Ok(None);
                }
                for key in &keys[..count] {
                    then = handle_key(*key, then)?;
                    // What is typed ahead is not for this program any more.
                    if matches!(then, Then::Quit) {
                        return Ok(None);
                    }
                }
            }
            match then {
                Then::GoOn => {}
                Then::Draw => {
                    self.draw()?;
                    next = Instant::now() + EVERY;
                }
                Then::Quit => return Ok(None),
                Then::EndBy(signal) => return Ok(Some(signal)),
            }
        }
    }

    fn wait(&self, until: Instant) -> io::Result<()> {
        let stdin = io::stdin();
        let watched = [stdin.as_fd(), self.signals.as_fd()].into_iter().chain(self.ear.sockets());
        let mut descriptors: Vec<PollFd<'_>> =
            watched.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)).collect();
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
        match poll(&mut descriptors, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(nix::errno::Errno::EINTR) => Ok(()),
            other => other.map(drop).map_err(io::Error::from),
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        let (rows, columns) = sys::window_size(io::stdout())?;
        let nodes = self.ear.nodes();
        let jobs = Reader::new(self.root).all().map_err(|error| error.to_string());
        let lines = screen::lines(&nodes, &jobs, usize::from(rows.max(1)), usize::from(columns.max(1)));
        let mut out = io::stdout().lock();
        let mut picture = "\x1b[H".to_owned();
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                picture.push_str("\r\n");
            }
            picture.push_str(line);
            picture.push_str("\x1b[K");
        }
        picture.push_str("\x1b[J");
        out.write_all(picture.as_bytes())?;
        out.flush()
    }
}

fn has_input() -> io::Result<bool> {
    let stdin = io::stdin();
    let mut descriptors = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut descriptors, PollTimeout::ZERO)? > 0)
}

fn handle_signal(signal: i32, then: Then) -> io::Result<Then> {
    match signal {
        libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM => Ok(Then::EndBy(signal)),
        libc::SIGWINCH => Ok(Then::Draw),
        libc::SIGCONT => enter().map(|()| Then::Draw),
        libc::SIGTSTP => pause(false),
        _ => Ok(then),
    }
}

fn handle_key(key: u8, then: Then) -> io::Result<Then> {
    match key {
        b'q' | b'Q' | CTRL_C => Ok(Then::Quit),
        b' ' | CTRL_L => Ok(Then::Draw),
        CTRL_Z => pause(true),
        _ => Ok(then),
    }
}

/// Gives the terminal back and stops until somebody continues this process.
fn pause(whole_group: bool) -> io::Result<Then> {
    leave();
    signals::stop(libc::SIGTSTP, whole_group);
    enter().map(|()| Then::Draw)
}

fn enter() -> io::Result<()> {
    terminal::make_raw(io::stdin().as_fd())?;
    let mut out = io::stdout();
    out.write_all(ENTER.as_bytes())?;
    out.flush()
}

fn leave() {
    let mut out = io::stdout();
    let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
    terminal::restore();
}
