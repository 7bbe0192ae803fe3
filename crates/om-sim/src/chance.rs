//! The distributions that workloads are drawn from.
//!
//! All from one seeded generator, and with the functions of `libm` instead of the platform's, so that a seed gives
//! the same workload on every machine.

use om_sched::random::Random;

/// A number in [0, 1).
pub fn uniform(random: &mut Random) -> f64 {
    (random.bits() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// Exponential with this mean.
pub fn exponential(random: &mut Random, mean: f64) -> f64 {
    -mean * libm::log1p(-uniform(random))
}

/// Lognormal: the logarithm has the standard deviation `sigma`.
pub fn lognormal(random: &mut Random, median: f64, sigma: f64) -> f64 {
    // Box and Muller, 1958.
    let radius = (-2.0 * libm::log1p(-uniform(random))).sqrt();
    median * libm::exp(sigma * radius * libm::cos(std::f64::consts::TAU * uniform(random)))
}

/// Log-uniform between `least` and `most`.
pub fn log_uniform(random: &mut Random, least: f64, most: f64) -> f64 {
    least * libm::exp(uniform(random) * libm::log(most / least))
}

/// Pareto with tail index `alpha`, cut off at `most`.
pub fn bounded_pareto(random: &mut Random, alpha: f64, least: f64, most: f64) -> f64 {
    let beyond = libm::pow(least / most, alpha);
    least * libm::pow(1.0 - uniform(random) * (1.0 - beyond), -1.0 / alpha)
}

/// The mean of [`bounded_pareto`], for `alpha` other than 1.
#[must_use]
pub fn bounded_pareto_mean(alpha: f64, least: f64, most: f64) -> f64 {
    let beyond = libm::pow(least / most, alpha);
    let scale = alpha / (alpha - 1.0) / (1.0 - beyond);
    scale * (least - most * beyond)
}

/// The mean of [`log_uniform`].
#[must_use]
pub fn log_uniform_mean(least: f64, most: f64) -> f64 {
    (most - least) / libm::log(most / least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(draws: usize, mut draw: impl FnMut(&mut Random) -> f64) -> f64 {
        let mut random = Random::from_seed(5);
        (0..draws).map(|_| draw(&mut random)).sum::<f64>() / draws as f64
    }

    #[test]
    fn means_are_those_of_the_formulas() {
        assert!((mean(200_000, |random| exponential(random, 3.0)) / 3.0 - 1.0).abs() < 0.02);
        let drawn = mean(200_000, |random| log_uniform(random, 0.01, 1.0));
        assert!((drawn / log_uniform_mean(0.01, 1.0) - 1.0).abs() < 0.02);
        let drawn = mean(1_000_000, |random| bounded_pareto(random, 1.5, 1.0, 100.0));
        assert!((drawn / bounded_pareto_mean(1.5, 1.0, 100.0) - 1.0).abs() < 0.02);
        let drawn = mean(400_000, |random| lognormal(random, 2.0, 0.5));
        assert!((drawn / (2.0 * libm::exp(0.125)) - 1.0).abs() < 0.02);
    }

    #[test]
    fn a_seed_gives_these_numbers_on_every_machine() {
        let mut random = Random::from_seed(1);
        let drawn = [
            exponential(&mut random, 1.0),
            lognormal(&mut random, 1.0, 1.2),
            bounded_pareto(&mut random, 1.25, 1.0, 2710.0),
        ];
        assert_eq!(drawn.map(f64::to_bits), DRAWN, "{drawn:?}");
    }

    const DRAWN: [u64; 3] = [4_605_705_287_975_019_340, 4_619_624_693_908_690_811, 4_609_885_084_906_405_955];
}
