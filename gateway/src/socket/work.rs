//! What a session asks for, done.

use crate::questions::ANSWER_WITHIN;
use crate::session::outside::{Action, Outcome, Ticket};
use crate::shared::Shared;
use protocol::query::Viewer;
use std::sync::Arc;

/// Does one thing for this user, and says how it ended.
pub async fn perform(shared: Arc<Shared>, viewer: Viewer, action: Action) -> (Ticket, Outcome) {
    match action {
        Action::Ask {
            ticket,
            query,
            min_seq,
        } => (
            ticket,
            Outcome::Answer(shared.ask(*query, min_seq, ANSWER_WITHIN).await),
        ),
        Action::Send {
            ticket,
            room,
            commands,
        } => (
            ticket,
            Outcome::Sent(shared.send_batch(&viewer, &room, commands).await),
        ),
        Action::Introduce { ticket } => {
            (ticket, Outcome::Introduced(shared.introduce(&viewer).await))
        }
    }
}
