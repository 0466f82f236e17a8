//! What is said: lines of real chat.

use std::path::Path;

use anyhow::Context as _;
use protocol::command::check_text;

use crate::replay::irc::{Line, parse};

/// Lines of #ubuntu on 2007-09-07, from "irc-disentanglement" by Jonathan Kummerfeld and others
/// (<https://github.com/jkkummerfeld/irc-disentanglement>), CC BY 4.0.
const EXCERPT: &str = include_str!("excerpt.txt");

/// Texts to send, at least one.
pub(crate) struct Corpus(Vec<String>);

impl Corpus {
    /// The texts of an IRC log, or of the built-in excerpt.
    ///
    /// # Errors
    /// The file cannot be read, or holds nothing that somebody said.
    pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else {
            return Ok(Self::of(EXCERPT.as_bytes()));
        };
        let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let corpus = Self::of(&bytes);
        anyhow::ensure!(
            !corpus.0.is_empty(),
            "nobody says anything in {}",
            file.display()
        );
        Ok(corpus)
    }

    fn of(bytes: &[u8]) -> Self {
        let said = bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| match parse(line).line {
                Line::Said { text, .. } | Line::Did { text, .. } => Some(text),
                Line::Blank
                | Line::Joined { .. }
                | Line::Left { .. }
                | Line::Renamed { .. }
                | Line::Other => None,
            });
        Self(said.filter(|text| check_text(text).is_ok()).collect())
    }

    /// One of the texts.
    pub(crate) fn text(&self, number: u64) -> &str {
        let count = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        let index = usize::try_from(number % count).unwrap_or_default();
        self.0.get(index).map_or("…", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excerpt_has_something_to_say() {
        let corpus = Corpus::read(None).unwrap();
        assert!(corpus.0.len() > 50, "{}", corpus.0.len());
        assert_eq!(corpus.text(3), corpus.text(3 + corpus.0.len() as u64));
    }
}
