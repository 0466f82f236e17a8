//! Those who come and go: they join or are added, write, leave or are put out, and try what is not theirs.

use std::sync::Arc;
use std::time::Duration;

use protocol::UserId;
use protocol::command::{Send, Write};
use protocol::event::{MemberChange, RoomKind};
use protocol::query::ReadCommand;
use protocol::{Cid, Seq};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::crowd::Room;
use super::stage::{LOOK_INTERVAL, Stage};
use super::witness::Witness;
use crate::audit::{Answer, Command, Content, Step};

/// People at most: each has a socket, and does one thing at a time.
const PEOPLE_MAX: f64 = 64.0;

/// How many people it takes for so many changes per second.
pub(crate) fn people(per_second: f64) -> usize {
    if per_second <= 0.0 {
        return 0;
    }
    let wanted = (per_second * 2.0).ceil().clamp(2.0, PEOPLE_MAX);
    // Between 2 and 64.
    (0..64_u32).take_while(|n| f64::from(*n) < wanted).count()
}

/// What one did, by room.
pub(crate) struct Churned {
    pub(crate) room: usize,
    pub(crate) command: Command,
}

/// Lets everybody come and go until the load has ended.
pub(crate) async fn run(
    stage: &Stage,
    rooms: &[Room],
    people: &[Arc<Witness>],
    (ended, seed): (&CancellationToken, u64),
) -> Vec<Churned> {
    let each_s = people.len().max(1) as f64 / stage.args.churn.max(0.001);
    let doing = people.iter().enumerate().map(|(number, witness)| {
        let mut person = Person {
            stage,
            rooms,
            witness,
            user: witness.known().user,
            rng: StdRng::seed_from_u64(seed ^ u64::try_from(number).unwrap_or_default()),
            done: Vec::new(),
        };
        async move {
            while !ended.is_cancelled() && !stage.progress.is_over() {
                // A turn has two changes: in, and out.
                let pause = person.rng.random_range(0.3..1.7) * each_s * 2.0;
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs_f64(pause)) => {}
                    () = ended.cancelled() => break,
                }
                if stage.progress.or_over(person.turn()).await.is_err() {
                    break;
                }
            }
            person.done
        }
    });
    futures_util::future::join_all(doing)
        .await
        .into_iter()
        .flatten()
        .collect()
}

struct Person<'a> {
    stage: &'a Stage,
    rooms: &'a [Room],
    witness: &'a Arc<Witness>,
    user: Option<UserId>,
    rng: StdRng,
    done: Vec<Churned>,
}

impl Person<'_> {
    /// In, something said, out, something said that must not get in, and a look at what is not theirs.
    async fn turn(&mut self) {
        let number = self.rng.random_range(0..self.rooms.len());
        let Some(user) = self.user.clone() else {
            return;
        };
        if !self.come_in(number, &user).await {
            return;
        }
        self.say(number, &user).await;
        self.probe(number).await;
        let room = &self.rooms[number];
        let way = self.rng.random_range(0..3);
        match way {
            0 => {
                let content = Content::member(&user, MemberChange::Left);
                self.submit(number, &user, Write::Leave {}, content).await;
            }
            1 => {
                // Said while being put out: before it or refused, never after it.
                let kick = Write::Kick {
                    user: user.clone(),
                    why: None,
                    seen: None,
                };
                let content = Content::member(&user, MemberChange::Kicked);
                let (command, ()) =
                    tokio::join!(keep(room, kick, content), self.say(number, &user));
                self.note(number, command);
            }
            _ => {
                let ban = Write::Ban {
                    user: user.clone(),
                    why: Some("a bench".to_owned()),
                    until: None,
                };
                let content = Content::member(&user, MemberChange::Banned);
                let (command, ()) = tokio::join!(keep(room, ban, content), self.say(number, &user));
                self.note(number, command);
            }
        }
        self.say(number, &user).await;
        let room = &self.rooms[number];
        let is_out = || !self.witness.is_in(&room.id);
        self.stage.progress.until(LOOK_INTERVAL, is_out).await;
        self.probe(number).await;
        if way == 2 {
            let unban = Write::Unban {
                user: user.clone(),
                seen: None,
            };
            let content = Content::member(&user, MemberChange::Unbanned);
            let command = keep(room, unban, content).await;
            self.note(number, command);
        }
    }

    async fn come_in(&mut self, number: usize, user: &UserId) -> bool {
        let room = &self.rooms[number];
        if room.kind == RoomKind::Public {
            let content = Content::member(user, MemberChange::Joined);
            self.submit(number, user, Write::Join {}, content).await;
        } else {
            let invite = Write::Invite { user: user.clone() };
            let content = Content::member(user, MemberChange::Added);
            let command = keep(room, invite, content).await;
            self.note(number, command);
        }
        let is_in = || self.witness.is_in(&room.id);
        self.stage.progress.until(LOOK_INTERVAL, is_in).await;
        is_in()
    }

    async fn say(&mut self, number: usize, user: &UserId) {
        let text = format!("{} was here", self.rng.random::<u32>());
        let content = Content::said(&text, None);
        let send = Write::Send(Send {
            text,
            ..Send::default()
        });
        self.submit(number, user, send, content).await;
    }

    async fn submit(&mut self, number: usize, user: &UserId, write: Write, content: Content) {
        let room = &self.rooms[number];
        if let Some((cid, answer)) = self.witness.submit(&room.id, write).await {
            let command = Command {
                cid,
                by: user.clone(),
                content,
                answer,
            };
            self.note(number, Some(command));
        }
    }

    /// Asks for the oldest event that may be read, and lets the judge say whether it may.
    async fn probe(&mut self, number: usize) {
        let room = &self.rooms[number];
        let before = self.witness.standing(&room.id);
        let read = ReadCommand::History {
            room: room.id.clone(),
            before: None,
            after: Some(Seq(0)),
            around: None,
            limit: Some(1),
            all: true,
        };
        let Some(answer) = self.witness.ask(read).await else {
            return;
        };
        let first = answer.ok().and_then(|page| {
            let event = page.get("events")?.as_array()?.first()?;
            event.get("seq")?.as_u64().map(Seq)
        });
        self.witness
            .note(&room.id, (before, Step::Probed { first }));
    }

    fn note(&mut self, room: usize, command: Option<Command>) {
        self.done
            .extend(command.map(|command| Churned { room, command }));
    }
}

/// The owner does it.
async fn keep(room: &Room, write: Write, content: Content) -> Option<Command> {
    let submitted = room
        .keeper
        .submit(Some(room.id.clone()), write)
        .await
        .ok()?;
    let first: Cid = submitted.cid;
    let (cid, answer) = match submitted.stored_as().await {
        Ok((cid, accepted)) if accepted.noop => (cid, Answer::Noop),
        Ok((cid, accepted)) => (cid, Answer::Stored(accepted.seq)),
        Err(client::ClientError::Refused(_)) => (first, Answer::Refused),
        Err(_) => (first, Answer::None),
    };
    Some(Command {
        cid,
        by: room.keeper_user.clone(),
        content,
        answer,
    })
}
