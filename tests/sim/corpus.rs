//! Seeds that once found something: kept for ever, and run first.

/// One a line: which simulator, the seed, and behind `#` what it found.
const SEEDS: &str = include_str!("../data/sim/seeds.txt");

/// The seeds of one simulator.
///
/// # Panics
/// If a line is not as described.
pub fn seeds(of: &str) -> Vec<u64> {
    let lines = SEEDS
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim());
    let named = lines.filter(|line| !line.is_empty()).map(|line| {
        let (simulator, seed) = line.split_once(' ').expect("a simulator and a seed");
        let seed: u64 = seed.trim().parse().expect("a number");
        (simulator, seed)
    });
    let own = named.filter(|(simulator, _)| *simulator == of);
    own.map(|(_, seed)| seed).collect()
}
