//! Waiting for a state, never for a time.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::Instant;

/// How long a healthy natter on a busy machine may take for anything a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Looks again and again until `look` gives a value; its last complaint is shown if it never does.
///
/// # Panics
///
/// After `patience`.
pub async fn eventually<T, E: Debug>(
    patience: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + patience;
    let mut complaint = "no answer".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(why)) => complaint = format!("{why:?}"),
            // What the look before this one found says more.
            Err(_) => {}
        }
        assert!(
            Instant::now() < deadline,
            "after {patience:?} still: {complaint}"
        );
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_that_comes_is_seen() {
        let mut looks = 0;
        let seen = eventually(PATIENCE, async || {
            looks += 1;
            if looks > 3 { Ok(looks) } else { Err("not yet") }
        });
        assert_eq!(seen.await, 4);
    }

    #[tokio::test]
    #[should_panic(expected = "not yet")]
    async fn a_state_that_never_comes_fails_with_the_last_complaint() {
        eventually(Duration::from_millis(50), async || Err::<(), _>("not yet")).await;
    }
}
