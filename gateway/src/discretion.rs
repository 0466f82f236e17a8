//! A room that is not there and one that is forbidden answer alike; here they also take the same time.
//!
//! An owner holds the rooms that are in use and asks history for the others, so a guess at a room that
//! does not exist took a look-up longer. Ids of direct rooms follow from their people: the difference told
//! who talks with whom. Nobody waits who has not asked for what is not his.

use crate::session::outside::{Answered, Settled};
use protocol::request::CommandResult;
use protocol::{ErrorCode, Refusal};
use std::time::Duration;
use tokio::time::Instant;

/// When `not_found` is said at the earliest: later than look-ups take, and too soon for a person to feel.
pub const NOT_FOUND_AT: Duration = Duration::from_millis(25);

/// What may have been refused as not found.
pub trait Answer {
    /// Whether it was.
    fn is_not_found(&self) -> bool;
}

impl<T> Answer for Result<T, Refusal>
where
    T: Answer,
{
    fn is_not_found(&self) -> bool {
        match self {
            Ok(answer) => answer.is_not_found(),
            Err(refusal) => refusal.code == ErrorCode::NotFound,
        }
    }
}

impl Answer for Answered {
    fn is_not_found(&self) -> bool {
        false
    }
}

impl Answer for Vec<Settled> {
    fn is_not_found(&self) -> bool {
        self.iter().any(|settled| match &settled.result {
            CommandResult::Ok(_) => false,
            CommandResult::Err(refusal) => refusal.code == ErrorCode::NotFound,
        })
    }
}

/// Does something, and holds back its answer for a while if that is `not_found`.
pub async fn discreetly<T: Answer>(work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let answer = work.await;
    if answer.is_not_found() {
        tokio::time::sleep_until(began + NOT_FOUND_AT).await;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn takes(work: Duration, code: ErrorCode) -> Duration {
        let began = Instant::now();
        let work = async {
            tokio::time::sleep(work).await;
            Err::<Vec<Settled>, _>(Refusal::plain(code))
        };
        assert!(discreetly(work).await.is_err());
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_found_takes_the_same_time_and_nothing_else_waits() {
        let ms = Duration::from_millis;
        for work in [ms(0), ms(1), ms(20)] {
            assert_eq!(takes(work, ErrorCode::NotFound).await, NOT_FOUND_AT);
            assert_eq!(takes(work, ErrorCode::Forbidden).await, work);
        }
        assert_eq!(takes(ms(90), ErrorCode::NotFound).await, ms(90));
    }
}
