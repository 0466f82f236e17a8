//! Wakes one task of the same thread.
//!
//! Tokio's `Notify` serves many threads and takes a lock for every look; here one task looks at every
//! frame, so it would be a tenth of what a frame costs.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Rings for one task; ringing before the task listens is not lost.
#[derive(Debug, Default)]
pub struct Alarm {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Alarm {
    /// Wakes the task that listens, or the next that will.
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until it rings.
    ///
    /// Cancel safety: safe; a ring that nobody took is kept.
    pub async fn rings(&self) {
        poll_fn(|cx| {
            if self.rung.take() {
                return Poll::Ready(());
            }
            let mut waker = self.waker.borrow_mut();
            if !waker
                .as_ref()
                .is_some_and(|known| known.will_wake(cx.waker()))
            {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::rc::Rc;

    #[tokio::test]
    async fn a_ring_is_heard_once_before_and_after_listening() {
        let alarm = Rc::new(Alarm::default());
        alarm.ring();
        alarm.ring();
        assert_eq!(alarm.rings().now_or_never(), Some(()));
        assert_eq!(alarm.rings().now_or_never(), None);
        let other = Rc::clone(&alarm);
        tokio::join!(alarm.rings(), async move {
            tokio::task::yield_now().await;
            other.ring();
        });
    }
}
