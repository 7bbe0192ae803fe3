//! Each machine alone, whatever it hears.

use om_migd::handover::arbiter::{Arbiter, Input as AtHome, Output};
use om_migd::handover::source::{self, Source};
use om_migd::handover::target::{self, Target};
use proptest::prelude::*;

fn epochs() -> impl Strategy<Value = u64> {
    1_u64..6
}

fn at_home() -> impl Strategy<Value = AtHome> {
    prop_oneof![
        epochs().prop_map(AtHome::Candidate),
        epochs().prop_map(AtHome::Prepared),
        epochs().prop_map(AtHome::Ready),
        epochs().prop_map(AtHome::Abort),
        Just(AtHome::CandidateLost),
        Just(AtHome::TimeOut),
    ]
}

/// What home has heard of one attempt, as a list to look things up in.
#[derive(Default)]
struct Attempt {
    epoch: u64,
    prepared: bool,
    ready: bool,
    is_over: bool,
}

/// The attempt that goes on, if it is for this epoch.
fn present(attempts: &mut [Attempt], epoch: u64) -> Option<&mut Attempt> {
    attempts.last_mut().filter(|attempt| !attempt.is_over && attempt.epoch == epoch)
}

proptest! {
    #[test]
    fn home_grants_each_epoch_once_and_only_when_both_ends_are_done(
        inputs in proptest::collection::vec(at_home(), 0..60)
    ) {
        let mut arbiter = Arbiter::default();
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut holder = 1;
        for input in inputs {
            let output = arbiter.handle(input);
            match (input, output) {
                (AtHome::Candidate(epoch), Output::Welcome) => {
                    prop_assert!(attempts.iter().all(|attempt| attempt.is_over), "two moves at a time");
                    prop_assert!(attempts.iter().all(|attempt| attempt.epoch < epoch), "{epoch} again");
                    attempts.push(Attempt { epoch, ..Attempt::default() });
                }
                (AtHome::Prepared(epoch) | AtHome::Ready(epoch), _) => {
                    let done = present(&mut attempts, epoch).map(|attempt| {
                        attempt.prepared |= matches!(input, AtHome::Prepared(_));
                        attempt.ready |= matches!(input, AtHome::Ready(_));
                        attempt.is_over = attempt.prepared && attempt.ready;
                        attempt.is_over
                    });
                    prop_assert_eq!(done == Some(true), output == Output::Grant(epoch));
                    if done == Some(true) {
                        prop_assert!(epoch > holder);
                        holder = epoch;
                    }
                }
                (AtHome::Abort(epoch) | AtHome::Candidate(epoch), Output::Abort(aborted)) => {
                    prop_assert_eq!(epoch, aborted);
                    present(&mut attempts, epoch).unwrap().is_over = true;
                }
                (AtHome::CandidateLost | AtHome::TimeOut, Output::Abort(epoch)) => {
                    present(&mut attempts, epoch).unwrap().is_over = true;
                }
                (_, Output::Grant(_) | Output::Welcome) => {
                    prop_assert!(false, "{:?} leads to {:?}", input, output);
                }
                _ => {}
            }
            prop_assert_eq!(arbiter.holder(), holder);
        }
    }

    #[test]
    fn a_source_in_doubt_moves_by_homes_word_alone(
        inputs in proptest::collection::vec(proptest::sample::select(&source::Input::ALL[..]), 0..60)
    ) {
        use source::{Action, Input, State};
        let mut source = Source::holding(1);
        let mut epoch = 1;
        for input in inputs {
            let before = source.state();
            if input == Input::Wish {
                epoch += 1;
            }
            let actions = source.hear(epoch, input);
            // Whose word lets it run, or destroys it.
            let is_home = matches!(input, Input::Aborted | Input::Granted | Input::HomeDead | Input::Ended);
            prop_assert!(!before.is_in_doubt() || source.state().is_in_doubt() || is_home);
            prop_assert_eq!(
                before.is_frozen() && source.state() == State::Here,
                actions.contains(&Action::Resume)
            );
            let is_over = matches!(input, Input::Granted | Input::HomeDead) || before == State::Lent;
            prop_assert!(!actions.contains(&Action::Destroy) || is_over);
            prop_assert!(!actions.contains(&Action::Destroy) || source.state() == State::Gone);
            prop_assert!(before != State::Gone || source.state() == State::Gone);
            // A failure is told as soon as the job runs on, and only then.
            let came_back = before.is_moving() && source.state() == State::Here;
            prop_assert_eq!(came_back, actions.contains(&Action::Report));
        }
    }

    #[test]
    fn a_target_runs_once_and_only_when_granted(
        inputs in proptest::collection::vec(proptest::sample::select(&target::Input::ALL[..]), 0..60)
    ) {
        use target::{Action, Input, State};
        let mut target = Target::preparing(2);
        let (mut restored, mut over) = (false, false);
        for input in inputs {
            prop_assert!(target.hear(3, input).is_empty(), "another epoch is nothing to it");
            let actions = target.hear(2, input);
            prop_assert!(!over || actions.is_empty());
            restored |= actions.contains(&Action::SayReady);
            if actions.contains(&Action::Run) {
                prop_assert!(restored && input == Input::Granted);
            }
            if actions.contains(&Action::Destroy) {
                prop_assert_ne!(input, Input::Granted);
            }
            over = matches!(target.state(), State::Here | State::Gone);
            prop_assert_eq!(over, actions.contains(&Action::Run) || actions.contains(&Action::Destroy) || over && actions.is_empty());
        }
    }
}
