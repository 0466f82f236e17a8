//! `natter chat`: a plain terminal client, one line per event.
//!
//! It shows what the client crate tells it and asks that for everything; what is typed while there is
//! no connection is queued in the store and goes out when there is one, also after a restart.

mod ask;
mod input;
mod show;

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{
    Client, ClientError, Config, ConnectionState, Delivery, Line, RoomView, StaticToken, Store,
    TokenSource, Update, Updates,
};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use protocol::command::{Send, Write};
use protocol::event::{EventBody, RoomKind};
use protocol::frame::RoomSnapshot;
use protocol::{Cid, RoomId, Seq, Timestamp, UserId};
use tokio::sync::mpsc;

use self::input::Input;
use crate::dev_token::DevServer;

/// Updates and lines that may wait.
const QUEUE_MAX: usize = 256;
/// Lines shown when a room is entered.
const ENTRY_LINES: usize = 20;
/// Messages asked for by `/history`.
const HISTORY_LINES: u32 = 50;
/// After the end of input: how long what was typed may take to arrive.
const LAST_WORDS_MAX: Duration = Duration::from_secs(10);

/// Arguments of `natter chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the server.
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    url: String,
    /// Token to say hello with.
    #[arg(
        long,
        env = "NATTER_TOKEN",
        hide_env_values = true,
        conflicts_with = "user"
    )]
    token: Option<String>,
    /// Name to get a development token for.
    #[arg(long, required_unless_present = "token")]
    user: Option<String>,
    /// Room to enter, by id.
    #[arg(long)]
    room: Option<String>,
    /// Public room to enter, by name; made if there is none.
    #[arg(long, default_value = "general", conflicts_with = "room")]
    name: String,
    /// File that keeps messages until they are sent; one per user and server without it.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Data folder, where that file is made.
    #[arg(long, env = "NATTER_DATA", default_value = ".natter")]
    data: PathBuf,
}

/// Talks until `/quit` or the end of input.
///
/// # Errors
/// The store cannot be opened, or an argument is wrong.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let tokens: Arc<dyn TokenSource> = match (&args.token, &args.user) {
        (Some(token), _) => Arc::new(StaticToken(token.clone())),
        (None, Some(user)) => DevServer::of(&args.url)?.tokens_of(user),
        (None, None) => anyhow::bail!("either --token or --user is needed"),
    };
    let path = store_path(&args)?;
    let store = Store::open(&path).with_context(|| {
        format!(
            "{} is in use or broken; another --store can be given",
            path.display()
        )
    })?;
    let mut config = Config::new(&args.url, tokens);
    config.app = Some(concat!("natter-chat/", env!("CARGO_PKG_VERSION")).to_owned());
    let client = Client::open(config, store)?;
    let updates = client.subscribe(QUEUE_MAX).await?;
    say(&format!("-- {} (/help lists commands)", args.url));
    let wanted = match args.room {
        Some(id) => Wanted::Id(RoomId::parse(&id).context("--room")?),
        None => Wanted::Name(args.name),
    };
    Chat::new(client, wanted).talk(updates).await
}

/// One file per user and server: a store belongs to one user.
fn store_path(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.store {
        return Ok(path.clone());
    }
    let folder = args.data.join("chat");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let who = args
        .user
        .clone()
        .or_else(|| args.token.as_deref().and_then(subject));
    let host = args
        .url
        .split_once("://")
        .map_or(args.url.as_str(), |(_, rest)| rest);
    let plain = |text: &str| -> String {
        text.chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect()
    };
    let name = format!("{}@{}.db", plain(&who.unwrap_or_default()), plain(host));
    Ok(folder.join(name))
}

/// The user in a token, unchecked: only for the name of a file.
fn subject(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(claims.get("sub")?.as_str()?.to_owned())
}

/// The room to enter first.
enum Wanted {
    Id(RoomId),
    Name(String),
}

/// Something asked of the server, answered.
enum Answer {
    /// The room to go to.
    Go(RoomId),
    /// A page of history is in the view of this room, which had so many lines before.
    Filled(RoomId, usize),
    /// Lines to show.
    Lines(Vec<String>),
    /// It failed.
    Failed(String),
}

/// Everything that can happen.
enum Event {
    Line(Option<String>),
    Update(Option<Update>),
    Answer(Answer),
    LastWord,
}

/// A command on its way, and what was said about it.
struct Own {
    text: String,
    waits: bool,
    was_sent: bool,
}

struct Chat {
    client: Client,
    me: Option<UserId>,
    wanted: Option<Wanted>,
    /// What was wanted and is shown as the store had it; the server may not know it any more.
    unconfirmed: Option<Wanted>,
    /// What was typed before there was a room.
    early: Vec<Input>,
    room: Option<RoomId>,
    /// Events up to here are on the screen.
    shown: Seq,
    connected: bool,
    /// Commands of this session without a result.
    own: BTreeMap<Cid, Own>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Chat {
    fn new(client: Client, wanted: Wanted) -> Self {
        Self {
            client,
            me: None,
            wanted: Some(wanted),
            unconfirmed: None,
            early: Vec::new(),
            room: None,
            shown: Seq(0),
            connected: false,
            own: BTreeMap::new(),
            answers: FuturesUnordered::new(),
        }
    }

    async fn talk(mut self, mut updates: Updates) -> anyhow::Result<ExitCode> {
        let mut lines = read_lines();
        let mut last_word = None;
        self.me = self.client.status().await?.user;
        self.enter_known().await?;
        loop {
            let event = tokio::select! {
                line = lines.recv(), if last_word.is_none() => Event::Line(line),
                update = updates.next() => Event::Update(update),
                Some(answer) = self.answers.next() => Event::Answer(answer),
                () = tokio::time::sleep(Duration::from_millis(100)), if last_word.is_some() => {
                    Event::LastWord
                }
            };
            match event {
                Event::Line(Some(line)) => {
                    if !self.handle_input(input::parse(&line)).await? {
                        break;
                    }
                }
                Event::Line(None) => {
                    last_word = Some(tokio::time::Instant::now() + LAST_WORDS_MAX);
                }
                Event::Update(Some(Update::Connection(ConnectionState::Stopped(reason)))) => {
                    say(&format!("-- stopped: {}", show::stopped(&reason)));
                    self.client.close().await;
                    return Ok(ExitCode::FAILURE);
                }
                Event::Update(Some(update)) => self.handle_update(update).await?,
                Event::Update(None) => break,
                Event::Answer(answer) => self.handle_answer(answer).await?,
                Event::LastWord => {
                    let idle = self.client.status().await?.is_idle && self.answers.is_empty();
                    let late = last_word.is_some_and(|at| at <= tokio::time::Instant::now());
                    if (idle && self.wanted.is_none() && self.early.is_empty()) || late {
                        break;
                    }
                }
            }
        }
        self.client.close().await;
        Ok(ExitCode::SUCCESS)
    }

    /// Goes to the wanted room if the store knows it: works without a server.
    async fn enter_known(&mut self) -> anyhow::Result<()> {
        let known = self.client.rooms().await?;
        let found = known.iter().find(|snapshot| match &self.wanted {
            Some(Wanted::Id(id)) => snapshot.room == *id,
            Some(Wanted::Name(name)) => is_public(snapshot, name),
            None => false,
        });
        if let Some(snapshot) = found {
            let room = snapshot.room.clone();
            self.unconfirmed = self.wanted.take();
            self.go(room).await?;
        }
        Ok(())
    }

    /// Asks the server for the wanted room.
    fn look_for_wanted(&mut self) {
        match self.wanted.take() {
            Some(Wanted::Id(id)) => self.join(id),
            Some(Wanted::Name(name)) => self.find(name, true),
            None => {}
        }
    }

    async fn go(&mut self, room: RoomId) -> anyhow::Result<()> {
        self.room = Some(room.clone());
        self.shown = Seq(0);
        if let Some(view) = self.client.view(&room).await? {
            self.show_room(&view);
            let (client, had) = (self.client.clone(), view.lines.len());
            if had < ENTRY_LINES && self.connected {
                self.ask(async move {
                    client.history(&room, None, HISTORY_LINES).await?;
                    Ok(Answer::Filled(room, had))
                });
            }
        }
        Ok(())
    }

    fn show_room(&mut self, view: &RoomView) {
        let (name, id) = (show::room_name(&view.snapshot), &view.snapshot.room);
        let (members, unread) = (view.snapshot.members, view.unread);
        let topic = show::harmless(&view.snapshot.topic);
        let line = format!("== {name}  {id}  {members} members, {unread} unread  {topic}");
        say(line.trim_end());
        for line in show::view(view, ENTRY_LINES, self.me.as_ref()) {
            say(&line);
        }
        self.shown = view.last;
        // Those of an earlier session are followed like those of this one.
        for line in &view.lines {
            if let Line::Pending {
                cid,
                text,
                failed: None,
                ..
            } = line
            {
                let own = Own {
                    text: text.clone(),
                    waits: true,
                    was_sent: false,
                };
                self.own.entry(*cid).or_insert(own);
            }
        }
    }

    async fn handle_answer(&mut self, answer: Answer) -> anyhow::Result<()> {
        match answer {
            Answer::Go(room) => {
                self.go(room).await?;
                for input in std::mem::take(&mut self.early) {
                    self.handle_input(input).await?;
                }
            }
            Answer::Filled(room, had) => {
                if self.room.as_ref() == Some(&room)
                    && let Some(view) = self.client.view(&room).await?
                    && view.lines.len() > had
                {
                    self.show_room(&view);
                }
            }
            Answer::Lines(lines) => lines.iter().for_each(|line| say(line)),
            Answer::Failed(error) => say(&format!("-- {error}")),
        }
        Ok(())
    }

    async fn handle_update(&mut self, update: Update) -> anyhow::Result<()> {
        match update {
            Update::Connection(state) => {
                self.connected = state == ConnectionState::Connected;
                if let Some(line) = show::connection(&state, now()) {
                    say(&line);
                }
            }
            Update::Hello(hello) => {
                if self.me.as_ref() != Some(&hello.user) {
                    say(&format!("-- you are {}", hello.user));
                }
                self.me = Some(hello.user.clone());
            }
            Update::Live => {
                self.unconfirmed = None;
                self.look_for_wanted();
            }
            Update::Room(room) => {
                // Its state came after it was entered, or it is known afresh after a long absence.
                if self.room.as_ref() == Some(&room) && self.shown == Seq(0) {
                    self.go(room).await?;
                }
            }
            Update::Event(event) => self.show_event(&event).await?,
            Update::Skipped { room, from, to, .. } | Update::Missing { room, from, to } => {
                if self.room.as_ref() == Some(&room) {
                    say(&format!(
                        "-- #{from} to #{to} are not shown; /history fetches what there is"
                    ));
                    self.go(room).await?;
                }
            }
            Update::Gone(room) => {
                if self.room.as_ref() == Some(&room) {
                    say("-- you are not in this room any more; /join goes to another");
                    self.room = None;
                    self.wanted = self.unconfirmed.take();
                }
            }
            Update::Delivery { cid, delivery, .. } => self.show_delivery(cid, delivery),
        }
        Ok(())
    }

    async fn show_event(&mut self, event: &protocol::Event) -> anyhow::Result<()> {
        let Some(view) = self.client.view(&event.room).await? else {
            return Ok(());
        };
        let Some(line) = show::event(event, &view, self.me.as_ref()) else {
            return Ok(());
        };
        if self.room.as_ref() != Some(&event.room) {
            if matches!(event.body, EventBody::Msg(_)) && view.snapshot.kind != RoomKind::Own {
                say(&format!("({}) {line}", show::room_name(&view.snapshot)));
            }
        } else if event.seq > self.shown {
            say(&line);
            self.shown = event.seq;
        }
        Ok(())
    }

    fn show_delivery(&mut self, cid: Cid, delivery: Delivery) {
        let Some(own) = self.own.get_mut(&cid) else {
            return;
        };
        match delivery {
            // Said only when it takes longer than a moment: there is no connection, or the server
            // has put it off.
            Delivery::Queued => {
                if !own.waits && (!self.connected || own.was_sent) {
                    own.waits = true;
                    say(&format!("      … queued: {}", show::harmless(&own.text)));
                }
            }
            Delivery::Sent => {
                if own.waits && !own.was_sent {
                    say(&format!("      → sent: {}", show::harmless(&own.text)));
                }
                own.was_sent = true;
            }
            // Its event shows it.
            Delivery::Stored(_) => drop(self.own.remove(&cid)),
            Delivery::Failed(refusal) => {
                say(&show::failed(&refusal, &own.text));
                self.own.remove(&cid);
            }
            Delivery::Renamed(new) => {
                if let Some(own) = self.own.remove(&cid) {
                    self.own.insert(new, own);
                }
            }
        }
    }

    /// Does what a line asks for; whether to go on.
    async fn handle_input(&mut self, input: Input) -> anyhow::Result<bool> {
        match input {
            Input::Nothing => {}
            Input::Quit => return Ok(false),
            Input::Help => say(input::HELP),
            Input::Unclear(usage) => say(&format!("-- {usage}")),
            Input::Rooms => self.list_rooms().await?,
            Input::Join(room) => match RoomId::parse(&room) {
                Ok(id) if room.len() >= 20 => self.join(id),
                Ok(_) | Err(_) => self.find(room, false),
            },
            Input::Create(name) => {
                let client = self.client.clone();
                self.ask(async move { ask::create(&client, name).await });
            }
            Input::Say(_)
            | Input::Reply(..)
            | Input::Edit(..)
            | Input::Delete(_)
            | Input::History
            | Input::Members
            | Input::Leave => match self.room.clone() {
                Some(room) => self.handle_in_room(input, room).await?,
                None if self.early.len() < QUEUE_MAX => {
                    say("-- kept until there is a room; /join goes to one");
                    self.early.push(input);
                }
                None => say("-- too much is kept already"),
            },
        }
        Ok(true)
    }

    async fn handle_in_room(&mut self, input: Input, room: RoomId) -> anyhow::Result<()> {
        match input {
            Input::Say(text) => self.submit(&room, send(text, None)).await,
            Input::Reply(seq, text) => self.submit(&room, send(text, Some(seq))).await,
            Input::Edit(seq, text) => match self.own_message(&room, seq).await? {
                Some((on, base)) => {
                    let mentions = Vec::new();
                    self.submit(
                        &room,
                        Write::Edit {
                            on,
                            base,
                            text,
                            mentions,
                        },
                    )
                    .await;
                }
                None => say("-- there is no such message here"),
            },
            Input::Delete(seq) => match self.own_message(&room, seq).await? {
                Some((on, _)) => {
                    let on = Some(protocol::command::DeleteTarget::One(on));
                    self.submit(
                        &room,
                        Write::Del {
                            on,
                            user: None,
                            to: None,
                            why: None,
                        },
                    )
                    .await;
                }
                None => say("-- there is no such message here"),
            },
            Input::Leave => self.submit(&room, Write::Leave {}).await,
            Input::History => self.older(room).await?,
            Input::Members => self.list_members(room),
            Input::Nothing
            | Input::Rooms
            | Input::Join(_)
            | Input::Create(_)
            | Input::Help
            | Input::Quit
            | Input::Unclear(_) => {}
        }
        Ok(())
    }

    async fn submit(&mut self, room: &RoomId, write: Write) {
        let text = match &write {
            Write::Send(send) => send.text.clone(),
            other => other.op().to_owned(),
        };
        match self.client.submit(Some(room.clone()), write).await {
            Ok(submitted) => {
                let own = Own {
                    text,
                    waits: false,
                    was_sent: false,
                };
                self.own.insert(submitted.cid, own);
            }
            Err(ClientError::Refused(refusal)) => say(&show::failed(&refusal, &text)),
            Err(error) => say(&format!("-- {error}")),
        }
    }

    /// A message and the revision it shows: the one named, or the last of one's own.
    async fn own_message(
        &self,
        room: &RoomId,
        seq: Option<Seq>,
    ) -> anyhow::Result<Option<(Seq, u32)>> {
        let Some(view) = self.client.view(room).await? else {
            return Ok(None);
        };
        let found = view.lines.iter().rev().find_map(|line| match line {
            Line::Stored { entry, .. } if matches!(entry.event.body, EventBody::Msg(_)) => {
                let wanted = match seq {
                    Some(seq) => entry.event.seq == seq,
                    None => self.me.as_ref() == Some(&entry.event.by) && !entry.deleted,
                };
                wanted.then(|| (entry.event.seq, entry.rev.unwrap_or(1)))
            }
            Line::Stored { .. } | Line::Pending { .. } => None,
        });
        // One that is not held here may exist all the same; the server knows.
        Ok(found.or(seq.map(|seq| (seq, 1))))
    }
}

fn is_public(snapshot: &RoomSnapshot, name: &str) -> bool {
    snapshot.kind == RoomKind::Public && snapshot.name == name
}

fn send(text: String, reply_to: Option<Seq>) -> Write {
    Write::Send(Send {
        text,
        reply_to,
        ..Send::default()
    })
}

fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Prints a line; a closed terminal ends the chat by itself.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Lines of standard input. A thread of its own: reading cannot be cancelled, and a runtime that waits
/// for it would not end.
fn read_lines() -> mpsc::Receiver<String> {
    let (tx, rx) = mpsc::channel(QUEUE_MAX);
    drop(std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            let Ok(line) = line else { return };
            if tx
                .blocking_send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    }));
    rx
}
