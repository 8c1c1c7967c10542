//! Seeds played one after the other, for the simulations that say what came up.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

const SEEDS: u64 = 512;

pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// Plays 512 seeds, or what `AMP_SIM_SEED` and `AMP_SIM_SEEDS` say. Gives what came up, and whether there were enough of them
/// to meet everything.
pub(crate) fn sweep(play: impl Fn(u64) -> BTreeSet<&'static str>) -> (BTreeSet<&'static str>, bool) {
    let one = variable("AMP_SIM_SEED");
    let seeds = one.map_or(0..variable("AMP_SIM_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let many = seeds.end - seeds.start >= SEEDS;
    let mut met = BTreeSet::new();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| play(seed))) {
            Ok(seen) => met.extend(seen),
            Err(panic) => {
                eprintln!("seed {seed}: play it again with AMP_SIM_SEED={seed}");
                resume_unwind(panic);
            }
        }
    }
    (met, many)
}
