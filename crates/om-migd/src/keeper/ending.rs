//! How a job ends: its PID 1 reports, the user gets the rest of the output, the deputy is told, nothing is left.

use std::io;

use om_proto::control::{Ending, Keyboard, Reply, Usage};

use super::home::Holder;
use super::run::{Keeper, Side};
use crate::handover::source;
use crate::inspect;
use crate::net::message::{FromHome, ToHome};
use crate::stdio::TERMINAL_INPUT;
use crate::stdio::away_input::AwayInput;
use crate::stdio::inlet::Inlet;
use crate::stdio::outlet;

/// What the job's PID 1 reports; see `init/main.rs`.
const FAILED: u32 = 2;
const ENDED: u32 = 3;
const STOPPED: u32 = 4;
const CONTINUED: u32 = 5;

impl Keeper {
    pub(super) fn handle_report(&mut self, kind: u32, value: u32) {
        match kind {
            FAILED => match &self.side {
                Side::Home(_) => self.refuse(value),
                Side::Guest(guest) => guest.tell_home(&ToHome::CannotExecute(value)),
            },
            ENDED => {
                self.command_ended = Some(value.cast_signed());
                self.tell_ending();
            }
            // A signal that lets it go on may have overtaken the report.
            STOPPED => {
                let stopped = self.residence.as_ref().is_some_and(|residence| residence.command_is_stopped());
                self.note_command_stopped(stopped);
            }
            CONTINUED => self.note_command_stopped(false),
            _ => {}
        }
    }

    /// The command was stopped by a signal, by its terminal's ^Z say, or goes on. The deputy stops with it, once for each
    /// stop: PID 1 reports a stop again after a move.
    pub(super) fn note_command_stopped(&mut self, stopped: bool) {
        let news = std::mem::replace(&mut self.command_stopped, stopped) != stopped;
        let holds = self.source.held() > 0;
        match &mut self.side {
            Side::Home(home) if news && stopped => {
                // From the moment that the deputy stops what is typed is for the shell. It tells when it goes on.
                self.keyboard = Keyboard::Others;
                home.give_keyboard(self.keyboard);
                home.tell_deputy(&Reply::Stopped);
            }
            Side::Guest(guest) if holds => guest.tell_home(&ToHome::CommandStopped(stopped)),
            _ => {}
        }
        if news {
            self.publish();
        }
    }

    /// At home: the command could not be executed, and says which error the kernel gave.
    pub(super) fn refuse(&mut self, error: u32) {
        let error = io::Error::from_raw_os_error(error.cast_signed());
        let not_found = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        let status = if not_found { 127 } else { 126 };
        let name = self.spec.command.split(' ').next().unwrap_or_default();
        let message = if not_found {
            format!("{name}: command not found")
        } else {
            format!("{name}: cannot be executed: {error}")
        };
        self.tell_deputy(&Reply::Refused { message, status });
        if let Side::Home(home) = &mut self.side {
            home.deputy = None;
        }
    }

    /// The command has ended: the deputy is told as soon as the user has got all that it wrote.
    pub(super) fn tell_ending(&mut self) {
        let Some(status) = self.command_ended else { return };
        let cpu_us = self.cpu_us();
        let alone = self.residence.as_ref().is_none_or(|residence| residence.is_empty());
        match &mut self.side {
            Side::Home(home) => {
                home.input_read = home.inlets[0].as_ref().and_then(Inlet::read_by_job).filter(|_| alone);
                let ends =
                    std::array::from_fn(|n| home.outlets[n].as_ref().map_or(0, outlet::Outlet::catch_up));
                home.ending.get_or_insert((Ending::from_wait_status(status), ends));
                self.finish_deputy();
            }
            Side::Guest(guest) => {
                let output =
                    std::array::from_fn(|n| guest.outputs[n].as_ref().map_or(0, |output| output.catch_up()));
                let input = guest.inputs[0].as_ref().map(AwayInput::read_by_job).filter(|_| alone);
                guest.tell_home(&ToHome::CommandEnded { status, output, input, cpu_us });
            }
        }
    }

    /// At home: tells the deputy the end once everything is delivered; ends when the job is gone too.
    pub(super) fn finish_deputy(&mut self) {
        let usage = self.usage();
        let Side::Home(home) = &mut self.side else { return };
        if home.delivered_to_the_end()
            && let Some((status, _)) = home.ending
        {
            if let (Some(inlet), Some(offset)) = (&home.inlets[0], home.input_read) {
                inlet.give_back(offset);
            }
            // What is typed from now on is for the shell, also if something of the job lives on.
            if let Some(terminal) = &home.inlets[TERMINAL_INPUT] {
                terminal.finish();
            }
            home.tell_deputy(&Reply::Exited { status, usage });
            home.deputy = None;
        }
        if home.gone && home.deputy.is_none() {
            self.finished = true;
        }
    }

    pub(super) fn handle_init_ended(&mut self, epoch: u64) {
        if epoch != self.source.held() || self.residence.is_none() {
            return;
        }
        self.source_handles(source::Input::Ended, "the job has ended");
        self.departure = None;
        let cpu_us = self.cpu_us();
        if let Some(residence) = self.residence.take() {
            residence.cgroup.remove();
        }
        self.cpu_before = cpu_us;
        // Killed with everything else: PID 1 had no time to tell.
        let killed = libc::SIGKILL;
        match &mut self.side {
            Side::Home(home) => {
                home.gone = true;
                if self.command_ended.is_none() {
                    self.command_ended = Some(killed);
                    self.tell_ending();
                }
                self.finish_deputy();
            }
            Side::Guest(guest) => {
                guest.ends = Some(std::array::from_fn(|n| {
                    guest.outputs[n].as_ref().map_or(0, |output| output.catch_up())
                }));
                if self.command_ended.is_none() {
                    self.command_ended = Some(killed);
                    self.tell_ending();
                }
                self.finish_guest();
            }
        }
        self.publish();
    }

    /// On a guest's node: once home has got everything of a job that has ended, it is told. The end here is when home
    /// answers, or has nothing of the job any more: what was only sent dies with a broken link.
    pub(super) fn finish_guest(&mut self) {
        let cpu_us = self.cpu_us();
        let is_over = self.is_over();
        let Side::Guest(guest) = &mut self.side else { return };
        if is_over && !guest.gone_told && guest.link.is_some() {
            guest.gone_told = true;
            guest.tell_home(&ToHome::Gone { cpu_us });
        }
    }

    /// On a guest's node: whether the job has ended and home has all that it wrote.
    pub(super) fn is_over(&self) -> bool {
        matches!(&self.side, Side::Guest(guest) if self.residence.is_none() && guest.flushed())
    }

    pub(super) fn handle_output(&mut self, index: usize, event: outlet::Event) {
        let Side::Home(home) = &mut self.side else { return };
        let Ok(stream) = u8::try_from(index) else { return };
        match event {
            outlet::Event::Delivered(offset) => {
                home.delivered[index] = offset;
                home.tell_guest(&FromHome::OutputTaken(stream, offset));
            }
            outlet::Event::Closed => home.tell_guest(&FromHome::OutputClosed(stream)),
        }
        self.finish_deputy();
    }

    /// At home: the node where the job was is dead, and the job with it.
    pub(super) fn lose_job(&mut self, why: &str) {
        let Side::Home(home) = &mut self.side else { return };
        let Holder::Away(away) = &home.holder else { return };
        let message = format!("the job is lost: the node {} where it ran {why}", away.node);
        log::error!("job {}: {message}", self.spec.id);
        home.tell_deputy(&Reply::Lost { message });
        home.deputy = None;
        self.finished = true;
    }

    /// CPU time on all nodes, microseconds: user, system.
    pub(super) fn cpu_us(&self) -> (u64, u64) {
        match (&self.residence, &self.side) {
            (Some(residence), _) => {
                let here = residence.cgroup.cpu_time();
                (self.cpu_before.0 + here.user_us, self.cpu_before.1 + here.system_us)
            }
            (None, Side::Home(home)) if matches!(home.holder, Holder::Away(_)) => home.remote.cpu_us,
            _ => self.cpu_before,
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let (user_us, system_us) = self.cpu_us();
        let wall_us = inspect::now_us().saturating_sub(self.spec.started_us);
        Usage { wall_us, user_us, system_us, moves: self.moves }
    }

    /// Nothing is left to do here.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}
