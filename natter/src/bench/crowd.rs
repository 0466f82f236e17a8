//! Everybody of a run: brought together in rooms, let loose, and asked what they have seen.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::{Client, Follow};
use futures_util::future::{join_all, try_join_all};
use protocol::command::{Create, Write};
use protocol::event::{HistoryScope, RoomKind};
use protocol::limits::CREATE_MEMBERS_MAX;
use protocol::{RoomId, UserId};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::churn::{self, Churned};
use super::progress::Progress;
use super::repeater::{self, COPIES_MAX, Copy, Repeat};
use super::sender::{Load, Sender};
use super::stage::{LOOK_INTERVAL, Stage};
use super::viewer::{Listener, Viewer};
use super::witness::{Manner, Witness};
use crate::audit::Watch;

/// A client that is cut off more often waits longer and longer before it comes back.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Clients that connect at the same time.
const CONNECTING_MAX: usize = 32;

impl Listener for Progress {
    fn delivered(&self) {
        Self::delivered(self, 1);
    }

    fn lost_connection(&self) {
        Self::lost_connection(self);
    }
}

/// A room and its owner.
pub(crate) struct Room {
    pub(crate) id: RoomId,
    pub(crate) keeper: Client,
    pub(crate) keeper_user: UserId,
    pub(crate) kind: RoomKind,
    pub(crate) history: HistoryScope,
}

/// Everybody.
pub(crate) struct Crowd {
    pub(crate) rooms: Vec<Room>,
    senders: Vec<(Client, UserId)>,
    pub(crate) viewers: Vec<(Arc<Viewer>, UserId)>,
    pub(crate) witnesses: Vec<Arc<Witness>>,
    pub(crate) slow: Vec<Arc<Witness>>,
    pub(crate) churners: Vec<Arc<Witness>>,
}

/// What came of the load.
pub(crate) struct Done {
    pub(crate) senders: Vec<Sender>,
    pub(crate) churned: Vec<Churned>,
    pub(crate) repeats: Vec<Repeat>,
    pub(crate) resumes: u64,
    /// What went wrong with those who drive, in words.
    pub(crate) notes: Vec<String>,
}

impl Crowd {
    /// Connects everybody and brings them together in rooms.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub(crate) async fn gather(stage: &Stage) -> anyhow::Result<Self> {
        let args = &stage.args;
        let witness = |role: &str, number, manner| {
            let name = stage.name(role, number);
            let place = stage.place(&name, role, number);
            let shared = (Arc::clone(&stage.prints), Arc::clone(&stage.progress));
            Arc::new(Witness::start(&name, place, manner, shared))
        };
        let viewers = (0..args.observers).filter(|number| number % 4 == 3);
        let witnesses = (0..args.observers).filter(|number| number % 4 != 3);
        let witnesses: Vec<_> = witnesses
            .map(|number| witness("witness", number, Manner::Eager))
            .collect();
        let slow: Vec<_> = (0..args.slow)
            .map(|number| witness("slow", number, Manner::Slow))
            .collect();
        let churners: Vec<_> = (0..churn::people(args.churn))
            .map(|number| witness("churner", number, Manner::Eager))
            .collect();
        let opened = try_join_all(viewers.map(|number| async move {
            let name = stage.name("viewer", number);
            let client = stage.client(&name, ("viewer", number), Follow::Everything)?;
            let viewer = Viewer::new(client, Arc::clone(&stage.progress)).await?;
            let user = stage.user_of(&viewer.client).await?;
            anyhow::Ok((Arc::new(viewer), user))
        }));
        let viewers = opened.await?;
        let senders = connect(stage, "sender", args.rooms * args.members).await?;
        let keepers = connect(stage, "keeper", args.rooms).await?;
        let mut crowd = Self {
            rooms: Vec::new(),
            senders,
            viewers,
            witnesses,
            slow,
            churners,
        };
        let rooms = keepers
            .into_iter()
            .enumerate()
            .map(|(number, keeper)| crowd.make_room(stage, number, keeper));
        crowd.rooms = try_join_all(rooms).await?;
        crowd.settle(stage).await?;
        Ok(crowd)
    }

    /// Everybody of a room but those who come and go.
    async fn members(&self, stage: &Stage, room: usize) -> anyhow::Result<Vec<UserId>> {
        let mut members: Vec<UserId> = self.viewers.iter().map(|(_, user)| user.clone()).collect();
        for witness in self.witnesses.iter().chain(&self.slow) {
            members.push(user_of(stage, witness).await?);
        }
        let per_room = stage.args.members;
        let senders = self.senders.iter().skip(room * per_room).take(per_room);
        members.extend(senders.map(|(_, user)| user.clone()));
        Ok(members)
    }

    async fn make_room(
        &self,
        stage: &Stage,
        number: usize,
        (keeper, keeper_user): (Client, UserId),
    ) -> anyhow::Result<Room> {
        let (kind, history) = match number % 3 {
            0 => (RoomKind::Public, HistoryScope::All),
            1 => (RoomKind::Private, HistoryScope::All),
            _ => (RoomKind::Private, HistoryScope::Joined),
        };
        let members = self.members(stage, number).await?;
        let (at_once, later) = members.split_at(members.len().min(CREATE_MEMBERS_MAX));
        let create = Create {
            kind,
            name: Some(stage.name("room", number)),
            topic: Some("Made by natter bench".to_owned()),
            members: at_once.to_vec(),
            history: Some(history),
        };
        let made = keeper.create(create).await?.stored();
        let made = stage.progress.or_over(made).await?;
        let made = made.context("a room could not be made")?;
        let id = made.room.context("the server named no room")?;
        for user in later {
            let invite = Write::Invite { user: user.clone() };
            let invited = keeper.submit(Some(id.clone()), invite).await?.stored();
            stage.progress.or_over(invited).await??;
            stage.progress.moved();
        }
        Ok(Room {
            id,
            keeper,
            keeper_user,
            kind,
            history,
        })
    }

    /// Waits until those who watch are in every room.
    async fn settle(&self, stage: &Stage) -> anyhow::Result<()> {
        for room in &self.rooms {
            for witness in self.witnesses.iter().chain(&self.slow) {
                let is_in = || witness.is_in(&room.id) || witness.known().stopped.is_some();
                stage.progress.until(LOOK_INTERVAL, is_in).await;
            }
            for (viewer, _) in &self.viewers {
                let is_in = || !viewer.steps(&room.id).is_empty();
                stage.progress.until(LOOK_INTERVAL, is_in).await;
            }
        }
        for churner in &self.churners {
            user_of(stage, churner).await?;
        }
        anyhow::ensure!(!stage.progress.is_over(), "nobody sees the rooms");
        Ok(())
    }

    /// Lets everybody loose until all is said and answered.
    pub(crate) async fn perform(&mut self, stage: &Stage, load: Arc<Load>) -> Done {
        for slow in &self.slow {
            slow.hurries(false);
        }
        let mut rng = StdRng::seed_from_u64(stage.seed);
        let mut tasks = Vec::new();
        let mut repeating = Vec::new();
        for (number, (client, user)) in self.senders.iter().enumerate() {
            let room = number / stage.args.members;
            let sender = Sender::new(
                client.clone(),
                user.clone(),
                (room, self.rooms[room].id.clone()),
                (Arc::clone(&load), Arc::clone(&stage.progress)),
                rng.random(),
            );
            let sender = if number % stage.args.members == 0 {
                let (copies, copied) = mpsc::channel(COPIES_MAX);
                repeating.push(self.repeat(stage, number, copied));
                sender.repeats(copies)
            } else {
                sender
            };
            tasks.push(tokio::spawn(sender.run()));
        }
        let ended = tokio_util::sync::CancellationToken::new();
        let writing = async {
            let senders = join_all(tasks).await;
            ended.cancel();
            senders
        };
        let seed = rng.random();
        let churning = churn::run(stage, &self.rooms, &self.churners, (&ended, seed));
        let (senders, churned, repeats, resumes) = tokio::join!(
            writing,
            churning,
            join_all(repeating),
            self.cut_now_and_then(stage, &ended)
        );
        for slow in &self.slow {
            slow.hurries(true);
        }
        let mut notes = Vec::new();
        // One that crashed has no commands: what it sent is in the archive, and nobody knows of it.
        let senders: Vec<Sender> = senders
            .into_iter()
            .filter_map(|sender| sender.inspect_err(|e| notes.push(e.to_string())).ok())
            .collect();
        for sender in &senders {
            notes.extend(sender.refused.iter().take(1).cloned());
        }
        notes.extend(self.stopped());
        Done {
            senders,
            churned,
            repeats: repeats.into_iter().flatten().collect(),
            resumes,
            notes,
        }
    }

    /// Why some who watch will never connect again.
    fn stopped(&self) -> impl Iterator<Item = String> {
        let raw = self
            .witnesses
            .iter()
            .chain(&self.slow)
            .chain(&self.churners);
        raw.filter_map(|witness| {
            let why = witness.known().stopped?;
            Some(format!("{} has stopped: {why}", witness.name))
        })
    }

    /// The first who writes in a room has a second device, which sends some of it once more.
    async fn repeat(
        &self,
        stage: &Stage,
        number: usize,
        copies: mpsc::Receiver<Copy>,
    ) -> Vec<Repeat> {
        let name = stage.name("sender", number);
        let place = stage.place(&name, "repeater", number);
        let shared = (Arc::clone(&stage.prints), Arc::clone(&stage.progress));
        let witness = Arc::new(Witness::start(&name, place, Manner::Slow, shared));
        let room = self.rooms[number / stage.args.members].id.clone();
        let user = self.senders[number].1.clone();
        repeater::run(witness, (user, room), copies, Arc::clone(&stage.progress)).await
    }

    /// Loses sockets without a word.
    async fn cut_now_and_then(
        &self,
        stage: &Stage,
        ended: &tokio_util::sync::CancellationToken,
    ) -> u64 {
        let per_second = stage.args.resumes;
        let mut rng = StdRng::seed_from_u64(stage.seed ^ 1);
        let raw: Vec<&Arc<Witness>> = self
            .witnesses
            .iter()
            .chain(&self.churners)
            .chain(&self.slow)
            .collect();
        let mut cut = 0;
        let cuttable = stage.cuttable();
        let between = HEALTHY_AFTER.div_f64(u32::try_from(cuttable.max(1)).map_or(1.0, f64::from));
        let mut relay_at = Instant::now();
        while per_second > 0.0 && !ended.is_cancelled() && !stage.progress.is_over() {
            let pause = Duration::from_secs_f64(rng.random_range(0.5..1.5) / per_second);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = ended.cancelled() => break,
            }
            let among_all = rng.random_range(0..raw.len() + cuttable);
            let is_cut = if among_all >= raw.len() && relay_at <= Instant::now() {
                relay_at = Instant::now() + between;
                let relay = rng.random_range(0..stage.relays.len().max(1));
                stage.relays.get(relay).is_some_and(|relay| relay.cut())
            } else {
                raw.choose(&mut rng).is_some_and(|witness| witness.cut())
            };
            cut += u64::from(is_cut);
        }
        cut
    }

    /// What everybody who watches was given of a room.
    pub(crate) fn watches(&self, room: &Room) -> Vec<Watch> {
        let raw = self
            .witnesses
            .iter()
            .chain(&self.slow)
            .chain(&self.churners);
        let raw = raw.filter_map(|witness| {
            let user = witness.known().user?;
            Some(Watch {
                name: witness.name.clone(),
                user,
                steps: witness.steps(&room.id),
            })
        });
        let viewers = self.viewers.iter().map(|(viewer, user)| Watch {
            name: format!("viewer {user}"),
            user: user.clone(),
            steps: viewer.steps(&room.id),
        });
        raw.chain(viewers).collect()
    }

    /// Closes every socket.
    pub(crate) async fn close(&self) {
        let clients = self.senders.iter().map(|(client, _)| client);
        let clients = clients.chain(self.rooms.iter().map(|room| &room.keeper));
        join_all(clients.map(Client::close)).await;
        join_all(self.viewers.iter().map(|(viewer, _)| viewer.close())).await;
    }
}

async fn connect(stage: &Stage, role: &str, count: usize) -> anyhow::Result<Vec<(Client, UserId)>> {
    let mut connected = Vec::new();
    while connected.len() < count {
        let numbers = connected.len()..count.min(connected.len() + CONNECTING_MAX);
        let opening = numbers.map(|number| async move {
            let name = stage.name(role, number);
            let client = stage.client(&name, (role, number), Follow::Nothing)?;
            let user = stage.user_of(&client).await?;
            anyhow::Ok((client, user))
        });
        connected.extend(try_join_all(opening).await?);
    }
    Ok(connected)
}

/// Waits until a server has told who this is.
async fn user_of(stage: &Stage, witness: &Witness) -> anyhow::Result<UserId> {
    let known = || {
        let known = witness.known();
        known.user.filter(|_| known.is_live)
    };
    loop {
        if let Some(user) = known() {
            return Ok(user);
        }
        if let Some(why) = witness.known().stopped {
            anyhow::bail!("{} may not connect: {why}", witness.name);
        }
        anyhow::ensure!(!stage.progress.is_over(), "{} cannot connect", witness.name);
        stage.progress.pause(LOOK_INTERVAL).await;
    }
}
