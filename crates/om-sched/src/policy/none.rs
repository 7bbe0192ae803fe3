//! The policy that never moves anything: to compare with, and for nodes that only take guests.

use super::{Policy, Proposal};
use crate::Time;
use crate::figures::Figures;
use crate::random::Random;
use crate::start::NewJob;
use crate::view::{Target, View};

/// Proposes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Policy for Nothing {
    fn decide(&mut self, _now: Time, _view: &View, _random: &mut Random) -> Vec<Proposal> {
        Vec::new()
    }

    fn start(&mut self, _job: &NewJob, _here: &Figures, _there: &[Target]) -> Option<usize> {
        None
    }
}
