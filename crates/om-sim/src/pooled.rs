//! The yardstick that nothing can beat without knowing sizes: one queue, shared by all CPUs at once.
//!
//! For Poisson arrivals the mean number of jobs under pooled processor sharing does not depend on the distribution of
//! sizes (Kelly, *Reversibility and Stochastic Networks*, 1979, chapter 3), so it is that of M/M/k, for which
//! Erlang's C formula (1917) gives the probability of waiting: `S* = 1 + C(k, kρ) / (k (1 − ρ))`. Every job can use only
//! one CPU, and jobs move for nothing.

/// The mean slowdown of `cpus` pooled CPUs at the load `load` each, below 1.
#[must_use]
pub fn slowdown(cpus: u32, load: f64) -> f64 {
    let cpus_f = f64::from(cpus);
    1.0 + erlang_c(cpus, cpus_f * load) / (cpus_f * (1.0 - load))
}

/// The probability that all `servers` are busy when `offered` erlangs are offered.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    // Erlang B by its recursion, which neither overflows nor cancels.
    let blocked = (1..=servers).fold(1.0, |blocked, count| {
        let arriving = offered * blocked;
        arriving / (f64::from(count) + arriving)
    });
    let utilisation = offered / f64::from(servers);
    blocked / (1.0 - utilisation * (1.0 - blocked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cpu_is_plain_processor_sharing() {
        assert!((slowdown(1, 0.7) - 1.0 / 0.3).abs() < 1e-9);
    }

    #[test]
    fn the_textbook_value_of_erlang_c() {
        // M/M/2 at ρ = 0.75: C = 2ρ² / (1 + ρ).
        assert!((erlang_c(2, 1.5) - 2.0 * 0.5625 / 1.75).abs() < 1e-12);
        assert!(slowdown(1024, 0.9) < 1.001);
    }
}
