//! The public port over HTTP: reads, the message POST, health. Upgrades go to the socket's door.

pub mod origin;
pub mod pages;
pub mod problem;
pub mod rooms;

pub use problem::Problem;

use crate::hub::Hub;
use crate::session::outside::Verdict;
use crate::socket::door;
use actix_web::http::header::AUTHORIZATION;
use actix_web::{HttpRequest, web};
use protocol::query::Viewer;
use protocol::{ErrorCode, Refusal};
use std::rc::Rc;

/// Adds every route; the worker's hub must be in the application's data.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(pages::index))
        .route("/healthz", web::get().to(pages::healthz))
        .route("/readyz", web::get().to(pages::readyz))
        .route(door::PATH, web::get().to(pages::no_upgrade))
        .route("/v1/rooms", web::get().to(rooms::list))
        .route("/v1/rooms/{room}/events", web::get().to(rooms::events))
        .route("/v1/rooms/{room}/messages", web::post().to(rooms::send))
        .route("/v1/dev/token", web::post().to(pages::dev_token))
        .default_service(web::route().to(pages::nothing));
}

/// Who sent a request, with a valid token and below the rate.
#[derive(Debug)]
pub struct Caller {
    /// The user.
    pub viewer: Viewer,
    /// The worker's hub.
    pub hub: Rc<Hub>,
}

impl Caller {
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let hub = hub_of(request)?;
        let mut headers = request.headers().get_all(AUTHORIZATION);
        // Of two, what stands before this server may have looked at the other one.
        let header = match (headers.next(), headers.next()) {
            (Some(value), None) => value.to_str().ok(),
            (Some(_), Some(_)) | (None, _) => None,
        };
        let token = header
            .and_then(|text| text.split_once(' '))
            .and_then(|(scheme, token)| {
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
            });
        let token = token
            .ok_or_else(|| Problem::new(ErrorCode::Unauthorized, "a bearer token is missing"))?;
        let identity = hub.shared().auth.verify(token)?;
        match hub.shared().rates.check(&identity.user) {
            Verdict::Go => {}
            Verdict::Wait(ms) => {
                return Err(Refusal::plain(ErrorCode::RateLimited).after_ms(ms).into());
            }
            Verdict::Abuse => return Err(Refusal::plain(ErrorCode::RateLimited).into()),
        }
        let viewer = Viewer {
            user: identity.user,
            guest: identity.guest,
        };
        Ok(Self { viewer, hub })
    }
}

fn hub_of(request: &HttpRequest) -> Result<Rc<Hub>, Problem> {
    let hub = request.app_data::<Rc<Hub>>();
    hub.cloned()
        .ok_or_else(|| Problem::new(ErrorCode::Internal, "the worker has no hub"))
}
