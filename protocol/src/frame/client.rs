//! What a client sends: one command per line.

use crate::command::{WRITE_OPS, WriteCommand};
use crate::query::{READ_OPS, ReadCommand};
use crate::{DeviceId, ErrorCode, Refusal, RoomId, Seq};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How much `hello` shall bring along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Rooms that get a timeline.
    #[serde(default)]
    pub rooms: u32,
    /// Entries of each.
    #[serde(default)]
    pub tl: u32,
}

/// The first command of a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// A JSON Web Token.
    pub token: String,
    /// Name and version of the client, for logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The client's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<DeviceId>,
    /// How much to bring along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub win: Option<Window>,
    /// The last cursor; one that is unknown is no error, so it is parsed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cur: Option<String>,
    /// What the client holds, for the case that the cursor is unknown or too old.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub have: BTreeMap<RoomId, Seq>,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOp {
    /// Who I am and where I was.
    Hello(Box<Hello>),
    /// A fresh token.
    Token {
        /// The new JSON Web Token.
        token: String,
    },
    /// Answer to a ping.
    Pong,
    /// A command that writes.
    Write {
        /// The room it names, if any.
        room: Option<RoomId>,
        /// The command.
        command: Box<WriteCommand>,
    },
    /// A command that reads.
    Read(ReadCommand),
}

/// One line of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFrame {
    /// To be repeated in the reply; without it no reply is wanted.
    pub id: Option<u64>,
    /// What is asked.
    pub op: ClientOp,
}

/// A line that cannot be taken: answered with its `id` if that was readable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The line's id.
    pub id: Option<u64>,
    /// Why.
    pub refusal: Refusal,
}

/// Parses one line.
///
/// # Errors
/// [`BadLine`] with `bad_request`, or `unsupported` for an operation that is not known here.
pub fn parse_line(line: &str) -> Result<ClientFrame, BadLine> {
    let bad = |id, msg: String| BadLine {
        id,
        refusal: Refusal::new(ErrorCode::BadRequest, msg),
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return Err(bad(None, "a line is one JSON object".to_owned()));
    };
    let id = match fields.remove("id") {
        None | Some(Value::Null) => None,
        Some(value) => match value.as_u64().filter(|id| *id > 0) {
            Some(id) => Some(id),
            None => return Err(bad(None, "`id` is a positive integer".to_owned())),
        },
    };
    let Some(op) = fields.get("op").and_then(Value::as_str).map(str::to_owned) else {
        return Err(bad(id, "`op` is a string".to_owned()));
    };
    let op = parse_op(&op, fields).map_err(|refusal| BadLine { id, refusal })?;
    Ok(ClientFrame { id, op })
}

fn parse_op(op: &str, mut fields: Map<String, Value>) -> Result<ClientOp, Refusal> {
    let bad = |error: serde_json::Error| Refusal::new(ErrorCode::BadRequest, error.to_string());
    if WRITE_OPS.contains(&op) {
        if !fields.contains_key("cid") {
            return Err(Refusal::new(ErrorCode::BadRequest, "`cid` is missing"));
        }
        let room = match fields.get("room").cloned() {
            None => None,
            Some(value) => Some(serde_json::from_value(value).map_err(bad)?),
        };
        let command = serde_json::from_value(Value::Object(fields)).map_err(bad)?;
        return Ok(ClientOp::Write {
            room,
            command: Box::new(command),
        });
    }
    if READ_OPS.contains(&op) {
        let read = serde_json::from_value(Value::Object(fields)).map_err(bad)?;
        return Ok(ClientOp::Read(read));
    }
    match op {
        "hello" => {
            let hello = serde_json::from_value(Value::Object(fields)).map_err(bad)?;
            Ok(ClientOp::Hello(Box::new(hello)))
        }
        "token" => match fields.remove("token") {
            Some(Value::String(token)) => Ok(ClientOp::Token { token }),
            _ => Err(Refusal::new(ErrorCode::BadRequest, "`token` is missing")),
        },
        "pong" => Ok(ClientOp::Pong),
        _ => Err(Refusal::plain(ErrorCode::Unsupported)),
    }
}

impl ClientFrame {
    /// Writes the line, for clients.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut fields = match &self.op {
            ClientOp::Hello(hello) => tagged("hello", &**hello),
            ClientOp::Token { token } => {
                let mut fields = Map::new();
                fields.insert("op".to_owned(), "token".into());
                fields.insert("token".to_owned(), token.as_str().into());
                fields
            }
            ClientOp::Pong => Map::from_iter([("op".to_owned(), Value::from("pong"))]),
            ClientOp::Write { room, command } => {
                let mut fields = object(&**command);
                if let Some(target) = fields.remove("target") {
                    fields.insert("room".to_owned(), target);
                }
                if let Some(room) = room {
                    fields.insert("room".to_owned(), room.as_str().into());
                }
                fields
            }
            ClientOp::Read(read) => object(read),
        };
        if let Some(id) = self.id {
            fields.insert("id".to_owned(), id.into());
        }
        Value::Object(fields).to_string()
    }
}

fn object<T: Serialize>(value: &T) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => unreachable!("commands are objects with string keys"),
    }
}

fn tagged<T: Serialize>(op: &str, value: &T) -> Map<String, Value> {
    let mut fields = object(value);
    fields.insert("op".to_owned(), op.into());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "019b0000-0000-7000-8000-000000000000";

    fn code(line: &str) -> (Option<u64>, ErrorCode) {
        let bad = parse_line(line).unwrap_err();
        (bad.id, bad.refusal.code)
    }

    #[test]
    fn a_bad_line_is_answered_with_its_id_if_that_is_readable() {
        use ErrorCode::{BadRequest, Unsupported};
        assert_eq!(code("x"), (None, BadRequest));
        assert_eq!(code("[1]"), (None, BadRequest));
        assert_eq!(code(r#"{"id":-1,"op":"pong"}"#), (None, BadRequest));
        assert_eq!(code(r#"{"id":7}"#), (Some(7), BadRequest));
        assert_eq!(code(r#"{"id":7,"op":5}"#), (Some(7), BadRequest));
        assert_eq!(code(r#"{"id":7,"op":"teleport"}"#), (Some(7), Unsupported));
        assert_eq!(code(r#"{"id":7,"op":"react"}"#), (Some(7), Unsupported));
        assert_eq!(
            code(r#"{"id":7,"op":"send","room":"r","text":"x"}"#),
            (Some(7), BadRequest)
        );
        let dotted = format!(r#"{{"id":7,"op":"send","room":"r.*","cid":"{CID}","text":"x"}}"#);
        assert_eq!(code(&dotted), (Some(7), BadRequest));
    }

    #[test]
    fn a_command_survives_its_line() {
        for line in [
            format!(r#"{{"cid":"{CID}","id":3,"op":"send","room":"r1","text":"hi"}}"#),
            format!(r#"{{"back":false,"cid":"{CID}","op":"read","room":"r1","seq":4}}"#),
            format!(r#"{{"cid":"{CID}","kind":"private","members":["bob"],"op":"create"}}"#),
            r#"{"id":1,"limit":20,"op":"history","room":"r1"}"#.to_owned(),
            r#"{"id":1,"op":"hello","token":"t"}"#.to_owned(),
            r#"{"op":"pong"}"#.to_owned(),
        ] {
            let frame = parse_line(&line).unwrap();
            assert_eq!(parse_line(&frame.to_line()).unwrap(), frame, "{line}");
        }
    }

    #[test]
    fn an_unknown_field_is_ignored() {
        let line = format!(r#"{{"op":"join","room":"r1","cid":"{CID}","colour":"red"}}"#);
        assert!(parse_line(&line).is_ok());
    }
}
