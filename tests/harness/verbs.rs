//! More things that people do: the commands of the protocol, one verb each.

use serde_json::{Value, json};

use crate::eventually::PATIENCE;
use crate::user::{User, cid};

impl User {
    /// Says `count` things as fast as a socket takes them: `WORD 0`, `WORD 1` and so on.
    pub async fn sends_many(&mut self, room: &str, word: &str, count: usize) {
        let texts: Vec<String> = (0..count)
            .map(|number| format!("{word} {number}"))
            .collect();
        for texts in texts.chunks(64) {
            let batch = texts.iter().map(|text| message(room, text)).collect();
            for reply in self.asks_batch(batch).await {
                reply.unwrap_or_else(|err| panic!("one of many is refused: {err}"));
            }
        }
    }

    /// Replaces the text of an own message and returns the reply.
    pub async fn edits(&mut self, room: &str, on: u64, base: u64, text: &str) -> Value {
        let edit = json!({"op": "edit", "room": room, "on": on, "base": base, "text": text});
        self.does(with_cid(edit)).await
    }

    /// Removes a message (a number) or ranges of them and returns the reply.
    pub async fn deletes(&mut self, room: &str, on: Value) -> Value {
        self.does(with_cid(json!({"op": "del", "room": room, "on": on})))
            .await
    }

    /// Answers in the thread of `root` and returns the reply's `seq`.
    pub async fn replies_in_thread(&mut self, room: &str, root: u64, text: &str) -> u64 {
        let send = json!({"op": "send", "room": room, "thread": root, "text": text});
        let ok = self.does(with_cid(send)).await;
        ok["seq"].as_u64().expect("send answers the seq")
    }

    /// Moves the read mark and returns the reply.
    pub async fn marks_read(&mut self, room: &str, seq: u64) -> Value {
        self.does(with_cid(json!({"op": "read", "room": room, "seq": seq})))
            .await
    }

    /// Gives a member a role.
    pub async fn makes(&mut self, room: &str, user: &str, role: &str) -> Value {
        self.does(with_cid(
            json!({"op": "role", "room": room, "user": user, "role": role}),
        ))
        .await
    }

    /// Reads a page; `fields` are those beside `op` and `room`.
    pub async fn reads_back(&mut self, room: &str, mut fields: Value) -> Value {
        fields["op"] = json!("history");
        fields["room"] = json!(room);
        self.does(fields).await
    }

    /// Every durable event of the room, read back page by page, as soon as history has caught up.
    pub async fn archive(&mut self, room: &str) -> Vec<Value> {
        let (mut events, mut after): (Vec<Value>, u64) = (Vec::new(), 0);
        loop {
            let page =
                json!({"op": "history", "room": room, "after": after, "limit": 100, "all": true});
            let page = self.insists(page).await;
            let page = page.unwrap_or_else(|err| panic!("the archive of {room}: {err}"));
            let more = page["events"]
                .as_array()
                .expect("a page has events")
                .clone();
            after = more
                .last()
                .map_or(after, |event| event["seq"].as_u64().expect("a number"));
            events.extend(more);
            if page["more"] != true {
                return events;
            }
        }
    }

    /// Like [`User::sees`], over however many sockets it takes.
    pub async fn sees_in_the_end(&mut self, room: &str, text: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE * 2;
        while self.texts(room).last() != Some(&text) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} never saw {text}, only {:?}",
                self.name,
                self.texts(room).last()
            );
            if self.reads().await.is_err() {
                self.comes_back().await;
            }
        }
    }

    /// Reads until an event with that `seq` has been applied.
    pub async fn has_reached(&mut self, room: &str, seq: u64) {
        let reached = |user: &Self| user.rooms.get(room).is_some_and(|view| view.last >= seq);
        while !reached(self) {
            self.reads_on(&format!("event {seq} of {room}")).await;
        }
    }

    /// Reads until it is told of a membership change in the room.
    pub async fn sees_member(&mut self, room: &str, who: &str, change: &str) -> Value {
        let what = format!("{who} {change}");
        let is_it = |event: &Value| {
            event["ev"] == "member" && event["user"] == who && event["change"] == change
        };
        self.sees_where(room, &what, is_it).await
    }

    /// Reads until it is told of the room, by a `state` or a `skip`, and returns the last of these.
    pub async fn enters(&mut self, room: &str) -> Value {
        loop {
            let view = self.rooms.get(room).filter(|view| !view.gone);
            if let Some(state) = view.and_then(|view| view.states.last()) {
                return state.clone();
            }
            self.reads_on(&format!("the state of {room}")).await;
        }
    }

    /// Reads until there is a notice of this kind, such as `goaway`, and returns it.
    pub async fn is_told(&mut self, kind: &str) -> Value {
        loop {
            if let Some(notice) = self.notices.iter().find(|notice| notice["ev"] == kind) {
                return notice.clone();
            }
            self.reads_on(kind).await;
        }
    }

    /// The seqs seen as events of the room, in the order in which they came.
    pub fn seqs(&self, room: &str) -> Vec<u64> {
        let events = self
            .rooms
            .get(room)
            .into_iter()
            .flat_map(|view| &view.events);
        events.filter_map(|event| event["seq"].as_u64()).collect()
    }
}

/// The command with a new identity.
pub fn with_cid(mut command: Value) -> Value {
    command["cid"] = json!(cid());
    command
}

/// A message to be sent, with an identity.
pub fn message(room: &str, text: &str) -> Value {
    with_cid(json!({"op": "send", "room": room, "text": text}))
}
