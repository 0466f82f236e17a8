//! Every process is replaced, one after the other, while people talk: they move, resume, and notice
//! nothing but a pause.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::{PATIENCE, Part, Rounds, Stack, Twin, User, eventually, figure, message};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::owners::unhurried;

/// People who talk, half of them at each gateway.
const PEOPLE: usize = 8;
/// Between two messages of one.
const PACE: Duration = Duration::from_millis(50);
/// The promise: whoever is thrown out is back within that, and whoever talks is answered.
const BACK_MS_MAX: u128 = 5_000;

/// One person: what they said, and how long they had to wait for it.
struct Person {
    user: User,
    doors: [String; 2],
    door: usize,
    room: String,
    said: Vec<String>,
    longest: Duration,
    told: watch::Sender<Instant>,
    states: usize,
}

impl Person {
    /// Talks until told to end.
    async fn talks(mut self, end: watch::Receiver<bool>) -> Self {
        let mut connection = self.user.hello["conn"].clone();
        while !*end.borrow() {
            let text = format!("{} {}", self.user.name, self.said.len());
            let since = Instant::now();
            let stored = self.user.insists(message(&self.room, &text)).await;
            stored.expect("nothing is refused for good");
            self.said.push(text);
            self.moves_if_asked().await;
            self.longest = self.longest.max(since.elapsed());
            self.told.send_replace(since);
            if self.user.hello["conn"] != connection {
                connection = self.user.hello["conn"].clone();
                assert_eq!(
                    reloads(&self.user, &self.room, self.states),
                    Vec::<String>::new()
                );
            }
            tokio::time::sleep(PACE).await;
        }
        self
    }

    /// Goes to the other gateway, as a client does that is told that this one goes away.
    async fn moves_if_asked(&mut self) {
        let asked = |notice: &Value| notice["ev"] == "goaway";
        if self.user.notices.iter().any(asked) {
            self.user.notices.retain(|notice| !asked(notice));
            self.door = 1 - self.door;
            self.user.finds(&self.doors[self.door]);
            self.user.renews_cursor().await;
        }
    }
}

/// What of a return was no resume.
fn reloads(user: &User, room: &str, states: usize) -> Vec<String> {
    let mut reloads = Vec::new();
    if user.hello["resumed"] != true {
        reloads.push(format!("{} is not resumed: {}", user.name, user.hello));
    }
    let more = user.rooms[room].states.get(states..).unwrap_or_default();
    reloads.extend(
        more.iter()
            .map(|state| format!("{} gets {state}", user.name)),
    );
    reloads
}

/// Two processes of each service.
struct House {
    stack: Stack,
    twins: Vec<(Part, Twin)>,
}

/// Everybody who talks.
struct People {
    told: Vec<watch::Receiver<Instant>>,
    end: Arc<watch::Sender<bool>>,
    tasks: Vec<JoinHandle<Person>>,
}

impl House {
    async fn opens() -> Self {
        let stack = unhurried().start().await;
        let mut twins = Vec::new();
        for part in [Part::Gateway, Part::Messages, Part::History] {
            twins.push((part, stack.twin(part).await));
        }
        Self { stack, twins }
    }

    fn doors(&self) -> [String; 2] {
        [
            self.stack.socket_url().to_owned(),
            self.twins[0].1.socket_url(),
        ]
    }

    /// Half of the people at each door, all in one room.
    async fn gathers(&self) -> People {
        let doors = self.doors();
        let mut host = self.stack.user("host").await;
        let room = host.creates_room("all").await;
        let (mut told, mut tasks) = (Vec::new(), Vec::new());
        let (end, ended) = watch::channel(false);
        for number in 0..PEOPLE {
            let (name, door) = (format!("person{number}"), number % 2);
            let token = self.stack.tokens().token(&name);
            let mut user = User::connect(&doors[door], &name, &token).await;
            user.joins(&room).await;
            user.enters(&room).await;
            user.renews_cursor().await;
            let (tells, hears) = watch::channel(Instant::now());
            told.push(hears);
            let person = Person {
                states: user.rooms[&room].states.len(),
                user,
                doors: doors.clone(),
                door,
                room: room.clone(),
                said: Vec::new(),
                longest: Duration::ZERO,
                told: tells,
            };
            tasks.push(tokio::spawn(person.talks(ended.clone())));
        }
        let end = Arc::new(end);
        People { told, end, tasks }
    }

    /// Ends a part in order and waits until it runs again.
    async fn replaces(&self, part: Part) {
        let signal = match part {
            // Its fast shutdown.
            Part::Postgres => Signal::INT,
            Part::Gateway | Part::Messages | Part::History | Part::All | Part::NatsServer => {
                Signal::TERM
            }
        };
        let ended = self.stack.pid(part);
        self.stack.signal(part, signal);
        self.stack.is_started_again(part, ended).await;
        self.stack.is_ready().await;
    }

    async fn replaces_twin(&mut self, part: Part) {
        let (_, twin) = self
            .twins
            .iter_mut()
            .find(|(other, _)| *other == part)
            .expect("each service has one");
        twin.stops().await;
        twin.starts_again();
        twin.is_ready().await;
    }
}

impl People {
    /// Waits until everybody has been answered to something that they said from now on.
    async fn go_on(&self) {
        let since = Instant::now();
        eventually(PATIENCE, async || {
            assert!(
                !self.tasks.iter().any(JoinHandle::is_finished),
                "someone has failed"
            );
            let silent = self
                .told
                .iter()
                .filter(|told| *told.borrow() < since)
                .count();
            if silent == 0 { Ok(()) } else { Err(silent) }
        })
        .await;
    }

    /// Ends; everybody must have everything, once and in order. Returns the longest wait.
    async fn end(self, stack: &Stack) -> Duration {
        self.end.send_replace(true);
        let (mut people, mut longest) = (Vec::new(), Duration::ZERO);
        for task in self.tasks {
            let person = task.await.expect("nobody fails");
            longest = longest.max(person.longest);
            people.push(person);
        }
        let room = people[0].room.clone();
        let mut reader = stack.user("host").await;
        let archive = reader.archive(&room).await;
        let texts: Vec<&str> = archive
            .iter()
            .filter_map(|event| event["text"].as_str())
            .collect();
        let joined = archive
            .iter()
            .filter(|event| event["ev"] == "member")
            .count();
        assert_eq!(joined, PEOPLE + 1, "nothing but what was done");
        let mut said: Vec<&str> = people
            .iter()
            .flat_map(|it| &it.said)
            .map(String::as_str)
            .collect();
        for person in &people {
            let own: Vec<&&str> = texts
                .iter()
                .filter(|text| text.split(' ').next() == Some(&person.user.name))
                .collect();
            assert!(
                own.iter().map(|text| **text).eq(person.said.iter()),
                "{own:?}"
            );
        }
        let mut stored = texts.clone();
        said.sort_unstable();
        stored.sort_unstable();
        assert_eq!(stored, said, "all that was acknowledged, once");
        for mut person in people {
            person
                .user
                .sees_in_the_end(&room, texts.last().expect("something"))
                .await;
            let seen = person.user.texts(&room);
            assert_eq!(
                seen,
                texts[texts.len() - seen.len()..],
                "seen by {}",
                person.user.name
            );
            assert!(person.said.iter().all(|text| seen.contains(&text.as_str())));
        }
        longest
    }
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing_and_reloads_nothing() {
    let mut house = House::opens().await;
    for _ in Rounds::of("rolling", 1, 20) {
        let people = house.gathers().await;
        people.go_on().await;
        for part in [Part::Gateway, Part::Messages, Part::History] {
            house.replaces(part).await;
            people.go_on().await;
            house.replaces_twin(part).await;
            people.go_on().await;
        }
        for part in [Part::NatsServer, Part::Postgres] {
            house.replaces(part).await;
            people.go_on().await;
        }
        let longest = people.end(&house.stack).await.as_millis();
        figure("rolling.longest_wait_ms", longest);
        assert!(longest <= BACK_MS_MAX, "someone waited {longest} ms");
    }
}

/// The control: who comes without a cursor is not resumed, and that is seen.
#[tokio::test]
async fn a_full_reload_is_noticed() {
    let stack = unhurried().start().await;
    let mut user = stack.user("alice").await;
    let room = user.creates_room("ops").await;
    user.enters(&room).await;
    // The first cursor is older than the room.
    user.renews_cursor().await;
    let states = user.rooms[&room].states.len();
    user.renews_cursor().await;
    assert_eq!(reloads(&user, &room, states), Vec::<String>::new());
    user.goes_away();
    user.cursor = None;
    user.comes_back().await;
    assert_eq!(reloads(&user, &room, states).len(), 2);
}
