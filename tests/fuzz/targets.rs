//! What must hold for any bytes at all, one function for each parser. They are called with the committed
//! corpora, with mutations of those, and by libFuzzer (`fuzz/`); each panics if something does not hold.

use protocol::command::{Send, Write, WriteCommand};
use protocol::cursor::Cursor;
use protocol::envelope::{Envelope, EnvelopeBuilder, EnvelopeId, EnvelopeKind};
use protocol::event::LogEvent;
use protocol::frame::{ClientFrame, ClientOp, ServerFrame, parse_line};
use protocol::request::{CommandReply, CommandRequest};
use protocol::{ErrorCode, LogId, RoomId, StreamSeq, Subject, UserId, limits};

/// A parser and what it is called.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("frame", frame),
    ("command", command),
    ("envelope", envelope),
    ("subject", subject),
    ("cursor", cursor),
];

/// What a refusal of a client's bytes may repeat of them.
const MESSAGE_BYTES_MAX: usize = 4 * (limits::REFUSAL_CHARS_MAX + 1);

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Lines of a socket, in both directions.
pub fn frame(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for line in text.split('\n') {
        match parse_line(line) {
            Ok(frame) => client_frame(&frame),
            Err(bad) => {
                let code = bad.refusal.code;
                assert!(
                    matches!(code, ErrorCode::BadRequest | ErrorCode::Unsupported),
                    "{code:?}"
                );
                let said = bad.refusal.msg.len();
                assert!(said <= MESSAGE_BYTES_MAX, "a refusal of {said} bytes");
                assert!(bad.id.is_none_or(|id| id > 0));
            }
        }
        if let Ok(frame) = ServerFrame::parse(line) {
            server_frame(&frame);
        }
    }
}

fn client_frame(frame: &ClientFrame) {
    let line = frame.to_line();
    assert!(!line.contains('\n'), "a line is one line: {line}");
    assert_eq!(parse_line(&line).as_ref(), Ok(frame), "{line}");
    if let ClientOp::Write { room, command } = &frame.op {
        write(command, room.as_ref());
    }
}

fn server_frame(frame: &ServerFrame) {
    let line = match frame {
        ServerFrame::Durable(event) => serde_json::to_string(event),
        ServerFrame::Event(event) => serde_json::to_string(event),
        // These are written by functions of their own.
        ServerFrame::Reply { .. } | ServerFrame::Unknown => return,
    };
    let line = line.expect("what was read can be written");
    let again = ServerFrame::parse(&line);
    assert_eq!(again.ok().as_ref(), Some(frame), "{line}");
}

/// A batch as it comes to an owner, and an owner's answer.
pub fn command(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<CommandRequest>(data) {
        let body = serde_json::to_vec(&request).expect("what was read can be written");
        let again = serde_json::from_slice::<CommandRequest>(&body);
        assert_eq!(again.ok().as_ref(), Some(&request));
        let room = RoomId::parse("r1").expect("an id");
        for command in &request.commands {
            write(command, Some(&room));
            write(command, None);
        }
    }
    if let Ok(reply) = serde_json::from_slice::<CommandReply>(data) {
        let body = serde_json::to_vec(&reply).expect("what was read can be written");
        let again = serde_json::from_slice::<CommandReply>(&body);
        assert_eq!(again.ok().as_ref(), Some(&reply));
    }
}

/// What passes the check of a command's own bytes keeps every limit.
fn write(command: &WriteCommand, named: Option<&RoomId>) {
    let author = UserId::parse("alice").expect("an id");
    if let Ok(room) = command.room(&author, named) {
        assert!(protocol::id::check(room.as_str()).is_ok());
    }
    if command.check().is_err() {
        return;
    }
    let short = |text: &Option<String>, max: usize| {
        let chars = text.as_ref().map_or(0, |text| text.chars().count());
        assert!(chars <= max, "{chars} characters");
    };
    match &command.write {
        Write::Send(Send {
            text,
            mentions,
            meta,
            ..
        }) => {
            message(text);
            assert!(mentions.len() <= limits::MENTIONS_MAX);
            let meta = meta
                .as_ref()
                .map(|meta| serde_json::to_string(meta).expect("JSON"));
            let bytes = meta.map_or(0, |meta| meta.len());
            assert!(bytes <= limits::META_BYTES_MAX, "{bytes} bytes of meta");
        }
        Write::Edit { text, mentions, .. } => {
            message(text);
            assert!(mentions.len() <= limits::MENTIONS_MAX);
        }
        Write::Create(create) => {
            short(&create.name, limits::ROOM_NAME_CHARS_MAX);
            short(&create.topic, limits::TOPIC_CHARS_MAX);
            assert!(create.members.len() <= limits::CREATE_MEMBERS_MAX);
        }
        Write::Update { changes, .. } => {
            short(&changes.name, limits::ROOM_NAME_CHARS_MAX);
            short(&changes.topic, limits::TOPIC_CHARS_MAX);
        }
        Write::Del { on, why, .. } => {
            short(why, limits::WHY_CHARS_MAX);
            let ranges = on.as_ref().map(|on| on.ranges()).unwrap_or_default();
            assert!(ranges.len() <= limits::DELETE_RANGES_MAX);
            assert!(
                ranges
                    .iter()
                    .all(|range| range.0 <= range.1 && range.0.0 > 0)
            );
        }
        Write::Kick { why, .. } | Write::Ban { why, .. } => short(why, limits::WHY_CHARS_MAX),
        Write::Join {}
        | Write::Leave {}
        | Write::Invite { .. }
        | Write::Unban { .. }
        | Write::Role { .. }
        | Write::Read(_) => {}
    }
}

fn message(text: &str) {
    assert!(!text.trim().is_empty());
    assert!(text.len() <= limits::TEXT_BYTES_MAX && text.chars().count() <= limits::TEXT_CHARS_MAX);
}

/// A record of the log, its lines, and each line as an event.
pub fn envelope(data: &[u8]) {
    let Ok(envelope) = Envelope::parse(data) else {
        return;
    };
    for room in &envelope.rooms {
        assert!(protocol::id::check(room).is_ok(), "{room}");
    }
    let lines: Vec<(&str, &str)> = envelope.lines().filter_map(Result::ok).collect();
    let mut builder = EnvelopeBuilder::default();
    for (room, line) in &lines {
        builder.push(&RoomId::parse(room).expect("checked above"), line);
        if let Ok(event) = LogEvent::parse(line) {
            log_event(&event);
        }
    }
    assert_eq!(builder.event_count(), lines.len());
    rebuilt(&envelope.id, &builder, &lines);
}

fn rebuilt(id: &EnvelopeId, builder: &EnvelopeBuilder, lines: &[(&str, &str)]) {
    let payload = builder.finish(id);
    let again = Envelope::parse(payload.as_bytes()).expect("what was built can be read");
    assert_eq!(&again.id, id);
    let kind = if lines.is_empty() {
        EnvelopeKind::Epoch
    } else {
        EnvelopeKind::Events
    };
    assert_eq!(again.kind, kind);
    let read: Vec<(&str, &str)> = again.lines().map(|line| line.expect("a line")).collect();
    assert_eq!(read, lines);
}

fn log_event(event: &LogEvent) {
    let line = serde_json::to_string(event).expect("what was read can be written");
    assert!(!line.contains('\n'), "a line is one line: {line}");
    let again = LogEvent::parse(&line);
    assert_eq!(again.ok().as_ref(), Some(event), "{line}");
    protocol::chain::hash_line(&line).expect("an event has a hash");
}

/// A subject is read only as it is written, and no token of it means anything to the broker.
pub fn subject(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(subject) = Subject::parse(text) else {
        return;
    };
    assert_eq!(subject.to_string(), text);
    assert_eq!(Subject::parse(&subject.to_string()), Ok(subject.clone()));
    if let Subject::Command {
        actor, room, verb, ..
    } = &subject
    {
        for token in [actor.as_str(), room.as_str(), verb] {
            assert!(protocol::id::check(token).is_ok(), "{token}");
        }
    }
    assert!(
        text.is_ascii() && !text.contains([' ', '\0', '\r', '\n', '$']),
        "{text:?}"
    );
}

/// A cursor and an id: what was read is written so that it is read again.
pub fn cursor(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(cursor) = Cursor::parse(text) {
        assert_eq!(Cursor::parse(&cursor.to_string()), Ok(cursor.clone()));
        let Cursor {
            log,
            position: StreamSeq(position),
        } = &cursor;
        assert_eq!(LogId::parse(log.as_str()).as_ref(), Ok(log));
        let digits = text.rsplit('.').next().expect("it has a position");
        assert_eq!(digits.parse(), Ok(*position), "{text}");
    }
    if let Ok(id) = UserId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert!(text.len() <= limits::ID_BYTES_MAX && text.is_ascii());
    }
    let made = UserId::from_claims("issuer", text, true);
    assert!(protocol::id::check(made.as_str()).is_ok());
}
