//! Where a reader is in the log: opaque to clients, one number to us.

use crate::{LogId, StreamSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// Everything up to `position` of the log `log` has been seen (design section 5).
///
/// Written as `<log>.<position>`; a client must not look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which life of the log.
    pub log: LogId,
    /// The last record covered.
    pub position: StreamSeq,
}

/// The text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor")]
pub struct CursorError;

impl Cursor {
    /// Parses the text form.
    ///
    /// # Errors
    /// [`CursorError`] if it is not one that [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Result<Self, CursorError> {
        let (log, position) = text.split_once('.').ok_or(CursorError)?;
        let Ok(log) = LogId::parse(log) else {
            return Err(CursorError);
        };
        if position.is_empty() || !position.bytes().all(|b| b.is_ascii_digit()) {
            return Err(CursorError);
        }
        let Ok(position) = position.parse() else {
            return Err(CursorError);
        };
        Ok(Self {
            log,
            position: StreamSeq(position),
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.log, self.position)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_form_and_nonsense_is_refused() {
        let cursor = Cursor {
            log: LogId::parse("k7").unwrap(),
            position: StreamSeq(42),
        };
        assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor));
        for bad in [
            "",
            ".",
            "a.",
            ".1",
            "a.-1",
            "a.+1",
            "a.1.2",
            "a b.1",
            "a.99999999999999999999999",
        ] {
            assert!(Cursor::parse(bad).is_err(), "{bad:?}");
        }
    }
}
