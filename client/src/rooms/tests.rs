use super::*;
use protocol::ErrorCode;
use protocol::frame::TimelineEntry;

struct Story {
    rooms: Rooms,
    now: Timestamp,
}

fn id() -> RoomId {
    RoomId::parse("r1").unwrap()
}

fn event(seq: u64, rest: &str) -> Event {
    let cid = protocol::Cid::from_parts(seq, [0; 10]);
    let json =
        format!(r#"{{"room":"r1","seq":{seq},"ts":{seq},"by":"alice","cid":"{cid}",{rest}}}"#);
    serde_json::from_str(&json).unwrap()
}

fn message(seq: u64) -> Event {
    event(seq, &format!(r#""ev":"msg","text":"m{seq}","n":{seq}"#))
}

fn state(at: u64) -> RoomSnapshot {
    let hash = protocol::chain::Hash::ZERO;
    let json = format!(
        r#"{{"room":"r1","kind":"public","members":1,"head":{at},"head_hash":"{hash}","at":{at}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn page(seqs: impl IntoIterator<Item = u64>, at: u64) -> Page {
    let events = seqs
        .into_iter()
        .map(|seq| TimelineEntry::plain(message(seq)))
        .collect();
    Page {
        events,
        at: Seq(at),
        more: false,
        head: Seq(at),
    }
}

impl Story {
    fn new(follow: Follow, at: u64) -> Self {
        let mut rooms = Rooms::restore(follow, None, Vec::new(), BTreeMap::new());
        rooms.handle_state(state(at));
        let mut story = Self {
            rooms,
            now: Timestamp(0),
        };
        story.shown();
        story
    }

    fn gets(&mut self, seqs: impl IntoIterator<Item = u64>) {
        for seq in seqs {
            self.rooms.handle_event(message(seq));
        }
    }

    /// What an application saw since the last call: seqs of events, and other updates by name.
    fn shown(&mut self) -> Vec<String> {
        let mut shown = Vec::new();
        while let Some(effect) = self.rooms.poll_effect() {
            match effect {
                Effect::Show(Update::Event(event)) => shown.push(event.seq.to_string()),
                Effect::Show(Update::Missing { from, to, .. }) => {
                    shown.push(format!("missing {from}-{to}"));
                }
                Effect::Show(Update::Skipped { from, to, .. }) => {
                    shown.push(format!("skipped {from}-{to}"));
                }
                Effect::Show(Update::Gone(_)) => shown.push("gone".to_owned()),
                Effect::Show(_) | Effect::Save(_) => {}
            }
        }
        shown
    }

    fn fetches(&mut self) -> Option<u64> {
        self.rooms.poll_fetch(self.now).map(|fetch| fetch.after.0)
    }

    fn answers(&mut self, answer: Result<Page, Refusal>) {
        self.rooms.handle_page(&id(), answer, self.now);
    }
}

#[test]
fn events_are_applied_once_and_in_order_and_old_ones_are_dropped() {
    let mut story = Story::new(Follow::Timeline, 3);
    story.gets([2, 3, 4, 5, 4, 5, 6]);
    assert_eq!(story.shown(), ["4", "5", "6"]);
    assert_eq!(story.fetches(), None);
}

#[test]
fn a_hole_is_fetched_once_and_what_waited_follows() {
    let mut story = Story::new(Follow::Timeline, 3);
    story.gets([7, 8, 6]);
    assert_eq!(story.shown(), Vec::<String>::new());
    assert!(story.rooms.has_holes());
    assert_eq!(story.fetches(), Some(3));
    assert_eq!(story.fetches(), None, "one at a time");
    story.answers(Ok(page([4, 5], 8)));
    assert_eq!(story.shown(), ["4", "5", "6", "7", "8"]);
    assert!(!story.rooms.has_holes());
}

#[test]
fn a_hole_that_history_does_not_have_yet_is_asked_for_again_later() {
    let mut story = Story::new(Follow::Timeline, 3);
    story.gets([6]);
    assert_eq!(story.fetches(), Some(3));
    story.answers(Ok(page([], 3)));
    assert_eq!(story.fetches(), None);
    story.now = story.rooms.poll_timeout().unwrap();
    assert_eq!(story.fetches(), Some(3));
    story.answers(Err(Refusal::plain(ErrorCode::Unavailable).after_ms(700)));
    assert_eq!(story.rooms.poll_timeout(), Some(story.now.plus_ms(700)));
    story.now = story.now.plus_ms(700);
    assert_eq!(story.fetches(), Some(3));
    story.answers(Ok(page([4, 5], 6)));
    assert_eq!(story.shown(), ["4", "5", "6"]);
}

#[test]
fn a_hole_that_may_not_be_read_is_closed_and_said_so() {
    let mut story = Story::new(Follow::Timeline, 3);
    story.gets([6, 9]);
    story.fetches();
    story.answers(Err(Refusal::plain(ErrorCode::NotFound)));
    assert_eq!(story.shown(), ["missing 4-5", "6", "missing 7-8", "9"]);
}

#[test]
fn more_events_than_may_wait_are_fetched_with_the_hole() {
    let mut story = Story::new(Follow::Timeline, 0);
    let end = 2_000 + u64::try_from(WAITING_MAX).unwrap();
    story.gets(2..=end);
    let mut seen = 0;
    while let Some(after) = story.fetches() {
        story.answers(Ok(page(after + 1..=(after + 100).min(end), end)));
        for shown in story.shown() {
            seen += 1;
            assert_eq!(shown, seen.to_string());
        }
    }
    assert_eq!(seen, end);
}

#[test]
fn a_skip_moves_on_and_what_changed_meanwhile_is_dropped() {
    let mut story = Story::new(Follow::Timeline, 0);
    story.gets(1..=5);
    story.shown();
    let json = r#"[[2,2],[4,4]]"#;
    let dirty: Vec<SeqRange> = serde_json::from_str(json).unwrap();
    let mut snapshot = state(900);
    snapshot.tl = Some(page([899, 900], 900).events);
    story.rooms.handle_skip(Skip {
        from: Seq(6),
        to: Seq(900),
        dirty,
        state: snapshot,
    });
    assert_eq!(story.shown(), ["skipped 6-900"]);
    let room = story.rooms.get(&id()).unwrap();
    let kept: Vec<u64> = room
        .timeline
        .entries()
        .map(|s| s.entry.event.seq.0)
        .collect();
    assert_eq!(kept, [1, 3, 5, 899, 900]);
    story.gets([901]);
    assert_eq!(story.shown(), ["901"]);
}

#[test]
fn one_who_follows_everything_fetches_what_was_skipped() {
    let mut story = Story::new(Follow::Everything, 2);
    assert_eq!(story.fetches(), Some(0), "from the first event on");
    story.answers(Ok(page([1, 2], 2)));
    assert_eq!(story.shown(), ["1", "2"]);
    let skip = Skip {
        from: Seq(3),
        to: Seq(5),
        dirty: Vec::new(),
        state: state(5),
    };
    story.rooms.handle_skip(skip);
    story.gets([6]);
    assert_eq!(story.fetches(), Some(2));
    story.answers(Ok(page([3, 4, 5], 6)));
    assert_eq!(story.shown(), ["3", "4", "5", "6"]);
}

#[test]
fn what_one_who_follows_everything_was_fetching_is_fetched_after_a_restart() {
    let mut story = Story::new(Follow::Everything, 2);
    let saved = SavedRoom {
        snapshot: state(2),
        last: Seq(0),
    };
    story.rooms = Rooms::restore(Follow::Everything, None, vec![saved], BTreeMap::new());
    assert!(story.rooms.has_holes());
    assert_eq!(story.fetches(), Some(0));
    story.answers(Ok(page([1, 2], 2)));
    assert_eq!(story.shown(), ["1", "2"]);
}

#[test]
fn a_state_is_where_a_room_goes_on_and_never_goes_back() {
    let mut story = Story::new(Follow::Timeline, 5);
    story.rooms.handle_state(state(9));
    story.gets([8, 9, 10]);
    assert_eq!(story.shown(), ["10"]);
    story.rooms.handle_state(state(7));
    story.gets([8, 9, 10, 11]);
    assert_eq!(story.shown(), ["11"], "a history that lags repeats nothing");
}

#[test]
fn a_void_jumps_over_lost_numbers_and_is_no_hole() {
    let mut story = Story::new(Follow::Timeline, 3);
    story
        .rooms
        .handle_event(event(10_003, r#""ev":"void","from":4"#));
    story.gets([10_004]);
    assert_eq!(story.shown(), ["10003", "10004"]);
}

#[test]
fn an_event_of_a_later_version_counts() {
    let mut story = Story::new(Follow::Timeline, 3);
    story
        .rooms
        .handle_event(event(4, r#""ev":"poll","q":"tea?""#));
    story.gets([5]);
    assert_eq!(story.shown(), ["4", "5"]);
}

#[test]
fn gone_shows_what_waited_and_forgets_the_room() {
    let mut story = Story::new(Follow::Timeline, 3);
    story.gets([5]);
    story.rooms.handle_gone(&id());
    assert_eq!(story.shown(), ["missing 4-4", "5", "gone"]);
    story.gets([6]);
    assert_eq!(story.shown(), Vec::<String>::new());
}

#[test]
fn unread_is_computed_from_the_mark_and_the_messages() {
    let mut story = Story::new(Follow::Timeline, 0);
    story.gets(1..=4);
    story
        .rooms
        .handle_event(event(5, r#""ev":"del","on":[[4,4]]"#));
    let (bob, alice) = (
        UserId::parse("bob").unwrap(),
        UserId::parse("alice").unwrap(),
    );
    assert_eq!(story.rooms.get(&id()).unwrap().unread(&bob), 3);
    assert_eq!(
        story.rooms.get(&id()).unwrap().unread(&alice),
        0,
        "own messages never count"
    );
    let mut own = state(0);
    own.room = RoomId::own(&bob);
    story.rooms.handle_state(own.clone());
    let mut read = event(1, r#""ev":"read","target":"r1","mark":2,"read_n":2"#);
    read.room = own.room;
    story.rooms.handle_event(read);
    assert_eq!(story.rooms.get(&id()).unwrap().unread(&bob), 1);
}

#[test]
fn a_mark_whose_ordinal_is_not_told_counts_all_the_same() {
    let mut story = Story::new(Follow::Timeline, 0);
    story.gets(1..=4);
    let bob = UserId::parse("bob").unwrap();
    let mut own = state(0);
    own.room = RoomId::own(&bob);
    story.rooms.handle_state(own.clone());
    let marks = [(r#""mark":3"#, 1), (r#""back":true,"epoch":1,"mark":1"#, 3)];
    for ((mark, unread), seq) in marks.into_iter().zip(1..) {
        let mut read = event(seq, &format!(r#""ev":"read","target":"r1",{mark}"#));
        read.room = own.room.clone();
        story.rooms.handle_event(read);
        assert_eq!(story.rooms.get(&id()).unwrap().unread(&bob), unread);
    }
}

#[test]
fn a_state_from_before_a_mark_does_not_take_it_back() {
    let mut story = Story::new(Follow::Timeline, 0);
    story.gets(1..=4);
    let bob = UserId::parse("bob").unwrap();
    let mut own = state(0);
    own.room = RoomId::own(&bob);
    story.rooms.handle_state(own.clone());
    let mut read = event(1, r#""ev":"read","target":"r1","mark":3"#);
    read.room = own.room.clone();
    story.rooms.handle_event(read);
    let unread = |story: &Story| story.rooms.get(&id()).unwrap().unread(&bob);
    // Of another socket, or of a history that is behind.
    story.rooms.handle_state(state(4));
    assert_eq!(unread(&story), 1);
    story.rooms.handle_state(state(2));
    assert_eq!(story.rooms.get(&id()).unwrap().snapshot.at, Seq(4));
    // Marks that are skipped are told by states.
    (own.at, own.head) = (Seq(9), Seq(9));
    story.rooms.handle_state(own);
    let mut marked = state(4);
    marked.read = Seq(4);
    story.rooms.handle_state(marked);
    assert_eq!(unread(&story), 0);
    story.rooms.handle_live();
    story.rooms.handle_state(state(4));
    assert_eq!(unread(&story), 0);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut story = Story::new(Follow::Timeline, 0);
    story.gets(1..=3);
    let mut saved = None;
    while let Some(effect) = story.rooms.poll_effect() {
        match effect {
            Effect::Save(Change::Last(_, last)) => saved = Some(last),
            Effect::Save(_) | Effect::Show(_) => {}
        }
    }
    let saved = SavedRoom {
        snapshot: state(0),
        last: saved.unwrap(),
    };
    let rooms = Rooms::restore(Follow::Timeline, None, vec![saved], BTreeMap::new());
    story.rooms = rooms;
    story.gets([3, 4]);
    assert_eq!(story.shown(), ["4"]);
}
