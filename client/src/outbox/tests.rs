use super::*;
use protocol::Seq;
use protocol::command::{Read, Send};
use rand::SeedableRng as _;

const LINK: LinkId = 1;

struct Story {
    outbox: Outbox,
    cids: CidClock,
    rng: StdRng,
    now: Timestamp,
    next_id: u64,
}

fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

fn text(entry: &Entry) -> &str {
    match &entry.write {
        Write::Send(send) => &send.text,
        other => panic!("{other:?}"),
    }
}

impl Story {
    fn new() -> Self {
        Self {
            outbox: Outbox::default(),
            cids: CidClock::default(),
            rng: StdRng::seed_from_u64(1),
            now: Timestamp(1_000_000),
            next_id: 1,
        }
    }

    fn sends(&mut self, to: &str, words: &str) -> Cid {
        let cid = self.cids.next(self.now, [0; 8]);
        let write = Write::Send(Send {
            text: words.to_owned(),
            ..Send::default()
        });
        self.outbox.push(Some(room(to)), write, cid).unwrap().cid
    }

    /// Transmits the next batch; the texts in it.
    fn transmits(&mut self) -> Vec<String> {
        let batch = self
            .outbox
            .poll_batch(LINK, (self.now, 64), &mut self.next_id);
        batch.map_or_else(Vec::new, |b| {
            b.entries.iter().map(|e| text(e).to_owned()).collect()
        })
    }

    fn answers(&mut self, id: u64, result: Result<Accepted, Refusal>) -> Delivery {
        let context = (&mut self.cids, &mut self.rng);
        self.outbox
            .handle_reply(id, result, self.now, context)
            .unwrap()
            .delivery
    }

    fn stores(&mut self, id: u64) {
        let stored = Accepted::stored(Seq(id), self.now);
        assert_eq!(
            self.answers(id, Ok(stored.clone())),
            Delivery::Stored(stored)
        );
    }

    fn refuses(&mut self, id: u64, code: ErrorCode) -> Delivery {
        self.answers(id, Err(Refusal::plain(code)))
    }

    fn waits(&mut self) {
        self.now = self.outbox.poll_timeout(self.now).unwrap();
    }
}

#[test]
fn one_batch_per_room_is_in_flight() {
    let mut story = Story::new();
    story.sends("r1", "a");
    story.sends("r1", "b");
    story.sends("r2", "x");
    assert_eq!(story.transmits(), ["a", "b"]);
    story.sends("r1", "c");
    assert_eq!(story.transmits(), ["x"], "another room does not wait");
    assert_eq!(story.transmits(), Vec::<String>::new());
    story.stores(1);
    assert_eq!(
        story.transmits(),
        Vec::<String>::new(),
        "b has no answer yet"
    );
    story.stores(2);
    assert_eq!(story.transmits(), ["c"]);
}

#[test]
fn after_a_temporary_error_everything_from_the_first_without_a_result_goes_again_in_order() {
    for code in [
        ErrorCode::Unavailable,
        ErrorCode::Timeout,
        ErrorCode::Internal,
    ] {
        let mut story = Story::new();
        let cids = ["a", "b", "c"].map(|words| story.sends("r1", words));
        story.transmits();
        story.stores(1);
        assert_eq!(story.refuses(2, code), Delivery::Queued);
        assert_eq!(story.refuses(3, code), Delivery::Queued);
        assert_eq!(
            story.transmits(),
            Vec::<String>::new(),
            "retry_after_ms has not passed"
        );
        let start = story.now;
        story.waits();
        assert!(story.now.since_ms(start) >= 1_000);
        assert_eq!(story.transmits(), ["b", "c"]);
        let kept: Vec<Cid> = story.outbox.entries().map(|entry| entry.cid).collect();
        assert_eq!(kept, [cids[1], cids[2]], "the same names");
    }
}

#[test]
fn a_final_refusal_does_not_hold_up_the_rest_and_its_text_is_kept() {
    let mut story = Story::new();
    let cid = story.sends("r1", "a");
    story.sends("r1", "b");
    story.transmits();
    assert!(matches!(
        story.refuses(1, ErrorCode::Banned),
        Delivery::Failed(_)
    ));
    story.stores(2);
    assert!(story.outbox.is_idle());
    let kept: Vec<&Entry> = story.outbox.entries().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(text(kept[0]), "a");
    assert!(story.outbox.discard(cid).is_some());
    assert_eq!(story.outbox.entries().count(), 0);
}

#[test]
fn a_rate_limit_is_waited_out_with_small_batches() {
    let mut story = Story::new();
    for words in ["a", "b", "c", "d"] {
        story.sends("r1", words);
    }
    assert_eq!(story.transmits().len(), 4);
    story.stores(1);
    for id in 2..=4 {
        let refusal = Refusal::plain(ErrorCode::RateLimited).after_ms(200);
        story.answers(id, Err(refusal));
    }
    let start = story.now;
    story.waits();
    assert_eq!(story.now.since_ms(start), 200);
    assert_eq!(story.transmits(), ["b"], "one, to see whether it passes");
    story.stores(5);
    assert_eq!(story.transmits(), ["c", "d"]);
}

#[test]
fn a_lost_socket_means_that_the_same_commands_go_again() {
    let mut story = Story::new();
    let cid = story.sends("r1", "a");
    story.transmits();
    story.outbox.handle_link_lost(LINK);
    assert!(!story.outbox.owes(LINK));
    let batch = story
        .outbox
        .poll_batch(2, (story.now, 64), &mut story.next_id)
        .unwrap();
    assert_eq!(batch.entries[0].cid, cid);
    let late = Accepted::stored(Seq(1), story.now);
    let context = (&mut story.cids, &mut story.rng);
    assert_eq!(
        story.outbox.handle_reply(1, Ok(late), story.now, context),
        None,
        "nobody's"
    );
    story.stores(2);
    assert!(story.outbox.is_idle());
}

#[test]
fn clock_skew_sets_the_clock_and_gives_a_new_name() {
    let mut story = Story::new();
    let old = story.sends("r1", "a");
    story.transmits();
    let mut skew = Refusal::plain(ErrorCode::ClockSkew);
    skew.now = Some(Timestamp(5_000));
    let Delivery::Renamed(new) = story.answers(1, Err(skew)) else {
        panic!("not renamed")
    };
    assert_ne!(old, new);
    assert_eq!(new.time(), Timestamp(5_000));
    let batch = story
        .outbox
        .poll_batch(LINK, (story.now, 64), &mut story.next_id)
        .unwrap();
    assert_eq!(batch.entries[0].cid, new);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut story = Story::new();
    story.sends("r1", "a");
    story.sends("r1", "b");
    story.transmits();
    story.stores(1);
    let saved: Vec<Entry> = story.outbox.entries().cloned().collect();
    story.outbox = Outbox::restore(saved);
    story.sends("r1", "c");
    assert_eq!(story.transmits(), ["b", "c"]);
}

#[test]
fn a_socket_that_does_not_answer_is_overdue() {
    let mut story = Story::new();
    story.sends("r1", "a");
    story.transmits();
    assert_eq!(story.outbox.overdue(story.now), None);
    story.waits();
    assert_eq!(story.outbox.overdue(story.now), Some(LINK));
}

#[test]
fn a_batch_stays_below_the_frame_limit() {
    let mut story = Story::new();
    for _ in 0..8 {
        story.sends("r1", &"é".repeat(8_000));
    }
    let batch = story
        .outbox
        .poll_batch(LINK, (story.now, 64), &mut story.next_id)
        .unwrap();
    assert!(batch.text.len() <= FRAME_BYTES_MAX, "{}", batch.text.len());
    assert!(batch.entries.len() >= 2);
}

#[test]
fn read_marks_are_coalesced_to_one_per_room_and_five_seconds() {
    let mut story = Story::new();
    let mark = |story: &mut Story, seq| {
        let read = Read {
            target: room("r1"),
            seq: Seq(seq),
            back: false,
            read_n: None,
        };
        let cid = story.cids.next(story.now, [0; 8]);
        story.outbox.push(None, Write::Read(read), cid).unwrap();
    };
    mark(&mut story, 1);
    let batch = |story: &mut Story| {
        story
            .outbox
            .poll_batch(LINK, (story.now, 64), &mut story.next_id)
    };
    assert_eq!(batch(&mut story).unwrap().entries.len(), 1);
    story.stores(1);
    mark(&mut story, 2);
    mark(&mut story, 3);
    assert_eq!(batch(&mut story), None);
    let start = story.now;
    story.waits();
    assert_eq!(story.now.since_ms(start), READ_MARK_INTERVAL_MS);
    let second = batch(&mut story).unwrap();
    assert_eq!(second.entries.len(), 1);
    assert!(second.text.contains(r#""seq":3"#), "{}", second.text);
}

#[test]
fn a_mark_that_may_have_arrived_is_not_given_another_content() {
    let mut story = Story::new();
    let read = |seq| {
        Write::Read(Read {
            target: room("r1"),
            seq: Seq(seq),
            back: false,
            read_n: None,
        })
    };
    let first = story.cids.next(story.now, [0; 8]);
    story.outbox.push(None, read(1), first).unwrap();
    story
        .outbox
        .poll_batch(LINK, (story.now, 64), &mut story.next_id)
        .unwrap();
    // It is stored, but the answer is lost with the socket.
    story.outbox.handle_link_lost(LINK);
    let second = story.cids.next(story.now, [0; 8]);
    assert_eq!(story.outbox.replaces(&read(2)), Some(first));
    let entry = story.outbox.push(None, read(2), second).unwrap();
    assert_eq!(
        (entry.cid, entry.write),
        (second, read(2)),
        "a cid names one command for ever: the server would take it for a repeat"
    );
    assert_eq!(story.outbox.entries().count(), 1);
}

#[test]
fn a_full_outbox_refuses() {
    let mut story = Story::new();
    for _ in 0..ENTRIES_MAX {
        story.sends("r1", "x");
    }
    let cid = story.cids.next(story.now, [0; 8]);
    assert_eq!(
        story.outbox.push(Some(room("r1")), Write::Join {}, cid),
        None
    );
}
