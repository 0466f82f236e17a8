//! The clocks of one socket: hello, silence, pings, and the end of its token.

use crate::moment::Moment;
use protocol::Timestamp;
use protocol::error::CloseCode;
use protocol::limits::{HELLO_WITHIN_MS, PING_INTERVAL_MS, SILENCE_MAX_MS, TOKEN_NOTICE_MS};

const fn ticks(ms: i64) -> u64 {
    ms.unsigned_abs()
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Close the socket.
    Close(CloseCode),
    /// Ask whether the client is there.
    Ping,
    /// Announce the token's end, in seconds.
    TokenNotice(u64),
}

/// The clocks.
#[derive(Debug)]
pub(super) struct Heartbeat {
    opened: u64,
    heard: u64,
    next_ping: u64,
    token: Option<Token>,
    /// Nothing is sent before the answer to hello, which is the first line that a client waits for.
    greeted: bool,
}

#[derive(Debug)]
struct Token {
    expires: Timestamp,
    noticed: bool,
}

impl Heartbeat {
    /// The socket was opened now.
    #[must_use]
    pub(super) fn new(now: Moment) -> Self {
        Self {
            opened: now.ticks,
            heard: now.ticks,
            next_ping: now.ticks + ticks(PING_INTERVAL_MS),
            token: None,
            greeted: false,
        }
    }

    /// Hello was answered.
    pub(super) fn handle_greeted(&mut self) {
        self.greeted = true;
    }

    /// Something was received.
    pub(super) fn handle_heard(&mut self, now: Moment) {
        self.heard = now.ticks;
    }

    /// A valid token came.
    pub(super) fn handle_token(&mut self, expires: Timestamp) {
        self.token = Some(Token {
            expires,
            noticed: false,
        });
    }

    /// What is due now, one thing at a time, the most final first.
    pub(super) fn poll(&mut self, now: Moment) -> Option<Due> {
        if now.ticks >= self.heard + ticks(SILENCE_MAX_MS) {
            return Some(Due::Close(CloseCode::HeartbeatTimeout));
        }
        match &mut self.token {
            None if now.ticks >= self.opened + ticks(HELLO_WITHIN_MS) => {
                return Some(Due::Close(CloseCode::AuthFailed));
            }
            None => {}
            Some(token) => {
                let left = token.expires.since_ms(now.wall);
                if left <= 0 {
                    return Some(Due::Close(CloseCode::TokenExpired));
                }
                if self.greeted && left <= TOKEN_NOTICE_MS && !token.noticed {
                    token.noticed = true;
                    return Some(Due::TokenNotice(ticks(left).div_ceil(1_000)));
                }
            }
        }
        if self.greeted && now.ticks >= self.next_ping {
            self.next_ping = now.ticks + ticks(PING_INTERVAL_MS);
            return Some(Due::Ping);
        }
        None
    }

    /// When something will be due at the latest, in ticks.
    #[must_use]
    pub(super) fn deadline(&self, now: Moment) -> u64 {
        let silence = self.heard + ticks(SILENCE_MAX_MS);
        let next = match &self.token {
            None => self.opened + ticks(HELLO_WITHIN_MS),
            Some(token) => {
                let left = token.expires.since_ms(now.wall);
                let due = |left: i64| now.ticks + ticks(left.max(0));
                match (self.greeted, token.noticed) {
                    (false, _) => due(left),
                    (true, true) => self.next_ping.min(due(left)),
                    (true, false) => self.next_ping.min(due(left - TOKEN_NOTICE_MS)),
                }
            }
        };
        silence.min(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ticks: u64) -> Moment {
        Moment {
            wall: Timestamp(1_000_000 + i64::try_from(ticks).unwrap()),
            ticks,
        }
    }

    /// Runs from deadline to deadline and tells what was due when.
    fn run(heartbeat: &mut Heartbeat, until: u64) -> Vec<(u64, Due)> {
        let (mut now, mut seen) = (at(0), Vec::new());
        while now.ticks < until {
            while let Some(due) = heartbeat.poll(now) {
                seen.push((now.ticks, due));
                if matches!(due, Due::Close(_)) {
                    return seen;
                }
            }
            let next = heartbeat.deadline(now);
            assert!(next > now.ticks, "a deadline that has passed would spin");
            now = at(next.min(until));
        }
        seen
    }

    #[test]
    fn without_hello_it_ends_after_five_seconds() {
        let mut heartbeat = Heartbeat::new(at(0));
        assert_eq!(
            run(&mut heartbeat, 99_999),
            [(5_000, Due::Close(CloseCode::AuthFailed))]
        );
    }

    #[test]
    fn before_the_answer_to_hello_nothing_is_due_but_an_end() {
        let mut heartbeat = Heartbeat::new(at(0));
        heartbeat.handle_token(at(30_000).wall);
        let end = Due::Close(CloseCode::TokenExpired);
        assert_eq!(run(&mut heartbeat, 99_999), [(30_000, end)]);
    }

    #[test]
    fn silence_ends_it_after_sixty_seconds_and_two_pings() {
        let mut heartbeat = Heartbeat::new(at(0));
        heartbeat.handle_greeted();
        heartbeat.handle_token(Timestamp(i64::MAX));
        let close = Due::Close(CloseCode::HeartbeatTimeout);
        assert_eq!(
            run(&mut heartbeat, 99_999),
            [(25_000, Due::Ping), (50_000, Due::Ping), (60_000, close)]
        );
    }

    #[test]
    fn the_end_of_the_token_is_announced_once_and_a_fresh_one_helps() {
        let mut heartbeat = Heartbeat::new(at(0));
        heartbeat.handle_greeted();
        heartbeat.handle_token(at(10_000).wall);
        assert_eq!(heartbeat.poll(at(0)), Some(Due::TokenNotice(10)));
        assert_eq!(heartbeat.poll(at(9_999)), None);
        heartbeat.handle_greeted();
        heartbeat.handle_token(at(140_000).wall);
        assert_eq!(heartbeat.poll(at(10_000)), None);
        heartbeat.handle_heard(at(19_999));
        assert_eq!(heartbeat.poll(at(20_000)), Some(Due::TokenNotice(120)));
        let rest = run(&mut heartbeat, 200_000);
        assert_eq!(
            rest.last(),
            Some(&(79_999, Due::Close(CloseCode::HeartbeatTimeout)))
        );
        heartbeat.handle_heard(at(139_000));
        assert_eq!(
            heartbeat.poll(at(140_000)),
            Some(Due::Close(CloseCode::TokenExpired))
        );
    }
}
