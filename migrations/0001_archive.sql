-- The archive of the log, and what history keeps of it to answer reads.
--
-- Conventions: ids are text in the grammar [A-Za-z0-9_-]{1,64}, compared byte by byte (collate "C");
-- moments are bigint, milliseconds since 1970, as on the wire; positions are bigint.
-- Texts by people go through history/src/store/text.rs, because text cannot hold U+0000.
-- There are no foreign keys: every row comes from one place, the projector, in one transaction with
-- its cursor, and checking each of 20,000 rows a second would prove nothing new.

create table cursors (
    name        text not null,
    log_id      text not null,
    applied     bigint not null,
    broker_time bigint not null,
    constraint cursors_key primary key (name),
    constraint cursors_applied_range check (applied >= 0)
) with (fillfactor = 20);
comment on table cursors is 'How far the log has been applied; moved in the same transaction as the rows';
comment on column cursors.name is 'Which reader: log is the one that fills every other table';
comment on column cursors.log_id is 'Which life of the log (metadata of the stream) the position is in';
comment on column cursors.applied is 'Stream sequence of the last applied record; the next is this + 1';
comment on column cursors.broker_time is 'When the broker stored that record, ms since 1970';

create table records (
    stream_seq  bigint not null,
    partition   smallint,
    broker_time bigint not null,
    kind        text collate "C" not null,
    envelope    text collate "C",
    rooms       text collate "C" not null default '',
    payload     bytea,
    constraint records_key primary key (stream_seq),
    constraint records_kind_known check (kind in ('events', 'epoch', 'bad'))
);
comment on table records is 'One row per record of the log, so that a gap in the log can be answered from here';
comment on column records.partition is 'Partition of the subject; null if the subject was none of ours';
comment on column records.kind is 'events, epoch (a takeover, no events), bad (not or not wholly readable)';
comment on column records.envelope is 'The id of the envelope: instance.epoch.counter; null if unreadable';
comment on column records.rooms is 'The rooms inside, separated by blanks, for finding the events';
comment on column records.payload is 'The whole payload of a bad record, else null';

create table events (
    room       text collate "C" not null,
    seq        bigint not null,
    stream_seq bigint not null,
    idx        integer not null,
    kind       text collate "C" not null,
    author     text collate "C",
    cid        uuid,
    first      boolean not null,
    hash       bytea not null,
    poison     text,
    line       text not null,
    constraint events_key primary key (room, seq)
) with (autovacuum_vacuum_insert_scale_factor = 0.1);
comment on table events is 'The archive: every event of every room, as it lay in the log';
comment on column events.seq is 'Position in the room; for an unreadable event the position it takes';
comment on column events.stream_seq is 'The record of the log that it came in';
comment on column events.idx is 'Its place in that record, from 0';
comment on column events.kind is 'The word in ev, but reply for a msg in a thread, poison for what was not applied';
comment on column events.first is 'Whether it is the first event of its command; the cid is unique among those';
comment on column events.hash is 'SHA-256 of the event (protocol::chain), which the next one names in prev';
comment on column events.poison is 'Why it was not applied to the other tables; null for almost all';
comment on column events.line is 'The line of the envelope, to the byte';

-- A command is stored once. The cid leads, because cids rise with time and so does the index.
create unique index events_command_key on events (cid, room, author) where first;
-- What came after a position of the log, per room; also the events of one record.
create index events_position on events (room, stream_seq, idx);
-- Timeline entries that are no messages.
create index events_notices on events (room, seq) where kind in ('room', 'member', 'role');
-- Events that change what earlier messages show.
create index events_touching on events (room, seq) where kind in ('edit', 'del', 'reply');

create table rooms (
    room        text collate "C" not null,
    kind        text collate "C",
    creator     text collate "C",
    name        text not null,
    topic       text not null,
    slow_s      bigint not null,
    frozen      boolean not null,
    history     text collate "C" not null,
    members     bigint not null,
    n           bigint not null,
    room_seq    bigint not null,
    head        bigint not null,
    head_hash   bytea not null,
    head_ts     bigint not null,
    head_stream bigint not null,
    poison      text,
    poison_seq  bigint,
    constraint rooms_key primary key (room),
    constraint rooms_kind_known check (kind in ('public', 'private', 'direct', 'self')),
    constraint rooms_history_known check (history in ('all', 'joined'))
) with (fillfactor = 50);
comment on table rooms is 'The state of each room at its head';
comment on column rooms.kind is 'null if the first event of the room could not be read';
comment on column rooms.creator is 'Author of the first event; of a self room its owner';
comment on column rooms.members is 'Open memberships, counted by the projector from the loaded ones';
comment on column rooms.n is 'Ordinal of the last message of the main timeline';
comment on column rooms.room_seq is 'Seq of the last room event, for base of update';
comment on column rooms.head_stream is 'Record of the last event: the order of latest activity';
comment on column rooms.poison is 'Set by the first event that could not be applied: reads answer unavailable until repaired';
comment on column rooms.poison_seq is 'The seq of that event';
create index rooms_public on rooms (name, room) where kind = 'public';

create table memberships (
    room        text collate "C" not null,
    user_id     text collate "C" not null,
    from_seq    bigint not null,
    from_stream bigint not null,
    to_seq      bigint,
    to_stream   bigint,
    role        text collate "C" not null,
    join_n      bigint not null,
    constraint memberships_key primary key (room, user_id, from_seq),
    constraint memberships_role_known check (role in ('guest', 'member', 'mod', 'owner')),
    constraint memberships_end_whole check ((to_seq is null) = (to_stream is null))
) with (fillfactor = 80);
comment on table memberships is 'Who was in which room from when to when: [from_seq, to_seq); the event at to_seq is still delivered';
comment on column memberships.from_stream is 'The record of the event that began it, for judging membership at a position of the log';
comment on column memberships.to_stream is 'The record of the event that ended it';
comment on column memberships.join_n is 'The room''s last ordinal when it began: messages up to it are never unread';
create unique index memberships_open on memberships (room, user_id) where to_seq is null;
create index memberships_of_user on memberships (user_id) where to_seq is null;
create index memberships_ended on memberships (user_id, to_stream) where to_seq is not null;

create table bans (
    room       text collate "C" not null,
    user_id    text collate "C" not null,
    since      bigint not null,
    until_time bigint,
    author     text collate "C" not null,
    ts         bigint not null,
    why        text,
    constraint bans_key primary key (room, user_id)
);
comment on table bans is 'Who is kept out; an expired ban stays until it is lifted, and holds no more';
comment on column bans.since is 'Seq of the event that made it';
comment on column bans.until_time is 'When it ends by itself; null for never';

create table mutes (
    room       text collate "C" not null,
    user_id    text collate "C" not null,
    since      bigint not null,
    until_time bigint,
    constraint mutes_key primary key (room, user_id)
);
comment on table mutes is 'Who may not write';
comment on column mutes.since is 'Seq of the event that made it';
comment on column mutes.until_time is 'When it ends by itself; null for never';

create table messages (
    room        text collate "C" not null,
    seq         bigint not null,
    author      text collate "C" not null,
    ts          bigint not null,
    cid         uuid not null,
    n           bigint,
    thread      bigint,
    tn          bigint,
    reply_to    bigint,
    meta        text,
    text        text not null,
    mentions    text[] collate "C",
    rev         bigint not null,
    shown_rev   bigint not null,
    eff         bigint not null,
    edited      bigint,
    deleted     boolean not null,
    deleted_seq bigint,
    replies     bigint not null,
    replies_deleted bigint not null,
    -- Counting unread and paging never touch the heap for what they skip.
    constraint messages_key primary key (room, seq) include (author, n, deleted)
) with (fillfactor = 90, autovacuum_vacuum_insert_scale_factor = 0.1);
comment on table messages is 'Every message as it is shown now';
comment on column messages.n is 'Ordinal in the main timeline; null in a thread';
comment on column messages.thread is 'Seq of the root of its thread; null in the main timeline';
comment on column messages.tn is 'Ordinal in its thread';
comment on column messages.meta is 'The client''s marks as a JSON object';
comment on column messages.text is 'The shown revision; kept when removed, until retention takes it';
comment on column messages.mentions is 'User ids, @room and @here of the shown revision; null for none';
comment on column messages.rev is 'The greatest revision stored; as sent it is 1';
comment on column messages.shown_rev is 'The revision in text and mentions';
comment on column messages.eff is 'Effective time of the shown revision, which later edits are compared with';
comment on column messages.edited is 'When the shown revision came; null for the first';
comment on column messages.deleted_seq is 'Seq of the del event that removed it first';
comment on column messages.replies is 'Greatest tn of the thread it is the root of';
comment on column messages.replies_deleted is 'How many of those replies were removed';
create index messages_thread on messages (room, thread, seq) include (deleted) where thread is not null;
create index messages_deleted on messages (room, deleted_seq, seq) where deleted_seq is not null;

create table mentions (
    room   text collate "C" not null,
    target text collate "C" not null,
    seq    bigint not null,
    author text collate "C" not null,
    constraint mentions_key primary key (room, target, seq) include (author)
);
comment on table mentions is 'Live main-timeline messages by whom their shown text calls; @here is not counted and not here';
comment on column mentions.target is 'A user id, or @room';
create index mentions_message on mentions (room, seq);

create table revisions (
    room     text collate "C" not null,
    on_seq   bigint not null,
    seq      bigint not null,
    rev      bigint not null,
    author   text collate "C" not null,
    ts       bigint not null,
    eff      bigint not null,
    won      boolean not null,
    mentions text[] collate "C",
    text     text not null,
    constraint revisions_key primary key (room, on_seq, seq)
);
comment on table revisions is 'Every edit, those that came too late included; the text as sent is in events';
comment on column revisions.on_seq is 'The message';
comment on column revisions.seq is 'The edit event';
comment on column revisions.won is 'Whether it was shown when it came';

create table marks (
    user_id text collate "C" not null,
    room    text collate "C" not null,
    epoch   bigint not null,
    seq     bigint not null,
    constraint marks_key primary key (user_id, room)
) with (fillfactor = 70);
comment on table marks is 'How far each user has read each room: of two marks the greater (epoch, seq) holds';
comment on column marks.epoch is 'Raised by marking unread';

create table users (
    user_id  text collate "C" not null,
    own_room text collate "C" not null,
    known_ts bigint not null,
    constraint users_key primary key (user_id)
);
comment on table users is 'Users who have said hello: those with a self room';
comment on column users.known_ts is 'When the self room was made';

create table checkpoints (
    room       text collate "C" not null,
    seq        bigint not null,
    hash       bytea not null,
    stream_seq bigint not null,
    ts         bigint not null,
    constraint checkpoints_key primary key (room, seq)
);
comment on table checkpoints is 'Heads written each hour and also to the process log: an anchor outside the rows they anchor';
comment on column checkpoints.ts is 'When it was written, ms since 1970';
