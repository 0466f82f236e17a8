//! The state of one message: what an owner must know to judge an edit, a deletion or a thread reply.

use crate::event::{Event, EventBody, SeqRange};
use crate::{Seq, Timestamp, UserId};
use serde::{Deserialize, Serialize};

/// One message without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageState {
    /// Who wrote it.
    pub author: UserId,
    /// The greatest revision stored; as sent it is 1.
    pub rev: u32,
    /// The revision that is shown.
    pub shown_rev: u32,
    /// Effective time of the shown revision (design section 8); as sent it is the event's `ts`.
    pub eff: Timestamp,
    /// Whether it was removed.
    pub deleted: bool,
    /// The root of its thread, if it is a thread reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<Seq>,
    /// Replies in the thread it is the root of, ever sent; the next gets this plus 1 as `tn`.
    #[serde(default)]
    pub replies: u64,
}

impl MessageState {
    /// The state right after a `msg` event; `None` for other events.
    #[must_use]
    pub fn sent(event: &Event) -> Option<Self> {
        let EventBody::Msg(message) = &event.body else {
            return None;
        };
        Some(Self {
            author: event.by.clone(),
            rev: 1,
            shown_rev: 1,
            eff: event.ts,
            deleted: false,
            thread: message.thread,
            replies: 0,
        })
    }

    /// Folds an event of the same room that may concern the message at `seq`.
    pub fn apply(&mut self, seq: Seq, event: &Event) {
        match &event.body {
            EventBody::Edit {
                on, rev, won, eff, ..
            } if *on == seq => {
                self.rev = self.rev.max(*rev);
                if *won {
                    self.shown_rev = *rev;
                    self.eff = *eff;
                }
            }
            EventBody::Del { on, user, to, .. }
                if deletes(on, user.as_ref().zip(*to), seq, self) =>
            {
                self.deleted = true;
            }
            EventBody::Msg(message) if message.thread == Some(seq) => {
                self.replies = self.replies.max(message.tn.unwrap_or(self.replies + 1));
            }
            EventBody::Edit { .. }
            | EventBody::Del { .. }
            | EventBody::Msg(_)
            | EventBody::Room { .. }
            | EventBody::Member { .. }
            | EventBody::Role { .. }
            | EventBody::Read { .. }
            | EventBody::Void { .. }
            | EventBody::Unknown(_) => {}
        }
    }
}

fn deletes(
    ranges: &[SeqRange],
    by_user: Option<(&UserId, Seq)>,
    seq: Seq,
    state: &MessageState,
) -> bool {
    ranges.iter().any(|range| range.contains(seq))
        || by_user.is_some_and(|(user, to)| *user == state.author && seq <= to)
}

/// What an edit becomes (design section 8): p = min(cid time, now); on the current revision it wins with
/// max(p, eff + 1), else it wins only if p is greater than eff.
///
/// Returns (wins, effective time).
#[must_use]
pub fn judge_edit(
    state: &MessageState,
    base: u32,
    cid_time: Timestamp,
    now: Timestamp,
) -> (bool, Timestamp) {
    let p = cid_time.min(now);
    if base == state.shown_rev {
        (true, p.max(state.eff.plus_ms(1)))
    } else {
        (p > state.eff, p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> MessageState {
        MessageState {
            author: UserId::parse("alice").unwrap(),
            rev: 1,
            shown_rev: 1,
            eff: Timestamp(100),
            deleted: false,
            thread: None,
            replies: 0,
        }
    }

    #[test]
    fn an_edit_of_what_is_shown_wins_even_with_a_slow_clock() {
        assert_eq!(
            judge_edit(&state(), 1, Timestamp(5), Timestamp(200)),
            (true, Timestamp(101))
        );
    }

    #[test]
    fn an_edit_of_an_old_revision_wins_only_if_made_later() {
        let mut shown = state();
        (shown.rev, shown.shown_rev) = (2, 2);
        assert_eq!(
            judge_edit(&shown, 1, Timestamp(99), Timestamp(200)),
            (false, Timestamp(99))
        );
        assert_eq!(
            judge_edit(&shown, 1, Timestamp(150), Timestamp(200)),
            (true, Timestamp(150))
        );
        assert_eq!(
            judge_edit(&shown, 1, Timestamp(900), Timestamp(200)),
            (true, Timestamp(200))
        );
    }
}
