//! The user's terminal, while the job has one of its own that stands for it.
//!
//! In the foreground the terminal is put into raw mode: every key goes to the job's terminal, whose modes decide what
//! it means, and what the job writes is shown as it comes. Its old modes are put back whenever `om run` stops, loses
//! the foreground or ends, in a panic too.
//!
//! Sometimes the terminal is not ours alone. If stdout is a pipe that another program of the same job of the shell
//! reads, that program may be `less` and want the keyboard; and under `setsid` a shell on the same terminal goes on
//! beside us. Then the modes are left as they are, and the keeper, which reads for the job, does so only while nobody
//! has switched line mode off.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, isatty, tcgetpgrp};
use om_proto::control::Keyboard;

use crate::sys;

/// The terminal whose modes are changed now, and what they were: for the panic hook.
static CHANGED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// The user's terminal.
pub struct Terminal {
    tty: OwnedFd,
    shared: bool,
}

impl Terminal {
    /// The terminal among the standard streams, the one that the keeper takes for the job's.
    pub fn of_streams() -> Option<Self> {
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let streams = [output.as_fd(), input.as_fd(), error.as_fd()];
        let tty = streams.into_iter().find(|stream| isatty(stream).unwrap_or(false))?;
        let tty = tty.try_clone_to_owned().ok()?;
        let is_controlling = tcgetpgrp(&tty) != Err(Errno::ENOTTY);
        let shared = !is_controlling || (is_pipe(output.as_fd()) && has_companions());
        Some(Self { tty, shared })
    }

    /// Whether another program may want the keyboard.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Takes the terminal if it is ours to take, and tells whose the keyboard is now.
    pub fn take(&self) -> Keyboard {
        if !self.is_foreground() {
            self.forget();
            return Keyboard::Others;
        }
        if self.shared {
            return Keyboard::Shared;
        }
        if make_raw(self.tty.as_fd()).is_ok() { Keyboard::Own } else { Keyboard::Others }
    }

    /// Puts the old modes back, if this process had changed them.
    pub fn give_back(&self) {
        if self.is_foreground() { restore() } else { self.forget() }
    }

    /// Whether the keys go to the job as they are, so that the terminal itself makes no signals of them.
    pub fn is_raw(&self) -> bool {
        changed().is_some()
    }

    /// Rows and columns.
    pub fn size(&self) -> Option<(u16, u16)> {
        sys::window_size(&self.tty).ok()
    }

    /// Whether this process's group may use the terminal. One that is not this session's controlling terminal has
    /// no foreground, and everybody may use it.
    fn is_foreground(&self) -> bool {
        tcgetpgrp(&self.tty).map_or(true, |group| group == getpgrp())
    }

    /// The terminal is another's now, who has set it up for himself.
    fn forget(&self) {
        *changed() = None;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Puts a terminal into raw mode and remembers what its modes were; those from before the first time, if it is put
/// there again because a shell has meddled with it meanwhile.
pub fn make_raw(tty: BorrowedFd<'_>) -> io::Result<()> {
    let mut changed = changed();
    let old = match changed.take() {
        Some((_, old)) => old,
        None => tcgetattr(tty)?,
    };
    let mut raw = old.clone();
    cfmakeraw(&mut raw);
    *changed = Some((tty.try_clone_to_owned()?, old));
    tcsetattr(tty, SetArg::TCSANOW, &raw)?;
    Ok(())
}

/// Puts back the modes of the terminal that [`make_raw`] changed.
pub fn restore() {
    if let Some((tty, modes)) = changed().take() {
        // Nobody is left to tell that it failed.
        let _ = tcsetattr(&tty, SetArg::TCSANOW, &modes);
    }
}

/// Has a panic put the terminal's modes back, and show `farewell` on stdout, before it is reported.
pub fn restore_on_panic(farewell: &'static str) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        let mut out = io::stdout();
        let _ = out.write_all(farewell.as_bytes()).and_then(|()| out.flush());
        report(panic);
    }));
}

fn changed() -> std::sync::MutexGuard<'static, Option<(OwnedFd, Termios)>> {
    CHANGED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_pipe(stream: BorrowedFd<'_>) -> bool {
    let kind = fstat(stream).map(|stat| stat.st_mode & SFlag::S_IFMT.bits());
    matches!(kind, Ok(kind) if kind == SFlag::S_IFIFO.bits() || kind == SFlag::S_IFSOCK.bits())
}

/// Whether programs of this process's group run beside it. Those above it, a script or a shell that waits for its
/// output, use no keyboard meanwhile.
fn has_companions() -> bool {
    let own = std::process::id();
    let group = getpgrp().as_raw();
    let mut above = vec![own];
    while let Some((parent, _)) = above.last().and_then(|pid| parent_and_group(*pid)) {
        if parent == 0 || above.contains(&parent) {
            break;
        }
        above.push(parent);
    }
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| !above.contains(pid))
        .any(|pid| parent_and_group(pid).is_some_and(|(_, its_group)| its_group == group))
}

fn parent_and_group(pid: u32) -> Option<(u32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_parent_and_a_group() {
        let (parent, group) = parent_and_group(std::process::id()).unwrap();
        assert_eq!(parent, std::os::unix::process::parent_id());
        assert_eq!(group, getpgrp().as_raw());
        assert_eq!(parent_and_group(u32::MAX), None);
    }
}
