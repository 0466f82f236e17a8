//! Saying something and taking it back: send, edit, del.

use super::room::conflict;
use super::{Facts, Known, Need, Scene, Step, Verdict, absent, bad, forbid, refuse};
use protocol::command::{DeleteTarget, Send, Write, WriteCommand};
use protocol::event::{EventBody, Message, Role, RoomKind, SeqRange};
use protocol::limits::{DELETE_RANGES_MAX, REVISIONS_MAX};
use protocol::query::merge_ranges;
use protocol::room::RoomState;
use protocol::room::message::{MessageState, judge_edit};
use protocol::{ErrorCode, Refusal, Seq, UserId};

/// Messages that a deletion looks at before it is taken to remove something without looking.
///
/// A larger one nearly always does, and one that does not is harmless.
const REMOVAL_LOOKS_MAX: u64 = 256;

pub(super) fn send<F: Facts>(scene: &Scene<'_, F>, send: &Send) -> Step<Verdict> {
    let room = writer(scene)?;
    if send.if_head.is_some_and(|head| head != room.head) {
        return Err(conflict(room));
    }
    slow_mode(scene, room)?;
    if let Some(seq) = send.reply_to {
        message(scene, room, seq)?;
    }
    let mut message = Message {
        text: send.text.clone(),
        reply_to: send.reply_to,
        thread: send.thread,
        mentions: send.mentions.clone(),
        meta: send.meta.clone(),
        n: None,
        tn: None,
    };
    match send.thread {
        None => message.n = Some(room.n + 1),
        Some(root) => message.tn = Some(thread_root(scene, room, root)?.replies + 1),
    }
    Ok(Verdict::one(EventBody::Msg(message)))
}

fn thread_root<'a, F: Facts>(
    scene: &'a Scene<'_, F>,
    room: &RoomState,
    root: Seq,
) -> Step<&'a MessageState> {
    let state = message(scene, room, root)?;
    if state.thread.is_some() {
        return Err(bad("a thread's root is a message of the main timeline"));
    }
    Ok(state)
}

pub(super) fn edit<F: Facts>(scene: &Scene<'_, F>, command: &WriteCommand) -> Step<Verdict> {
    let Write::Edit {
        on,
        base,
        text,
        mentions,
    } = &command.write
    else {
        unreachable!("only edits come here")
    };
    let room = writer(scene)?;
    let state = message(scene, room, *on)?;
    if state.author != *scene.actor.user {
        return Err(forbid("only its author may edit a message"));
    }
    if state.deleted {
        return Err(refuse(ErrorCode::TargetGone));
    }
    if *base == 0 || *base > state.rev {
        return Err(bad("`base` is no revision of that message"));
    }
    if state.rev >= REVISIONS_MAX {
        return Err(Verdict::Refuse(Refusal::new(
            ErrorCode::TooLarge,
            "the message has as many revisions as it may have",
        )));
    }
    let (won, eff) = judge_edit(state, *base, command.cid.time(), scene.now);
    Ok(Verdict::one(EventBody::Edit {
        on: *on,
        rev: state.rev + 1,
        text: text.clone(),
        mentions: mentions.clone(),
        won,
        eff,
    }))
}

pub(super) fn del<F: Facts>(scene: &Scene<'_, F>, write: &Write) -> Step<Verdict> {
    let Write::Del { on, user, to, why } = write else {
        unreachable!("only deletions come here")
    };
    let (room, rank) = if scene.is_moderator() {
        (scene.visible()?, Role::Owner)
    } else {
        let room = writer(scene)?;
        (room, room.role(scene.actor.user).unwrap_or_default())
    };
    let moderates = rank >= Role::Mod;
    let event = |on, user: Option<&UserId>, to| EventBody::Del {
        on,
        user: user.cloned(),
        to,
        why: why.clone(),
    };
    match (on, user) {
        (Some(target), _) => match single(target) {
            Some(seq) => {
                let state = message(scene, room, seq)?;
                if state.author != *scene.actor.user && !moderates {
                    return Err(forbid("only its author may delete a message"));
                }
                if state.deleted {
                    return Ok(Verdict::Noop);
                }
                Ok(Verdict::one(event(vec![SeqRange(seq, seq)], None, None)))
            }
            None if !moderates => Err(refuse(ErrorCode::Forbidden)),
            None => {
                let ranges = clamped(target, room.head);
                if removes_something(scene, room, (&ranges, None))? {
                    Ok(Verdict::one(event(ranges, None, None)))
                } else {
                    Ok(Verdict::Noop)
                }
            }
        },
        (None, _) if !moderates => Err(refuse(ErrorCode::Forbidden)),
        (None, user) => {
            let (Some(user), Some(to)) = (user, to) else {
                return Err(bad("`on`, or `user` and `to`, are missing"));
            };
            let to = (*to).min(room.head);
            if removes_something(scene, room, (&[SeqRange(Seq(1), to)], Some(user)))? {
                Ok(Verdict::one(event(Vec::new(), Some(user), Some(to))))
            } else {
                Ok(Verdict::Noop)
            }
        }
    }
}

/// The one message that a target names, however it is written.
fn single(target: &DeleteTarget) -> Option<Seq> {
    match target {
        DeleteTarget::One(seq) => Some(*seq),
        DeleteTarget::Ranges(ranges) => match ranges.as_slice() {
            [SeqRange(first, last)] if first == last => Some(*first),
            _ => None,
        },
    }
}

/// Sorted ranges that end at the head: what is not there yet cannot be removed.
fn clamped(target: &DeleteTarget, head: Seq) -> Vec<SeqRange> {
    let mut ranges = merge_ranges(target.ranges(), DELETE_RANGES_MAX);
    ranges.retain(|range| range.0 <= head);
    if let Some(last) = ranges.last_mut() {
        last.1 = last.1.min(head);
    }
    ranges
}

/// Whether a deletion would remove at least one message; asks for what it must know.
fn removes_something<F: Facts>(
    scene: &Scene<'_, F>,
    room: &RoomState,
    (ranges, author): (&[SeqRange], Option<&UserId>),
) -> Step<bool> {
    let total = ranges.iter().fold(0_u64, |sum, range| {
        sum.saturating_add(range.1.0.saturating_sub(range.0.0).saturating_add(1))
    });
    if total > REMOVAL_LOOKS_MAX {
        return Ok(true);
    }
    let mut needs = Vec::new();
    for seq in ranges.iter().flat_map(|range| range.0.0..=range.1.0) {
        if seq > room.head.0 {
            break;
        }
        match scene.facts.message(Seq(seq)) {
            Known::Unknown => needs.push(Need::Message(Seq(seq))),
            Known::Absent => {}
            Known::Is(state) => {
                if !state.deleted && author.is_none_or(|author| *author == state.author) {
                    return Ok(true);
                }
            }
        }
    }
    if needs.is_empty() {
        Ok(false)
    } else {
        Err(Verdict::Need(needs))
    }
}

/// The room, if the actor may write messages to it now.
fn writer<'a, F: Facts>(scene: &'a Scene<'_, F>) -> Step<&'a RoomState> {
    let (room, role) = scene.member()?;
    if room.kind == RoomKind::Own {
        return Err(refuse(ErrorCode::Forbidden));
    }
    if room.is_muted(scene.actor.user, scene.now) {
        return Err(refuse(ErrorCode::Muted));
    }
    if room.frozen && role < Role::Mod {
        return Err(refuse(ErrorCode::Frozen));
    }
    Ok(room)
}

/// Refuses a message that comes too soon after the same member's last one; moderators are free.
fn slow_mode<F: Facts>(scene: &Scene<'_, F>, room: &RoomState) -> Step<()> {
    if room.slow_s == 0 || room.role(scene.actor.user) >= Some(Role::Mod) {
        return Ok(());
    }
    let Some(last) = scene.facts.last_sent(scene.actor.user) else {
        return Ok(());
    };
    let next = last.plus_ms(i64::from(room.slow_s) * 1_000);
    match u64::try_from(next.since_ms(scene.now)) {
        Ok(wait_ms) if wait_ms > 0 => Err(Verdict::Refuse(
            Refusal::plain(ErrorCode::SlowMode).after_ms(wait_ms),
        )),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A message of the room that must be there.
fn message<'a, F: Facts>(
    scene: &'a Scene<'_, F>,
    room: &RoomState,
    seq: Seq,
) -> Step<&'a MessageState> {
    if seq.0 == 0 || seq > room.head {
        return Err(absent());
    }
    match scene.facts.message(seq) {
        Known::Unknown => Err(Verdict::Need(vec![Need::Message(seq)])),
        Known::Absent => Err(absent()),
        Known::Is(state) => Ok(state),
    }
}
