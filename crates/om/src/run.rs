//! `om run`: starts a job and stays as its deputy, the process that its user sees, signals and waits for.
//!
//! ```text
//!  user's shell ──▶ om run ═══ control socket ═══▶ keeper ──▶ the job, on whatever node
//!  signals, ^Z, window size ──▶ Request              its end, its stops ──▶ Reply
//! ```
//!
//! The bytes of stdin, stdout and stderr do not pass through here: the keeper got the descriptors. What is left is one
//! thread that sleeps until a signal or a reply comes. It knows nothing of nodes and moves.
//!
//! Invariants: every way out puts the terminal's modes back; the exit status is the command's whenever there is one.

mod ending;
mod link;
mod place;
mod witness;

use std::env;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use om_proto::control::{Audience, Keyboard, Reply, Request, Start, VERSION};
use om_proto::omfs::OmRoot;

use crate::cli::RunArgs;
use crate::error::Failure;
use crate::signals::{self, Caught, Signals};
use crate::sys;
use crate::terminal::{self, Terminal};
use ending::Outcome;
use link::Link;
use witness::Witness;

/// How often the terminal is looked at where no signal tells that it has changed hands: shells give it to a job that
/// runs in the background without a word, and the rest of a pipeline takes it. Milliseconds.
const LOOK_EVERY_MS: u16 = 250;

/// Starts a job and stays with it until it ends.
pub fn run(root: &OmRoot, args: RunArgs) -> Result<ExitCode, Failure> {
    let print_time = args.time;
    let mut deputy = Deputy::start(root, args)?;
    let outcome = deputy.attend();
    // Before anything is printed, and before a signal may end this process.
    let was_raw = deputy.terminal.as_ref().is_some_and(Terminal::is_raw);
    let interrupted = deputy.interrupted;
    drop(deputy);
    match outcome? {
        Outcome::Ended(ending, usage) => {
            if print_time {
                // A reader of stderr that has left is no reason to end in another way than the command.
                let _ = write!(io::stderr(), "{}", ending::time_report(&usage));
            }
            // In raw mode the terminal made no signal of ^C. Those who would have got it with the command, the rest of
            // a pipeline or a script, get it now.
            Ok(ending::leave_as(ending, was_raw && !interrupted))
        }
        Outcome::Refused(message, status) => Err(Failure::NotStarted { message, status }),
        Outcome::Lost(message) => Err(Failure::Lost(message)),
    }
}

struct Deputy {
    link: Link,
    signals: Signals,
    /// Tells what came to the whole process group; none if the system has no process left for it.
    witness: Option<Witness>,
    /// The user's terminal, if the job has one that stands for it.
    terminal: Option<Terminal>,
    /// Whose the terminal's keyboard is, as last told.
    told_keyboard: Option<Keyboard>,
    /// A SIGINT or SIGQUIT came to this process itself and was forwarded.
    interrupted: bool,
}

impl Deputy {
    fn start(root: &OmRoot, args: RunArgs) -> Result<Self, Failure> {
        let failed = |what| move |source| Failure::Run { what, source };
        let cwd = env::current_dir().map_err(failed("tell the working directory"))?;
        let bounds = place::bounds(&args)?;
        let mut link = Link::open(&args.socket)?;
        let start = Start {
            version: VERSION,
            begin_on: place::begin_on(root, &args, &bounds),
            bounds,
            argv: args.command.into_iter().map(OsStringExt::into_vec).collect(),
            env: env::vars_os()
                .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
                .collect(),
            cwd: cwd.into_os_string().into_vec(),
            ignored_signals: sys::ignored_signals(),
            lock: args.lock,
            cpu: args.cpu,
        };
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let reply = link.start(&start, [input.as_fd(), output.as_fd(), error.as_fd()]);
        let has_terminal = match reply {
            Ok(Reply::Started { terminal, .. }) => terminal,
            Ok(Reply::Refused { message, status }) => return Err(Failure::NotStarted { message, status }),
            Ok(Reply::Lost { message }) => return Err(Failure::Lost(message)),
            Ok(_) => {
                let source = io::Error::other("om and om-migd are of different releases");
                return Err(Failure::Run { what: "start the job", source });
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let why = "it closed the connection; its log says why".to_owned();
                return Err(Failure::NoKeeper { socket: args.socket, why });
            }
            Err(source) => return Err(Failure::Run { what: "start the job", source }),
        };
        let signals = Signals::catch().map_err(failed("catch signals"))?;
        link.stop_blocking().map_err(failed("use om-migd's socket"))?;
        terminal::restore_on_panic("");
        let mut deputy = Self {
            link,
            signals,
            witness: None,
            terminal: if has_terminal { Terminal::of_streams() } else { None },
            told_keyboard: None,
            interrupted: false,
        };
        deputy.look_at_terminal();
        let _ = let_go_of_pipes();
        // Only now: the terminal looks for other programs of this group, and the witness is none.
        deputy.witness = Witness::start().ok();
        Ok(deputy)
    }

    /// Sleeps, and does what comes, until the job is over.
    fn attend(&mut self) -> Result<Outcome, Failure> {
        let failed = |what| move |source| Failure::Run { what, source };
        loop {
            self.wait().map_err(failed("wait for the job"))?;
            while let Some(caught) = self.signals.next() {
                self.handle_signal(caught);
            }
            self.link.flush();
            let is_open = self.link.receive().map_err(failed("hear the job's keeper"))?;
            while let Some(reply) = self.link.next_reply().map_err(failed("understand the job's keeper"))? {
                match reply {
                    Reply::Exited { status, usage } => return Ok(Outcome::Ended(status, usage)),
                    Reply::Refused { message, status } => return Ok(Outcome::Refused(message, status)),
                    Reply::Lost { message } => return Ok(Outcome::Lost(message)),
                    Reply::Stopped => self.handle_stopped(),
                    Reply::Notice { message } => self.say(&message),
                    Reply::Started { .. } => {}
                }
            }
            if !is_open {
                return Err(Failure::KeeperLost);
            }
            if self.may_change_hands() {
                self.look_at_terminal();
            }
        }
    }

    fn say(&self, message: &str) {
        let is_raw = self.terminal.as_ref().is_some_and(Terminal::is_raw);
        let end = if is_raw { "\r\n" } else { "\n" };
        let _ = write!(io::stderr(), "om: {message}{end}");
    }

    fn wait(&self) -> io::Result<()> {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, self.link.has_more());
        let mut descriptors =
            [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN), PollFd::new(self.link.as_fd(), wanted)];
        let timeout =
            if self.may_change_hands() { PollTimeout::from(LOOK_EVERY_MS) } else { PollTimeout::NONE };
        match poll(&mut descriptors, timeout) {
            Err(nix::errno::Errno::EINTR) => Ok(()),
            other => other.map(drop).map_err(io::Error::from),
        }
    }

    fn handle_signal(&mut self, caught: Caught) {
        match caught.signal {
            // Of children that whoever executed this program left it with.
            libc::SIGCHLD => {}
            libc::SIGWINCH if self.terminal.is_some() => self.tell_size(),
            libc::SIGCONT => self.handle_continued(),
            // One that stops does so to the job, and we follow when we hear of it.
            signal => {
                self.interrupted |= matches!(signal, libc::SIGINT | libc::SIGQUIT);
                let audience = self.audience(caught);
                self.link.tell(&Request::Signal(signal, audience));
            }
        }
    }

    /// Who would have got this signal if the job's processes were here in this process's place.
    fn audience(&mut self, caught: Caught) -> Audience {
        let Caught { signal, from_kernel } = caught;
        if from_kernel {
            return if signals::is_terminals(signal) { Audience::Foreground } else { Audience::Command };
        }
        let was_for_all = self.witness.as_mut().is_some_and(|witness| witness.saw(signal));
        if was_for_all { Audience::Group } else { Audience::Command }
    }

    /// The job has stopped; the user is to get his shell back.
    fn handle_stopped(&mut self) {
        let from_keyboard = self.terminal.as_ref().is_some_and(Terminal::is_raw);
        self.stop(libc::SIGTSTP, from_keyboard);
    }

    fn stop(&mut self, signal: i32, whole_group: bool) {
        if let Some(terminal) = &self.terminal {
            terminal.give_back();
            self.link.tell(&Request::Keyboard(Keyboard::Others));
        }
        signals::stop(signal, whole_group);
        let came = std::iter::from_fn(|| self.signals.next());
        // The one that continued us is dealt with here, and there is none if the kernel did not stop us.
        let came: Vec<Caught> = came.filter(|caught| caught.signal != libc::SIGCONT).collect();
        self.handle_continued();
        came.into_iter().for_each(|caught| self.handle_signal(caught));
    }

    fn handle_continued(&mut self) {
        self.told_keyboard = None;
        self.look_at_terminal();
        self.link.tell(&Request::Signal(libc::SIGCONT, Audience::Group));
    }

    /// Whether the terminal may become ours, or another's, without a signal.
    fn may_change_hands(&self) -> bool {
        let is_away = self.told_keyboard == Some(Keyboard::Others);
        self.terminal.as_ref().is_some_and(|terminal| is_away || terminal.is_shared())
    }

    /// Takes the terminal if that is possible, and tells the keeper what has changed.
    fn look_at_terminal(&mut self) {
        let Some(terminal) = &self.terminal else { return };
        let keyboard = terminal.take();
        if self.told_keyboard == Some(keyboard) {
            return;
        }
        // It may have been given another size meanwhile.
        if keyboard != Keyboard::Others || self.told_keyboard.is_none() {
            self.tell_size();
        }
        self.told_keyboard = Some(keyboard);
        self.link.tell(&Request::Keyboard(keyboard));
    }

    fn tell_size(&mut self) {
        let size = self.terminal.as_ref().and_then(Terminal::size);
        if let Some((rows, columns)) = size.filter(|size| *size != (0, 0)) {
            self.link.tell(&Request::WindowSize(rows, columns));
        }
    }
}

/// Closes what this process still has of stdin and stdout: of a pipe, the other side is to see the job's end of it
/// close, not this one's. Stderr is kept for messages.
fn let_go_of_pipes() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    Ok(())
}
