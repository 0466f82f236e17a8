//! Rooms over HTTP: the list, the events of one, and sending a message.
//!
//! The reads are those of the socket; history decides what the reader may see.

use super::{Caller, Problem};
use crate::discretion::discreetly;
use crate::questions::ANSWER_WITHIN;
use crate::session::outside::Answered;
use actix_web::http::header::{CACHE_CONTROL, ETAG, EntityTag, Header, IF_NONE_MATCH, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::command::{Send, Write, WriteCommand};
use protocol::event::Mention;
use protocol::limits::FRAME_BYTES_MAX;
use protocol::query::{Query, ReadCommand};
use protocol::request::{Accepted, CommandResult};
use protocol::{Cid, ErrorCode, RoomId, Seq};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// How long a body may take to arrive: who sends it drop by drop holds a connection meanwhile.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The parameters of the list of rooms.
#[derive(Debug, Deserialize)]
struct RoomsQuery {
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
}

/// The parameters of a page of events.
#[derive(Debug, Deserialize)]
struct EventsQuery {
    #[serde(default)]
    before: Option<Seq>,
    #[serde(default)]
    after: Option<Seq>,
    #[serde(default)]
    around: Option<Seq>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    all: bool,
}

/// A message to send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageBody {
    text: String,
    #[serde(default)]
    reply_to: Option<Seq>,
    #[serde(default)]
    thread: Option<Seq>,
    #[serde(default)]
    mentions: Vec<Mention>,
    #[serde(default)]
    meta: Option<Map<String, Value>>,
    #[serde(default)]
    if_head: Option<Seq>,
}

#[derive(Serialize)]
struct Sent<'a> {
    room: &'a RoomId,
    #[serde(flatten)]
    accepted: Accepted,
}

/// `GET /v1/rooms`.
///
/// # Errors
/// A [`Problem`].
pub async fn list(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = Caller::of(&request)?;
    let RoomsQuery { cursor, limit } = parameters(&request)?;
    let answered = caller.read(ReadCommand::Rooms { cursor, limit }).await?;
    Ok(tagged(&request, &answered))
}

/// `GET /v1/rooms/{room}/events`.
///
/// # Errors
/// A [`Problem`].
pub async fn events(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let caller = Caller::of(&request)?;
    let room = room_of(&request)?;
    let EventsQuery {
        before,
        after,
        around,
        limit,
        all,
    } = parameters(&request)?;
    let read = ReadCommand::History {
        room,
        before,
        after,
        around,
        limit,
        all,
    };
    let answered = caller.read(read).await?;
    Ok(tagged(&request, &answered))
}

/// `POST /v1/rooms/{room}/messages`, with the cid in `Idempotency-Key`.
///
/// # Errors
/// A [`Problem`].
pub async fn send(request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let caller = Caller::of(&request)?;
    let room = room_of(&request)?;
    let cid = cid_of(&request)?;
    let body: MessageBody = json_body(payload).await?;
    let MessageBody {
        text,
        reply_to,
        thread,
        mentions,
        meta,
        if_head,
    } = body;
    let send = Send {
        text,
        reply_to,
        thread,
        mentions,
        meta,
        if_head,
    };
    let command = WriteCommand {
        cid,
        write: Write::Send(send),
    };
    command.check()?;
    let shared = caller.hub.shared();
    let sent = discreetly(shared.send_batch(&caller.viewer, &room, vec![command]));
    let settled = sent.await?;
    match settled.into_iter().next().map(|settled| settled.result) {
        Some(CommandResult::Ok(accepted)) => {
            let mut response = if accepted.dup {
                HttpResponse::Ok()
            } else {
                HttpResponse::Created()
            };
            Ok(response.json(Sent {
                room: &room,
                accepted,
            }))
        }
        Some(CommandResult::Err(refusal)) => Err(refusal.into()),
        None => Err(Problem::new(ErrorCode::Internal, "no result")),
    }
}

impl Caller {
    async fn read(&self, read: ReadCommand) -> Result<Answered, Problem> {
        let shared = self.hub.shared();
        let min_seq = shared
            .ring
            .head()
            .map(|(_, position)| position)
            .unwrap_or_default();
        let query = Query::Read {
            viewer: self.viewer.clone(),
            read,
        };
        Ok(discreetly(shared.ask(query, min_seq, ANSWER_WITHIN)).await?)
    }
}

fn parameters<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Problem> {
    match web::Query::<T>::from_query(request.query_string()) {
        Ok(query) => Ok(query.into_inner()),
        Err(error) => Err(Problem::new(ErrorCode::BadRequest, error.to_string())),
    }
}

fn room_of(request: &HttpRequest) -> Result<RoomId, Problem> {
    let text = request.match_info().get("room").unwrap_or_default();
    RoomId::parse(text)
        .map_err(|error| Problem::new(ErrorCode::BadRequest, format!("`room`: {error}")))
}

fn cid_of(request: &HttpRequest) -> Result<Cid, Problem> {
    let bad = |msg: &str| Problem::new(ErrorCode::BadRequest, format!("`Idempotency-Key` {msg}"));
    let header = request
        .headers()
        .get("idempotency-key")
        .ok_or_else(|| bad("is missing"))?;
    // The header's draft standard quotes it; most clients do not.
    let text = header.to_str().unwrap_or_default().trim_matches('"');
    Cid::parse(text).map_err(|error| bad(&format!("is no cid: {error}")))
}

/// Reads a JSON body up to the limit of a socket message, if it arrives in time.
///
/// # Errors
/// `too_large` or `bad_request`.
pub async fn json_body<T: DeserializeOwned>(payload: web::Payload) -> Result<T, Problem> {
    let bad = |msg: String| Problem::new(ErrorCode::BadRequest, msg);
    let body = tokio::time::timeout(BODY_WITHIN, payload.to_bytes_limited(FRAME_BYTES_MAX));
    let bytes = match body.await {
        Ok(Ok(Ok(bytes))) => bytes,
        Ok(Ok(Err(error))) => return Err(bad(error.to_string())),
        Ok(Err(_)) => return Err(Problem::new(ErrorCode::TooLarge, "the body is over 64 KiB")),
        Err(_) => return Err(bad("the body did not arrive in time".to_owned())),
    };
    // By way of an object: serde would also read a struct from an array.
    let fields = serde_json::from_slice::<Map<String, Value>>(&bytes);
    fields
        .and_then(|fields| serde_json::from_value(Value::Object(fields)))
        .map_err(|error| bad(error.to_string()))
}

/// The answer with its entity tag, or 304 if the client holds just that.
fn tagged(request: &HttpRequest, answered: &Answered) -> HttpResponse {
    let body = answered.ok.get();
    let hash = URL_SAFE_NO_PAD.encode(&Sha256::digest(body.as_bytes())[..16]);
    let tag = EntityTag::new_strong(hash);
    let held = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|held| held.weak_eq(&tag)),
        // `*` matches whatever there is; an absent header matches nothing.
        Ok(IfNoneMatch::Any) => request.headers().contains_key(IF_NONE_MATCH),
        Err(_) => false,
    };
    let mut response = if held {
        HttpResponse::NotModified()
    } else {
        HttpResponse::Ok()
    };
    response.insert_header((ETAG, tag.to_string()));
    response.insert_header((CACHE_CONTROL, "private, no-cache"));
    if held {
        return response.finish();
    }
    response
        .content_type("application/json")
        .body(body.to_owned())
}
