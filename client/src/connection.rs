//! The life of a client's sockets: when to open one, when to give one up, when to move.
//!
//! Pure. `handle_*` takes what happened, [`Connection::poll_action`] says what to do next and
//! [`Connection::poll_timeout`] when to call [`Connection::handle_timeout`]. It never sees a message:
//! what stands in one, and what is resent on a new socket, is the core's matter.
//!
//! There is at most one socket in use (`main`), one being prepared for a planned move (`next`) and
//! one that only waits for its last answers (`retiring`).

use protocol::Timestamp;
use protocol::error::{CloseCode, close_means_retry};
use protocol::limits::SILENCE_MAX_MS;
use rand::RngExt as _;
use rand::rngs::StdRng;
use std::collections::VecDeque;

/// Names one socket of this client; later ones are greater.
pub type LinkId = u64;

/// Shortest wait before a new attempt, in ms.
pub const BACKOFF_MS_MIN: i64 = 500;
/// Longest wait before a new attempt, in ms.
pub const BACKOFF_MS_MAX: i64 = 30_000;
/// From the first byte to the answer of `hello`, in ms.
const GREETING_MS_MAX: i64 = 15_000;
/// A link that lived this long shows that the server is well: the next wait is short again.
const HEALTHY_MS: i64 = 10_000;
/// How long the old socket of a move may wait for its last answers, in ms.
const RETIRE_MS_MAX: i64 = 5_000;
/// RFC 6455: normal closure.
const CLOSE_NORMAL: u16 = 1000;
/// Closed because the server was silent; the code is the protocol's own.
const CLOSE_SILENT: u16 = 4001;

/// Why the client does not try any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The application closed it.
    Closed,
    /// The server closed the socket with a code that forbids a new attempt.
    CloseCode {
        /// The code.
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// `hello` was refused for good.
    Refused(protocol::Refusal),
    /// The token has expired and there is no other.
    TokenExpired,
    /// The token is another user's than the one this store belongs to.
    OtherUser,
    /// The store failed; going on could lose or repeat something.
    Store(String),
}

/// What an application is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// A socket is being opened, or `hello` is not answered yet.
    Connecting,
    /// Commands can be sent.
    Connected,
    /// The next attempt is at this local time.
    Waiting {
        /// When.
        until: Timestamp,
        /// How many attempts have failed in a row.
        attempt: u32,
    },
    /// No attempt will be made.
    Stopped(StopReason),
}

/// What the shell has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a socket, with a new token if `fresh_token`.
    Open {
        /// Its name.
        link: LinkId,
        /// Whether the last token was refused as expired.
        fresh_token: bool,
    },
    /// Close a socket; nothing more is heard from it.
    Close {
        /// Which.
        link: LinkId,
        /// With this code.
        code: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Greeted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    id: LinkId,
    phase: Phase,
    since: Timestamp,
    heard: Timestamp,
}

impl Link {
    /// When it has to be given up if nothing comes.
    fn deadline(&self) -> Timestamp {
        match self.phase {
            Phase::Opening => self.since.plus_ms(GREETING_MS_MAX),
            Phase::Greeted => self.heard.plus_ms(SILENCE_MAX_MS),
        }
    }
}

/// The state machine of a client's sockets.
#[derive(Debug)]
pub struct Connection {
    main: Option<Link>,
    next: Option<Link>,
    retiring: Option<(LinkId, Timestamp)>,
    retry_at: Option<Timestamp>,
    move_at: Option<Timestamp>,
    attempt: u32,
    fresh_token: bool,
    stopped: Option<StopReason>,
    last_id: LinkId,
    actions: VecDeque<Action>,
}

impl Connection {
    /// Not connected; the first attempt is made at once.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            main: None,
            next: None,
            retiring: None,
            retry_at: Some(now),
            move_at: None,
            attempt: 0,
            fresh_token: false,
            stopped: None,
            last_id: 0,
            actions: VecDeque::new(),
        }
    }

    /// What an application is shown.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        if let Some(reason) = &self.stopped {
            return ConnectionState::Stopped(reason.clone());
        }
        match (&self.main, self.retry_at) {
            (Some(link), _) if link.phase == Phase::Greeted => ConnectionState::Connected,
            (None, Some(until)) if self.attempt > 0 => ConnectionState::Waiting {
                until,
                attempt: self.attempt,
            },
            (Some(_) | None, _) => ConnectionState::Connecting,
        }
    }

    /// The socket that commands go to.
    #[must_use]
    pub fn usable(&self) -> Option<LinkId> {
        self.main
            .filter(|link| link.phase == Phase::Greeted)
            .map(|link| link.id)
    }

    /// Whether this socket is one whose cursors count: the main one, not one that is being left.
    #[must_use]
    pub fn is_main(&self, link: LinkId) -> bool {
        self.main.is_some_and(|main| main.id == link)
    }

    /// The socket that only waits for its last answers.
    #[must_use]
    pub fn retiring(&self) -> Option<LinkId> {
        self.retiring.map(|(link, _)| link)
    }

    /// Whether anything is still heard from this socket.
    #[must_use]
    pub fn knows(&self, link: LinkId) -> bool {
        self.is_main(link)
            || self.next.is_some_and(|next| next.id == link)
            || self.retiring() == Some(link)
    }

    /// Something came from the socket.
    pub fn handle_heard(&mut self, link: LinkId, now: Timestamp) {
        for one in [self.main.as_mut(), self.next.as_mut()]
            .into_iter()
            .flatten()
        {
            if one.id == link {
                one.heard = now;
            }
        }
    }

    /// `hello` was answered well.
    pub fn handle_greeted(&mut self, link: LinkId, now: Timestamp) {
        for one in [self.main.as_mut(), self.next.as_mut()]
            .into_iter()
            .flatten()
        {
            if one.id == link {
                (one.phase, one.since, one.heard) = (Phase::Greeted, now, now);
            }
        }
        self.fresh_token = false;
    }

    /// `live` came: everything missed is here. The second socket of a move takes over now.
    pub fn handle_live(&mut self, link: LinkId, now: Timestamp) {
        if self.next.is_some_and(|next| next.id == link) {
            self.move_at = None;
            if let Some((old, _)) = self.retiring.take() {
                self.actions.push_back(Action::Close {
                    link: old,
                    code: CLOSE_NORMAL,
                });
            }
            self.retiring = self.main.map(|main| (main.id, now.plus_ms(RETIRE_MS_MAX)));
            self.main = self.next.take();
        }
    }

    /// The retiring socket owes nothing any more.
    pub fn handle_drained(&mut self, link: LinkId) {
        if self.retiring() == Some(link) {
            self.retiring = None;
            self.actions.push_back(Action::Close {
                link,
                code: CLOSE_NORMAL,
            });
        }
    }

    /// The server asks to move within this window of ms.
    pub fn handle_goaway(
        &mut self,
        link: LinkId,
        within_ms: [u64; 2],
        now: Timestamp,
        rng: &mut StdRng,
    ) {
        if !self.is_main(link) || self.next.is_some() || self.move_at.is_some() {
            return;
        }
        let [from, to] = within_ms.map(|ms| i64::try_from(ms).unwrap_or(BACKOFF_MS_MAX));
        let from = from.min(BACKOFF_MS_MAX);
        let to = to.clamp(from, BACKOFF_MS_MAX);
        self.move_at = Some(now.plus_ms(rng.random_range(from..=to)));
    }

    /// `hello` or the token was refused: for good, because the token has run out, or for now.
    pub fn handle_refused(
        &mut self,
        link: LinkId,
        refusal: &protocol::Refusal,
        now: Timestamp,
        rng: &mut StdRng,
    ) {
        if !self.knows(link) {
            return;
        }
        self.actions.push_back(Action::Close {
            link,
            code: CLOSE_NORMAL,
        });
        if refusal.temp || refusal.code == protocol::ErrorCode::TokenExpired {
            self.fresh_token = refusal.code == protocol::ErrorCode::TokenExpired;
            self.lose(link, now, rng);
        } else {
            self.stop(StopReason::Refused(refusal.clone()));
        }
    }

    /// The socket is closed or could not be opened; `code` if the server gave one.
    pub fn handle_closed(
        &mut self,
        link: LinkId,
        close: Option<(u16, String)>,
        now: Timestamp,
        rng: &mut StdRng,
    ) {
        if !self.knows(link) {
            return;
        }
        match close {
            // A token that is refused is refused by a reply before the close; without one the server
            // has seen no hello in time, because the network stood still.
            Some((code, _)) if code == CloseCode::AuthFailed.number() && self.is_opening(link) => {
                self.lose(link, now, rng);
            }
            // A socket that is being left may say what it likes.
            Some((code, reason)) if !close_means_retry(code) && self.retiring() != Some(link) => {
                self.lose(link, now, rng);
                self.stop(StopReason::CloseCode { code, reason });
            }
            Some((code, _)) => {
                self.fresh_token |= code == CloseCode::TokenExpired.number();
                self.lose(link, now, rng);
            }
            None => self.lose(link, now, rng),
        }
    }

    /// Whether this socket's hello was not answered yet.
    fn is_opening(&self, link: LinkId) -> bool {
        let links = [self.main, self.next].into_iter().flatten();
        links
            .filter(|one| one.id == link)
            .any(|one| one.phase == Phase::Opening)
    }

    /// Gives a socket up by our own decision, for example because it owes an answer for too long.
    pub fn give_up(&mut self, link: LinkId, now: Timestamp, rng: &mut StdRng) {
        if self.knows(link) {
            self.actions.push_back(Action::Close {
                link,
                code: CLOSE_SILENT,
            });
            self.lose(link, now, rng);
        }
    }

    /// Closes everything and stays closed.
    pub fn stop(&mut self, reason: StopReason) {
        let links = [
            self.main.map(|l| l.id),
            self.next.map(|l| l.id),
            self.retiring(),
        ];
        for link in links.into_iter().flatten() {
            self.actions.push_back(Action::Close {
                link,
                code: CLOSE_NORMAL,
            });
        }
        (self.main, self.next, self.retiring) = (None, None, None);
        (self.retry_at, self.move_at) = (None, None);
        self.stopped.get_or_insert(reason);
    }

    /// Does what is due at `now`; the links that were given up are returned by [`Self::poll_action`] as closes.
    pub fn handle_timeout(&mut self, now: Timestamp, rng: &mut StdRng) {
        if self.retiring.is_some_and(|(_, until)| until <= now)
            && let Some((link, _)) = self.retiring.take()
        {
            self.actions.push_back(Action::Close {
                link,
                code: CLOSE_NORMAL,
            });
        }
        for link in [self.next, self.main].into_iter().flatten() {
            if link.deadline() <= now {
                self.give_up(link.id, now, rng);
            }
        }
        if self.main.is_none() && self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.main = Some(self.open(now));
        }
        if self.main.is_some() && self.next.is_none() && self.move_at.is_some_and(|at| at <= now) {
            self.move_at = None;
            self.next = Some(self.open(now));
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        [
            self.main.map(|link| link.deadline()),
            self.next.map(|link| link.deadline()),
            self.retiring.map(|(_, until)| until),
            self.retry_at.filter(|_| self.main.is_none()),
            self.move_at.filter(|_| self.main.is_some()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn open(&mut self, now: Timestamp) -> Link {
        self.last_id += 1;
        let link = self.last_id;
        self.actions.push_back(Action::Open {
            link,
            fresh_token: self.fresh_token,
        });
        Link {
            id: link,
            phase: Phase::Opening,
            since: now,
            heard: now,
        }
    }

    /// Forgets a socket and plans what replaces it.
    fn lose(&mut self, link: LinkId, now: Timestamp, rng: &mut StdRng) {
        if self.retiring() == Some(link) {
            self.retiring = None;
            return;
        }
        if let Some(next) = self.next.filter(|next| next.id == link) {
            self.next = None;
            self.count_failure(next, now);
            // The old socket still works; the server will close it when its time has come.
            self.move_at = Some(now.plus_ms(self.backoff_ms(rng)));
            return;
        }
        let Some(main) = self.main.take_if(|main| main.id == link) else {
            return;
        };
        if self.next.is_some() {
            self.main = self.next.take();
            self.move_at = None;
            return;
        }
        self.move_at = None;
        self.count_failure(main, now);
        self.retry_at = Some(now.plus_ms(self.backoff_ms(rng)));
    }

    fn count_failure(&mut self, link: Link, now: Timestamp) {
        let healthy = link.phase == Phase::Greeted && now.since_ms(link.since) >= HEALTHY_MS;
        self.attempt = if healthy {
            1
        } else {
            self.attempt.saturating_add(1)
        };
    }

    /// Full jitter: anything between the shortest wait and a ceiling that doubles with each failure.
    fn backoff_ms(&self, rng: &mut StdRng) -> i64 {
        let doublings = self.attempt.min(6);
        let ceiling = (BACKOFF_MS_MIN << doublings).min(BACKOFF_MS_MAX);
        rng.random_range(BACKOFF_MS_MIN..=ceiling)
    }
}

#[cfg(test)]
mod tests;
