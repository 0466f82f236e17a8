//! The messages of a room as its events make them, and what of a row is not so.

use crate::record::hash_of;
use crate::store::text;
use crate::store::verify::MessageCheck;
use protocol::chain::Hash;
use protocol::event::{Event, EventBody};
use protocol::room::message::MessageState;
use protocol::{Seq, Timestamp};
use std::collections::BTreeMap;

/// A message as the events make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    state: MessageState,
    n: Option<u64>,
    ts: Timestamp,
    /// When the shown revision came, if it is not the first.
    edited: Option<Timestamp>,
    /// The event that removed it first.
    deleted_seq: Option<Seq>,
    /// Replies in its thread that were removed.
    replies_deleted: u64,
    /// Hash of what never changes: command, thread ordinal, answered message, marks.
    origin: Hash,
    /// Hash of text and mentions: a room's texts are not held in memory.
    content: Hash,
}

/// The messages of a room, folded from its events.
#[derive(Debug, Default)]
pub(super) struct Fold {
    pub(super) events: u64,
    pub(super) messages: BTreeMap<Seq, Shown>,
}

impl Fold {
    /// Folds the next event.
    pub(super) fn add(&mut self, event: &Event) {
        self.events += 1;
        if let (EventBody::Msg(message), Some(state)) = (&event.body, MessageState::sent(event)) {
            let mentions = message.mentions.iter().map(text::mention);
            let content = content(&message.text, mentions);
            let meta = message.meta.clone().map(serde_json::Value::Object);
            let shown = Shown {
                state,
                n: message.n,
                ts: event.ts,
                edited: None,
                deleted_seq: None,
                replies_deleted: 0,
                origin: origin(
                    event.cid.uuid(),
                    (message.tn, message.reply_to),
                    meta.as_ref(),
                ),
                content,
            };
            self.messages.insert(event.seq, shown);
        }
        self.change(event);
    }

    /// Folds what an event changes of earlier messages.
    fn change(&mut self, event: &Event) {
        let EventBody::Edit {
            on,
            text,
            mentions,
            won,
            ..
        } = &event.body
        else {
            for (from, to) in touched(event) {
                self.touch(event, (from, to));
            }
            return;
        };
        if let Some(shown) = self.messages.get_mut(on) {
            shown.state.apply(*on, event);
            if *won {
                shown.edited = Some(event.ts);
                shown.content = content(text, mentions.iter().map(text::mention));
            }
        }
    }

    /// Folds an event into the messages of a range.
    fn touch(&mut self, event: &Event, (from, to): (Seq, Seq)) {
        let mut roots = Vec::new();
        for (seq, shown) in self.messages.range_mut(from..=to) {
            let was_deleted = shown.state.deleted;
            shown.state.apply(*seq, event);
            if shown.state.deleted && !was_deleted {
                shown.deleted_seq = Some(event.seq);
                roots.extend(shown.state.thread);
            }
        }
        for root in roots {
            if let Some(root) = self.messages.get_mut(&root) {
                root.replies_deleted += 1;
            }
        }
    }
}

/// The ranges of earlier messages that an event may change.
fn touched(event: &Event) -> Vec<(Seq, Seq)> {
    let last = event.seq.before();
    let ranges: Vec<(Seq, Seq)> = match &event.body {
        EventBody::Del { on, user, to, .. } => {
            let by_user = user.as_ref().and(*to).map(|to| (Seq(1), to));
            on.iter()
                .map(|range| (range.0, range.1))
                .chain(by_user)
                .collect()
        }
        EventBody::Msg(message) => message
            .thread
            .map(|root| (root, root))
            .into_iter()
            .collect(),
        EventBody::Edit { on, .. } => vec![(*on, *on)],
        EventBody::Room { .. }
        | EventBody::Member { .. }
        | EventBody::Role { .. }
        | EventBody::Read { .. }
        | EventBody::Void { .. }
        | EventBody::Unknown(_) => Vec::new(),
    };
    let below = ranges.into_iter().map(|(from, to)| (from, to.min(last)));
    below.filter(|(from, to)| from <= to).collect()
}

fn content<'a>(text: &'a str, mentions: impl Iterator<Item = &'a str>) -> Hash {
    let mentions: Vec<&str> = mentions.collect();
    hash_of(&serde_json::json!({ "text": text, "mentions": mentions }).to_string())
}

fn origin(
    cid: sqlx::types::Uuid,
    (tn, reply_to): (Option<u64>, Option<Seq>),
    meta: Option<&serde_json::Value>,
) -> Hash {
    let fields = serde_json::json!({
        "cid": cid.to_string(), "tn": tn, "reply_to": reply_to, "meta": meta
    });
    hash_of(&fields.to_string())
}

/// What of a row is not what the events say.
pub(super) fn difference(shown: &Shown, row: &MessageCheck) -> Option<&'static str> {
    let state = &shown.state;
    let mentions = row.mentions.iter().map(String::as_str);
    // Marks that are no JSON are certainly not the event's.
    let meta = row
        .meta
        .as_ref()
        .map(|meta| serde_json::from_str(meta).unwrap_or_default());
    let checks = [
        (state.author == row.author, "the author is not the event's"),
        (shown.ts == row.ts, "the time is not the event's"),
        (shown.n == row.n, "the ordinal is not the event's"),
        (state.thread == row.thread, "the thread is not the event's"),
        (
            shown.origin == origin(row.cid, (row.tn, row.reply_to), meta.as_ref()),
            "command, thread ordinal, answered message or marks are not the event's",
        ),
        (
            u64::from(state.rev) == row.rev,
            "the greatest revision is not that of the edits",
        ),
        (
            u64::from(state.shown_rev) == row.shown_rev,
            "the shown revision is not that of the edits",
        ),
        (
            state.eff == row.eff,
            "the effective time is not that of the edits",
        ),
        (
            (state.deleted, shown.deleted_seq) == (row.deleted, row.deleted_seq),
            "whether and by what it was removed is not what the events say",
        ),
        (
            shown.edited == row.edited,
            "when it was edited is not that of the edits",
        ),
        (
            (state.replies, shown.replies_deleted) == (row.replies, row.replies_deleted),
            "the thread's replies are not those of the events",
        ),
        (
            shown.content == content(&row.text, mentions),
            "the shown text or mentions are not those of the events",
        ),
    ];
    checks
        .into_iter()
        .find(|(same, _)| !same)
        .map(|(_, what)| what)
}
