//! Every bound that clients, bots or two services can feel: value, reason, and what happens beyond it.
//!
//! "Refused" means the command is answered with the named code and nothing is stored.

use serde::{Deserialize, Serialize};

/// Bytes of an id. It becomes a subject token, and nats-server closes a connection whose control line passes 4 KiB. Refused `bad_request`.
pub const ID_BYTES_MAX: usize = 64;
/// Unicode scalar values of a message's text: long enough for a pasted log, short enough to show. Refused `too_large`.
pub const TEXT_CHARS_MAX: usize = 8_000;
/// UTF-8 bytes of a message's text: 8,000 scalars of 4 bytes. Refused `too_large`.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;
/// Bytes of `meta` as JSON: for clients' own marks, not for content. Refused `too_large`.
pub const META_BYTES_MAX: usize = 2 * 1024;
/// Objects and arrays of `meta` in each other, itself counted. JSON parsers, ours too, give up at a depth of 128, and a page of history wraps it in several more. Refused `too_large`.
pub const META_DEPTH_MAX: usize = 32;
/// Bytes of one socket message from a client, all fragments together. Close 1009.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Commands in one socket message: one message must not hold a worker for long. Refused `too_large`.
pub const FRAME_COMMANDS_MAX: usize = 64;
/// Unicode scalar values of what a refusal says: it may repeat an input, and a frame of bad lines must not be answered by more than it cost. Cut.
pub const REFUSAL_CHARS_MAX: usize = 300;
/// Unicode scalar values of a room's name. Refused `too_large`.
pub const ROOM_NAME_CHARS_MAX: usize = 80;
/// Unicode scalar values of a topic. Refused `too_large`.
pub const TOPIC_CHARS_MAX: usize = 500;
/// Unicode scalar values of the reason of a moderator's act. Refused `too_large`.
pub const WHY_CHARS_MAX: usize = 500;
/// Mentions of one message: more is a broadcast, and `@room` is for that. Refused `too_large`.
pub const MENTIONS_MAX: usize = 50;
/// Members named by one `create`: their events must fit one envelope. Refused `too_large`.
pub const CREATE_MEMBERS_MAX: usize = 100;
/// Members of one room: state is held in memory by its owner. Refused `room_full`.
pub const ROOM_MEMBERS_MAX: usize = 20_000;
/// Bans of one room, for the same reason. Refused `too_large`.
pub const ROOM_BANS_MAX: usize = 20_000;
/// Rooms of one user: `hello` lists them all. Refused `too_large`.
pub const USER_ROOMS_MAX: usize = 1_000;
/// Ranges of one deletion. Refused `too_large`.
pub const DELETE_RANGES_MAX: usize = 200;
/// Revisions of one message: each is kept. Refused `too_large`.
pub const REVISIONS_MAX: u32 = 1_000;
/// Entries of one page of a read. A larger wish is answered with this many.
pub const PAGE_MAX: u32 = 100;
/// Bytes of one page, beyond which it ends early and says `more`; one entry is always given. Four of them fill half the queue of a socket that takes nothing, and a hundred messages of common length fit.
pub const PAGE_BYTES_MAX: usize = 32 * 1024;
/// Entries of a page if the client does not say.
pub const PAGE_DEFAULT: u32 = 50;
/// `win.rooms` at most: rooms that carry a timeline in `hello`. A larger wish counts as this many.
pub const WINDOW_ROOMS_MAX: u32 = 100;
/// `win.tl` at most: entries of such a timeline. A larger wish counts as this many.
pub const WINDOW_TIMELINE_MAX: u32 = 50;
/// Missed events that a resume sends one by one for one room; beyond, the room gets a `skip`.
pub const RESUME_ROOM_EVENTS_MAX: usize = 500;
/// Missed events that one resume sends one by one; beyond, the largest rooms get a `skip`.
pub const RESUME_EVENTS_MAX: usize = 2_000;
/// Ranges of `dirty`; nearby ones are merged until they fit.
pub const DIRTY_RANGES_MAX: usize = 200;
/// Unread and mentions are counted up to here and shown as "999+" beyond.
pub const UNREAD_SHOWN_MAX: u32 = 999;

/// Commands per second of one user at one gateway. Beyond: `rate_limited`, the socket stays.
pub const USER_RATE_PER_SECOND: u32 = 20;
/// Commands of one user at one gateway that may come at once.
pub const USER_RATE_BURST: u32 = 60;
/// Stored commands per second of one user in one room, judged by the room's owner, so bots too. Beyond: `rate_limited`.
pub const ROOM_RATE_PER_SECOND: u32 = 5;
/// Stored commands of one user in one room that may come at once.
pub const ROOM_RATE_BURST: u32 = 20;
/// A socket that sends this many times the user rate is closed with 4005.
pub const RATE_ABUSE_FACTOR: u32 = 10;

/// From the upgrade to `hello`. Beyond: close 4500.
pub const HELLO_WITHIN_MS: i64 = 5_000;
/// Between two pings of the server.
pub const PING_INTERVAL_MS: i64 = 25_000;
/// Silence of a client after which its socket is closed with 4001.
pub const SILENCE_MAX_MS: i64 = 60_000;
/// A token's end is announced this long before.
pub const TOKEN_NOTICE_MS: i64 = 120_000;
/// Bytes queued for one socket; beyond, it is marked lagged and catches up from the log.
pub const SOCKET_QUEUE_BYTES_MAX: usize = 256 * 1024;
/// A socket that takes nothing for this long is cut off; the close frame could not be delivered either.
pub const SOCKET_STALLED_MS: i64 = 15_000;
/// Sockets of one user at one gateway; the next is closed with 4505.
pub const USER_SOCKETS_MAX: usize = 32;
/// Sockets of one device: two, for a planned move. A third replaces the oldest (4004).
pub const DEVICE_SOCKETS_MAX: usize = 2;
/// Commands of one socket that wait for an answer; beyond: `rate_limited`.
pub const SOCKET_COMMANDS_IN_FLIGHT_MAX: usize = 256;

/// How far a cid's time may lie in the future. Beyond: `clock_skew`.
pub const CID_AHEAD_MS_MAX: i64 = 30_000;
/// A cid is fresh if its time passes the broker's time of W by this much: the 30 s above, an owner's
/// clock error of 10 s, and 5 s between brokers (design section 4).
pub const CID_FRESH_MARGIN_MS: i64 = 45_000;
/// An owner whose clock is further off the broker's than this steps down.
pub const OWNER_CLOCK_SKEW_MS_MAX: i64 = 10_000;
/// Age of the oldest record whose cids an owner keeps, by the broker's clock.
pub const DEDUP_WINDOW_MS: i64 = 15 * 60 * 1000;
/// Events of one partition whose cids an owner keeps.
pub const DEDUP_PARTITION_EVENTS_MAX: usize = 1_000_000;
/// Events of one process whose cids, states and tails it keeps; above 80% cold rooms get `unavailable`, at it every write.
pub const PROCESS_EVENTS_MAX: usize = 4_000_000;

/// Events of one envelope: bounds the work that one unknown outcome repeats.
pub const ENVELOPE_EVENTS_MAX: usize = 512;
/// Bytes of one envelope: below nats-server's 1 MiB payload with its headers.
pub const ENVELOPE_BYTES_MAX: usize = 768 * 1024;
/// Commands that wait in one partition; beyond: `unavailable` with `retry_after_ms`.
pub const PARTITION_PENDING_MAX: usize = 8_192;
/// From the making of a batch at a gateway to its deadline: behind it no owner begins it.
pub const REQUEST_WITHIN_MS: i64 = 2_800;
/// How long an owner remembers a final refusal, so that no older copy of the command is stored after
/// all: the time above, and 7 s that the clocks of gateways and brokers may be off.
pub const REFUSAL_MEMORY_MS: i64 = 10_000;
/// Final refusals that a partition remembers; beyond: `unavailable` instead of another one.
pub const PARTITION_REFUSALS_MAX: usize = 8_192;
/// Read marks of one user and room are coalesced by clients to one per this time.
pub const READ_MARK_INTERVAL_MS: i64 = 5_000;

/// Partitions of the log. Fixed for a log's life: `p = FNV-1a-32(room) % 64`.
pub const PARTITIONS: u8 = 64;
/// How long an owner's lease lives without renewal.
pub const LEASE_TTL_MS: u64 = 3_000;
/// Between two renewals.
pub const LEASE_RENEW_MS: u64 = 1_000;
/// From the last batch to the owner's beacon, so that a lost tail is found soon.
pub const BEACON_AFTER_MS: u64 = 200;
/// Between two beacons of an idle owner.
pub const BEACON_INTERVAL_MS: u64 = 2_000;

/// The limits that `hello` tells a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLimits {
    /// Scalar values of a text.
    pub text_chars: usize,
    /// Bytes of a text.
    pub text_bytes: usize,
    /// Bytes of `meta`.
    pub meta_bytes: usize,
    /// Bytes of a socket message.
    pub frame_bytes: usize,
    /// Commands in a socket message.
    pub frame_commands: usize,
    /// Scalar values of a room's name.
    pub room_name_chars: usize,
    /// Scalar values of a topic.
    pub topic_chars: usize,
    /// Mentions of a message.
    pub mentions: usize,
    /// Entries of a page.
    pub page: u32,
    /// Rooms of a user.
    pub user_rooms: usize,
    /// Commands per second of a user.
    pub user_rate: u32,
    /// Commands of a user at once.
    pub user_burst: u32,
    /// Writes per second of a user in a room.
    pub room_rate: u32,
    /// Writes of a user in a room at once.
    pub room_burst: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            text_chars: TEXT_CHARS_MAX,
            text_bytes: TEXT_BYTES_MAX,
            meta_bytes: META_BYTES_MAX,
            frame_bytes: FRAME_BYTES_MAX,
            frame_commands: FRAME_COMMANDS_MAX,
            room_name_chars: ROOM_NAME_CHARS_MAX,
            topic_chars: TOPIC_CHARS_MAX,
            mentions: MENTIONS_MAX,
            page: PAGE_MAX,
            user_rooms: USER_ROOMS_MAX,
            user_rate: USER_RATE_PER_SECOND,
            user_burst: USER_RATE_BURST,
            room_rate: ROOM_RATE_PER_SECOND,
            room_burst: ROOM_RATE_BURST,
        }
    }
}
