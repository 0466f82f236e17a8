//! The hash chain of a room: each event names the hash of the one before it.
//!
//! An event's hash covers its header in clear and its content only by a salted commitment, so erasing
//! content and salt keeps the chain whole, while a rewrite, a fork or a lost middle shows (design section 2).
//! It is tamper evidence, not a signature: who can rewrite everything can re-chain everything, which is
//! why heads are anchored outside (client snapshots, hourly checkpoints).

use crate::event::LogEvent;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Fields that hold what people wrote: hashed through the salted commitment, erasable.
pub const CONTENT_FIELDS: &[&str] = &[
    "text", "meta", "why", "name", "topic", "mentions", "emoji", "avatar", "draft", "status",
];

/// Separates this hash from every other use of SHA-256.
const DOMAIN: &[u8] = b"natter.event.1\n";

macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Parses unpadded base64url.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
                Some(Self(bytes.try_into().ok()?))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| de::Error::custom("not base64url of the right length"))
            }
        }
    };
}

bytes! {
    /// SHA-256 of an event, written as 43 characters of base64url.
    Hash 32
}
bytes! {
    /// Sixteen random bytes that blind an event's content, written as 22 characters of base64url.
    Salt 16
}

impl Hash {
    /// What the first event of a room names as its predecessor.
    pub const ZERO: Self = Self([0; 32]);
}

impl Salt {
    /// The salt of the `counter`-th event that an owner makes with a secret random `seed`:
    /// unpredictable without the seed, and the same in every replay of a simulation.
    #[must_use]
    pub fn derive(seed: &[u8; 32], counter: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed);
        hash.update(counter.to_be_bytes());
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..]: [u8; 32] = hash.finalize().into();
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }
}

/// An event as a line of the log, with its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// One line of JSON with sorted keys.
    pub line: String,
    /// Its hash, which the room's next event names in `prev`.
    pub hash: Hash,
}

/// Writes an event as a line of the log and hashes it.
#[must_use]
pub fn seal(event: &LogEvent) -> Sealed {
    let Ok(Value::Object(fields)) = serde_json::to_value(event) else {
        unreachable!("an event is an object with string keys")
    };
    let mut line = String::with_capacity(384);
    write_object(&mut line, fields.iter());
    Sealed {
        line,
        hash: hash_fields(&fields),
    }
}

/// Hashes an event from its line, whatever fields a later version added to it.
///
/// # Errors
/// The line is no JSON object.
pub fn hash_line(line: &str) -> Result<Hash, serde_json::Error> {
    let fields: Map<String, Value> = serde_json::from_str(line)?;
    Ok(hash_fields(&fields))
}

fn hash_fields(fields: &Map<String, Value>) -> Hash {
    let is_content = |key: &str| CONTENT_FIELDS.contains(&key);
    let commit = match fields.get("commit") {
        // The content was erased; its commitment took its place.
        Some(commit) => commit.clone(),
        None => {
            let mut content = String::with_capacity(256);
            write_object(
                &mut content,
                fields.iter().filter(|(key, _)| is_content(key)),
            );
            let mut hash = Sha256::new();
            hash.update(fields.get("salt").and_then(Value::as_str).unwrap_or(""));
            hash.update(b"\n");
            hash.update(&content);
            Value::String(URL_SAFE_NO_PAD.encode(hash.finalize()))
        }
    };
    let key = "commit".to_owned();
    let mut header = String::with_capacity(256);
    write_object(
        &mut header,
        fields
            .iter()
            .filter(|(key, _)| !is_content(key) && *key != "salt" && *key != "commit")
            .chain(std::iter::once((&key, &commit))),
    );
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(&header);
    Hash(hash.finalize().into())
}

/// Canonical JSON: keys sorted by bytes, no spaces. Independent of the map type that `serde_json` was built with.
fn write_object<'a>(out: &mut String, fields: impl Iterator<Item = (&'a String, &'a Value)>) {
    let mut sorted: Vec<_> = fields.collect();
    sorted.sort_unstable_by_key(|(key, _)| key.as_bytes());
    out.push('{');
    for (index, (key, value)) in sorted.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(out, key);
        out.push(':');
        write_value(out, value);
    }
    out.push('}');
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => write_object(out, fields.iter()),
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a string is always JSON"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, EventBody, Message};
    use crate::{Cid, RoomId, Seq, Timestamp, UserId};

    fn sample(text: &str) -> LogEvent {
        LogEvent {
            prev: Hash::ZERO,
            salt: Salt([7; 16]),
            event: Event {
                room: RoomId::parse("r1").unwrap(),
                seq: Seq(1),
                ts: Timestamp(5),
                by: UserId::parse("alice").unwrap(),
                cid: Cid::from_parts(5, [0; 10]),
                body: EventBody::Msg(Message {
                    text: text.to_owned(),
                    n: Some(1),
                    ..Message::default()
                }),
            },
        }
    }

    #[test]
    fn a_line_hashes_to_what_its_maker_hashed() {
        let sealed = seal(&sample("héllo \u{0} \"x\""));
        assert_eq!(hash_line(&sealed.line).unwrap(), sealed.hash);
        assert!(!sealed.line.contains('\n'));
        assert_eq!(
            LogEvent::parse(&sealed.line).unwrap(),
            sample("héllo \u{0} \"x\"")
        );
    }

    /// Whoever reads a line must find the number that its maker hashed, to the last bit: one that is
    /// read as its neighbour would break the chain of its room.
    #[test]
    fn every_number_in_a_line_is_read_as_it_was_hashed() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..4_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            let Some(number) = serde_json::Number::from_f64(f64::from_bits(bits)) else {
                continue;
            };
            let mut event = sample("x");
            if let EventBody::Msg(message) = &mut event.event.body {
                message.meta = Some(Map::from_iter([("x".to_owned(), Value::Number(number))]));
            }
            let sealed = seal(&event);
            assert_eq!(
                hash_line(&sealed.line).unwrap(),
                sealed.hash,
                "{}",
                sealed.line
            );
            assert_eq!(LogEvent::parse(&sealed.line).unwrap(), event);
        }
    }

    #[test]
    fn a_changed_word_changes_the_hash() {
        assert_ne!(seal(&sample("a")).hash, seal(&sample("b")).hash);
    }

    #[test]
    fn a_field_of_a_later_version_is_covered() {
        let line = seal(&sample("a")).line;
        let more = line.replacen('{', r#"{"zz":1,"#, 1);
        assert_ne!(hash_line(&line).unwrap(), hash_line(&more).unwrap());
    }

    #[test]
    fn erased_content_keeps_the_hash() {
        let sealed = seal(&sample("secret"));
        let mut fields: Map<String, Value> = serde_json::from_str(&sealed.line).unwrap();
        let mut content = String::new();
        write_object(
            &mut content,
            fields
                .iter()
                .filter(|(k, _)| CONTENT_FIELDS.contains(&k.as_str())),
        );
        let mut hash = Sha256::new();
        hash.update(fields.get("salt").and_then(Value::as_str).unwrap());
        hash.update(b"\n");
        hash.update(&content);
        let commit = URL_SAFE_NO_PAD.encode(hash.finalize());
        fields.retain(|key, _| !CONTENT_FIELDS.contains(&key.as_str()) && key != "salt");
        fields.insert("commit".to_owned(), Value::String(commit));
        assert_eq!(hash_fields(&fields), sealed.hash);
    }
}
