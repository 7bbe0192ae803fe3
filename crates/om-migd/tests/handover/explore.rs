//! Every order of everything, for small clusters: all states that can be reached are visited, breadth first.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::world::{Mistake, Step, World};

/// How much may happen in all besides messages, threads and time.
#[derive(Clone, Copy, Hash)]
struct Budget {
    wishes: u8,
    crashes: u8,
    ends: u8,
}

/// Visits everything; the number of states, or the shortest way to one that is wrong.
fn explore(start: World, budget: Budget) -> Result<usize, String> {
    let mut seen = HashSet::from([fingerprint(&start, budget)]);
    // Each state, what may still happen, and the index of the state before it with the step between.
    let mut queue = VecDeque::from([(start, budget, 0)]);
    let mut ways: Vec<(usize, Option<Step>)> = vec![(0, None)];
    while let Some((world, budget, way)) = queue.pop_front() {
        let mut next: Vec<(Step, Budget)> = world.steps().into_iter().map(|step| (step, budget)).collect();
        if let Some(wishes) = budget.wishes.checked_sub(1) {
            next.extend(world.wishes().into_iter().map(|step| (step, Budget { wishes, ..budget })));
        }
        if let Some(crashes) = budget.crashes.checked_sub(1) {
            next.extend(world.crashes().into_iter().map(|step| (step, Budget { crashes, ..budget })));
        }
        if let Some(ends) = budget.ends.checked_sub(1) {
            next.extend(world.ends().into_iter().map(|step| (step, Budget { ends, ..budget })));
        }
        for (step, budget) in next {
            let mut after = world.clone();
            after.apply(step);
            if !seen.insert(fingerprint(&after, budget)) {
                continue;
            }
            ways.push((way, Some(step)));
            let here = ways.len() - 1;
            after.check().and_then(|()| after.clone().heal()).map_err(|what| tell(&ways, here, &what))?;
            queue.push_back((after, budget, here));
        }
    }
    Ok(seen.len())
}

/// Of a state; 128 bits, so that two of some million never have the same.
fn fingerprint(world: &World, budget: Budget) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, world, budget).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

fn tell(ways: &[(usize, Option<Step>)], mut at: usize, what: &str) -> String {
    let mut steps = Vec::new();
    while let (before, Some(step)) = ways[at] {
        steps.push(format!("{step:?}"));
        at = before;
    }
    steps.reverse();
    format!("{what} after\n  {}", steps.join("\n  "))
}

const ONE_MOVE: Budget = Budget { wishes: 1, crashes: 1, ends: 1 };
const TWO_MOVES: Budget = Budget { wishes: 2, crashes: 0, ends: 0 };

fn all_is_well(start: usize, budget: Budget) {
    // Memory that follows makes the second move's states many, and bars it from beginning.
    match explore(World::new(3, start, budget.wishes == 1, None), budget) {
        Ok(states) => println!("{states} states"),
        Err(what) => panic!("{what}"),
    }
}

#[test]
fn one_move_from_home_with_a_crash_anywhere() {
    all_is_well(0, ONE_MOVE);
}

#[test]
fn one_move_of_a_guest_with_a_crash_anywhere() {
    all_is_well(1, ONE_MOVE);
}

#[test]
fn two_moves_with_every_message_of_the_first_in_the_second() {
    all_is_well(1, TWO_MOVES);
}

/// That the search finds what is wrong.
#[test]
fn every_mistake_is_found() {
    for (mistake, budget) in [
        (Mistake::RunsWhenReady, ONE_MOVE),
        (Mistake::ResumesInDoubt, ONE_MOVE),
        (Mistake::DestroysWhenPrepared, ONE_MOVE),
        (Mistake::FreezesTooLate, ONE_MOVE),
        (Mistake::KeepsWhatIsGranted, ONE_MOVE),
        (Mistake::MixesEpochs, TWO_MOVES),
        (Mistake::ForgetsEarlierGrants, TWO_MOVES),
        (Mistake::DestroysWhatIsLent, ONE_MOVE),
        (Mistake::WaitsForTheLost, ONE_MOVE),
    ] {
        let found = explore(World::new(3, 1, budget.wishes == 1, Some(mistake)), budget);
        match found {
            Ok(states) => panic!("{mistake:?} is in none of {states} states"),
            Err(what) => println!("{mistake:?}: {what}\n"),
        }
    }
}
