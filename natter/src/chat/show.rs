//! How things look on a plain terminal. Pure: everything becomes a line of text.

use client::{ConnectionState, Line, RoomView, StopReason};
use protocol::event::{Event, EventBody, MemberChange};
use protocol::frame::{RoomSnapshot, TimelineEntry};
use protocol::{Refusal, Seq, Timestamp, UserId};

/// Characters of a message that an answer quotes.
const QUOTE_CHARS: usize = 40;

/// A time of day, in UTC.
fn clock(ts: Timestamp) -> String {
    let minutes = ts.0.div_euclid(60_000);
    format!(
        "{:02}:{:02}",
        minutes.div_euclid(60).rem_euclid(24),
        minutes.rem_euclid(60)
    )
}

/// Makes others' text harmless: a terminal obeys control characters.
pub(crate) fn harmless(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => '⏎',
        // Marks that turn the direction of what follows could hide who speaks.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

fn quote(text: &str) -> String {
    let text = harmless(text);
    let cut: String = text.chars().take(QUOTE_CHARS).collect();
    if cut.len() < text.len() {
        format!("{cut}…")
    } else {
        cut
    }
}

/// The name of a room, or its id where it has none.
pub(crate) fn room_name(snapshot: &RoomSnapshot) -> String {
    if snapshot.name.is_empty() {
        snapshot.room.to_string()
    } else {
        harmless(&snapshot.name)
    }
}

/// A room in a list.
pub(crate) fn room(snapshot: &RoomSnapshot) -> String {
    let kind = snapshot.kind.as_str();
    let (name, members, id) = (room_name(snapshot), snapshot.members, &snapshot.room);
    format!("  {name}  ({kind}, {members} members)  {id}")
}

/// The last `count` lines of a room.
pub(crate) fn view(view: &RoomView, count: usize, me: Option<&UserId>) -> Vec<String> {
    let skipped = view.lines.len().saturating_sub(count);
    let lines = view.lines.iter().skip(skipped);
    lines.filter_map(|line| one_line(line, view, me)).collect()
}

fn one_line(line: &Line, view: &RoomView, me: Option<&UserId>) -> Option<String> {
    match line {
        Line::Stored { entry, pending } => {
            let mark = if *pending { " (change on its way)" } else { "" };
            Some(format!("{}{mark}", entry_line(entry, view, me)?))
        }
        Line::Pending {
            text, failed: None, ..
        } => Some(format!("      … queued: {}", quote(text))),
        Line::Pending {
            text,
            failed: Some(refusal),
            ..
        } => Some(failed(refusal, text)),
    }
}

/// A message that will never be stored, with its text to copy.
pub(crate) fn failed(refusal: &Refusal, text: &str) -> String {
    let (code, msg) = (refusal.code.slug(), harmless(&refusal.msg));
    format!("      ✗ not sent ({code}: {msg}): {}", harmless(text))
}

fn entry_line(entry: &TimelineEntry, view: &RoomView, me: Option<&UserId>) -> Option<String> {
    let EventBody::Msg(message) = &entry.event.body else {
        return event(&entry.event, view, me);
    };
    if entry.deleted {
        let (at, seq, by) = (clock(entry.event.ts), entry.event.seq, &entry.event.by);
        return Some(format!("{at} #{seq} {by}: (removed)"));
    }
    let edited = if entry.edited.is_some() {
        " (edited)"
    } else {
        ""
    };
    let line = message_line(&entry.event, &message.text, message.reply_to, (view, me));
    Some(format!("{line}{edited}"))
}

fn message_line(
    event: &Event,
    text: &str,
    reply_to: Option<Seq>,
    (view, me): (&RoomView, Option<&UserId>),
) -> String {
    let (at, seq, by) = (clock(event.ts), event.seq, &event.by);
    let said = match text.strip_prefix("/me ") {
        Some(action) => format!("* {by} {}", harmless(action)),
        None => format!("{by}: {}", harmless(text)),
    };
    let answer = reply_to.map_or_else(String::new, |target| match text_of(view, target) {
        Some((author, "")) => format!("  ↪ #{target} {author}: (removed)"),
        Some((author, text)) => format!("  ↪ #{target} {author}: {}", quote(text)),
        None => format!("  ↪ #{target}"),
    });
    let own = if me == Some(by) { " ✓" } else { "" };
    format!("{at} #{seq} {said}{own}{answer}")
}

fn text_of(view: &RoomView, seq: Seq) -> Option<(&UserId, &str)> {
    let entries = view.lines.iter().filter_map(|line| match line {
        Line::Stored { entry, .. } => Some(entry),
        Line::Pending { .. } => None,
    });
    let entry = entries.rev().find(|entry| entry.event.seq == seq)?;
    match &entry.event.body {
        EventBody::Msg(message) => Some((&entry.event.by, &message.text)),
        EventBody::Room { .. }
        | EventBody::Member { .. }
        | EventBody::Role { .. }
        | EventBody::Edit { .. }
        | EventBody::Del { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => None,
    }
}

/// An event as it happens; `None` for what a chat need not show.
pub(crate) fn event(event: &Event, view: &RoomView, me: Option<&UserId>) -> Option<String> {
    let (at, by) = (clock(event.ts), &event.by);
    match &event.body {
        EventBody::Msg(message) => Some(message_line(
            event,
            &message.text,
            message.reply_to,
            (view, me),
        )),
        EventBody::Edit {
            on,
            text,
            won: true,
            ..
        } => Some(format!("{at} * {by} changed #{on}: {}", harmless(text))),
        EventBody::Del { on, user, .. } => {
            let what = match user {
                Some(user) => format!("messages of {user}"),
                None => on
                    .iter()
                    .map(|range| ranged(range.0, range.1))
                    .collect::<String>(),
            };
            Some(format!("{at} * {by} removed {}", what.trim_end()))
        }
        EventBody::Member { user, change, .. } => {
            Some(format!("{at} * {}", member(by, user, *change)))
        }
        EventBody::Role { user, role } => {
            Some(format!("{at} * {by} made {user} {}", role.as_str()))
        }
        EventBody::Room { kind: Some(_), .. } => Some(format!("{at} * {by} made this room")),
        EventBody::Room {
            kind: None,
            changes,
        } => {
            let name = changes
                .name
                .as_ref()
                .map(|name| format!(" name: {}", harmless(name)));
            let topic = changes
                .topic
                .as_ref()
                .map(|topic| format!(" topic: {}", harmless(topic)));
            let words = [name, topic].into_iter().flatten().collect::<String>();
            Some(format!("{at} * {by} changed this room{words}"))
        }
        EventBody::Void { .. } => Some(format!("{at} * some messages were lost by the server")),
        EventBody::Edit { won: false, .. } | EventBody::Read { .. } | EventBody::Unknown(_) => None,
    }
}

fn ranged(from: Seq, to: Seq) -> String {
    if from == to {
        format!("#{from} ")
    } else {
        format!("#{from} to #{to} ")
    }
}

fn member(by: &UserId, user: &UserId, change: MemberChange) -> String {
    match change {
        MemberChange::Joined => format!("{user} joined"),
        MemberChange::Left => format!("{user} left"),
        MemberChange::Added
        | MemberChange::Kicked
        | MemberChange::Banned
        | MemberChange::Unbanned
        | MemberChange::Muted
        | MemberChange::Unmuted => format!("{by} {} {user}", change.as_str()),
    }
}

/// A connection's state; `None` where saying it again would only be noise.
pub(crate) fn connection(state: &ConnectionState, now: Timestamp) -> Option<String> {
    match state {
        ConnectionState::Connecting => None,
        ConnectionState::Connected => Some("-- connected".to_owned()),
        ConnectionState::Waiting { until, attempt } => {
            // The first attempts are of interest, later ones as a sign of life.
            if *attempt > 3 && attempt % 5 != 0 {
                return None;
            }
            let tenths = until.since_ms(now).max(0) / 100;
            let (s, tenth) = (tenths / 10, tenths % 10);
            Some(format!(
                "-- no connection; reconnecting in {s}.{tenth} s (attempt {attempt})"
            ))
        }
        ConnectionState::Stopped(reason) => Some(format!("-- stopped: {}", stopped(reason))),
    }
}

/// Why no further attempt is made.
pub(crate) fn stopped(reason: &StopReason) -> String {
    match reason {
        StopReason::Closed => "closed".to_owned(),
        StopReason::CloseCode { code, reason } => {
            format!("the server closed with {code} {}", harmless(reason))
        }
        StopReason::Refused(refusal) => {
            let (code, msg) = (refusal.code, harmless(&refusal.msg));
            format!("{}: {msg} {}", code.slug(), code.remedy())
        }
        StopReason::TokenExpired => "the token has expired; a new one is needed".to_owned(),
        StopReason::OtherUser => "this store belongs to another user".to_owned(),
        StopReason::Store(error) => format!("the store failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_cannot_command_the_terminal() {
        assert_eq!(
            harmless("a\u{1b}[2Jb\nc\u{202e}d"),
            "a\u{fffd}[2Jb⏎c\u{fffd}d"
        );
    }

    #[test]
    fn a_lost_connection_is_shown_and_does_not_flood() {
        let shown = |attempt| {
            let state = ConnectionState::Waiting {
                until: Timestamp(1_950),
                attempt,
            };
            connection(&state, Timestamp(1_000))
        };
        assert_eq!(
            shown(1).unwrap(),
            "-- no connection; reconnecting in 0.9 s (attempt 1)"
        );
        assert_eq!((2..=20).filter_map(shown).count(), 2 + 4);
    }

    #[test]
    fn the_time_of_day_is_that_of_the_event() {
        assert_eq!(clock(Timestamp(1_795_370_000_123)), "17:53");
        assert_eq!(clock(Timestamp(-1)), "23:59");
    }
}
