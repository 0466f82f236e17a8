//! What a session asks for, done.

use crate::discretion::discreetly;
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
        } => {
            let asked = discreetly(shared.ask(*query, min_seq, ANSWER_WITHIN));
            (ticket, Outcome::Answer(asked.await))
        }
        Action::Send {
            ticket,
            room,
            commands,
        } => {
            let sent = discreetly(shared.send_batch(&viewer, &room, commands));
            (ticket, Outcome::Sent(sent.await))
        }
        Action::Introduce { ticket } => {
            (ticket, Outcome::Introduced(shared.introduce(&viewer).await))
        }
    }
}
