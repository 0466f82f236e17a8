//! Names, each a newtype that only parsing can make.
//!
//! Ids become NATS subject tokens, so their grammar is `[A-Za-z0-9_-]{1,64}` (design section 10):
//! nats-server stores literal `*`, NUL and bidi marks, and closes a connection for a long control line.

use crate::limits::ID_BYTES_MAX;
use crate::subject::Partition;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing between the quotes.
    #[error("an id may not be empty")]
    Empty,
    /// Longer than [`ID_BYTES_MAX`].
    #[error("an id has at most {ID_BYTES_MAX} bytes")]
    TooLong,
    /// A character that could mean something in a subject.
    #[error("an id consists of A-Z, a-z, 0-9, `_` and `-`")]
    Grammar,
    /// Not a UUID of version 7.
    #[error("a cid is a UUID of version 7")]
    NotUuidV7,
}

/// Checks the id grammar `[A-Za-z0-9_-]{1,64}`.
///
/// # Errors
/// Says which part of the grammar is broken.
pub fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong);
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    {
        return Err(IdError::Grammar);
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Invariant: matches the id grammar.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the id grammar.
            ///
            /// # Errors
            /// Says which part of the grammar is broken.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as it stands in a subject or a frame.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

id! {
    /// A room. Derived from who made it and how, never chosen (design section 3).
    RoomId
}
id! {
    /// A user, as the gateway made it from a token's `iss` and `sub`.
    UserId
}
id! {
    /// One store of one client: two sockets of one device are one reader.
    DeviceId
}
id! {
    /// One socket, for logs and for support.
    ConnId
}
id! {
    /// One run of one process.
    InstanceId
}
id! {
    /// One life of the log: a new one is made when a lost stream is seeded again.
    LogId
}

fn digest22(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hash.update(b"\n");
        }
        hash.update(part.as_bytes());
    }
    let mut text = URL_SAFE_NO_PAD.encode(hash.finalize());
    text.truncate(22);
    text
}

impl RoomId {
    /// The room of exactly these people: `d` and a hash of the sorted, distinct ids.
    #[must_use]
    pub fn direct(members: &[UserId]) -> Self {
        let mut ids: Vec<&str> = members.iter().map(UserId::as_str).collect();
        ids.sort_unstable();
        ids.dedup();
        Self(format!("d{}", digest22(&ids)).into())
    }

    /// The room that this create command makes: `r` and a hash of author and cid.
    #[must_use]
    pub fn created(author: &UserId, cid: Cid) -> Self {
        Self(format!("r{}", digest22(&[author.as_str(), &cid.to_string()])).into())
    }

    /// The room that holds a user's own state: `s_` and a hash of the id.
    #[must_use]
    pub fn own(user: &UserId) -> Self {
        Self(format!("s_{}", digest22(&[user.as_str()])).into())
    }

    /// Whether this is some user's own room. A created room never starts with `s_`.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.0.starts_with("s_")
    }

    /// The partition whose owner orders this room.
    #[must_use]
    pub fn partition(&self) -> Partition {
        Partition::of(self)
    }
}

impl UserId {
    /// The user behind a token: `sub` itself where it fits the grammar, else a hash of both.
    ///
    /// `issuer_is_configured` says whether `iss` is the one issuer whose subjects are taken as they are.
    #[must_use]
    pub fn from_claims(issuer: &str, subject: &str, issuer_is_configured: bool) -> Self {
        if issuer_is_configured && let Ok(id) = Self::parse(subject) {
            return id;
        }
        Self(format!("u_{}", digest22(&[issuer, subject])).into())
    }
}

/// A client's own name for a command, the same for every retry of it: a UUID of version 7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(uuid::Uuid);

impl Cid {
    /// Parses the hyphenated form.
    ///
    /// # Errors
    /// [`IdError::NotUuidV7`] for anything else.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.len() != 36 {
            return Err(IdError::NotUuidV7);
        }
        let Ok(uuid) = uuid::Uuid::try_parse(text) else {
            return Err(IdError::NotUuidV7);
        };
        Self::from_uuid(uuid)
    }

    /// Takes a UUID that is of version 7.
    ///
    /// # Errors
    /// [`IdError::NotUuidV7`] for another version or variant.
    pub fn from_uuid(uuid: uuid::Uuid) -> Result<Self, IdError> {
        if uuid.get_version_num() != 7 || uuid.get_variant() != uuid::Variant::RFC4122 {
            return Err(IdError::NotUuidV7);
        }
        Ok(Self(uuid))
    }

    /// Builds one from a time in ms since 1970 and ten random bytes (RFC 9562 section 5.7).
    #[must_use]
    pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
    }

    /// The time its maker put into it.
    #[must_use]
    pub fn time(self) -> crate::Timestamp {
        let [a, b, c, d, e, f, ..] = *self.0.as_bytes();
        let ms = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        crate::Timestamp(i64::try_from(ms).expect("48 bits fit"))
    }

    /// The UUID, for the archive.
    #[must_use]
    pub fn uuid(self) -> uuid::Uuid {
        self.0
    }

    /// Its sixteen bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_mean_something_in_a_subject_is_refused() {
        let long = "a".repeat(65);
        for bad in [
            "",
            "a.b",
            "*",
            ">",
            "a b",
            "a\0",
            "é",
            "e\u{301}",
            "\u{202e}a",
            "a\n",
            &long,
        ] {
            assert!(RoomId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(RoomId::parse(&"a".repeat(64)).is_ok());
    }

    #[test]
    fn a_direct_room_does_not_depend_on_the_order_of_its_people() {
        let (a, b) = (
            UserId::parse("alice").unwrap(),
            UserId::parse("bob").unwrap(),
        );
        let one = RoomId::direct(&[a.clone(), b.clone()]);
        assert_eq!(one, RoomId::direct(&[b, a.clone(), a]));
        assert_eq!(one.as_str().len(), 23);
        assert!(RoomId::parse(one.as_str()).is_ok());
    }

    #[test]
    fn a_cid_keeps_its_time_and_only_version_7_is_one() {
        let cid = Cid::from_parts(1_795_370_000_123, [7; 10]);
        assert_eq!(cid.time().0, 1_795_370_000_123);
        assert_eq!(Cid::parse(&cid.to_string()), Ok(cid));
        assert!(Cid::parse("6ba7b810-9dad-11d1-80b4-00c04fd430c8").is_err());
        assert!(Cid::parse("x").is_err());
    }

    #[test]
    fn a_subject_outside_the_grammar_becomes_a_hash() {
        let id = UserId::from_claims("https://id.example", "auth0|5f", true);
        assert!(id.as_str().starts_with("u_"));
        assert_eq!(UserId::from_claims("x", "alice", true).as_str(), "alice");
        assert_ne!(UserId::from_claims("x", "alice", false).as_str(), "alice");
    }
}
