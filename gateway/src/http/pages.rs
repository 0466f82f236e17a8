//! Health on the public port, the page for people, development tokens.

use super::rooms::json_body;
use super::{Problem, hub_of};
use crate::auth::DevTokenRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use protocol::ErrorCode;
use serde_json::json;

const PAGE: &str = "natter gateway\n\n\
    GET  /v1/ws                      WebSocket, subprotocol natter.v1.json\n\
    GET  /v1/rooms                   your rooms\n\
    GET  /v1/rooms/{room}/events     events of a room: before, after, around, limit, all\n\
    POST /v1/rooms/{room}/messages   send a message; the cid goes into Idempotency-Key\n\
    GET  /healthz, /readyz           health\n\n\
    The protocol is described in docs/protocol.md of the natter repository.\n";

/// `GET /`: where the API is.
pub async fn index() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::plaintext())
        .body(PAGE)
}

/// `GET /healthz`: this process answers.
pub async fn healthz() -> HttpResponse {
    HttpResponse::Ok()
        .content_type(ContentType::plaintext())
        .body("ok\n")
}

/// `GET /readyz`: whether new clients should come here.
///
/// # Errors
/// A [`Problem`] if the server is put together wrongly.
pub async fn readyz(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let hub = hub_of(&request)?;
    let report = hub.shared().ctx.health.report();
    let ready = report.ready && !hub.shared().ctx.shutdown.is_cancelled();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Components may name inner addresses; the operators' port tells them.
    Ok(HttpResponse::build(status).json(json!({"ready": ready, "degraded": report.degraded})))
}

/// `POST /v1/dev/token`: a token for anybody, where that is switched on.
///
/// # Errors
/// A [`Problem`]; `not_found` where it is not switched on.
pub async fn dev_token(
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let hub = hub_of(&request)?;
    let ask: DevTokenRequest = json_body(payload).await?;
    match hub.shared().auth.dev_token(&ask, hub.shared().now().wall) {
        Some(token) => Ok(HttpResponse::Ok().json(json!({ "token": token? }))),
        None => Err(Problem::new(
            ErrorCode::NotFound,
            "there is nothing at this path",
        )),
    }
}

/// `GET /v1/ws` without an upgrade to WebSocket.
///
/// # Errors
/// Always `bad_request`.
pub async fn no_upgrade() -> Result<HttpResponse, Problem> {
    let msg = "only a WebSocket handshake is answered here";
    Err(Problem::new(ErrorCode::BadRequest, msg))
}

/// Every other path.
///
/// # Errors
/// Always `not_found`.
pub async fn nothing() -> Result<HttpResponse, Problem> {
    Err(Problem::new(
        ErrorCode::NotFound,
        "there is nothing at this path",
    ))
}
