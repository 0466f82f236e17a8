use super::*;
use protocol::{ErrorCode, Refusal};
use rand::SeedableRng as _;

struct Story {
    connection: Connection,
    rng: StdRng,
    now: Timestamp,
}

impl Story {
    fn new() -> Self {
        let now = Timestamp(1_000_000);
        Self {
            connection: Connection::new(now),
            rng: StdRng::seed_from_u64(7),
            now,
        }
    }

    /// Jumps to the next due moment.
    fn jump(&mut self) {
        self.now = self.connection.poll_timeout().unwrap();
        self.connection.handle_timeout(self.now, &mut self.rng);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.connection.poll_action()).collect()
    }

    fn connected() -> Self {
        let mut story = Self::new();
        story.jump();
        story.actions();
        story.connection.handle_greeted(1, story.now);
        story.connection.handle_live(1, story.now);
        assert_eq!(story.connection.state(), ConnectionState::Connected);
        story
    }

    fn closes(&mut self, link: LinkId, code: u16) {
        let close = Some((code, "x".to_owned()));
        self.connection
            .handle_closed(link, close, self.now, &mut self.rng);
    }
}

const fn open(link: LinkId) -> Action {
    Action::Open {
        link,
        fresh_token: false,
    }
}

#[test]
fn the_first_attempt_is_made_at_once() {
    let mut story = Story::new();
    assert_eq!(story.connection.state(), ConnectionState::Connecting);
    story.jump();
    assert_eq!(story.now, Timestamp(1_000_000));
    assert_eq!(story.actions(), [open(1)]);
}

#[test]
fn waits_between_attempts_grow_with_full_jitter_within_half_a_second_and_thirty() {
    let mut story = Story::new();
    let mut longest = 0;
    story.jump();
    for attempt in 1..200_u32 {
        let link = story.connection.last_id;
        story
            .connection
            .handle_closed(link, None, story.now, &mut story.rng);
        let ConnectionState::Waiting {
            until,
            attempt: shown,
        } = story.connection.state()
        else {
            panic!("not waiting");
        };
        assert_eq!(shown, attempt);
        let wait = until.since_ms(story.now);
        assert!((500..=30_000).contains(&wait), "{wait}");
        assert!(attempt > 1 || wait <= 1_000);
        longest = longest.max(wait);
        story.jump();
    }
    assert!(longest > 20_000);
}

#[test]
fn the_range_of_the_close_code_decides_whether_to_try_again() {
    for code in [1001, 1006, 1011, 1012, 4000, 4003, 4004, 4005, 4100, 4499] {
        let mut story = Story::connected();
        story.closes(1, code);
        assert!(
            matches!(story.connection.state(), ConnectionState::Waiting { .. }),
            "{code}"
        );
        story.jump();
        let fresh_token = code == 4100;
        assert_eq!(
            story.actions(),
            [Action::Open {
                link: 2,
                fresh_token
            }]
        );
    }
    for code in [
        1002, 1007, 1009, 4500, 4501, 4502, 4503, 4504, 4505, 4507, 4999,
    ] {
        let mut story = Story::connected();
        story.closes(1, code);
        assert!(
            matches!(story.connection.state(), ConnectionState::Stopped(_)),
            "{code}"
        );
        assert_eq!(story.connection.poll_timeout(), None);
    }
}

#[test]
fn a_silent_server_is_given_up_after_a_minute() {
    let mut story = Story::connected();
    let start = story.now;
    story.connection.handle_heard(1, start.plus_ms(5_000));
    story.jump();
    assert_eq!(story.now.since_ms(start), 65_000);
    assert_eq!(
        story.actions(),
        [Action::Close {
            link: 1,
            code: 4001
        }]
    );
    assert!(matches!(
        story.connection.state(),
        ConnectionState::Waiting { .. }
    ));
}

#[test]
fn a_goaway_opens_a_second_socket_in_the_window_and_then_closes_the_old_one_with_1000() {
    let mut story = Story::connected();
    let start = story.now;
    story
        .connection
        .handle_goaway(1, [2_000, 9_000], start, &mut story.rng);
    story.jump();
    assert!((2_000..=9_000).contains(&story.now.since_ms(start)));
    assert_eq!(story.actions(), [open(2)]);
    assert_eq!(
        story.connection.usable(),
        Some(1),
        "the old one serves until the new one is live"
    );
    story.connection.handle_greeted(2, story.now);
    assert_eq!(story.connection.usable(), Some(1));
    story.connection.handle_live(2, story.now);
    assert_eq!(story.connection.usable(), Some(2));
    assert_eq!(story.actions(), [], "the old one may still owe answers");
    story.connection.handle_drained(1);
    assert_eq!(
        story.actions(),
        [Action::Close {
            link: 1,
            code: 1000
        }]
    );
    assert_eq!(story.connection.state(), ConnectionState::Connected);
}

#[test]
fn an_old_socket_that_never_pays_is_closed_all_the_same() {
    let mut story = Story::connected();
    story
        .connection
        .handle_goaway(1, [0, 0], story.now, &mut story.rng);
    story.jump();
    story.connection.handle_greeted(2, story.now);
    story.connection.handle_live(2, story.now);
    story.actions();
    story.jump();
    assert_eq!(
        story.actions(),
        [Action::Close {
            link: 1,
            code: 1000
        }]
    );
}

#[test]
fn when_the_old_socket_dies_during_a_move_the_new_one_takes_its_place() {
    let mut story = Story::connected();
    story
        .connection
        .handle_goaway(1, [0, 0], story.now, &mut story.rng);
    story.jump();
    story.closes(1, 1012);
    assert_eq!(story.connection.state(), ConnectionState::Connecting);
    story.connection.handle_greeted(2, story.now);
    assert_eq!(story.connection.usable(), Some(2));
}

#[test]
fn when_the_new_socket_fails_during_a_move_the_old_one_goes_on_and_it_is_tried_again() {
    let mut story = Story::connected();
    story
        .connection
        .handle_goaway(1, [0, 0], story.now, &mut story.rng);
    story.jump();
    story.actions();
    story
        .connection
        .handle_closed(2, None, story.now, &mut story.rng);
    assert_eq!(story.connection.usable(), Some(1));
    story.jump();
    assert_eq!(story.actions(), [open(3)]);
}

#[test]
fn an_expired_token_is_refreshed_and_a_bad_one_stops() {
    let mut story = Story::new();
    story.jump();
    story.actions();
    let expired = Refusal::plain(ErrorCode::TokenExpired);
    story
        .connection
        .handle_refused(1, &expired, story.now, &mut story.rng);
    story.jump();
    assert_eq!(
        story.actions(),
        [
            Action::Close {
                link: 1,
                code: 1000
            },
            Action::Open {
                link: 2,
                fresh_token: true
            }
        ]
    );
    let bad = Refusal::plain(ErrorCode::Unauthorized);
    story
        .connection
        .handle_refused(2, &bad, story.now, &mut story.rng);
    assert!(matches!(
        story.connection.state(),
        ConnectionState::Stopped(StopReason::Refused(_))
    ));
}

#[test]
fn a_server_that_never_answers_hello_is_given_up() {
    let mut story = Story::new();
    story.jump();
    story.actions();
    story.jump();
    assert_eq!(
        story.actions(),
        [Action::Close {
            link: 1,
            code: 4001
        }]
    );
}

#[test]
fn a_hello_that_did_not_arrive_in_time_is_said_again() {
    let mut story = Story::new();
    story.jump();
    story.actions();
    story.closes(1, CloseCode::AuthFailed.number());
    story.jump();
    assert_eq!(story.actions(), [open(2)]);
    // A refused token comes as a reply, and then the close says nothing new.
    let refusal = Refusal::plain(ErrorCode::Unauthorized);
    story
        .connection
        .handle_refused(2, &refusal, story.now, &mut story.rng);
    story.closes(2, CloseCode::AuthFailed.number());
    let stopped = ConnectionState::Stopped(StopReason::Refused(refusal));
    assert_eq!(story.connection.state(), stopped);
}
