//! The live feed may lose: what is missing is noticed and fetched, also when nothing follows it.

use tests::{LossyBroker, PATIENCE, Part, Stack, User, eventually};

/// Alice at the stack's gateway, Bob at one whose live feed can lose, both in a room.
async fn with_a_lossy_gateway(stack: &Stack, url: &str) -> (tests::Twin, User, User, String) {
    let twin = stack
        .twin_with(Part::Gateway, &[("NATTER_NATS_URL", url)])
        .await;
    let mut alice = stack.user("alice").await;
    let token = stack.tokens().token("bob");
    let mut bob = User::connect(&twin.socket_url(), "bob", &token).await;
    let room = alice.creates_room("ops").await;
    bob.joins(&room).await;
    bob.enters(&room).await;
    (twin, alice, bob, room)
}

async fn has_lost(broker: &LossyBroker, least: u64) {
    eventually(PATIENCE, async || match broker.lost() {
        lost if lost >= least => Ok(()),
        lost => Err(lost),
    })
    .await;
}

#[tokio::test]
async fn the_last_message_that_the_feed_lost_is_revealed_by_the_beacon() {
    let stack = Stack::builder().separate().start().await;
    let broker = LossyBroker::to(stack.nats_url(), "live.").await;
    let (_twin, mut alice, mut bob, room) = with_a_lossy_gateway(&stack, &broker.url()).await;
    broker.loses(true);
    alice.sends(&room, "the last word").await;
    has_lost(&broker, 1).await;
    // Nothing follows on the feed, which still loses: only the beacon tells that there is more.
    bob.sees(&room, "the last word").await;
    assert_eq!(bob.texts(&room), ["the last word"]);
}

#[tokio::test]
async fn a_hole_in_the_feed_is_filled_before_what_follows_is_shown() {
    let stack = Stack::builder().separate().start().await;
    let broker = LossyBroker::to(stack.nats_url(), "live.").await;
    let (_twin, mut alice, mut bob, room) = with_a_lossy_gateway(&stack, &broker.url()).await;
    alice.sends(&room, "before").await;
    bob.sees(&room, "before").await;
    broker.loses(true);
    alice.sends(&room, "lost").await;
    has_lost(&broker, 1).await;
    broker.loses(false);
    alice.sends(&room, "behind").await;
    bob.sees(&room, "behind").await;
    assert_eq!(bob.texts(&room), ["before", "lost", "behind"]);
}
