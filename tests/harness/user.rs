//! A person with one device: the verbs in which end-to-end tests are told.
//!
//! It follows the client's rule of the protocol for each room and panics at every gap, so each test that
//! uses it also tests the order of what it sees.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use uuid::{NoContext, Timestamp, Uuid};

use crate::eventually::PATIENCE;
use crate::socket::{Closed, Socket};

/// A command's identity, made now.
pub fn cid() -> String {
    Uuid::now_v7().to_string()
}

/// A command's identity that claims to have been made `offset_ms` from now.
pub fn cid_at(offset_ms: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let ms = i64::try_from(now.as_millis()).expect("before the year 292 million") + offset_ms;
    let ms = u64::try_from(ms).expect("after 1970");
    let nanos = u32::try_from(ms % 1000).expect("below 1000") * 1_000_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, ms / 1000, nanos)).to_string()
}

/// One room as this device knows it.
#[derive(Debug, Default)]
pub struct RoomView {
    /// The last `seq` that was applied.
    pub last: u64,
    /// Every durable event, in the order in which it came, without what was skipped.
    pub events: Vec<Value>,
    /// Every `state` and `skip` of the room, in the order in which it came.
    pub states: Vec<Value>,
    /// Whether the user was taken out.
    pub gone: bool,
}

/// A user with one device.
#[derive(Debug)]
pub struct User {
    /// The user id.
    pub name: String,
    /// The token of the next hello.
    pub token: String,
    /// The last cursor.
    pub cursor: Option<String>,
    /// The answer to the last hello.
    pub hello: Value,
    /// What is known of each room.
    pub rooms: BTreeMap<String, RoomView>,
    /// Everything that is no event of a room: goaway, lagged, token, ...
    pub notices: Vec<Value>,
    /// Events that were seen again and dropped, as the protocol asks.
    pub repeated: u64,
    socket: Option<Socket>,
    socket_url: String,
    device: String,
    next_id: u64,
    early_replies: BTreeMap<u64, Value>,
}

impl User {
    /// A user whose device is connected and live.
    pub async fn connect(socket_url: &str, name: &str, token: &str) -> Self {
        let mut user = Self {
            name: name.to_owned(),
            token: token.to_owned(),
            cursor: None,
            hello: Value::Null,
            rooms: BTreeMap::new(),
            notices: Vec::new(),
            repeated: 0,
            socket: None,
            socket_url: socket_url.to_owned(),
            device: Uuid::now_v7().simple().to_string(),
            next_id: 1,
            early_replies: BTreeMap::new(),
        };
        user.comes_back().await;
        user
    }

    /// Opens a new socket, resumes from the last cursor and reads until it is live.
    ///
    /// Retries while the server is away, like any client.
    pub async fn comes_back(&mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.tries_to_come_back().await {
                Ok(()) => return,
                Err(why) => assert!(
                    tokio::time::Instant::now() < deadline,
                    "{} cannot come back: {why}",
                    self.name
                ),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn tries_to_come_back(&mut self) -> Result<(), String> {
        let headers = [("sec-websocket-protocol", "natter.v1.json")];
        let opened = Socket::open_with(&self.socket_url, &headers).await;
        self.socket = Some(opened.map_err(|status| format!("refused with {status}"))?);
        let mut hello = json!({
            "op": "hello", "token": self.token, "app": "harness/1", "dev": self.device,
            "win": {"rooms": 50, "tl": 20},
        });
        if let Some(cursor) = &self.cursor {
            hello["cur"] = json!(cursor);
        }
        let id = self.writes(hello).await;
        self.hello = match self.reply_to(id).await {
            Ok(Ok(ok)) => ok,
            Ok(Err(err)) if err["temp"] == true => return Err(err.to_string()),
            Ok(Err(err)) => panic!("{}'s hello is refused: {err}", self.name),
            Err(closed) => return Err(format!("{closed:?}")),
        };
        loop {
            match self.reads().await {
                Ok(line) if line["ev"] == "live" => return Ok(()),
                Ok(_) => {}
                Err(closed) => return Err(format!("{closed:?}")),
            }
        }
    }

    /// Loses the connection, as in a tunnel.
    pub fn goes_away(&mut self) {
        self.socket = None;
        self.early_replies.clear();
    }

    /// Comes back once more, so that the cursor covers all that was seen: between two pings it does not.
    pub async fn renews_cursor(&mut self) {
        self.goes_away();
        self.comes_back().await;
    }

    /// The server has another address now.
    pub fn finds(&mut self, socket_url: &str) {
        self.socket_url = socket_url.to_owned();
    }

    /// Sends a command and waits for its reply: `ok` or `err`.
    ///
    /// # Errors
    ///
    /// The command is refused.
    ///
    /// # Panics
    ///
    /// If the socket ends before.
    pub async fn asks(&mut self, command: Value) -> Result<Value, Value> {
        let id = self.writes(command.clone()).await;
        let reply = self.reply_to(id).await;
        reply.unwrap_or_else(|closed| panic!("{closed:?} instead of a reply to {command}"))
    }

    /// Sends a command that must succeed.
    pub async fn does(&mut self, command: Value) -> Value {
        let name = self.name.clone();
        let reply = self.asks(command.clone()).await;
        reply.unwrap_or_else(|err| panic!("{name} is refused {command}: {err}"))
    }

    /// Sends a command that must be refused with `code`; the whole refusal is returned.
    pub async fn is_refused(&mut self, command: Value, code: &str) -> Value {
        match self.asks(command.clone()).await {
            Ok(ok) => panic!("{command} should be refused {code} and is answered {ok}"),
            Err(err) => {
                assert_eq!(err["code"], code, "{command} is refused {err}");
                err
            }
        }
    }

    /// Sends a command with a `cid` until it has a final answer, over however many sockets.
    pub async fn insists(&mut self, command: Value) -> Result<Value, Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE * 2;
        loop {
            let id = self.writes(command.clone()).await;
            match self.reply_to(id).await {
                Ok(Err(err)) if err["temp"] == true => {
                    let wait = err["retry_after_ms"].as_u64().unwrap_or(100);
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                Ok(answer) => return answer,
                Err(_) => self.comes_back().await,
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no final answer to {command}"
            );
        }
    }

    /// Makes a public room and returns its id.
    pub async fn creates_room(&mut self, name: &str) -> String {
        self.creates(json!({"kind": "public", "name": name})).await
    }

    /// Makes a room with these fields and returns its id.
    pub async fn creates(&mut self, mut fields: Value) -> String {
        fields["op"] = json!("create");
        fields["cid"] = json!(cid());
        let ok = self.does(fields).await;
        ok["room"]
            .as_str()
            .expect("create answers the room")
            .to_owned()
    }

    /// Joins a public room.
    pub async fn joins(&mut self, room: &str) -> Value {
        self.does(json!({"op": "join", "room": room, "cid": cid()}))
            .await
    }

    /// Leaves a room.
    pub async fn leaves(&mut self, room: &str) -> Value {
        self.does(json!({"op": "leave", "room": room, "cid": cid()}))
            .await
    }

    /// Does one of invite, kick, ban, unban to a user.
    pub async fn moderates(&mut self, act: &str, room: &str, user: &str) -> Value {
        self.does(json!({"op": act, "room": room, "user": user, "cid": cid()}))
            .await
    }

    /// Says something and returns its `seq`, once it is durable.
    pub async fn sends(&mut self, room: &str, text: &str) -> u64 {
        let send = json!({"op": "send", "room": room, "text": text, "cid": cid()});
        let ok = self.does(send).await;
        ok["seq"].as_u64().expect("send answers the seq")
    }

    /// Reads until a message with this text is among the room's events or timelines.
    ///
    /// # Panics
    ///
    /// If it does not come within the patience.
    pub async fn sees(&mut self, room: &str, text: &str) -> Value {
        self.sees_where(room, text, |event| {
            event["ev"] == "msg" && event["text"] == text
        })
        .await
    }

    /// Reads until an event of the room matches; `what` names it should it not come.
    pub async fn sees_where(
        &mut self,
        room: &str,
        what: &str,
        matches: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let view = self.rooms.get(room);
            let timelines = view.into_iter().flat_map(|view| &view.states);
            let lists = timelines.filter_map(|state| state["tl"].as_array());
            let events = view.into_iter().flat_map(|view| &view.events);
            if let Some(found) = events.chain(lists.flatten()).find(|event| matches(event)) {
                return found.clone();
            }
            let read = tokio::time::timeout_at(deadline, self.reads()).await;
            match read {
                Ok(Ok(_)) => {}
                Ok(Err(closed)) => panic!("{closed:?} before {} saw {what}", self.name),
                Err(_) => panic!(
                    "{} never saw {what}; of the room: {view:#?}",
                    self.name,
                    view = self.rooms.get(room)
                ),
            }
        }
    }

    /// Reads until the user is told that they are out of the room.
    pub async fn is_out_of(&mut self, room: &str) {
        while !self.rooms.get(room).is_some_and(|view| view.gone) {
            if let Err(closed) = self.reads().await {
                panic!("{closed:?} before {} was out of {room}", self.name);
            }
        }
    }

    /// The texts of all messages seen as events in the room, in order.
    pub fn texts(&self, room: &str) -> Vec<&str> {
        let events = self
            .rooms
            .get(room)
            .into_iter()
            .flat_map(|view| &view.events);
        events
            .filter(|event| event["ev"] == "msg")
            .filter_map(|event| event["text"].as_str())
            .collect()
    }

    /// Reads whatever still comes until `quiet` passes without a line, to show that something does not.
    pub async fn hears_nothing_more(&mut self, quiet: Duration) -> bool {
        let socket = self.socket.as_mut().expect("the user is connected");
        match socket.next_within(quiet).await {
            None => true,
            Some(Ok(line)) => {
                self.applies(line).await;
                false
            }
            Some(Err(_)) => false,
        }
    }

    /// Reads and applies one line, waiting for what `what` names.
    pub(crate) async fn reads_on(&mut self, what: &str) {
        if let Err(closed) = self.reads().await {
            panic!("{closed:?} before {} saw {what}", self.name);
        }
    }

    /// How the socket ends.
    pub async fn is_closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.reads().await {
                return closed;
            }
        }
    }

    /// The open socket, for what no verb can say.
    pub fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("the user is connected")
    }

    async fn writes(&mut self, mut command: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = json!(id);
        self.socket().sends(&command).await;
        id
    }

    /// Sends several commands as one text message and returns their replies in order.
    pub async fn asks_batch(&mut self, mut commands: Vec<Value>) -> Vec<Result<Value, Value>> {
        let first = self.next_id;
        for command in &mut commands {
            command["id"] = json!(self.next_id);
            self.next_id += 1;
        }
        self.socket().sends_batch(&commands).await;
        let mut replies = Vec::new();
        for id in first..self.next_id {
            replies.push(self.reply_to(id).await.expect("the socket stays open"));
        }
        replies
    }

    async fn reply_to(&mut self, id: u64) -> Result<Result<Value, Value>, Closed> {
        loop {
            if let Some(mut reply) = self.early_replies.remove(&id) {
                return Ok(match reply.get_mut("ok") {
                    Some(ok) => Ok(ok.take()),
                    None => Err(reply["err"].take()),
                });
            }
            self.reads().await?;
        }
    }

    /// Reads and applies one line.
    pub(crate) async fn reads(&mut self) -> Result<Value, Closed> {
        let socket = self.socket.as_mut().ok_or(Closed::Abruptly)?;
        let line = socket.next_within(PATIENCE).await;
        let line = line.unwrap_or_else(|| {
            let (name, last) = (
                &self.name,
                self.rooms.iter().map(|(id, view)| (id, view.last)),
            );
            let last: Vec<_> = last.collect();
            panic!(
                "{name} hears nothing after {}, {last:?}, {:?}",
                self.hello, self.early_replies
            )
        })?;
        self.applies(line.clone()).await;
        Ok(line)
    }

    async fn applies(&mut self, line: Value) {
        if let Some(id) = line["id"].as_u64() {
            self.early_replies.insert(id, line);
            return;
        }
        let event = line["ev"]
            .as_str()
            .expect("a line is a reply or an event")
            .to_owned();
        match event.as_str() {
            "ping" => {
                self.keeps_cursor(&line);
                self.socket().sends(&json!({"op": "pong"})).await;
            }
            "live" => self.keeps_cursor(&line),
            "state" | "skip" => {
                let view = self.view_of(&line);
                view.last = line["at"].as_u64().expect("a state says as of when it is");
                view.gone = false;
                view.states.push(line);
            }
            "gone" => self.view_of(&line).gone = true,
            "presence" | "typing" | "user" => {}
            _ if line["seq"].is_u64() => self.applies_durable(line),
            _ => self.notices.push(line),
        }
    }

    fn applies_durable(&mut self, line: Value) {
        let name = self.name.clone();
        let seq = line["seq"].as_u64().expect("looked at before");
        let view = self.view_of(&line);
        // Who comes back by a cursor from before they were taken out gets what led to that once more.
        if seq <= view.last {
            self.repeated += 1;
            return;
        }
        assert!(!view.gone, "{name} is out of the room and gets {line}");
        // `void` says that all before it from `from` on is lost for ever.
        let expected = view.last + 1;
        let from = line["from"]
            .as_u64()
            .filter(|_| line["ev"] == "void")
            .unwrap_or(seq);
        assert_eq!(from, expected, "{name} sees a gap before {line}");
        view.last = seq;
        view.events.push(line);
    }

    fn view_of(&mut self, line: &Value) -> &mut RoomView {
        let room = line["room"].as_str().expect("an event of a room names it");
        self.rooms.entry(room.to_owned()).or_default()
    }

    fn keeps_cursor(&mut self, line: &Value) {
        if let Some(cursor) = line["cur"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
    }
}
