//! The door to the socket: which upgrades are taken, and how the others are answered.
//!
//! Every request that asks for a WebSocket comes here instead of to the HTTP routes, whatever its path.

use super::Connection;
use super::wire::Wire;
use crate::http::{Problem, origin};
use crate::hub::Hub;
use actix_codec::Framed;
use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::header::{
    CONTENT_LENGTH, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use actix_http::{ConnectionType, Request, RequestHead, Response, Version, h1, ws};
use actix_web::ResponseError;
use bytes::Bytes;
use futures_util::SinkExt;
use protocol::{ConnId, ErrorCode};
use rand::RngExt;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Where sockets are opened.
pub const PATH: &str = "/v1/ws";
/// The subprotocol; a client that offers none gets the same words.
const SUBPROTOCOL: &str = "natter.v1.json";
/// How long the answer to an upgrade may take to be written.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Letters and digits in a connection's id.
const CONN_LENGTH: usize = 12;
/// A gateway that is full may have room again, or another one has.
const RETRY_AFTER_MS: u64 = 5_000;

type Http = Framed<TcpStream, h1::Codec>;

/// A place among the sockets of this gateway, given back when dropped.
pub(super) struct Place(Rc<Hub>);

impl Place {
    fn take(hub: &Rc<Hub>) -> Option<Self> {
        let sockets = &hub.shared().metrics.sockets;
        sockets.inc();
        let place = Self(Rc::clone(hub));
        let taken = usize::try_from(sockets.get()).unwrap_or(0);
        (taken <= hub.shared().config.gateway_connections_max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.shared().metrics.sockets.dec();
    }
}

/// Answers an upgrade, and starts the socket's task on this worker if it is taken.
///
/// # Errors
/// The answer cannot be written.
pub async fn open(request: Request, mut http: Http, hub: Rc<Hub>) -> actix_web::Result<()> {
    let answer = match judge(&request, &hub) {
        Ok(place) => {
            write(&mut http, accepted(&request)).await?;
            let parts = http.into_parts();
            let wire = Rc::new(Wire::new(parts.io));
            Connection::start(hub, wire, (conn_id(), place), &parts.read_buf);
            return Ok(());
        }
        Err(answer) => answer,
    };
    write(&mut http, answer).await
}

fn judge(request: &Request, hub: &Rc<Hub>) -> Result<Place, Response<BoxBody>> {
    let refuse = |code, msg: &str| refused(&Problem::new(code, msg));
    let head = request.head();
    if request.path() != PATH {
        return Err(refuse(
            ErrorCode::NotFound,
            "there is no socket at this path",
        ));
    }
    if let Some(fault) = fault(head) {
        return Err(refuse(ErrorCode::BadRequest, fault));
    }
    ws::verify_handshake(head).map_err(Response::from)?;
    let header = |name: HeaderName| {
        head.headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let shared = hub.shared();
    // An origin that cannot be read, or is one of two, is none that is allowed.
    let from = match head.headers().get_all(ORIGIN).count() {
        0 => None,
        1 => Some(header(ORIGIN).unwrap_or_default()),
        _ => Some(""),
    };
    if !origin::is_allowed(from, header(HOST), &shared.config.gateway_origins) {
        let msg = "pages of this origin may not connect here";
        return Err(refuse(ErrorCode::Forbidden, msg));
    }
    if shared.goaway.is_cancelled() || shared.ctx.shutdown.is_cancelled() {
        return Err(refuse(ErrorCode::Unavailable, "this gateway is stopping"));
    }
    Place::take(hub).ok_or_else(|| {
        let mut problem = Problem::new(ErrorCode::Unavailable, "this gateway is full");
        problem.0.retry_after_ms = Some(RETRY_AFTER_MS);
        refused(&problem)
    })
}

/// What is wrong with an upgrade beside what the library looks at (RFC 6455, section 4.2.1).
///
/// Whatever stands before this server must understand a request as it does, or one could be hidden in
/// another.
fn fault(head: &RequestHead) -> Option<&'static str> {
    let headers = head.headers();
    let often = |name| headers.get_all(name).count() > 1;
    if head.version != Version::HTTP_11 {
        return Some("an upgrade needs HTTP/1.1");
    }
    if often(SEC_WEBSOCKET_KEY) || often(SEC_WEBSOCKET_VERSION) {
        return Some("a header of the handshake stands there twice");
    }
    let empty = headers.get(CONTENT_LENGTH).is_none_or(|it| it == "0");
    if !empty || headers.contains_key(TRANSFER_ENCODING) {
        return Some("an upgrade has no body");
    }
    None
}

fn accepted(request: &Request) -> Response<BoxBody> {
    let mut response = ws::handshake_response(request.head());
    let offered = request.head().headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    if offered.any(|offer| offer.trim() == SUBPROTOCOL) {
        let chosen = HeaderValue::from_static(SUBPROTOCOL);
        response.insert_header((SEC_WEBSOCKET_PROTOCOL, chosen));
    }
    response.finish().map_into_boxed_body()
}

fn refused(problem: &Problem) -> Response<BoxBody> {
    problem.error_response().into()
}

/// Writes a whole answer; a refusal is the last one on its connection.
async fn write(http: &mut Http, mut answer: Response<BoxBody>) -> actix_web::Result<()> {
    if !answer.upgrade() {
        let nosniff = HeaderValue::from_static("nosniff");
        answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    let (answer, body) = answer.into_parts();
    let body = body.try_into_bytes().unwrap_or_default();
    let size = if answer.upgrade() {
        BodySize::None
    } else {
        BodySize::Sized(u64::try_from(body.len()).unwrap_or(0))
    };
    let written = async {
        http.feed(h1::Message::Item((answer, size))).await?;
        if !body.is_empty() {
            http.feed(h1::Message::Chunk(Some(body))).await?;
            http.feed(h1::Message::<(Response<()>, BodySize)>::Chunk(
                None::<Bytes>,
            ))
            .await?;
        }
        http.flush().await
    };
    match tokio::time::timeout(ANSWER_WITHIN, written).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(actix_web::error::ErrorRequestTimeout(
            "the answer was not taken",
        )),
    }
}

fn conn_id() -> ConnId {
    let mut rng = rand::rng();
    let text: String = (0..CONN_LENGTH)
        .map(|_| char::from(rng.sample(rand::distr::Alphanumeric)))
        .collect();
    ConnId::parse(&text).expect("letters and digits are an id")
}
