//! What happens to whom and when: plain data, made from a seed, so that a failed test can be had again.
//!
//! A fault begins when so many messages are stored, not at a time: each hits a system that works, or one
//! that still suffers from another.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tests::Weather;

/// A process that can be hurt. The other ones are twins, whose connections run through cables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Gateway,
    OtherGateway,
    Messages,
    OtherMessages,
    History,
    OtherHistory,
    Broker,
    Database,
}

impl Victim {
    pub(crate) const ALL: [Self; 8] = [
        Self::Gateway,
        Self::OtherGateway,
        Self::Messages,
        Self::OtherMessages,
        Self::History,
        Self::OtherHistory,
        Self::Broker,
        Self::Database,
    ];
}

/// A connection that can be disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cable {
    /// Between the other gateway and the broker.
    Gateway,
    /// Between the other messages process and the broker.
    Messages,
    /// Between the other history process and the broker.
    History,
    /// Between the other history process and the database.
    Archive,
}

impl Cable {
    pub(crate) const ALL: [Self; 4] = [Self::Gateway, Self::Messages, Self::History, Self::Archive];
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, and whoever watches it starts it again.
    Kill(Victim),
    /// It stands still for so long.
    Pause(Victim, Duration),
    /// A connection has this weather for so long.
    Disturb(Cable, Weather, Duration),
}

/// A fault, and how many messages are stored when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) after_acked: u64,
    pub(crate) fault: Fault,
}

/// Kills of either messages process.
const WRITER_KILLS: usize = 10;
/// Kills of each other part.
const OTHER_KILLS: usize = 3;
/// Pauses, the last of which is long.
const PAUSES: usize = 5;
const PAUSE_MS: std::ops::Range<u64> = 100..6_000;
const LONG_PAUSE: Duration = Duration::from_secs(12);
/// Disturbed connections.
const DISTURBANCES: usize = 13;
const DISTURBED_MS: std::ops::Range<u64> = 100..4_000;
/// All of them.
pub(crate) const FAULTS: usize = WRITER_KILLS + 4 * OTHER_KILLS + PAUSES + DISTURBANCES;

/// Forty faults, spread evenly over so many messages.
pub(crate) fn schedule(seed: u64, messages: u64) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    for number in 0..WRITER_KILLS {
        faults.push(Fault::Kill(either(
            number,
            Victim::Messages,
            Victim::OtherMessages,
        )));
    }
    for number in 0..OTHER_KILLS {
        faults.push(Fault::Kill(either(
            number,
            Victim::Gateway,
            Victim::OtherGateway,
        )));
        faults.push(Fault::Kill(either(
            number,
            Victim::History,
            Victim::OtherHistory,
        )));
        faults.push(Fault::Kill(Victim::Broker));
        faults.push(Fault::Kill(Victim::Database));
    }
    for number in 0..PAUSES {
        let victim = Victim::ALL[rng.random_range(0..Victim::ALL.len())];
        let length = if number == 0 {
            LONG_PAUSE
        } else {
            millis(&mut rng, PAUSE_MS)
        };
        faults.push(Fault::Pause(victim, length));
    }
    for number in 0..DISTURBANCES {
        let delay = millis(&mut rng, 5..200);
        let weathers = [
            Weather::Cut,
            Weather::Silent,
            Weather::Deaf,
            Weather::Mute,
            Weather::Slow(delay),
        ];
        let weather = weathers[number % weathers.len()];
        let cable = Cable::ALL[rng.random_range(0..Cable::ALL.len())];
        faults.push(Fault::Disturb(
            cable,
            weather,
            millis(&mut rng, DISTURBED_MS),
        ));
    }
    faults.shuffle(&mut rng);
    let apart = messages / (faults.len() as u64 + 1);
    let steps = faults.into_iter().zip(1..);
    steps
        .map(|(fault, number)| Step {
            after_acked: number * apart,
            fault,
        })
        .collect()
}

fn either(number: usize, even: Victim, odd: Victim) -> Victim {
    if number.is_multiple_of(2) { even } else { odd }
}

fn millis(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

mod controls {
    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_another_one_is_another() {
        assert_eq!(schedule(7, 50_000), schedule(7, 50_000));
        assert_ne!(schedule(7, 50_000), schedule(8, 50_000));
    }

    #[test]
    fn every_schedule_has_all_faults_in_rising_order_before_the_end() {
        for seed in 0..200 {
            let steps = schedule(seed, 50_000);
            assert_eq!(steps.len(), 40);
            assert_eq!(FAULTS, 40);
            assert!(
                steps
                    .windows(2)
                    .all(|pair| pair[0].after_acked < pair[1].after_acked)
            );
            assert!(
                steps
                    .iter()
                    .all(|step| (1..50_000).contains(&step.after_acked))
            );
        }
    }

    /// What a soak of twenty schedules comes to.
    #[test]
    fn twenty_schedules_kill_two_hundred_writers_and_fifty_of_each_other_part() {
        let faults: Vec<Fault> = (0..20)
            .flat_map(|seed| schedule(seed, 50_000))
            .map(|step| step.fault)
            .collect();
        let kills = |victims: &[Victim]| {
            let is_one = |fault: &&Fault| matches!(fault, Fault::Kill(it) if victims.contains(it));
            faults.iter().filter(is_one).count()
        };
        assert_eq!(kills(&[Victim::Messages, Victim::OtherMessages]), 200);
        assert!(kills(&[Victim::Gateway, Victim::OtherGateway]) >= 50);
        assert!(kills(&[Victim::History, Victim::OtherHistory]) >= 50);
        assert!(kills(&[Victim::Broker]) >= 50);
        assert!(kills(&[Victim::Database]) >= 50);
        let pauses: Vec<Duration> = faults
            .iter()
            .filter_map(|fault| match fault {
                Fault::Pause(_, length) => Some(*length),
                Fault::Kill(_) | Fault::Disturb(..) => None,
            })
            .collect();
        assert_eq!(pauses.len(), 100);
        let range = Duration::from_millis(100)..=Duration::from_secs(30);
        assert!(pauses.iter().all(|pause| range.contains(pause)));
        for cable in Cable::ALL {
            for kind in ["Cut", "Silent", "Deaf", "Mute", "Slow"] {
                let is_one = |fault: &Fault| match fault {
                    Fault::Disturb(it, weather, _) => {
                        *it == cable && format!("{weather:?}").starts_with(kind)
                    }
                    Fault::Kill(_) | Fault::Pause(..) => false,
                };
                assert!(faults.iter().any(is_one), "{kind} of {cable:?}");
            }
        }
    }
}
