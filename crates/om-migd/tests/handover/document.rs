//! docs/migration-protocol.md has the tables as they are in the code.

use std::fmt::{Debug, Write as _};

use om_migd::handover::{arbiter, source, target};

const DOCUMENT: &str = include_str!("../../../../docs/migration-protocol.md");

/// A table of what happens in each state (a column) at each input (a row).
fn table<S: Copy + Debug + PartialEq, I: Copy + Debug, A: Debug>(
    states: &[S],
    inputs: &[I],
    step: impl Fn(S, I) -> (S, Vec<A>),
) -> String {
    let mut text = String::from("| |");
    for state in states {
        write!(text, " {state:?} |").unwrap();
    }
    text += "\n|---|";
    text += &"---|".repeat(states.len());
    for input in inputs {
        write!(text, "\n| **{input:?}** |").unwrap();
        for state in states {
            let (next, actions) = step(*state, *input);
            let does: Vec<String> = actions.iter().map(|action| format!("{action:?}")).collect();
            let goes = if next == *state { String::new() } else { format!("→ {next:?}") };
            let cell = [goes, does.join(", ")].into_iter().filter(|part| !part.is_empty());
            write!(text, " {} |", cell.collect::<Vec<_>>().join(": ")).unwrap();
        }
    }
    text + "\n"
}

fn is_in_the_document(table: &str) {
    assert!(DOCUMENT.contains(table), "docs/migration-protocol.md lacks this table:\n\n{table}");
}

#[test]
fn the_document_has_the_sources_table() {
    is_in_the_document(&table(&source::State::ALL, &source::Input::ALL, |state, input| {
        let (next, actions) = source::step(state, input);
        (next, actions.to_vec())
    }));
}

#[test]
fn the_document_has_the_targets_table() {
    is_in_the_document(&table(&target::State::ALL, &target::Input::ALL, |state, input| {
        let (next, actions) = target::step(state, input);
        (next, actions.to_vec())
    }));
}

#[test]
fn the_document_has_homes_table() {
    is_in_the_document(&table(&arbiter::State::ALL, &arbiter::Event::ALL, |state, event| {
        let (next, action) = arbiter::step(state, event);
        (next, action.into_iter().collect())
    }));
}
