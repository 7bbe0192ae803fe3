//! What becomes of a cluster when nothing more goes wrong: every message arrives, every thread comes to its end, whoever
//! is dead is found to be.

use om_migd::handover::arbiter::Arbiter;
use om_migd::handover::source;

use crate::world::{Copy, Message, Step, World};

impl World {
    /// Lets the cluster come to rest. Then just one copy is there, running, or none if the job may be lost.
    pub fn heal(&mut self) -> Result<(), String> {
        // What is repeated while a machine is in doubt, and what breaks a move off when nothing else helps.
        for round in 0.. {
            if round > 1000 {
                return Err("it never comes to rest".to_owned());
            }
            let before = self.clone();
            for message in before.messages.iter().filter(|message| !matches!(message, Message::Offer { .. }))
            {
                // No link breaks any more.
                if !self.is_welcome_already(*message) {
                    self.apply(Step::Deliver(*message));
                    self.check()?;
                }
            }
            let offers = before.messages.iter().filter(|message| before.is_unanswered(**message));
            for offer in offers {
                self.apply(Step::Deliver(*offer));
            }
            for step in self.steps() {
                match step {
                    Step::SendLuggage(_)
                    | Step::Sent(_)
                    | Step::Served(_)
                    | Step::Restored(_)
                    | Step::Linked(_) => self.apply(step),
                    _ => {}
                }
                self.check()?;
            }
            if *self == before && !self.give_up() {
                break;
            }
            self.check()?;
        }
        let copies: Vec<Copy> = self.places.iter().flat_map(|place| place.copies.values().copied()).collect();
        match copies[..] {
            [Copy::Running] => Ok(()),
            [] if self.excused => Ok(()),
            _ => Err(format!("at rest there are {copies:?}")),
        }
    }

    /// A hello of the candidate that is welcome already: it must have lost its link.
    pub fn is_welcome_already(&self, message: Message) -> bool {
        let moving = self.arbiter.as_ref().and_then(Arbiter::moving);
        matches!(message, Message::Candidate { epoch, .. } if moving == Some(epoch))
    }

    /// An offer that its target has not heard yet.
    fn is_unanswered(&self, message: Message) -> bool {
        let Message::Offer { from, epoch, .. } = message else { return false };
        self.places[from].source.moving() == Some(epoch)
            && self.places[from].source.state() == source::State::Offering
            && !self.messages.contains(&Message::Candidate { from: self.places[from].to, epoch })
    }

    /// What time-outs do once nothing moves any more, the first that applies.
    fn give_up(&mut self) -> bool {
        let before = self.clone();
        let steps = self.steps();
        let late = |step: &&Step| {
            matches!(
                step,
                Step::OfferFails(_) | Step::SendFails(_) | Step::ArrivalFails(_) | Step::HomeDead(_)
            )
        };
        let lost = steps.iter().find(|step| **step == Step::CandidateLost);
        for step in steps.iter().filter(late).chain(lost) {
            self.apply(*step);
            if *self != before {
                return true;
            }
        }
        let holder_is_lost = self.arbiter.is_some()
            && self.holder().is_some_and(|node| {
                !self.places[node].up || self.places[node].source.state() == source::State::Gone
            });
        if holder_is_lost {
            self.apply(Step::HomeGivesUp);
        }
        *self != before
    }
}
