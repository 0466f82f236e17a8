//! Questions and their answers: who may see what, and from which rows it is put together.
//!
//! Everything in an answer comes from one SQL snapshot, authorisation included, so that no answer
//! mixes a page of today with rights of yesterday. The transport is in [`serve`]; SQL is in
//! [`crate::store`].

pub mod access;
mod lists;
pub mod resume;
pub mod serve;
pub mod snapshots;
mod timeline;
pub mod wire;

use crate::store::room::Whole;
use crate::store::{Snapshot, StoreError, look_up};
use protocol::query::{Position, Query, ReadCommand, Records, Viewer};
use protocol::{ErrorCode, Refusal, StreamSeq, Timestamp, limits};
use serde::Serialize;
use serde_json::value::RawValue;

/// Archived records in one answer, at most.
const RECORDS_MAX: u64 = 256;

/// Keys or messages in one question, at most: an owner asks in batches.
const LOOK_UPS_MAX: usize = 10_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The asker is told no.
    #[error("refused: {}", .0.msg)]
    Refused(Refusal),
    /// The store failed; the asker is told `unavailable`.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Failure {
    fn code(code: ErrorCode) -> Self {
        Self::Refused(Refusal::plain(code))
    }

    fn bad(msg: &str) -> Self {
        Self::Refused(Refusal::new(ErrorCode::BadRequest, msg))
    }
}

/// What an answer needs beside the question.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The time, for bans that expire.
    pub now: Timestamp,
    /// Bytes that the answer may have.
    pub bytes_max: usize,
}

/// An answer, and up to which record it covers the log.
#[derive(Debug)]
pub struct Found {
    /// At most the snapshot's `applied`.
    pub covered: StreamSeq,
    /// The answer as JSON.
    pub json: Box<RawValue>,
}

/// Answers a question from a snapshot.
///
/// # Errors
/// [`Failure`].
pub async fn answer(
    snapshot: &mut Snapshot,
    query: &Query,
    terms: Terms,
) -> Result<Found, Failure> {
    let covered = snapshot.applied;
    let found = |json: Box<RawValue>| Found { covered, json };
    match query {
        Query::Read { viewer, read } => self::read(snapshot, viewer, read, terms).await.map(found),
        Query::Position {} => position(snapshot).map(found),
        Query::Snapshots {
            viewer,
            rooms,
            window_rooms,
            window_timeline,
        } => {
            let window = snapshots::Window::new(*window_rooms, *window_timeline);
            let rooms = rooms.as_deref();
            Ok(found(json(
                &snapshots::answer(snapshot, viewer, rooms, window, terms).await?,
            )))
        }
        Query::CatchUp {
            viewer,
            after,
            have,
            window_timeline,
        } => {
            let window = snapshots::Window::new(limits::WINDOW_ROOMS_MAX, *window_timeline);
            let (caught, covered) =
                resume::catch_up(snapshot, viewer, (*after, have), window, terms).await?;
            Ok(Found {
                covered,
                json: json(&caught),
            })
        }
        Query::Have {
            viewer,
            have,
            window_timeline,
        } => {
            let window = snapshots::Window::new(limits::WINDOW_ROOMS_MAX, *window_timeline);
            Ok(found(json(
                &resume::have(snapshot, viewer, have, window, terms).await?,
            )))
        }
        Query::RoomState { room } => match crate::store::room::whole(snapshot, room).await? {
            Whole::Absent => Ok(found(json(&None::<protocol::room::RoomState>))),
            Whole::Poisoned => Err(access::poisoned()),
            Whole::State(state) => Ok(found(json(&Some(state)))),
        },
        Query::MessageStates { room, seqs } => {
            bounded(seqs.len())?;
            Ok(found(json(
                &look_up::message_states(snapshot, room, seqs).await?,
            )))
        }
        Query::Cids { cids } => {
            bounded(cids.len())?;
            Ok(found(json(&look_up::cids(snapshot, cids).await?)))
        }
        Query::UserFacts { user } => Ok(found(json(&look_up::user_facts(snapshot, user).await?))),
        Query::ReadCounts { viewer, room, mark } => Ok(found(json(
            &lists::read_counts(snapshot, viewer, room, *mark, terms).await?,
        ))),
        Query::Records { from, to } => {
            let to = StreamSeq(to.0.min(from.0.saturating_add(RECORDS_MAX - 1)));
            Ok(found(json(&records(snapshot, *from, to, terms).await?)))
        }
    }
}

async fn read(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    read: &ReadCommand,
    terms: Terms,
) -> Result<Box<RawValue>, Failure> {
    // Whoever asks need not take the answer, and it waits in a gateway until then.
    let terms = Terms {
        bytes_max: terms.bytes_max.min(limits::PAGE_BYTES_MAX),
        ..terms
    };
    match read {
        ReadCommand::History { .. } | ReadCommand::Thread { .. } => {
            page(snapshot, viewer, read, terms).await
        }
        ReadCommand::Rooms { cursor, limit } => {
            let (cursor, limit) = (cursor.as_deref(), page_limit(*limit));
            Ok(json(&lists::rooms(snapshot, viewer, cursor, limit).await?))
        }
        ReadCommand::Discover { q, cursor, limit } => {
            let wish = lists::Discover {
                part: q.as_deref().unwrap_or(""),
                cursor: cursor.as_deref(),
                limit: page_limit(*limit),
            };
            Ok(json(&lists::discover(snapshot, viewer, wish, terms).await?))
        }
        ReadCommand::Members {
            room,
            cursor,
            limit,
        } => {
            let wish = lists::People::new(room, cursor.as_deref(), page_limit(*limit));
            Ok(json(&lists::members(snapshot, viewer, wish, terms).await?))
        }
        ReadCommand::Bans {
            room,
            cursor,
            limit,
        } => {
            let wish = lists::People::new(room, cursor.as_deref(), page_limit(*limit));
            Ok(json(&lists::bans(snapshot, viewer, wish, terms).await?))
        }
        ReadCommand::Revisions {
            room,
            on,
            cursor,
            limit,
        } => {
            let wish = timeline::Wish::new(room, timeline::Place::Newest, page_limit(*limit));
            let of = (*on, cursor.as_deref());
            Ok(json(
                &timeline::revisions(snapshot, viewer, wish, of, terms).await?,
            ))
        }
        ReadCommand::Unread {} => Ok(json(&lists::unread(snapshot, viewer).await?)),
    }
}

/// Reads a page of a timeline, of dense events or of a thread.
async fn page(
    snapshot: &mut Snapshot,
    viewer: &Viewer,
    read: &ReadCommand,
    terms: Terms,
) -> Result<Box<RawValue>, Failure> {
    match read {
        ReadCommand::History {
            room,
            before,
            after,
            around,
            limit,
            all,
        } => {
            let place = timeline::Place::new(*before, *after, *around)?;
            let wish = timeline::Wish::new(room, place, page_limit(*limit));
            if *all {
                Ok(json(&timeline::dense(snapshot, viewer, wish, terms).await?))
            } else {
                Ok(json(&timeline::page(snapshot, viewer, wish, terms).await?))
            }
        }
        ReadCommand::Thread {
            room,
            root,
            before,
            after,
            limit,
        } => {
            let place = timeline::Place::new(*before, *after, None)?;
            let wish = timeline::Wish::new(room, place, page_limit(*limit));
            Ok(json(
                &timeline::thread(snapshot, viewer, wish, *root, terms).await?,
            ))
        }
        ReadCommand::Rooms { .. }
        | ReadCommand::Discover { .. }
        | ReadCommand::Members { .. }
        | ReadCommand::Bans { .. }
        | ReadCommand::Revisions { .. }
        | ReadCommand::Unread {} => Err(Failure::code(ErrorCode::Internal)),
    }
}

fn position(snapshot: &Snapshot) -> Result<Box<RawValue>, Failure> {
    let Some(log) = snapshot.log.clone() else {
        return Err(Failure::code(ErrorCode::Unavailable));
    };
    Ok(json(&Position {
        log,
        time: snapshot.time,
    }))
}

async fn records(
    snapshot: &mut Snapshot,
    from: StreamSeq,
    to: StreamSeq,
    terms: Terms,
) -> Result<Records, Failure> {
    let mut records = look_up::records(snapshot, from, to).await?;
    // Lines are quoted once more, which at worst doubles them; the first record is given anyway.
    let mut bytes = 0;
    let fitting = records.iter().take_while(|record| {
        bytes += record
            .lines
            .iter()
            .map(|line| 2 * line.len() + 3)
            .sum::<usize>()
            + 64;
        bytes <= terms.bytes_max
    });
    let fitting = fitting.count().max(1);
    records.truncate(fitting);
    Ok(Records { records })
}

fn json<T: Serialize>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("all keys of answers are strings")
}

fn page_limit(limit: Option<u32>) -> u32 {
    limit
        .unwrap_or(limits::PAGE_DEFAULT)
        .clamp(1, limits::PAGE_MAX)
}

fn bounded(asked: usize) -> Result<(), Failure> {
    if asked > LOOK_UPS_MAX {
        return Err(Failure::code(ErrorCode::TooLarge));
    }
    Ok(())
}
