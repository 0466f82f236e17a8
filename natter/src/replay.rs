//! `natter replay`: plays days of IRC through real sockets, watches, and judges what came of it.
//!
//! It is a client like any other: rate limits are on and are waited out, lost connections come back,
//! and nothing is sent but what the log says. The verdict is [`audit`]'s; this file only gathers the
//! evidence.

pub(crate) mod irc;
mod progress;
mod report;
mod script;
mod speaker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::{Client, ClientError, Config, Follow, Store};
use protocol::command::Create;
use protocol::event::{MemberChange, RoomKind};
use protocol::frame::Window;
use protocol::limits::{ROOM_NAME_CHARS_MAX, USER_ROOMS_MAX};
use protocol::{RoomId, Seq, UserId};
use tokio::time::Instant;

use self::progress::Progress;
use self::report::Report;
use self::script::{Act, Script, Source};
use self::speaker::{Cast, Record};
use crate::audit::{Answer, Archived, Command, Content, Evidence, Verdict, Watch, judge};
use crate::bench::viewer::Viewer;
use crate::dev_token::DevServer;

/// Between two looks at something that must come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Arguments of `natter replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Logs to play, one after the other; `NAME.annotation.txt` beside `NAME.raw.txt` makes replies.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Address of the server; it must give development tokens.
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    url: String,
    /// How many users only watch.
    #[arg(long, default_value_t = 3)]
    observers: usize,
    /// Sockets of speakers at once; one per speaker without it.
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    connections: Option<usize>,
    /// How many times faster than the log, or `max`.
    #[arg(long, default_value = "max")]
    speed: Speed,
    /// Give up when nothing has moved for so long.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience_s: u64,
    /// Print the verdict as JSON.
    #[arg(long)]
    json: bool,
}

/// How fast time goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speed {
    Max,
    Times(f64),
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(times) if times.is_finite() && times > 0.0 => Ok(Self::Times(times)),
            Ok(_) | Err(_) => Err("a number above 0, or `max`".to_owned()),
        }
    }
}

impl Speed {
    /// When something is due that the log has at `at_ms`.
    fn due(self, start: Instant, at_ms: u64) -> Instant {
        match self {
            Self::Max => start,
            Self::Times(times) => start + Duration::from_millis(at_ms).div_f64(times),
        }
    }
}

/// A room of the replay.
struct Room {
    name: String,
    id: RoomId,
}

/// Plays, watches and judges.
///
/// # Errors
/// A file cannot be read, or the server cannot be reached at the start.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sources: Vec<Source> = args
        .files
        .iter()
        .map(|path| read(path))
        .collect::<Result<_, _>>()?;
    let script = Arc::new(script::write(&sources));
    anyhow::ensure!(
        !script.steps.is_empty(),
        "there is nothing to play in these files"
    );
    anyhow::ensure!(
        script.rooms.len() < USER_ROOMS_MAX,
        "more channels than a user may be in"
    );
    allow_many_sockets();
    let server = DevServer::of(&args.url)?;
    let start = Instant::now();
    let progress = Progress::new(script.steps.len(), Duration::from_secs(args.patience_s));
    let stage = Stage {
        args: &args,
        server: &server,
        progress: &progress,
    };
    let keeper = stage.open("replay-keeper", Follow::Nothing)?;
    let rooms = stage.make_rooms(&keeper, &script).await?;
    let observers = stage.seat_observers(&rooms).await?;
    let played = stage.play(&script, &rooms).await;
    let (verdict, heads) = stage
        .judge(&script, (&keeper, &rooms), &observers, &played.records)
        .await;
    progress.finish();
    let report = Report {
        files: args.files.len(),
        counts: script.counts,
        users: script.users.len(),
        connections: args.connections.unwrap_or(script.users.len()),
        rooms: rooms
            .into_iter()
            .zip(heads)
            .map(|(r, head)| (r.name, r.id, head))
            .collect(),
        seconds: start.elapsed().as_secs_f64(),
        gave_up: progress.is_over(),
        refused: played.refused,
        ack_ms: played.ack_ms,
        verdict,
    };
    keeper.close().await;
    futures_util::future::join_all(observers.iter().map(|(viewer, _)| viewer.close())).await;
    report.print(args.json)?;
    Ok(if report.verdict.is_clean() && !report.gave_up {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What every step of a run needs.
struct Stage<'a> {
    args: &'a Args,
    server: &'a Arc<DevServer>,
    progress: &'a Arc<Progress>,
}

impl Stage<'_> {
    fn config(&self, user: &str, follow: Follow) -> Config {
        let mut config = Config::new(&self.args.url, self.server.tokens_of(user));
        config.app = Some(concat!("natter-replay/", env!("CARGO_PKG_VERSION")).to_owned());
        config.window = Window { rooms: 0, tl: 0 };
        config.follow = follow;
        config
    }

    fn open(&self, user: &str, follow: Follow) -> anyhow::Result<Client> {
        Ok(Client::open(self.config(user, follow), Store::memory())?)
    }

    async fn make_rooms(&self, keeper: &Client, script: &Script) -> anyhow::Result<Vec<Room>> {
        let mut rooms = Vec::new();
        for name in &script.rooms {
            let create = Create {
                kind: RoomKind::Public,
                name: Some(name.chars().take(ROOM_NAME_CHARS_MAX).collect()),
                topic: Some("Replayed from a log".to_owned()),
                members: Vec::new(),
                history: None,
            };
            let made = keeper.create(create).await?.stored();
            let made = self.progress.or_over(made).await.with_context(|| {
                format!(
                    "no room could be made at {}; is `natter dev` running?",
                    self.args.url
                )
            })??;
            let id = made.room.context("the server named no room")?;
            rooms.push(Room {
                name: name.clone(),
                id,
            });
        }
        Ok(rooms)
    }

    async fn seat_observers(&self, rooms: &[Room]) -> anyhow::Result<Vec<(Viewer, UserId)>> {
        let mut viewers = Vec::new();
        for number in 1..=self.args.observers {
            let client = self.open(&format!("replay-observer-{number}"), Follow::Everything)?;
            let viewer = Viewer::new(client, Arc::clone(self.progress)).await?;
            viewers.push(viewer);
        }
        let joining = viewers.iter().flat_map(|viewer| {
            rooms.iter().map(|room| async {
                let joined = viewer.client.join(&room.id).await?.stored();
                self.progress
                    .or_over(joined)
                    .await
                    .context("an observer could not join")??;
                anyhow::Ok(())
            })
        });
        for joined in futures_util::future::join_all(joining).await {
            joined?;
        }
        let mut observers = Vec::new();
        for viewer in viewers {
            let status = viewer.client.status().await?;
            let user = status.user.context("a server says who joins")?;
            observers.push((viewer, user));
        }
        Ok(observers)
    }

    async fn play(&self, script: &Arc<Script>, rooms: &[Room]) -> speaker::Played {
        let sockets = self.args.connections.unwrap_or(script.users.len()).max(1);
        let configs = script
            .users
            .iter()
            .map(|user| self.config(user, Follow::Nothing))
            .collect();
        let rooms = rooms.iter().map(|room| room.id.clone()).collect();
        let cast = Cast::new(Arc::clone(script), rooms, (sockets, self.args.speed));
        speaker::play(Arc::new(cast), configs, self.progress).await
    }

    async fn judge(
        &self,
        script: &Script,
        (keeper, rooms): (&Client, &[Room]),
        observers: &[(Viewer, UserId)],
        records: &[Record],
    ) -> (Verdict, Vec<Seq>) {
        let mut verdict = Verdict::default();
        let mut heads = Vec::new();
        for (number, room) in rooms.iter().enumerate() {
            let mut evidence = Evidence {
                room: room.name.clone(),
                ..Evidence::default()
            };
            let records = records
                .iter()
                .filter(|record| script.steps[record.step].room == number);
            evidence
                .commands
                .extend(records.map(|record| command(script, record)));
            let acked = evidence
                .commands
                .iter()
                .filter_map(|command| match command.answer {
                    Answer::Stored(seq) => Some(seq),
                    Answer::None | Answer::Noop | Answer::Refused => None,
                });
            let acked = acked.max().unwrap_or_default();
            evidence.archive = self.read_archive(keeper, &room.id, acked).await;
            let head = evidence.archive.last().map_or(Seq(0), |event| event.seq);
            for (viewer, user) in observers {
                self.progress
                    .until(LOOK_INTERVAL, || viewer.last(&room.id) >= head)
                    .await;
                evidence.watches.push(Watch {
                    name: user.to_string(),
                    user: user.clone(),
                    steps: viewer.steps(&room.id),
                });
            }
            verdict.add(judge(&evidence));
            heads.push(head);
        }
        (verdict, heads)
    }

    /// Every event of a room, once history has what was acknowledged.
    async fn read_archive(&self, keeper: &Client, room: &RoomId, acked: Seq) -> Vec<Archived> {
        let mut archive: Vec<Archived> = Vec::new();
        while !self.progress.is_over() {
            let after = archive.last().map_or(Seq(0), |event| event.seq);
            match keeper.events_after(room, after).await {
                Ok(page) => {
                    let is_end = !page.more && page.head <= after.max(last(&page.events, after));
                    if !page.events.is_empty() {
                        self.progress.moved();
                    }
                    archive.extend(page.events.iter().map(|entry| Archived::of(&entry.event)));
                    let have = archive.last().map_or(Seq(0), |event| event.seq);
                    if is_end && have >= acked {
                        break;
                    }
                }
                Err(ClientError::Refused(refusal)) if refusal.temp => {}
                Err(error) => {
                    tracing::warn!(%error, "the archive cannot be read");
                    break;
                }
            }
            self.progress.pause(LOOK_INTERVAL).await;
        }
        archive
    }
}

/// What a record should have become, and what became of it.
fn command(script: &Script, record: &Record) -> Command {
    let content = match &script.steps[record.step].act {
        Act::Join => Content::member(&record.by, MemberChange::Joined),
        Act::Leave => Content::member(&record.by, MemberChange::Left),
        Act::Say { text, .. } => Content::said(text, record.reply_to),
    };
    Command {
        cid: record.cid,
        by: record.by.clone(),
        content,
        answer: record.answer,
    }
}

fn last(events: &[protocol::frame::TimelineEntry], after: Seq) -> Seq {
    events.last().map_or(after, |entry| entry.event.seq)
}

fn read(path: &Path) -> anyhow::Result<Source> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let stem = name
        .strip_suffix(".raw.txt")
        .or_else(|| name.strip_suffix(".txt"))
        .unwrap_or(name);
    let beside = path.with_file_name(format!("{stem}.annotation.txt"));
    let annotations = match std::fs::read(&beside) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("read {}", beside.display())),
    };
    Ok(Source { bytes, annotations })
}

/// A socket per speaker needs more open files than the usual 1,024.
pub(crate) fn allow_many_sockets() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        // Fewer connections are possible then, and those that fail are tried again.
        tracing::debug!("the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_a_number_above_nothing_or_max() {
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!("2.5".parse(), Ok(Speed::Times(2.5)));
        for bad in ["0", "-1", "NaN", "inf", "fast"] {
            assert!(bad.parse::<Speed>().is_err(), "{bad}");
        }
    }
}
