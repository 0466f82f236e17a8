//! Every code a client can see: slug, HTTP status, whether to try again, and what to do first.

use crate::limits::REFUSAL_CHARS_MAX;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($name:ident $slug:literal $status:literal $temporary:literal $meaning:literal $remedy:literal;)*) => {
        /// A stable code (protocol section 1, "Errors and closes").
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $(
                #[doc = $meaning]
                #[serde(rename = $slug)]
                $name,
            )*
        }

        impl ErrorCode {
            /// Every code, in the order of the protocol.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as it stands in frames and in `/errors/<slug>`.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug),* }
            }

            /// The status of an HTTP answer with this code.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status),* }
            }

            /// Whether the same command may succeed later.
            #[must_use]
            pub const fn is_temporary(self) -> bool {
                match self { $(Self::$name => $temporary),* }
            }

            /// What went wrong, in general.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning),* }
            }

            /// What to do first.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy),* }
            }
        }
    };
}

codes! {
    BadRequest "bad_request" 400 false "The request is malformed." "Compare it with the protocol; sending it again will not help.";
    Unauthorized "unauthorized" 401 false "No valid token." "Get a token from your issuer and say hello with it.";
    TokenExpired "token_expired" 401 false "The token has expired." "Refresh the token and send it with `token` or a new `hello`.";
    Forbidden "forbidden" 403 false "You lack the right." "Ask an owner or a moderator of the room.";
    NotMember "not_member" 403 false "You are not a member of this room." "Join the room, or ask to be invited, and send it again.";
    NotFound "not_found" 404 false "There is no such thing, or you may not see it." "Check the id; ask a member to invite you if the room is private.";
    TooLarge "too_large" 413 false "A part of the request is over its limit." "Shorten it; the limits are in `hello`.";
    Unsupported "unsupported" 501 false "This server does not know the operation." "Check the server's version; leave the operation out.";
    Conflict "conflict" 409 false "Something changed that the command relied on." "Fetch what changed and decide anew; `head` is the room's head.";
    Gone "gone" 410 false "It has been removed for good." "Forget the local copy.";
    TargetGone "target_gone" 410 false "The message it is about was deleted." "Drop the change.";
    Muted "muted" 403 false "You are muted in this room." "Wait for the end of the mute or ask a moderator.";
    Banned "banned" 403 false "You are banned from this room." "Ask a moderator of the room.";
    Frozen "frozen" 403 false "The room is frozen." "Wait until a moderator unfreezes it.";
    RoomFull "room_full" 403 false "The room has as many members as it may have." "Ask an owner to make space.";
    Blocked "blocked" 403 false "The other person does not take messages from you." "Respect it.";
    LastOwner "last_owner" 409 false "The last owner cannot leave." "Make somebody else an owner first.";
    Superseded "superseded" 409 false "A change you had not seen took its place." "Look at the room's present state and decide anew.";
    ClockSkew "clock_skew" 400 false "The cid's time is in the future." "Set the clock by `now` and send the command with a new cid.";
    SlowMode "slow_mode" 429 true "The room is in slow mode." "Send it again after `retry_after_ms`.";
    RateLimited "rate_limited" 429 true "Too many commands at once." "Send it again after `retry_after_ms`, with the same cid.";
    Unavailable "unavailable" 503 true "A part that this needs does not answer just now." "Send it again after `retry_after_ms`, with the same cid.";
    Timeout "timeout" 504 true "No answer in time; it may or may not have been stored." "Send it again with the same cid.";
    Internal "internal" 500 true "The server made a mistake." "Send it again with the same cid; if it goes on, report the trace id.";
}

/// Why a command was not stored, as its sender is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The stable code.
    pub code: ErrorCode,
    /// What went wrong, for a person.
    pub msg: String,
    /// Whether the same command may succeed later.
    pub temp: bool,
    /// When to try again at the earliest, with temporary codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The server's clock, with `clock_skew`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
    /// The room's head, with `conflict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<crate::Seq>,
}

impl Refusal {
    /// A refusal with this code; temporary ones get 1,000 ms unless [`Self::after_ms`] says otherwise.
    ///
    /// What is wrong with an input often repeats it, so a long text is cut.
    #[must_use]
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        let mut msg = msg.into();
        if let Some((end, _)) = msg.char_indices().nth(REFUSAL_CHARS_MAX) {
            msg.truncate(end);
            msg.push('\u{2026}');
        }
        Self {
            code,
            msg,
            temp: code.is_temporary(),
            retry_after_ms: code.is_temporary().then_some(1_000),
            now: None,
            head: None,
        }
    }

    /// A refusal that says what its code means in general.
    #[must_use]
    pub fn plain(code: ErrorCode) -> Self {
        Self::new(code, code.meaning())
    }

    /// The same, to be tried again after `ms`.
    #[must_use]
    pub fn after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }
}

/// Why a socket is closed (protocol section 1). Of the 4xxx, below 4500 retry, from 4500 stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// The client is done, or has moved.
    Normal = 1000,
    /// RFC 6455 was broken.
    Protocol = 1002,
    /// A text frame was not UTF-8.
    BadUtf8 = 1007,
    /// A frame passed [`crate::limits::FRAME_BYTES_MAX`].
    TooLarge = 1009,
    /// The process stops.
    Restart = 1012,
    /// The gateway goes away.
    GoingAway = 4000,
    /// Nothing was heard for too long.
    HeartbeatTimeout = 4001,
    /// The socket took nothing for too long.
    LagUnrecoverable = 4002,
    /// The server made a mistake.
    Internal = 4003,
    /// A newer socket of the same device took its place.
    Replaced = 4004,
    /// The gateway sheds load.
    Overload = 4005,
    /// The token ran out and was not refreshed.
    TokenExpired = 4100,
    /// No hello in time, or no valid token.
    AuthFailed = 4500,
    /// The first frame was no hello.
    ProtocolError = 4501,
    /// The client's protocol version is not spoken here.
    VersionUnsupported = 4502,
    /// The account is suspended.
    AccountSuspended = 4503,
    /// The session was revoked.
    SessionRevoked = 4504,
    /// Too many sockets of this user.
    TooManyConnections = 4505,
    /// The page's origin is not allowed.
    OriginRefused = 4507,
}

impl CloseCode {
    /// The number in the close frame.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The reason in the close frame, at most 123 bytes.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Normal => "bye",
            Self::Protocol => "protocol",
            Self::BadUtf8 => "bad_utf8",
            Self::TooLarge => "too_large",
            Self::Restart => "restart",
            Self::GoingAway => "going_away",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::LagUnrecoverable => "lag_unrecoverable",
            Self::Internal => "internal",
            Self::Replaced => "replaced",
            Self::Overload => "overload",
            Self::TokenExpired => "token_expired",
            Self::AuthFailed => "auth_failed",
            Self::ProtocolError => "protocol_error",
            Self::VersionUnsupported => "version_unsupported",
            Self::AccountSuspended => "account_suspended",
            Self::SessionRevoked => "session_revoked",
            Self::TooManyConnections => "too_many_connections",
            Self::OriginRefused => "origin_refused",
        }
    }
}

/// Whether a client that was closed with this number should connect again by itself.
#[must_use]
pub const fn close_means_retry(number: u16) -> bool {
    !matches!(number, 1002 | 1007 | 1009 | 4500..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_codes_carry_a_time_to_try_again() {
        for &code in ErrorCode::ALL {
            let refusal = Refusal::plain(code);
            assert_eq!(
                refusal.retry_after_ms.is_some(),
                code.is_temporary(),
                "{code:?}"
            );
            assert!(!code.remedy().is_empty());
            assert!((400..600).contains(&code.http_status()));
        }
    }

    #[test]
    fn a_refusal_does_not_repeat_all_of_a_long_input() {
        let msg = |chars: usize| Refusal::new(ErrorCode::BadRequest, "\u{e9}".repeat(chars)).msg;
        assert_eq!(msg(REFUSAL_CHARS_MAX).chars().count(), REFUSAL_CHARS_MAX);
        let cut = msg(REFUSAL_CHARS_MAX + 1);
        assert_eq!(cut.chars().count(), REFUSAL_CHARS_MAX + 1);
        assert!(cut.ends_with('\u{2026}'));
    }

    #[test]
    fn the_range_of_a_close_code_tells_whether_to_retry() {
        assert!(close_means_retry(CloseCode::Restart.number()));
        assert!(close_means_retry(CloseCode::TokenExpired.number()));
        assert!(!close_means_retry(CloseCode::AuthFailed.number()));
        assert!(!close_means_retry(CloseCode::TooLarge.number()));
    }
}
