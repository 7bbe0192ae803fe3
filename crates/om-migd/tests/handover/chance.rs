//! Long histories by chance: larger clusters, many moves, crashes, and messages of long ago.

use crate::world::{Mistake, Step, World};

const HISTORIES: u64 = 200;
/// Of each; most of what is heard again changes nothing.
const STEPS: usize = 1500;

/// A generator that is the same everywhere: splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(limit).unwrap()).unwrap()
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() { None } else { Some(all[self.below(all.len())]) }
    }
}

/// One history; what went wrong in it, if anything.
fn live(seed: u64, mistake: Option<Mistake>) -> Result<(), String> {
    let mut chance = Chance(seed);
    let nodes = 3 + chance.below(3);
    let mut world = World::new(nodes, chance.below(nodes), seed.is_multiple_of(2), mistake);
    for _ in 0..STEPS {
        let step = match chance.below(2000) {
            0 => chance.pick(&world.crashes()),
            1..100 => chance.pick(&world.wishes()),
            100..500 => chance.pick(&world.steps()),
            // Else hardly a move would get far.
            _ => chance
                .pick(&world.steps().into_iter().filter(|step| !breaks(&world, *step)).collect::<Vec<_>>()),
        };
        if let Some(step) = step {
            world.apply(step);
            world.check()?;
        }
        if chance.below(200) == 0 {
            world.clone().heal()?;
        }
    }
    world.heal()
}

/// Whether it breaks a move off. To hear again of a candidate does: it has lost its link.
fn breaks(world: &World, step: Step) -> bool {
    use Step::{ArrivalFails, CandidateLost, Deliver, OfferFails, Overdue, SendFails};
    match step {
        CandidateLost | OfferFails(_) | SendFails(_) | ArrivalFails(_) | Overdue(_) => true,
        Deliver(message) => world.is_welcome_already(message),
        _ => false,
    }
}

/// The first seed of this run: given, or the time.
fn first_seed() -> u64 {
    let given = std::env::var("OM_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs() * 1_000_000)
    })
}

#[test]
fn long_histories_end_with_one_copy() {
    let first = first_seed();
    println!("seeds from {first} on");
    for seed in first..first + HISTORIES {
        if let Err(what) = live(seed, None) {
            panic!("OM_SEED={seed}: {what}");
        }
    }
}

#[test]
fn chance_finds_mistakes_too() {
    for mistake in [Mistake::RunsWhenReady, Mistake::ResumesInDoubt, Mistake::KeepsWhatIsGranted] {
        let found = (0..HISTORIES).any(|seed| live(seed, Some(mistake)).is_err());
        assert!(found, "{mistake:?}");
    }
}
