//! Texts by people as Postgres can hold them: `text` cannot hold U+0000.
//!
//! U+0000 becomes U+FDD0 and `0`, U+FDD0 itself becomes U+FDD0 and `1`. It is a noncharacter, which
//! nobody types, so what is stored is what is shown, and searches find it.

use protocol::UserId;
use protocol::event::Mention;
use std::borrow::Cow;

const ESCAPE: char = '\u{fdd0}';

/// The text as it is stored.
#[must_use]
pub fn encode(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => stored.extend([ESCAPE, '0']),
            ESCAPE => stored.extend([ESCAPE, '1']),
            other => stored.push(other),
        }
    }
    Cow::Owned(stored)
}

/// The text as it was.
#[must_use]
pub fn decode(stored: &str) -> Cow<'_, str> {
    if !stored.contains(ESCAPE) {
        return Cow::Borrowed(stored);
    }
    let mut text = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        if character != ESCAPE {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('0') => text.push('\0'),
            Some('1') => text.push(ESCAPE),
            // Written by hand: shown as it is.
            Some(other) => text.extend([ESCAPE, other]),
            None => text.push(ESCAPE),
        }
    }
    Cow::Owned(text)
}

/// A mention as it is stored: a user id, `@room` or `@here`.
#[must_use]
pub fn mention(mention: &Mention) -> &str {
    match mention {
        Mention::User(user) => user.as_str(),
        Mention::Room => "@room",
        Mention::Here => "@here",
    }
}

/// The mention that is stored as this text.
#[must_use]
pub fn parse_mention(text: &str) -> Option<Mention> {
    match text {
        "@room" => Some(Mention::Room),
        "@here" => Some(Mention::Here),
        user => UserId::parse(user).ok().map(Mention::User),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_comes_back(text in "[a\0\u{fdd0}01é]{0,12}") {
            let stored = encode(&text);
            prop_assert!(!stored.contains('\0'));
            prop_assert_eq!(decode(&stored), text.as_str());
        }
    }

    #[test]
    fn ordinary_text_is_stored_as_it_is() {
        assert!(matches!(encode("héllo"), Cow::Borrowed("héllo")));
    }
}
