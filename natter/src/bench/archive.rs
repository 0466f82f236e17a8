//! The evidence: what history has when all is over, beside what everybody sent and saw.

use std::collections::BTreeMap;

use chassis::config::NatsArgs;
use client::{Client, ClientError};
use futures_util::future::join_all;
use protocol::event::{HistoryScope, RoomKind};
use protocol::frame::listing::{RoomList, UnreadList};
use protocol::query::ReadCommand;
use protocol::{RoomId, Seq};
use serde::de::DeserializeOwned;

use super::crowd::{Crowd, Done, Room};
use super::repeater::Repeat;
use super::sender::Sender;
use super::stage::{LOOK_INTERVAL, Stage};
use super::witness::Known;
use crate::audit::{Answer, Archived, Command, Counted, Evidence, Seen};
use crate::verify::{Head, log_of};

/// Reads everything once more, and puts it beside what was sent and seen.
///
/// # Errors
/// The log was to be read and could not.
pub(crate) async fn gather(
    stage: &Stage,
    crowd: &Crowd,
    done: &Done,
) -> anyhow::Result<Vec<Evidence>> {
    let commands = commands_by_room(crowd, done);
    let reading = crowd.rooms.iter().zip(&commands).map(|(room, commands)| {
        let acked = commands.iter().filter_map(|command| match command.answer {
            Answer::Stored(seq) => Some(seq),
            Answer::None | Answer::Noop | Answer::Refused => None,
        });
        read_archive(stage, room, acked.max().unwrap_or_default())
    });
    let archives = join_all(reading).await;
    let mut counted = count_unread(stage, crowd, done).await;
    let logs = read_logs(stage, crowd).await?;
    let mut all = Vec::new();
    let rooms = crowd.rooms.iter().zip(commands).zip(archives).zip(logs);
    for (((room, commands), archive), (log, log_head)) in rooms {
        let head = archive.last().map_or(Seq(0), |event| event.seq);
        wait_for_watchers(stage, crowd, room, head).await;
        let told = told_heads(stage, done, room).await;
        let repeats = repeats_of(&commands, done);
        all.push(Evidence {
            room: room.id.to_string(),
            private: room.kind != RoomKind::Public,
            history: room.history,
            commands,
            repeats,
            base: base(room),
            archive,
            watches: crowd.watches(room),
            counted: counted.remove(&room.id).unwrap_or_default(),
            log,
            heads: told.into_iter().chain(log_head).collect(),
        });
    }
    Ok(all)
}

/// The owner reads from the own membership on: it begins with the second event.
fn base(room: &Room) -> Seq {
    match room.history {
        HistoryScope::All => Seq(0),
        HistoryScope::Joined => Seq(1),
    }
}

fn commands_by_room(crowd: &Crowd, done: &Done) -> Vec<Vec<Command>> {
    let mut by_room: Vec<Vec<Command>> = vec![Vec::new(); crowd.rooms.len()];
    for sender in &done.senders {
        by_room[sender.room].extend(sender.commands.iter().cloned());
    }
    let mut churned: Vec<_> = done.churned.iter().collect();
    // One owner does it for many who come and go; a client's cids rise.
    churned.sort_by_key(|churned| churned.command.cid);
    for one in churned {
        by_room[one.room].push(one.command.clone());
    }
    by_room
}

/// Every event of a room, once history has what was acknowledged.
async fn read_archive(stage: &Stage, room: &Room, acked: Seq) -> Vec<Archived> {
    let mut archive: Vec<Archived> = Vec::new();
    while !stage.progress.is_over() {
        let after = archive.last().map_or(base(room), |event| event.seq);
        match room.keeper.events_after(&room.id, after).await {
            Ok(page) => {
                if !page.events.is_empty() {
                    stage.progress.moved();
                }
                archive.extend(page.events.iter().map(|entry| Archived::of(&entry.event)));
                let have = archive.last().map_or(Seq(0), |event| event.seq);
                if page.more || (!page.events.is_empty() && have < page.head) {
                    continue;
                }
                if have >= acked {
                    break;
                }
            }
            Err(ClientError::Refused(refusal)) if refusal.temp => {}
            Err(error) => {
                tracing::warn!(%error, "the archive cannot be read");
                break;
            }
        }
        stage.progress.pause(LOOK_INTERVAL).await;
    }
    archive
}

/// What the log holds of a room, and its head; nothing if it was not read.
type Log = (Option<Vec<Seen>>, Option<Head>);

/// The log of each room, if the broker was named.
async fn read_logs(stage: &Stage, crowd: &Crowd) -> anyhow::Result<Vec<Log>> {
    let args = &stage.args;
    let Some(url) = &args.nats_url else {
        return Ok(vec![(None, None); crowd.rooms.len()]);
    };
    let nats = NatsArgs {
        nats_user: args.nats_user.clone(),
        nats_password_file: args.nats_password_file.clone(),
        ..NatsArgs::to(url.clone())
    };
    let nats = crate::servers::connect(&nats, "natter-bench").await?;
    let mut logs = Vec::new();
    for room in &crowd.rooms {
        let (events, head) = log_of(&nats, &room.id).await?;
        stage.progress.moved();
        logs.push((Some(events.iter().map(Seen::of).collect()), head));
    }
    Ok(logs)
}

/// What history counts for those who write and mark, and for the owners, who never mark.
async fn count_unread(stage: &Stage, crowd: &Crowd, done: &Done) -> BTreeMap<RoomId, Vec<Counted>> {
    let senders = done.senders.iter().map(|sender| {
        let room = &crowd.rooms[sender.room].id;
        (room, &sender.client, &sender.user, sender.marked)
    });
    let keepers = crowd
        .rooms
        .iter()
        .map(|room| (&room.id, &room.keeper, &room.keeper_user, Seq(0)));
    let asking = senders
        .chain(keepers)
        .map(async |(room, client, user, marked)| {
            let list: UnreadList = ask(stage, client, || ReadCommand::Unread {}).await?;
            let row = list.rooms.into_iter().find(|row| row.room == *room);
            // A room that is not listed counts as if nothing in it were read or unread.
            let (read, unread) = row.map_or((Seq(0), 0), |row| (row.read, row.unread));
            let counted = Counted {
                user: user.clone(),
                marked,
                read,
                unread,
            };
            Some((room.clone(), counted))
        });
    let mut by_room: BTreeMap<RoomId, Vec<Counted>> = BTreeMap::new();
    for (room, counted) in join_all(asking).await.into_iter().flatten() {
        by_room.entry(room).or_default().push(counted);
    }
    by_room
}

/// Asks a client's server until there is an answer.
async fn ask<T: DeserializeOwned>(
    stage: &Stage,
    client: &Client,
    read: impl Fn() -> ReadCommand,
) -> Option<T> {
    while !stage.progress.is_over() {
        match client.ask(read()).await {
            Ok(answer) => {
                stage.progress.moved();
                return serde_json::from_value(answer).ok();
            }
            Err(ClientError::Refused(refusal)) if refusal.temp => {}
            Err(_) => return None,
        }
        stage.progress.pause(LOOK_INTERVAL).await;
    }
    None
}

/// The chain's head of a room, as its owner and one who writes in it are told.
async fn told_heads(stage: &Stage, done: &Done, room: &Room) -> Vec<Head> {
    let writes = |user: &&Sender| room.id == *user.room_id();
    let sender = done
        .senders
        .iter()
        .find(writes)
        .map(|sender| &sender.client);
    let mut heads = Vec::new();
    for client in std::iter::once(&room.keeper).chain(sender) {
        let read = || ReadCommand::Rooms {
            cursor: None,
            limit: None,
        };
        let list: Option<RoomList> = ask(stage, client, read).await;
        let rooms = list.into_iter().flat_map(|list| list.rooms);
        let row = rooms.into_iter().find(|row| row.room == room.id);
        heads.extend(row.map(|row| (row.head, row.head_hash)));
    }
    heads
}

/// The answers to copies, by the place of the command.
fn repeats_of(commands: &[Command], done: &Done) -> Vec<(usize, Answer)> {
    let place = |repeat: &Repeat| {
        let is_it = |command: &Command| command.cid == repeat.cid && command.by == repeat.by;
        Some((commands.iter().position(is_it)?, repeat.answer))
    };
    done.repeats.iter().filter_map(place).collect()
}

async fn wait_for_watchers(stage: &Stage, crowd: &Crowd, room: &Room, head: Seq) {
    let raw = crowd.witnesses.iter().chain(&crowd.slow);
    for witness in raw {
        let has = || witness.has(&room.id, head) || witness.known().stopped.is_some();
        stage.progress.until(LOOK_INTERVAL, has).await;
    }
    for churner in &crowd.churners {
        let has = || {
            let Known {
                is_live, stopped, ..
            } = churner.known();
            let told = !churner.is_in(&room.id) || churner.has(&room.id, head);
            (is_live && told) || stopped.is_some()
        };
        stage.progress.until(LOOK_INTERVAL, has).await;
    }
    for (viewer, _) in &crowd.viewers {
        let has = || viewer.last(&room.id) >= head;
        stage.progress.until(LOOK_INTERVAL, has).await;
    }
}
