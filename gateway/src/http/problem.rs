//! Errors of the HTTP API: `application/problem+json` (RFC 9457) with the codes of the protocol.

use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use protocol::{ErrorCode, Refusal, Seq, Timestamp};
use serde::Serialize;
use std::fmt;

/// A refusal as an HTTP answer.
#[derive(Debug)]
pub struct Problem(pub Refusal);

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: ErrorCode,
    remedy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    head: Option<Seq>,
}

impl Problem {
    /// A problem with this code and text.
    #[must_use]
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self(Refusal::new(code, msg))
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.slug(), self.0.msg)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let Self(refusal) = self;
        let body = Body {
            r#type: format!("/errors/{}", refusal.code.slug()),
            title: refusal.code.meaning(),
            status: self.status_code().as_u16(),
            detail: &refusal.msg,
            code: refusal.code,
            remedy: refusal.code.remedy(),
            retry_after_ms: refusal.retry_after_ms,
            now: refusal.now,
            head: refusal.head,
        };
        let mut response = HttpResponse::build(self.status_code());
        if let Some(ms) = refusal.retry_after_ms {
            response.insert_header((RETRY_AFTER, ms.div_ceil(1_000).to_string()));
        }
        if matches!(
            refusal.code,
            ErrorCode::Unauthorized | ErrorCode::TokenExpired
        ) {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        response
            .content_type("application/problem+json")
            .body(serde_json::to_string(&body).expect("a problem is JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::MessageBody;

    #[test]
    fn a_refusal_becomes_a_problem_with_its_code_and_its_time_to_try_again() {
        let problem = Problem(Refusal::plain(ErrorCode::Unavailable).after_ms(1_500));
        let response = problem.error_response();
        assert_eq!(response.status(), 503);
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            (header("retry-after"), header("content-type")),
            ("2".to_owned(), "application/problem+json".to_owned())
        );
        let bytes = response.into_body().try_into_bytes().unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            (&body["type"], &body["status"]),
            (&"/errors/unavailable".into(), &503.into())
        );
        assert_eq!(body["retry_after_ms"], 1_500);
    }
}
