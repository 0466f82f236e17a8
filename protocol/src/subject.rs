//! The whole NATS subject grammar, and the names of streams and buckets.
//!
//! Subjects are built and parsed only here; user text never becomes a token (design section 10).
//! Token names obey nats-architecture-and-design ADR-6.

use crate::limits::PARTITIONS;
use crate::{InstanceId, RoomId, UserId};
use std::fmt;

pub mod rights;

/// The stream that holds the log.
pub const LOG_STREAM: &str = "NATTER_LOG";
/// The key-value bucket of leases and live instances.
pub const LEASE_BUCKET: &str = "NATTER_LEASE";
/// Key of the log's epoch in the metadata of [`LOG_STREAM`].
pub const LOG_EPOCH_METADATA: &str = "natter-log-epoch";
/// Queue group of the history services.
pub const HISTORY_QUEUE: &str = "history";

/// One of the [`PARTITIONS`] parts of the log; each has one owner at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(u8);

impl Partition {
    /// The partition of a room: FNV-1a-32 of its id, the function of nats-server's `partition()`.
    #[must_use]
    pub fn of(room: &RoomId) -> Self {
        let hash = room.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let index = hash % u32::from(PARTITIONS);
        Self(u8::try_from(index).expect("less than 64"))
    }

    /// The partition with this number, if there is one.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < PARTITIONS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Every partition.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// Its number, below [`PARTITIONS`].
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its key in [`LEASE_BUCKET`].
    #[must_use]
    pub fn lease_key(self) -> String {
        format!("p.{}", self.0)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Through which door a command comes; a token of its own, so that broker permissions tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// A user's socket or HTTP request.
    User,
    /// A moderator's act through the admin API.
    Moderator,
    /// A bot.
    Bot,
}

impl Door {
    const fn token(self) -> &'static str {
        match self {
            Self::User => "u",
            Self::Moderator => "m",
            Self::Bot => "bot",
        }
    }

    fn parse(token: &str) -> Option<Self> {
        match token {
            "u" => Some(Self::User),
            "m" => Some(Self::Moderator),
            "bot" => Some(Self::Bot),
            _ => None,
        }
    }
}

/// A subject of natter. `parse(to_string())` gives the same back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `cmd.<p>.<door>.<actor>.<verb>.<room>`: a command, to the owner of the partition.
    Command {
        /// The room's partition; the owner checks it again.
        partition: Partition,
        /// Which door.
        door: Door,
        /// Who acts.
        actor: UserId,
        /// The operation, or `batch`.
        verb: String,
        /// The room.
        room: RoomId,
    },
    /// `cmd.<p>.>`: what an owner subscribes.
    Commands(Partition),
    /// `log.<p>`: the records of a partition.
    Log(Partition),
    /// `log.*`: what the stream takes.
    Logs,
    /// `live.<p>`: stored records, republished.
    Live(Partition),
    /// `live.*`: what a gateway subscribes.
    Lives,
    /// `wm.<instance>`: an owner's beacon, its highest acked stream sequence.
    Beacon(InstanceId),
    /// `wm.*`: every owner's beacon.
    Beacons,
    /// `own.<p>`: answered by the owner that is alive.
    Own(Partition),
    /// `hint.<p>`: a gateway found nobody on the partition's commands.
    Hint(Partition),
    /// `hint.*`: what every messages service subscribes.
    Hints,
    /// `svc.history.<verb>`: a question to history.
    History(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command {
                partition,
                door,
                actor,
                verb,
                room,
            } => write!(f, "cmd.{partition}.{}.{actor}.{verb}.{room}", door.token()),
            Self::Commands(partition) => write!(f, "cmd.{partition}.>"),
            Self::Log(partition) => write!(f, "log.{partition}"),
            Self::Logs => f.write_str("log.*"),
            Self::Live(partition) => write!(f, "live.{partition}"),
            Self::Lives => f.write_str("live.*"),
            Self::Beacon(instance) => write!(f, "wm.{instance}"),
            Self::Beacons => f.write_str("wm.*"),
            Self::Own(partition) => write!(f, "own.{partition}"),
            Self::Hint(partition) => write!(f, "hint.{partition}"),
            Self::Hints => f.write_str("hint.*"),
            Self::History(verb) => write!(f, "svc.history.{verb}"),
        }
    }
}

/// The text is no subject of natter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a subject of natter")]
pub struct SubjectError;

impl Subject {
    /// Parses a subject.
    ///
    /// # Errors
    /// [`SubjectError`] for everything that [`fmt::Display`] does not write.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        let tokens: Vec<&str> = text.split('.').collect();
        Self::from_tokens(&tokens).ok_or(SubjectError)
    }

    fn from_tokens(tokens: &[&str]) -> Option<Self> {
        Some(match tokens {
            ["cmd", partition, ">"] => Self::Commands(parse_partition(partition)?),
            ["cmd", partition, door, actor, verb, room] => Self::Command {
                partition: parse_partition(partition)?,
                door: Door::parse(door)?,
                actor: UserId::parse(actor).ok()?,
                verb: parse_verb(verb)?,
                room: RoomId::parse(room).ok()?,
            },
            ["log", "*"] => Self::Logs,
            ["log", partition] => Self::Log(parse_partition(partition)?),
            ["live", "*"] => Self::Lives,
            ["live", partition] => Self::Live(parse_partition(partition)?),
            ["wm", "*"] => Self::Beacons,
            ["wm", instance] => Self::Beacon(InstanceId::parse(instance).ok()?),
            ["own", partition] => Self::Own(parse_partition(partition)?),
            ["hint", "*"] => Self::Hints,
            ["hint", partition] => Self::Hint(parse_partition(partition)?),
            ["svc", "history", verb] => Self::History(parse_verb(verb)?),
            _ => return None,
        })
    }
}

fn parse_partition(token: &str) -> Option<Partition> {
    // One spelling per number: "07" and "+7" are no partitions.
    let number: u8 = token.parse().ok()?;
    (number.to_string() == token).then_some(Partition::new(number)?)
}

fn parse_verb(token: &str) -> Option<String> {
    crate::id::check(token).ok()?;
    Some(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_survives_its_text_form() {
        let p = Partition::new(7).unwrap();
        let all = [
            Subject::Command {
                partition: p,
                door: Door::User,
                actor: UserId::parse("alice").unwrap(),
                verb: "send".to_owned(),
                room: RoomId::parse("r1").unwrap(),
            },
            Subject::Commands(p),
            Subject::Log(p),
            Subject::Logs,
            Subject::Live(p),
            Subject::Lives,
            Subject::Beacon(InstanceId::parse("k7").unwrap()),
            Subject::Beacons,
            Subject::Own(p),
            Subject::Hint(p),
            Subject::Hints,
            Subject::History("page".to_owned()),
        ];
        for subject in all {
            assert_eq!(Subject::parse(&subject.to_string()), Ok(subject));
        }
    }

    #[test]
    fn other_texts_are_no_subjects() {
        for bad in [
            "",
            "log",
            "log.64",
            "log.07",
            "log.+7",
            "cmd.1.x.a.send.r",
            "cmd.1.u.a.b.c.d",
            "live.>",
            "svc.history.",
        ] {
            assert!(Subject::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_partition_is_what_nats_server_computes() {
        // FNV-1a-32("a") = 0xe40c292c, FNV-1a-32("foobar") = 0xbf9cf968 (the reference vectors).
        assert_eq!(Partition::of(&RoomId::parse("a").unwrap()).number(), 0x2c);
        assert_eq!(
            Partition::of(&RoomId::parse("foobar").unwrap()).number(),
            0x68 % 64
        );
    }
}
