//! Every cap of the server, and how they relate.
//!
//! Constants bound what no operator needs to change; [`Limits`] holds what configuration may.

use std::time::Duration;

/// Longest name of a room, in bytes.
pub const ROOM_NAME_BYTES_MAX: usize = 128;
/// Longest name of a user, in bytes.
pub const USER_NAME_BYTES_MAX: usize = 64;
/// Longest `key` or `tag` of a message, and longest of a `join`'s tags, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// Most tags on one `join`.
pub const TAGS_MAX: usize = 16;
/// Deepest nesting of a JSON command.
pub const JSON_DEPTH_MAX: usize = 64;
/// Most entries in one page of history, presence or rooms.
pub const PAGE_MAX: usize = 1_000;
/// Rooms that one connection may be in.
pub const ROOMS_PER_CONNECTION_MAX: usize = 128;
/// Commands of one connection that wait for their reply; past it the connection is not read.
pub const UNANSWERED_MAX: usize = 64;
/// Longest HTTP request head, in bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest payload of a WebSocket control frame (RFC 6455, section 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// Messages in one chunk of a replay.
pub const REPLAY_CHUNK_MESSAGES: usize = 64;
/// Bytes after which a chunk of a replay ends.
pub const REPLAY_CHUNK_BYTES: usize = 64 * 1024;
/// Rooms above this size get presence as a count only, and less often.
pub const PRESENCE_NAMES_MEMBERS_MAX: usize = 1_000;
/// Users named in one push of presence; when more came and went since the last one, it tells the count only.
pub const PRESENCE_CHANGES_MAX: usize = 1_000;
/// Shortest time between two pushes of presence to a room, in milliseconds.
pub const PRESENCE_PUSH_INTERVAL_MS: u64 = 1_000;
/// Bytes after which a page of history ends.
pub const HISTORY_PAGE_BYTES: usize = 512 * 1024;
/// Memory for history of all rooms of one shard, in bytes. Past it idle rooms are forgotten, oldest first, and then
/// a room that gets a message pays with its own past.
pub const HISTORY_BYTES_PER_SHARD_MAX: usize = 256 * 1024 * 1024;
/// How long a room that nobody is in keeps its history, in milliseconds. A room that is forgotten begins again with
/// another epoch.
pub const ROOM_IDLE_KEEP_MS: u64 = 10 * 60 * 1_000;
/// Chat rooms that one shard owns; past it a join that would make another is refused as `overloaded`.
pub const ROOMS_PER_SHARD_MAX: usize = 262_144;
/// Rooms that nobody is in, per shard; past it the one that has been idle longest is forgotten.
pub const ROOMS_IDLE_MAX: usize = 10_000;
/// Lists of rooms that one shard gathers at the same time.
pub const ROOM_GATHERS_MAX: usize = 256;
/// Connections that are told to go in one step of a drain.
pub const DRAIN_BATCH: usize = 1_000;
/// Connections whose rights are looked at again in one step, when permissions change.
pub const REVIEW_BATCH: usize = 256;
/// The same while another shard does not keep up.
pub const REVIEW_BATCH_BEHIND: usize = 8;
/// Deadlines served in one turn.
pub const DEADLINES_PER_TICK_MAX: usize = 4_096;
/// Smallest outbox bound, in bytes.
pub const OUTBOX_BYTES_MIN: usize = 1024 * 1024;
/// Cap on a socket's send buffer: what the kernel holds hides slowness.
pub const SOCKET_SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Envelopes to another shard that may wait before their source is held up.
pub const EXCHANGE_BACKLOG_MAX: usize = 1_024;
/// Batches in flight from one shard to another, for each of the two queues.
pub const MAILBOX_BATCHES_MAX: usize = 64;
/// Shards of one process.
pub const SHARDS_MAX: usize = 1_024;
/// Descriptors of each shard's table kept for everything but connections.
pub const DESCRIPTORS_RESERVED: u64 = 256;
/// Largest value allowed for `max_message_bytes`.
pub const MESSAGE_BYTES_CEILING: usize = 64 * 1024 * 1024;

/// Positions that are passed over for each unclean stop since a log was written: clients may have seen them.
pub const SEQ_JUMP: u64 = UNSYNCED_PER_ROOM_MAX + 1;
/// Messages of one room that may wait for the disk; past it the room takes no more until some are there.
pub const UNSYNCED_PER_ROOM_MAX: u64 = 4_096;
/// Messages of all rooms of one shard that may wait for the disk.
pub const UNSYNCED_PER_SHARD_MAX: usize = 65_536;
/// Bytes of messages of all rooms of one shard that may wait for the disk.
pub const UNSYNCED_BYTES_PER_SHARD_MAX: usize = 64 * 1024 * 1024;
/// How long the key of a message keeps others with the same key out, in milliseconds.
pub const KEY_WINDOW_MS: u64 = 5 * 60 * 1_000;
/// Keys that one room remembers; past it the oldest are forgotten before their time.
pub const KEYS_PER_ROOM_MAX: usize = 1_000_000;
/// Keys that the rooms of one shard remember together; past it a room that uses a key forgets its oldest.
pub const KEYS_PER_SHARD_MAX: usize = 2_000_000;
/// Messages that may be sent to a consumer beyond what it has acknowledged, unless configured otherwise.
pub const ACK_WINDOW: usize = 256;
/// Bans and mutes of one room.
pub const SANCTIONS_PER_ROOM_MAX: usize = 10_000;
/// Bans and mutes of all rooms of one shard.
pub const SANCTIONS_PER_SHARD_MAX: usize = 200_000;
/// Bans, mutes and revocations of the whole server.
pub const SANCTIONS_EVERYWHERE_MAX: usize = 1_000_000;
/// Commands in a row that may be refused for their rate before the connection is closed.
pub const RATE_REFUSALS_MAX: u16 = 1_000;
/// `connect`s of one connection that may be refused before it is closed.
pub const CONNECT_REFUSALS_MAX: u8 = 3;
/// Rooms that one shard looks at in one step of a list.
pub const ROOMS_LISTED_PER_STEP: usize = 4_096;
/// Rooms that one shard looks at in a millisecond, for all lists together, before their steps become small.
pub const ROOMS_LISTED_PER_MS: usize = 16_384;
/// Rooms of such a small step.
pub const ROOMS_LISTED_WHEN_BUSY: usize = 16;
/// Consumers of one room that are away and of whose attempts is known; of others they count from one again.
pub const AWAY_PER_ROOM_MAX: usize = 1_024;
/// Messages of one room for whose receipts more is awaited; past it the oldest get none.
pub const RECEIPTS_PER_ROOM_MAX: usize = 256;
/// Shortest time between two receipts for one message, in milliseconds.
pub const RECEIPT_INTERVAL_MS: u64 = 1_000;
/// Sessions without a connection that one shard keeps; past it the oldest end before their time.
pub const PARKED_SESSIONS_MAX: usize = 65_536;
/// Dead letters that are sent again to one user at a time.
pub const REPLAYED_LETTERS_MAX: usize = ACK_WINDOW;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Most `roles` of a token.
pub const TOKEN_ROLES_MAX: usize = 32;
/// Most patterns in the `rooms` of a token.
pub const TOKEN_ROOMS_MAX: usize = 128;
/// Keys that are tried on one token.
pub const TOKEN_KEYS_TRIED_MAX: usize = 8;
/// Keys in one file, or in what a JWKS URL gives.
pub const KEYS_PER_SET_MAX: usize = 256;
/// Bytes of a file of keys, or of what a JWKS URL gives.
pub const KEY_SET_BYTES_MAX: usize = 1024 * 1024;
/// Verified tokens that one shard remembers.
pub const TOKENS_CACHED_MAX: usize = 65_536;
/// Their length together, in bytes; what is known of them takes about twice as much.
pub const TOKENS_CACHED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Refused tokens that one shard remembers.
pub const TOKENS_REFUSED_MAX: usize = 8_192;
/// How long a refused token is remembered, in milliseconds.
pub const TOKEN_REFUSED_KEEP_MS: u64 = 10 * 1_000;
/// Time per turn of a shard in which signatures of tokens are checked, in microseconds. At least one is.
pub const TOKEN_BUDGET_US: u64 = 2_000;
/// Tokens that may wait for keys at the same time; past it they are refused.
pub const KEY_WAITERS_MAX: usize = 4_096;

const _: () = assert!(REPLAY_CHUNK_BYTES < OUTBOX_BYTES_MIN, "a chunk must fit an outbox");
const _: () = assert!(SHARDS_MAX <= u16::MAX as usize);
const _: () = assert!(REPLAY_CHUNK_MESSAGES <= PAGE_MAX);
const _: () = assert!(ROOMS_IDLE_MAX < ROOMS_PER_SHARD_MAX);
const _: () = assert!(HISTORY_PAGE_BYTES < OUTBOX_BYTES_MIN, "a page must fit an outbox");

/// Caps and times that configuration may change. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message: the payload of a WebSocket message, or a TCP line without its end.
    pub max_message_bytes: usize,
    /// Silence after which the server pings.
    pub heartbeat_interval: Duration,
    /// Whether a missed heartbeat halves the interval.
    pub heartbeat_adaptive: bool,
    /// Time for the HTTP head and, on chat connections, for `connect`.
    pub handshake_timeout: Duration,
    /// How long a user stays present after the last of its connections is gone.
    pub presence_grace: Duration,
    /// Longest time an outbox may hold bytes without any progress.
    pub outbox_stall: Duration,
    /// Time from the close frame to the reset of a slow connection.
    pub close_timeout: Duration,
    /// What happens to a connection that reads too slowly.
    pub slow_consumer: SlowConsumerPolicy,
    /// How long a session without a connection can be resumed.
    pub session_ttl: Duration,
    /// Time until a message that was not acknowledged is sent again; each further attempt waits twice as long.
    pub ack_timeout: Duration,
    /// Longest time between two attempts.
    pub ack_timeout_max: Duration,
    /// How often a message is sent before it becomes a dead letter. At least 1.
    pub ack_attempts_max: u32,
    /// Messages that may be sent to a consumer beyond what it has acknowledged. At least 1.
    pub unacknowledged_max: usize,
    /// Messages, signals and frames of the relay that one connection may send in a second; as many may come at once.
    /// `None`: any number. At least 1.
    pub messages_per_second: Option<u32>,
    /// Bytes of content of these. A message that is larger than this passes once nothing else has been said for so long
    /// that it would have been used up.
    pub bytes_per_second: Option<u32>,
    /// Rooms that one connection may enter in a second.
    pub joins_per_second: Option<u32>,
    /// Users in one room; in a room of the relay, connections.
    pub room_members_max: Option<u32>,
}

/// What happens when an outbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowConsumerPolicy {
    /// Close with 4008; the client reconnects and recovers by `since`.
    #[default]
    Disconnect,
    /// Skip messages and say which in a `gap`.
    Skip,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 * 1024,
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_adaptive: false,
            handshake_timeout: Duration::from_secs(10),
            presence_grace: Duration::from_secs(5),
            outbox_stall: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            slow_consumer: SlowConsumerPolicy::Disconnect,
            session_ttl: Duration::from_secs(2 * 60),
            ack_timeout: Duration::from_secs(30),
            ack_timeout_max: Duration::from_secs(5 * 60),
            ack_attempts_max: 10,
            unacknowledged_max: ACK_WINDOW,
            messages_per_second: None,
            bytes_per_second: None,
            joins_per_second: None,
            room_members_max: None,
        }
    }
}

impl Limits {
    /// Bound of one connection's outbox.
    #[must_use]
    pub fn outbox_bytes_max(&self) -> usize {
        OUTBOX_BYTES_MIN.max(2 * self.max_message_bytes)
    }
}
