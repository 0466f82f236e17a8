use super::*;
use crate::store::Store;
use protocol::command::Send;
use serde_json::json;

/// A core, its store, and a hand-driven server.
struct Story {
    core: Core,
    store: Store,
    now: Timestamp,
    /// What was transmitted and not looked at yet.
    sent: VecDeque<(LinkId, Value)>,
    opened: Vec<LinkId>,
    closed: Vec<(LinkId, u16)>,
    shown: Vec<Update>,
}

fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

fn message(seq: u64) -> String {
    let cid = Cid::from_parts(seq, [0; 10]);
    json!({"ev": "msg", "room": "r1", "seq": seq, "ts": seq, "by": "bob", "cid": cid,
           "text": format!("m{seq}"), "n": seq})
    .to_string()
}

fn state(name: &str, at: u64) -> String {
    let hash = protocol::chain::Hash::ZERO;
    json!({"ev": "state", "room": name, "kind": "public", "members": 2, "head": at,
           "head_hash": hash, "at": at})
    .to_string()
}

fn config(follow: Follow) -> CoreConfig {
    CoreConfig {
        app: None,
        window: Window { rooms: 5, tl: 5 },
        follow,
    }
}

impl Story {
    fn new(follow: Follow) -> Self {
        Self::on(Store::memory(), follow)
    }

    fn on(mut store: Store, follow: Follow) -> Self {
        let now = Timestamp(1_000_000);
        let core = Core::new(config(follow), store.load().unwrap(), [7; 32], now);
        let mut story = Self {
            core,
            store,
            now,
            sent: VecDeque::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            shown: Vec::new(),
        };
        story.acts();
        story
    }

    /// Live, with one room.
    fn live(follow: Follow) -> Self {
        let mut story = Self::new(follow);
        story.greets(1, "alice", false);
        story.says(1, &state("r1", 0));
        story.says(1, r#"{"ev":"live","cur":"k.1"}"#);
        story.sent.clear();
        story
    }

    /// As the shell does: store first.
    fn acts(&mut self) {
        let outputs: Vec<Output> = std::iter::from_fn(|| self.core.poll_output()).collect();
        let save = |output: &Output| match output {
            Output::Save(change) => Some(change.clone()),
            _ => None,
        };
        self.store
            .apply(&outputs.iter().filter_map(save).collect::<Vec<_>>())
            .unwrap();
        for output in outputs {
            match output {
                Output::Open { link, .. } => self.opened.push(link),
                Output::Close { link, code } => self.closed.push((link, code)),
                Output::Transmit { link, text } => {
                    let lines = text
                        .split('\n')
                        .map(|l| (link, serde_json::from_str(l).unwrap()));
                    self.sent.extend(lines);
                }
                Output::Show(update) => self.shown.push(update),
                Output::Refresh { .. } | Output::Save(_) | Output::Answer { .. } => {}
            }
        }
    }

    fn says(&mut self, link: LinkId, text: &str) {
        self.core.handle_text(link, text, self.now);
        self.acts();
    }

    /// Opens the socket and answers its hello; the hello.
    fn greets(&mut self, link: LinkId, user: &str, resumed: bool) -> Value {
        assert_eq!(self.opened.last(), Some(&link));
        self.core.handle_opened(link, "token", self.now);
        self.acts();
        let (on, hello) = self.sent.pop_front().unwrap();
        assert_eq!((on, hello["op"].as_str()), (link, Some("hello")));
        let user_id = UserId::parse(user).unwrap();
        let ok = json!({"user": user, "self": RoomId::own(&user_id), "conn": "c1",
                        "now": self.now, "ping_ms": 25_000, "resumed": resumed,
                        "limits": protocol::limits::ClientLimits::default(),
                        "token_exp": self.now.plus_ms(3_600_000)});
        self.says(link, &json!({"id": hello["id"], "ok": ok}).to_string());
        hello
    }

    fn sends(&mut self, text: &str) -> Cid {
        let write = Write::Send(Send {
            text: text.to_owned(),
            ..Send::default()
        });
        let cid = self.core.submit(Some(room("r1")), write, self.now).unwrap();
        self.acts();
        cid
    }

    fn loses(&mut self, link: LinkId) {
        self.core.handle_closed(link, None, self.now);
        self.acts();
    }

    fn jumps(&mut self) {
        self.now = self.core.poll_timeout(self.now).unwrap().max(self.now);
        self.core.handle_timeout(self.now);
        self.acts();
    }

    fn next_op(&mut self, op: &str) -> (LinkId, Value) {
        let (link, line) = self.sent.pop_front().expect("something was transmitted");
        assert_eq!(line["op"], op, "{line}");
        (link, line)
    }

    fn stores(&mut self, link: LinkId, command: &Value, seq: u64) {
        let ok = json!({"id": command["id"], "ok": {"seq": seq, "ts": 5}});
        self.says(link, &ok.to_string());
    }

    fn seqs(&mut self) -> Vec<u64> {
        let seq = |update| match update {
            Update::Event(event) => Some(event.seq.0),
            _ => None,
        };
        std::mem::take(&mut self.shown)
            .into_iter()
            .filter_map(seq)
            .collect()
    }
}

#[test]
fn what_was_written_offline_goes_out_after_hello_and_again_after_a_lost_socket() {
    let mut story = Story::new(Follow::Timeline);
    let cid = story.sends("hi");
    assert!(story.sent.is_empty());
    assert_eq!(
        story.store.load().unwrap().outbox.len(),
        1,
        "durable before anything else"
    );
    story.greets(1, "alice", false);
    let (_, first) = story.next_op("send");
    story.loses(1);
    story.jumps();
    story.greets(2, "alice", false);
    let (link, again) = story.next_op("send");
    assert_eq!((link, &again["cid"]), (2, &first["cid"]));
    assert_eq!(again["cid"], json!(cid));
    story.stores(2, &again, 1);
    assert!(story.core.is_idle());
    assert_eq!(story.store.load().unwrap().outbox, []);
}

#[test]
fn a_restarted_client_sends_what_the_old_one_had_queued() {
    let mut story = Story::live(Follow::Timeline);
    let cids = [story.sends("a"), story.sends("b")];
    let mut story = Story::on(story.store, Follow::Timeline);
    let hello = story.greets(1, "alice", true);
    assert_eq!(hello["cur"], "k.1");
    let found = [story.next_op("send").1, story.next_op("send").1];
    assert_eq!(
        found.map(|line| line["cid"].clone()),
        cids.map(|cid| json!(cid))
    );
}

#[test]
fn a_cursor_is_stored_only_when_nothing_it_covers_is_missing() {
    let mut story = Story::live(Follow::Timeline);
    story.says(1, &message(3));
    story.says(1, r#"{"ev":"ping","cur":"k.9","now":5}"#);
    assert_eq!(story.store.load().unwrap().cursor.as_deref(), Some("k.1"));
    let (_, fetch) = story.next_op("history");
    assert_eq!((&fetch["after"], &fetch["all"]), (&json!(0), &json!(true)));
    story.next_op("pong");
    let events: Vec<Value> = [1, 2]
        .iter()
        .map(|seq| serde_json::from_str(&message(*seq)).unwrap())
        .collect();
    let page = json!({"events": events, "at": 3, "more": false, "head": 3});
    story.says(1, &json!({"id": fetch["id"], "ok": page}).to_string());
    assert_eq!(story.seqs(), [1, 2, 3]);
    assert_eq!(story.store.load().unwrap().cursor.as_deref(), Some("k.9"));
}

#[test]
fn a_planned_move_shows_nothing_twice_and_loses_nothing() {
    let mut story = Story::live(Follow::Timeline);
    story.sends("before");
    let (_, before) = story.next_op("send");
    story.says(1, &message(1));
    story.says(
        1,
        r#"{"ev":"goaway","within_ms":[100,100],"why":"upgrade"}"#,
    );
    story.jumps();
    let hello = story.greets(2, "alice", true);
    assert_eq!(hello["cur"], "k.1");
    story.says(1, &message(2));
    story.says(2, &message(1));
    story.says(2, &message(2));
    story.sends("during");
    assert!(
        story.sent.is_empty(),
        "the first batch of the room is still in flight"
    );
    story.says(2, r#"{"ev":"live","cur":"k.3"}"#);
    assert_eq!(story.closed, [], "the old socket owes an answer");
    story.says(1, r#"{"ev":"ping","cur":"k.2","now":5}"#);
    assert_eq!(story.next_op("pong").0, 1);
    assert_eq!(
        story.store.load().unwrap().cursor.as_deref(),
        Some("k.3"),
        "not an older one"
    );
    story.stores(1, &before, 3);
    assert_eq!(story.closed, [(1, 1000)]);
    assert_eq!(story.next_op("send").0, 2);
    story.says(2, &message(3));
    assert_eq!(story.seqs(), [1, 2, 3]);
}

#[test]
fn another_users_token_sends_nothing_of_this_user() {
    let mut story = Story::live(Follow::Timeline);
    story.sends("mine");
    let mut story = Story::on(story.store, Follow::Timeline);
    story.greets(1, "mallory", false);
    assert!(story.sent.is_empty());
    assert_eq!(
        story.core.connection_state(),
        ConnectionState::Stopped(StopReason::OtherUser)
    );
}

#[test]
fn after_a_failed_resume_the_rooms_that_are_not_named_are_gone() {
    let mut story = Story::live(Follow::Timeline);
    story.says(1, &state("r2", 4));
    story.loses(1);
    story.jumps();
    let hello = story.greets(2, "alice", false);
    assert_eq!(hello["have"], json!({"r1": 0, "r2": 4}));
    story.says(2, &state("r2", 9));
    story.says(2, r#"{"ev":"live","cur":"k.5"}"#);
    assert!(story.core.view(&room("r1")).is_none());
    assert_eq!(story.core.view(&room("r2")).unwrap().last, Seq(9));
}

#[test]
fn an_own_message_is_shown_once_from_queued_to_its_event() {
    let mut story = Story::live(Follow::Timeline);
    let cid = story.sends("hi");
    let lines = |story: &Story| story.core.view(&room("r1")).unwrap().lines;
    assert!(matches!(&lines(&story)[..], [Line::Pending { .. }]));
    let (_, command) = story.next_op("send");
    story.stores(1, &command, 1);
    assert!(
        matches!(&lines(&story)[..], [Line::Pending { .. }]),
        "stored, its event to come"
    );
    let event = message(1).replace(&Cid::from_parts(1, [0; 10]).to_string(), &cid.to_string());
    story.says(1, &event);
    assert!(matches!(
        &lines(&story)[..],
        [Line::Stored { pending: false, .. }]
    ));
}

#[test]
fn a_client_keeps_to_the_rate_that_the_server_told() {
    let mut story = Story::live(Follow::Timeline);
    for number in 0..200 {
        let write = Write::Send(Send {
            text: "x".to_owned(),
            ..Send::default()
        });
        story
            .core
            .submit(Some(room(&format!("q{number}"))), write, story.now)
            .unwrap();
    }
    story.acts();
    assert_eq!(story.sent.len(), 60, "the burst");
    let start = story.now;
    while story.now.since_ms(start) < 1_000 {
        story.jumps();
    }
    assert!(
        (80..=82).contains(&story.sent.len()),
        "{}",
        story.sent.len()
    );
}

#[test]
fn one_who_follows_nothing_gets_its_answers_and_no_events() {
    let mut story = Story::live(Follow::Nothing);
    story.sends("hi");
    let (_, command) = story.next_op("send");
    story.says(1, &format!("{}\n{}", message(1), message(7)));
    story.stores(1, &command, 1);
    assert!(story.core.is_idle());
    assert!(story.sent.is_empty(), "no hole is fetched");
    assert_eq!(story.seqs(), Vec::<u64>::new());
}

#[test]
fn a_new_token_goes_out_in_band() {
    let mut story = Story::live(Follow::Timeline);
    story
        .core
        .handle_text(1, r#"{"ev":"token","exp_in_s":120}"#, story.now);
    let wants = |output| matches!(output, Output::Refresh { link: 1 });
    assert!(std::iter::from_fn(|| story.core.poll_output()).any(wants));
    story.core.handle_token(1, "new".to_owned(), story.now);
    story.acts();
    assert_eq!(story.next_op("token").1["token"], "new");
}

#[test]
fn a_server_that_stops_answering_is_left_and_the_command_goes_again() {
    let mut story = Story::live(Follow::Timeline);
    story.sends("hi");
    story.next_op("send");
    while story.closed.is_empty() {
        story.jumps();
    }
    assert_eq!(story.closed, [(1, 4001)]);
    while story.opened.len() < 2 {
        story.jumps();
    }
    story.greets(2, "alice", true);
    assert_eq!(story.next_op("send").0, 2);
}

#[test]
fn what_the_command_itself_shows_is_refused_at_once() {
    let mut story = Story::live(Follow::Timeline);
    let write = Write::Send(Send {
        text: " ".to_owned(),
        ..Send::default()
    });
    let refusal = story
        .core
        .submit(Some(room("r1")), write, story.now)
        .unwrap_err();
    assert_eq!(refusal.code, ErrorCode::BadRequest);
}
