//! Lines of IRC logs: every form of the Ubuntu corpus, and `NAME DATE [hh:mm:ss] <nick> text`.
//!
//! Pure. Bytes that are no UTF-8 become U+FFFD, as a chat client would show them. What a line means
//! for users and rooms is [`super::script`]'s matter.

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Somebody said something.
    Said { nick: String, text: String },
    /// Somebody did something (`/me`).
    Did { nick: String, text: String },
    /// A message or line without a visible character.
    Blank,
    /// Somebody came.
    Joined { nick: String },
    /// Somebody went, or was kicked.
    Left { nick: String },
    /// Somebody has a new nick.
    Renamed { old: String, new: String },
    /// A system line without a counterpart here: modes, topics, net splits.
    Other,
}

/// A line with where and when it was said, as far as it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The channel, if the line names one.
    pub(crate) channel: Option<String>,
    /// The day, if the line names one.
    pub(crate) date: Option<String>,
    /// Seconds since midnight, if the line tells.
    pub(crate) second: Option<u32>,
    /// What it says.
    pub(crate) line: Line,
}

impl Parsed {
    const fn plain(line: Line) -> Self {
        Self {
            channel: None,
            date: None,
            second: None,
            line,
        }
    }
}

/// Parses one line, without its line feed.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_suffix('\r').unwrap_or(&text);
    if text.trim().is_empty() {
        return Parsed::plain(Line::Blank);
    }
    if let Some(system) = text.strip_prefix("=== ") {
        return parse_system(system);
    }
    if let Some(action) = text.strip_prefix(" * ") {
        return Parsed::plain(parse_action(action));
    }
    if let Some(parsed) = parse_timed(text) {
        return parsed;
    }
    parse_named(text).unwrap_or(Parsed::plain(Line::Other))
}

/// `[hh:mm] <nick> text` or `[hh:mm]  * nick text`, also with seconds.
fn parse_timed(text: &str) -> Option<Parsed> {
    let (clock, rest) = text.strip_prefix('[')?.split_once(']')?;
    let second = parse_clock(clock)?;
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    let line = match rest.strip_prefix(" * ") {
        Some(action) => parse_action(action),
        None => parse_said(rest)?,
    };
    Some(Parsed {
        channel: None,
        date: None,
        second: Some(second),
        line,
    })
}

/// `NAME DATE [hh:mm:ss] <nick> text`.
fn parse_named(text: &str) -> Option<Parsed> {
    let (name, rest) = text.split_once(' ')?;
    let (date, rest) = rest.split_once(' ')?;
    let parsed = parse_timed(rest)?;
    Some(Parsed {
        channel: Some(name.to_owned()),
        date: Some(date.to_owned()),
        ..parsed
    })
}

fn parse_said(text: &str) -> Option<Line> {
    let (nick, text) = text.strip_prefix('<')?.split_once('>')?;
    if nick.is_empty() {
        return None;
    }
    let text = text.strip_prefix(' ').unwrap_or(text);
    if text.trim().is_empty() {
        return Some(Line::Blank);
    }
    Some(Line::Said {
        nick: nick.to_owned(),
        text: text.to_owned(),
    })
}

fn parse_action(text: &str) -> Line {
    match text.split_once(' ') {
        Some((nick, text)) if !nick.is_empty() && !text.trim().is_empty() => Line::Did {
            nick: nick.to_owned(),
            text: text.to_owned(),
        },
        Some(_) | None => Line::Blank,
    }
}

/// `hh:mm` or `hh:mm:ss`, in seconds since midnight.
fn parse_clock(clock: &str) -> Option<u32> {
    let mut parts = clock
        .split(':')
        .map(|part| part.parse::<u32>().ok().filter(|n| *n < 60));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = match parts.next() {
        Some(second) => second?,
        None => 0,
    };
    (parts.next().is_none() && hour < 24).then_some((hour * 60 + minute) * 60 + second)
}

fn parse_system(text: &str) -> Parsed {
    for (mark, joined) in [("]  has joined ", true), ("]  has left ", false)] {
        if let Some((who, channel)) = text.split_once(mark)
            && let Some(nick) = nick_before_host(who)
        {
            let channel = channel
                .split(' ')
                .next()
                .filter(|name| name.starts_with('#'));
            let line = if joined {
                Line::Joined { nick }
            } else {
                Line::Left { nick }
            };
            return Parsed {
                channel: channel.map(str::to_lowercase),
                ..Parsed::plain(line)
            };
        }
    }
    if let Some((old, new)) = text.split_once(" is now known as ")
        && let (Some(old), Some(new)) = (clean_nick(old), clean_nick(new))
    {
        return Parsed::plain(Line::Renamed { old, new });
    }
    if let Some((nick, _)) = text.split_once(" was kicked off #")
        && let Some(nick) = clean_nick(nick)
    {
        return Parsed::plain(Line::Left { nick });
    }
    Parsed::plain(Line::Other)
}

/// The nick in `nick [user@host`; the nick may have brackets itself.
fn nick_before_host(who: &str) -> Option<String> {
    let (nick, _host) = who.split_once(" [")?;
    clean_nick(nick)
}

/// System lines of the corpus have a space after every `]` of a nick, messages have not.
fn clean_nick(text: &str) -> Option<String> {
    let nick = text.replace("] ", "]");
    let nick = nick.trim();
    (!nick.is_empty() && !nick.contains(char::is_whitespace)).then(|| nick.to_owned())
}

/// Parses an annotation file: `A B -` means that line B answers line A, counted from 0.
///
/// Of several answers' targets the first is kept; a line that answers itself starts a conversation.
pub(crate) fn parse_annotations(text: &str) -> std::collections::BTreeMap<usize, usize> {
    let mut replies = std::collections::BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::parse::<usize>);
        if let (Some(Ok(target)), Some(Ok(reply))) = (words.next(), words.next())
            && target < reply
        {
            replies.entry(reply).or_insert(target);
        }
    }
    replies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        parse(text.as_bytes()).line
    }

    fn said(nick: &str, text: &str) -> Line {
        Line::Said {
            nick: nick.to_owned(),
            text: text.to_owned(),
        }
    }

    fn joined(nick: &str) -> Line {
        Line::Joined {
            nick: nick.to_owned(),
        }
    }

    #[test]
    fn every_form_of_the_corpus_is_understood() {
        assert_eq!(line("[12:18] <ann> hi  there "), said("ann", "hi  there "));
        assert_eq!(line("[12:18] <|trey|> <b> no"), said("|trey|", "<b> no"));
        let act = Line::Did {
            nick: "ann".to_owned(),
            text: "waves".to_owned(),
        };
        assert_eq!(line(" * ann waves"), act);
        assert_eq!(line("[12:18]  * ann waves"), act);
        assert_eq!(
            line("=== ann [~a@h.example]  has joined #ubuntu"),
            joined("ann")
        );
        let left = Line::Left {
            nick: "ann".to_owned(),
        };
        assert_eq!(
            line("=== ann [~a@h.example]  has left #ubuntu [\"bye\"]"),
            left
        );
        assert_eq!(line("=== ann was kicked off #ubuntu by bob (bob)"), left);
        let renamed = Line::Renamed {
            old: "ann".to_owned(),
            new: "anna".to_owned(),
        };
        assert_eq!(line("=== ann is now known as anna"), renamed);
    }

    #[test]
    fn nicks_with_brackets_are_the_same_in_system_lines_and_messages() {
        assert_eq!(
            line("=== [m0rph]  [~m@h.example]  has joined #ubuntu"),
            joined("[m0rph]")
        );
        assert_eq!(
            line("=== [BTF] Chm0d [n=r@h.example]  has joined #x"),
            joined("[BTF]Chm0d")
        );
        assert_eq!(
            line("=== [cc] smart [n=[cc] smar@h]  has joined #x"),
            joined("[cc]smart")
        );
        let renamed = Line::Renamed {
            old: "Bart]".to_owned(),
            new: "[a]b".to_owned(),
        };
        assert_eq!(line("=== Bart]  is now known as [a] b"), renamed);
    }

    #[test]
    fn what_only_looks_like_a_system_line_is_none() {
        for text in [
            "=== bob thinks he has joined the wrong channel",
            "=== bob is now known as the king of tea",
            "=== mode/#ubuntu [+o Seveas]  by ChanServ",
            "=== netjoined: irc.freenode.net -> kornbluth.freenode.net",
        ] {
            assert_eq!(line(text), Line::Other, "{text}");
        }
    }

    #[test]
    fn blank_lines_are_known_as_such() {
        for text in [
            "",
            "  ",
            "[09:43] <drcode>",
            "[09:43] <drcode> ",
            " * ann",
            "[09:43]  * ann ",
        ] {
            assert_eq!(line(text), Line::Blank, "{text:?}");
        }
    }

    #[test]
    fn broken_bytes_and_control_characters_are_kept_as_far_as_they_can_be() {
        let parsed = parse(b"[12:18] <ann> caf\xe9 \x02bold\x02");
        assert_eq!(parsed.line, said("ann", "caf\u{fffd} \u{2}bold\u{2}"));
    }

    #[test]
    fn a_line_may_name_its_channel_and_its_second() {
        let parsed = parse(b"#rust 2024-05-01 [23:59:07] <ann> hi");
        assert_eq!(parsed.channel.as_deref(), Some("#rust"));
        assert_eq!(parsed.date.as_deref(), Some("2024-05-01"));
        assert_eq!(parsed.second, Some(86_347));
        assert_eq!(parsed.line, said("ann", "hi"));
        assert_eq!(parse(b"[24:00] <ann> hi").line, Line::Other);
    }

    #[test]
    fn annotations_name_the_answered_line() {
        let replies = parse_annotations("993 1000 - \n1001 1001 -\n5 1002 -\n7 1002 -\nx\n");
        assert_eq!(
            replies.into_iter().collect::<Vec<_>>(),
            [(1000, 993), (1002, 5)]
        );
    }
}
