//! Someone is banned or kicked while a part dies: nothing behind that reaches them, nothing of theirs is
//! stored, whoever they come back through.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tests::{Part, RoomView, Rounds, Stack, Twin, User, message, with_cid};

use crate::owners::unhurried;

/// Things that are said behind the fence.
const SECRETS: usize = 5;
/// The part dies at most so long after the act was sent.
const DIES_WITHIN_MS: u64 = 60;

/// Two of each service that stands between a person and the log.
struct House {
    stack: Stack,
    gateway: Twin,
    messages: Twin,
}

/// Who dies.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Gateway,
    OtherGateway,
    Messages,
    OtherMessages,
}

/// What a round does; the same number is the same round.
#[derive(Debug)]
struct Round {
    number: u64,
    act: &'static str,
    victim: Victim,
    dies_after: Duration,
    /// Through which gateway each of alice, bob and eve comes.
    doors: [bool; 3],
}

impl Round {
    fn new(number: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(number);
        let victims = [
            Victim::Gateway,
            Victim::Messages,
            Victim::OtherGateway,
            Victim::OtherMessages,
        ];
        Self {
            number,
            act: if number % 8 < 4 { "ban" } else { "kick" },
            victim: victims[usize::try_from(number % 4).expect("it is small")],
            dies_after: Duration::from_millis(rng.random_range(0..DIES_WITHIN_MS)),
            doors: rng.random(),
        }
    }
}

impl House {
    async fn opens() -> Self {
        let stack = unhurried().start().await;
        let gateway = stack.twin(Part::Gateway).await;
        let messages = stack.twin(Part::Messages).await;
        Self {
            stack,
            gateway,
            messages,
        }
    }

    fn door(&self, other: bool) -> String {
        if other {
            self.gateway.socket_url()
        } else {
            self.stack.socket_url().to_owned()
        }
    }

    async fn user(&self, name: &str, other: bool) -> User {
        let token = self.stack.tokens().token(name);
        User::connect(&self.door(other), name, &token).await
    }

    /// `kill -9`, and starts it again.
    async fn loses(&mut self, victim: Victim) {
        match victim {
            Victim::Gateway => self.stack.kills(Part::Gateway).await,
            Victim::Messages => self.stack.kills(Part::Messages).await,
            Victim::OtherGateway => {
                self.gateway.dies().await;
                self.gateway.starts_again();
            }
            Victim::OtherMessages => {
                self.messages.dies().await;
                self.messages.starts_again();
            }
        }
    }
}

/// Says things until that is refused for good; the seqs of those that were stored.
async fn talks_until_refused(user: &mut User, room: &str) -> Vec<u64> {
    let mut stored = Vec::new();
    loop {
        match user.insists(message(room, "by eve")).await {
            Ok(ok) => stored.push(ok["seq"].as_u64().expect("a number")),
            Err(err) => {
                assert_eq!(err["temp"], false, "{err}");
                return stored;
            }
        }
    }
}

/// Sends the act, then says what eve must not hear; the act's seq.
async fn acts(alice: &mut User, room: &str, act: &str) -> u64 {
    let act = with_cid(json!({"op": act, "room": room, "user": "eve"}));
    let fence = alice.insists(act).await.expect("alice may");
    for number in 0..SECRETS {
        let secret = message(room, &format!("secret {number}"));
        alice.insists(secret).await.expect("alice is a member");
    }
    fence["seq"].as_u64().expect("a number")
}

/// What of these reached someone who was taken out at `fence`, or was stored of them behind it.
fn leaks<'a>(events: impl IntoIterator<Item = &'a Value>, fence: u64) -> Vec<&'a Value> {
    let behind = |event: &&Value| event["seq"].as_u64().is_none_or(|seq| seq > fence);
    events.into_iter().filter(behind).collect()
}

/// All that a user was shown of a room: events, and the timelines of states and skips.
fn shown_of(view: &RoomView) -> Vec<&Value> {
    let timelines = view
        .states
        .iter()
        .filter_map(|state| state["tl"].as_array());
    view.events.iter().chain(timelines.flatten()).collect()
}

async fn plays(house: &mut House, round: &Round) {
    let [alice_door, bob_door, eve_door] = round.doors;
    let mut alice = house.user("alice", alice_door).await;
    let mut bob = house.user("bob", bob_door).await;
    let mut eve = house.user("eve", eve_door).await;
    let name = format!("round {}", round.number);
    let members = json!({"kind": "private", "name": name, "members": ["bob", "eve"]});
    let room = alice.creates(members).await;
    for user in [&mut bob, &mut eve] {
        user.enters(&room).await;
        user.renews_cursor().await;
    }
    alice.sends(&room, "before").await;
    eve.sees(&room, "before").await;
    let dies = async {
        tokio::time::sleep(round.dies_after).await;
        house.loses(round.victim).await;
    };
    let (fence, by_eve, ()) = tokio::join!(
        acts(&mut alice, &room, round.act),
        talks_until_refused(&mut eve, &room),
        dies,
    );
    assert!(
        by_eve.iter().all(|seq| *seq < fence),
        "{by_eve:?} of {fence}"
    );
    bob.sees_in_the_end(&room, &format!("secret {}", SECRETS - 1))
        .await;
    // Whatever eve was told before, she comes back through both doors; whoever stays sees all.
    house.stack.is_ready().await;
    house.gateway.is_ready().await;
    for other in [eve_door, !eve_door] {
        eve.finds(&house.door(other));
        eve.renews_cursor().await;
        eve.is_out_of(&room).await;
        eve.is_refused(json!({"op": "history", "room": room}), "not_found")
            .await;
    }
    let shown = shown_of(&eve.rooms[&room]);
    assert_eq!(leaks(shown, fence), Vec::<&Value>::new(), "shown to eve");
    let archive = alice.archive(&room).await;
    let by_eve = archive.iter().filter(|event| event["by"] == "eve");
    assert_eq!(leaks(by_eve, fence), Vec::<&Value>::new(), "stored of eve");
    assert_eq!(bob.rooms[&room].last, archive.len() as u64);
}

#[tokio::test]
async fn nothing_behind_a_ban_or_a_kick_leaks_while_a_part_dies() {
    let mut house = House::opens().await;
    for number in Rounds::of("fence", 20, 200) {
        let round = Round::new(number);
        println!("{round:?}");
        plays(&mut house, &round).await;
    }
}

mod controls {
    use super::*;

    #[test]
    fn an_event_behind_the_fence_is_a_leak_and_the_fence_is_none() {
        let events = [
            json!({"seq": 3}),
            json!({"seq": 4}),
            json!({"seq": 5}),
            json!({}),
        ];
        assert_eq!(leaks(&events, 4), [&events[2], &events[3]]);
    }

    #[test]
    fn what_only_a_timeline_shows_is_shown() {
        let mut view = RoomView::default();
        view.states.push(json!({"at": 9, "tl": [{"seq": 9}]}));
        view.events.push(json!({"seq": 2}));
        let seqs: Vec<u64> = shown_of(&view)
            .iter()
            .filter_map(|it| it["seq"].as_u64())
            .collect();
        assert_eq!(seqs, [2, 9]);
    }

    #[test]
    fn twenty_rounds_kill_each_part_during_either_act() {
        let rounds: Vec<Round> = (0..20).map(Round::new).collect();
        for act in ["ban", "kick"] {
            let mut victims: Vec<String> = rounds
                .iter()
                .filter(|round| round.act == act)
                .map(|round| format!("{:?}", round.victim))
                .collect();
            victims.sort_unstable();
            victims.dedup();
            assert_eq!(victims.len(), 4, "{act}");
        }
    }
}
